"""`segbench status`, `watch`, `cancel`, `logs`: trials that run somewhere."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segbench.cli import console
from segbench.cli.app import ERR, OUT, app
from segbench.cli.flags import RunFolder, Trial


@app.command("status")
def status_command(
    run: RunFolder,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed trials alone.")] = False,
) -> None:
    """Say how far each trial of a run is, and what failed of what."""
    from segbench.runs import status
    from segbench.runs.record import load_run

    found = status.statuses(run, load_run(run), _jobs(run))
    shown = [s for s in found if s.state == "failed"] if failed else found
    if shown:
        OUT.print(console.status_table(shown))
    counts = Counter(s.state for s in found)
    OUT.print(", ".join(f"{number} {state}" for state, number in sorted(counts.items())))
    if len(versions := code_versions(run, found)) > 1:
        told = ", ".join(f"{number} by {version}" for version, number in sorted(versions.items()))
        ERR.print(f"these trials were not done by one and the same code: {told}")


def code_versions(run: Path, found: Sequence[Any]) -> Counter[str]:
    """Return how many done trials each version of segbench has done."""
    from segbench.runs.trial_files import load_provenance, trial_folder

    records = (load_provenance(trial_folder(run, s.trial_id)) for s in found if s.state == "done")
    return Counter(record.code_version for record in records if record is not None)


def _jobs(run: Path, *, said: set[str] | None = None) -> Any:
    """Return what the cluster says; nothing where it cannot be asked, which is told once."""
    from segbench.errors import LaunchError
    from segbench.launch.launchers import jobs_of

    try:
        return jobs_of(run)
    except LaunchError as error:
        sentence = f"what follows is known from files alone: {error}"
        if said is None or sentence not in said:
            ERR.print(sentence)
        if said is not None:
            said.add(sentence)
        return {}


@app.command()
def watch(
    run: RunFolder,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
) -> None:
    """Follow a run, wherever it runs, until nothing is left to do (ctrl-C leaves it running)."""
    from segbench.runs.record import load_run

    follow_run(run, load_run(run), every)


def follow_run(run: Path, record: Any, every: float) -> None:
    """Show the grid until nothing is left to do; twice, as a shared disk may show a result late."""
    from rich.live import Live

    from segbench.runs import status

    quiet_looks, said = 0, set()
    with Live(console=OUT, auto_refresh=False) as live:
        while quiet_looks < 2:
            jobs = _jobs(run, said=said)
            found = status.statuses(run, record, jobs)
            live.update(console.grid_view(found), refresh=True)
            ended = {"done", "failed", "skipped"} | ({"waiting"} if jobs else set())
            quiet_looks = quiet_looks + 1 if all(s.state in ended for s in found) else 0
            if quiet_looks < 2:
                time.sleep(every)


@app.command()
def cancel(
    run: RunFolder,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRIAL...", help="Ids' first digits; all jobs of the run where left out."
        ),
    ] = None,
) -> None:
    """Cancel a run's jobs on a cluster; running trials save their state first."""
    from segbench.errors import listed
    from segbench.launch.launchers import cancel_jobs
    from segbench.runs.record import find_trial

    chosen = {find_trial(run, prefix)[0].name for prefix in trials or ()}
    cancelled = cancel_jobs(run, chosen)
    OUT.print(
        f"cancelled: {len(cancelled)} jobs, {listed(cancelled)}"
        if cancelled
        else "no job of this run waits or runs on a cluster; a command that waits for its trials ends "
        "with ctrl-C (or SIGTERM to its segbench process), and the same command goes on"
    )


@app.command()
def logs(
    run: RunFolder,
    trial: Trial,
) -> None:
    """Print what a trial's worker has printed, and its traceback if it failed."""
    from segbench.runs.record import find_trial

    folder, _ = find_trial(run, trial)
    others = sorted(set(folder.glob("*.log")) - {folder / "worker.log"})  # of ranks and launchers
    paths = [folder / "worker.log", *others, folder / "traceback.txt"]
    if job := _jobs(run).get(folder.name):
        OUT.print(job.message)
        paths = [*job.logs(), *paths]
    for path in paths:
        if path.exists():
            OUT.print(f"--- {console.shown_path(path)}")
            OUT.print(path.read_text(encoding="utf-8", errors="replace"))
