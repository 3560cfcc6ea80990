"""`segbench run`: plan, say, start, follow, report."""

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from segbench.cli import console
from segbench.cli.app import ERR, OUT, app, fail, progress_bars
from segbench.cli.flags import File, GridOptions
from segbench.cli.live import start_and_show
from segbench.cli.pages import show_report
from segbench.cli.preview import say_cells, say_plan, warning_of_batches
from segbench.cli.records import takes_records
from segbench.cli.watching import follow_run
from segbench.errors import ExperimentError, counted

if TYPE_CHECKING:
    from segbench.commands.run import Flags, PreparedRun
    from segbench.schema.trial import Trial


@app.command("run")
@takes_records
def run_command(
    file: File,
    grid: GridOptions,
    retry: Annotated[
        str | None, typer.Option(metavar="failed", help="Start failed trials again.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and leave.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="After submitting to a cluster, follow until all has ended."),
    ] = False,
) -> None:
    """Train and evaluate an experiment's grid; only what is missing is done."""
    from segbench.commands import preflight
    from segbench.commands.run import prepare_run, unfinished

    if retry not in {None, "failed"}:
        raise ExperimentError(f"--retry {retry}: the only choice is `failed`")
    flags = grid.flags()
    prepared = prepare_run(file, flags)
    preflight.check_same_files(prepared)
    left = unfinished(prepared, retry_failed=retry == "failed")
    for sentence in preflight.made_from_other_code(prepared):
        ERR.print(sentence)
    say_plan(prepared, left)
    warning = warning_of_batches(file, prepared, left)
    if dry_run:
        if warning:
            ERR.print(warning)
        say_cells(prepared, left)
        return
    run = _Run(file, flags, wait=wait)
    _work_off(run, prepared, left, warning)
    _end(run, _settled(run, prepared) if flags.settle else prepared)


class _Run(NamedTuple):
    """What was typed: the file, the flags, and whether to wait for what runs elsewhere."""

    file: Path
    flags: "Flags"
    wait: bool

    def command(self) -> str:
        """Return what to type to get these trials again; where they run changes no table."""
        flags = self.flags
        asked = {"--search": flags.search, "--best": flags.best, "--settle": flags.settle}
        words = ["segbench", "run", str(self.file), *(flag for flag in asked if asked[flag])]
        for setting in flags.settings:
            if setting.partition("=")[0].partition(".")[0] != "launch":
                words += ["--set", setting]
        for selector in flags.only:
            words += ["--only", selector]
        return shlex.join(words if flags.seeds is None else [*words, "--seeds", str(flags.seeds)])


def _work_off(
    run: _Run, prepared: "PreparedRun", left: dict[str, "Trial"], warning: str = ""
) -> None:
    """Record the run, do what is left of it, and report."""
    from segbench.commands import preflight
    from segbench.commands.run import record_run
    from segbench.runs.registration import warnings_of

    if left and (missing := preflight.missing_files(prepared)):
        fail("\n".join(missing))
    if left:
        with progress_bars() as progress:
            wrong = preflight.wrong_files(prepared, progress)
        if wrong:
            fail("\n".join(wrong))
    for sentence in preflight.shared_images_in_words(prepared) if left else ():
        ERR.print(sentence)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a ctrl-C
    record = record_run(prepared, run.command())
    for sentence in (*filter(None, [warning]), *warnings_of(record)):
        ERR.print(sentence)
    leaves = prepared.launcher.leaves and not run.wait
    try:
        if left:
            start_and_show(prepared, record, left)
            if run.wait:
                follow_run(prepared.run_folder, record, every=2.0)
    finally:
        if not leaves:
            show_report(prepared.run_folder)
    if left and leaves:
        OUT.print(
            f"This command need not wait; segbench watch {console.shown_path(prepared.run_folder)} follows, "
            "segbench report writes the tables."
        )


def _settled(run: _Run, prepared: "PreparedRun") -> "PreparedRun":
    """Add seeds and work them off, look by look; return the run with all of them."""
    from segbench.commands.run import prepare_run, unfinished

    while not unfinished(prepared, retry_failed=False) and _add_seeds(prepared):
        prepared = prepare_run(run.file, run.flags)
        _work_off(run, prepared, unfinished(prepared, retry_failed=False))
    return prepared


def _add_seeds(prepared: "PreparedRun") -> bool:
    """Say which cells get more seeds and why, or why none does; return whether any does."""
    from segbench.commands.settle import add_seeds

    found = add_seeds(prepared.run_folder)
    for sentence in found.given_up:
        OUT.print(f"not settled by more seeds: {sentence}")
    for top in found.top_ups:
        cell = " ".join(top.axes.values())
        OUT.print(
            f"{cell}: {top.seeds_now} to {top.seeds_next} seeds, for: {'; '.join(top.claims)}"
        )
    if not found.top_ups:
        OUT.print("no claim is left that more seeds would settle")
    return bool(found.top_ups)


def _end(run: _Run, prepared: "PreparedRun") -> None:
    """Say what a search found and what is lacking; exit with 1 where trials failed or were lost."""
    from segbench.commands.run import unfinished

    left = unfinished(prepared, retry_failed=False)
    is_elsewhere = prepared.launcher.leaves
    if run.flags.search and not (left and is_elsewhere):  # here asha has stopped what is left
        _say_best(run, prepared)
    failed = _count_failed(prepared)
    lost = len(left) if run.wait and is_elsewhere else 0
    for number, what in ((failed, "failed"), (lost, "ended without a result")):
        if number:
            ERR.print(
                f"{number} of {counted(len(prepared.asked.trials), 'trial')} {what}; "
                f"segbench status {console.shown_path(prepared.run_folder)} says why."
            )
    if failed or lost:
        raise typer.Exit(1)


def _say_best(run: _Run, prepared: "PreparedRun") -> None:
    """Say what the search found for the cells that were asked for."""
    from segbench.commands.run import best_of_search
    from segbench.runs.tuning import tuned_in_words
    from segbench.schema.experiment import read_experiment

    experiment, _ = read_experiment(run.file, run.flags.settings)
    for tuned in best_of_search(experiment, run.flags, prepared.asked, prepared.catalog):
        OUT.print(tuned_in_words(tuned))
    OUT.print("segbench run --best takes these settings")


def _count_failed(prepared: "PreparedRun") -> int:
    from segbench.runs import trial_files

    found = (
        trial_files.load_failure(trial_files.trial_folder(prepared.run_folder, trial_id))
        for trial_id in prepared.asked.trials
    )
    return sum(failure is not None for failure in found)
