"""The command line: the only place that prints, exits, and configures logging.

Exit codes: 0 well, 1 trials failed, 2 the user's mistake, 130 interrupted with ctrl-C.
Commands that need no tensors do not load torch.
"""

import contextlib
import logging
import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from segbench import console
from segbench.errors import ExperimentError, SegbenchError

OUT = console.new_console()
ERR = console.new_console(stderr=True)
_MOST_CELLS = 40


class _Group(TyperGroup):
    """Turns our errors into one message without a traceback, exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SegbenchError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            ERR.print("Interrupted. What was done is kept; the same command goes on from there.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    name="segbench",
    help="Benchmark semantic segmentation so that the answer can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file (YAML).")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as results/quickstart.")
]
Cards = Annotated[
    list[Path] | None,
    typer.Option(
        "--cards",
        metavar="DIR",
        help="A folder with backbones/ or datasets/ that is read before the built-in cards. Repeatable.",
    ),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data", metavar="DIR", help="Where data sets lie (else $SEGBENCH_DATA). Repeatable."
    ),
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        metavar="DIR",
        help="Where weights files lie (else $SEGBENCH_WEIGHTS). Repeatable.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Arrow files, downloads, features (else $SEGBENCH_CACHE, ~/.cache/segbench).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the experiment, e.g. train.batch_size=4 or sweep.head=[fcn8s]. Repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="AXIS=VALUE",
        help="Run the matching cells alone, e.g. backbone=vgg16. Repeatable.",
    ),
]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="The run goes to DIR/<experiment>.")
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    if version:
        from segbench.code_version import code_version

        OUT.print(code_version())
        raise typer.Exit


@app.command("run")
def run_command(
    file: File,
    data: Data = None,
    weights: Weights = None,
    cache: Cache = None,
    cards: Cards = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Run N seeds: the first N, or more than the file says."),
    ] = None,
    device: Device = "auto",
    launcher: Annotated[
        str | None, typer.Option(help="local, ray or slurm (else the file's launch.launcher).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time on this machine.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="The Ray to join, or `auto` (else one is started here)."
        ),
    ] = None,
    results: Results = Path("results"),
    retry: Annotated[
        str | None, typer.Option(metavar="failed", help="Start failed trials again.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and leave.")
    ] = False,
    search: Annotated[
        bool,
        typer.Option("--search", help="Run the file's `search:`, into DIR/<experiment>-search."),
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="With the settings of that search's best sample.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="After submitting to Slurm, follow until all has ended.")
    ] = False,
    settle: Annotated[
        bool,
        typer.Option(
            "--settle",
            help="Judge the claims up to three times, each at a third of 5 %; in between add seeds "
            "where one is undecided.",
        ),
    ] = False,
) -> None:
    """Train and evaluate an experiment's grid; only what is missing is done."""
    from segbench import drive

    if retry not in {None, "failed"}:
        raise ExperimentError(f"--retry {retry}: the only choice is `failed`")
    flags = drive.Flags(
        cards=tuple(cards or ()),
        settings=(*(settings or ()), *_launch_settings(launcher, workers, address)),
        only=tuple(only or ()),
        seeds=seeds,
        data=tuple(data or ()),
        weights=tuple(weights or ()),
        cache=cache,
        device=device,
        results=results,
        search=search,
        best=best,
        settle=settle,
    )
    command = _command(file, settings or [], only or [], seeds, settle)
    prepared = drive.prepare_run(file, flags)
    left = drive.unfinished(prepared, retry_failed=retry == "failed")
    _say_plan(prepared, left)
    if dry_run:
        _say_cells(prepared, left)
        return
    _work_off(prepared, left, command, wait)
    while settle and not drive.unfinished(prepared, retry_failed=False) and _add_seeds(prepared):
        prepared = drive.prepare_run(file, flags)
        _work_off(prepared, drive.unfinished(prepared, retry_failed=False), command, wait)
    if search and not _leaves(prepared, wait):
        _say_best(file, flags)
    failed = _count_failed(prepared)
    if failed:
        ERR.print(
            f"{failed} of {len(prepared.asked.trials)} trials failed; "
            f"segbench status {console.shown_path(prepared.run_folder)} says why."
        )
        raise typer.Exit(1)


def _leaves(prepared: Any, wait: bool) -> bool:
    """Return whether the command ends before its trials do."""
    return prepared.asked.experiment.launch.launcher == "slurm" and not wait


def _work_off(prepared: Any, left: dict[str, Any], command: str, wait: bool) -> None:
    """Record the run, do what is left of it, and report."""
    from segbench import drive

    if left and (missing := drive.missing_files(prepared)):
        _fail("\n".join(missing))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a ctrl-C
    record = drive.record(prepared, command)
    if record.looked_early:
        ERR.print(record.looked_early)
    leaves = _leaves(prepared, wait)
    try:
        if left:
            _follow(prepared, record, left)
            if wait:
                _watch(prepared.run_folder, record, every=2.0)
    finally:
        if not leaves:
            _report(prepared.run_folder)
    if left and leaves:
        OUT.print(
            f"Nothing waits here; segbench watch {console.shown_path(prepared.run_folder)} follows, "
            "segbench report writes the tables."
        )


def _add_seeds(prepared: Any) -> bool:
    """Say which cells get more seeds and why, or why none does; return whether any does."""
    from segbench.drive_settle import add_seeds

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


def _say_best(file: Path, flags: Any) -> None:
    from segbench.launch.best_sample import best_sample
    from segbench.spec.experiment import read_experiment

    experiment, _ = read_experiment(file, flags.settings)
    found = best_sample(experiment, flags.results)
    shown = ", ".join(f"{key}={value}" for key, value in found.settings.items())
    metric = experiment.search.metric if experiment.search else ""
    OUT.print(
        f"best of {found.of} samples: {found.name}, {metric} {found.score:.4f} on the held-out images: {shown}"
    )
    OUT.print("segbench run --best takes these settings")


def _command(
    file: Path, settings: list[str], only: list[str], seeds: int | None, settle: bool
) -> str:
    """Return what to type to get these trials again; where they run changes no table."""
    words = ["segbench", "run", str(file), *(["--settle"] if settle else [])]
    for setting in settings:
        if setting.partition("=")[0].partition(".")[0] != "launch":
            words += ["--set", setting]
    for selector in only:
        words += ["--only", selector]
    return shlex.join(words if seeds is None else [*words, "--seeds", str(seeds)])


def _launch_settings(
    launcher: str | None, workers: int | None = None, address: str | None = None
) -> list[str]:
    """Return the settings that the flags stand for; an address names a Ray, unless told."""
    if address is not None:
        launcher = launcher or "ray"
    given = {"launcher": launcher, "workers": workers, "address": address}
    return [f"launch.{name}={value}" for name, value in given.items() if value is not None]


def _say_plan(prepared: Any, left: dict[str, Any]) -> None:
    plan = prepared.asked
    for sentence in prepared.hidden_cards:
        ERR.print(f"hidden card: {sentence}")
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in plan.axes.items())
    seeds = len({cell.seed for cell in plan.cells})
    trials = plan.trials
    skipped = Counter(cell.skipped for cell in plan.cells if cell.skipped)
    OUT.print(
        f"{plan.experiment.name}: {axes} x {seeds} seeds = {len(trials)} trials; "
        f"{len(trials) - len(left)} ended, {len(left)} to run"
    )
    for reason, number in skipped.items():
        OUT.print(f"skipped ({number}): {reason}")
    if len(whole := prepared.whole.trials) != len(trials):
        OUT.print(f"narrowed from {len(whole)} trials of the whole sweep")
    OUT.print(
        f"protocols: {', '.join(plan.experiment.evaluate)}; launcher: {plan.experiment.launch.launcher}; "
        f"results: {console.shown_path(prepared.run_folder)}"
    )


def _say_cells(prepared: Any, left: dict[str, Any]) -> None:
    """Name the trials and say which are done; of a large grid the first ones."""
    from segbench.drive import cells_by_id
    from segbench.status import label

    cells = cells_by_id(prepared.asked)
    for trial_id, cell in list(cells.items())[:_MOST_CELLS]:
        state = "to run" if trial_id in left else "ended"
        OUT.print(f"  {trial_id}  {label(cell.axes, cell.seed)}: {state}")
    if len(cells) > _MOST_CELLS:
        OUT.print(f"  and {len(cells) - _MOST_CELLS} more")


def _follow(prepared: Any, record: Any, left: dict[str, Any]) -> None:
    """Start the work; show a live view on a terminal, a line for each event elsewhere."""
    from segbench import drive, status

    labels = {
        cell.trial_id: status.label(cell.axes, cell.seed)
        for cell in prepared.asked.cells
        if cell.trial
    }
    if not OUT.is_terminal:
        ended: Counter[str] = Counter()
        given: Counter[str] = Counter()

        def say(event: Any) -> None:
            ended[event.kind] += 1
            if event.kind == "submitted":
                given[event.message] += 1
                return
            progress = f"[{ended['done'] + ended['failed']}/{len(left)}]"
            OUT.print(f"{progress} {event.kind}: {labels[event.trial_id]} {event.message}".rstrip())

        try:
            drive.start(prepared, left, say)
        finally:
            for job, number in given.items():
                OUT.print(f"submitted: {job} ({number} trials)")
        return
    from rich.live import Live

    class View:
        def __rich__(self) -> Any:
            return console.grid_view(status.statuses(prepared.run_folder, record))

    notes: list[str] = []

    def keep(event: Any) -> None:
        if event.kind == "done" and event.message:
            notes.append(f"{labels[event.trial_id]}: {event.message}")

    try:
        with Live(View(), console=OUT, refresh_per_second=2, transient=True):
            drive.start(prepared, left, keep)
    finally:
        for note in notes:
            OUT.print(note)


def _count_failed(prepared: Any) -> int:
    from segbench import results

    found = (
        results.load_result(results.trial_folder(prepared.run_folder, trial_id))
        for trial_id in prepared.asked.trials
    )
    return sum(result is not None and result.status == "failed" for result in found)


def _report(run_folder: Path) -> None:
    from segbench.report.write import write_report

    for path in write_report(run_folder):
        text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
        if path.name == "leaderboard.md":
            OUT.print(f"\n{text}")
        elif path.name == "claims.md":  # the table; its details are for the file
            OUT.print("\n" + text.partition("\n## ")[0])
    OUT.print(f"written: {console.shown_path(run_folder)}")
    _say_others(run_folder)


def _say_others(run_folder: Path) -> None:
    """Say how many trials lie in the folder that the run's settings no longer contain."""
    from segbench import results
    from segbench.run import load_run

    shown = {cell.trial_id for cell in load_run(run_folder).cells}
    others = [f for f in results.trial_folders(run_folder) if f.name not in shown]
    if others:
        OUT.print(
            f"{len(others)} trials in this folder belong to other settings and are not shown; the "
            "command that made them shows them again"
        )


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run's folder, such as results/quickstart; several with --merge.",
        ),
    ],
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Join the runs into a new one, by their trials' ids; conflicts are named.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the joined run goes."),
    ] = None,
    panels: Annotated[
        str | None,
        typer.Option(
            "--panels",
            metavar="TRIAL",
            help="First draw this trial's best, typical and worst images.",
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="The protocol of --panels, the first where left out.")
    ] = None,
    data: Data = None,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Rebuild a run's tables, exports and page from its files, byte for byte."""
    if len(runs) > 1 and not merge:
        _fail(f"{len(runs)} runs: report takes one, or several with --merge -o DIR")
    if merge:
        from segbench.report.bundle import merge_runs

        if output is None:
            _fail("--merge: say with -o DIR where the joined run goes")
        merge_runs(runs, output)
    if panels is not None:
        _draw_panels(runs[0], panels, protocol, (data, cache, device))
    _report(output if merge and output is not None else runs[0])


def _draw_panels(run: Path, trial: str, protocol: str | None, where: tuple[Any, Any, str]) -> None:
    import os

    from rich.progress import Progress

    from segbench.report.panels import write_panels
    from segbench.run import load_run
    from segbench.spec.machine import Machine

    data, cache, device = where
    machine = Machine.from_environment(
        dict(os.environ), data=tuple(map(str, data or ())),
        cache=None if cache is None else str(cache), device=device,
    )  # fmt: skip
    with Progress(console=ERR, transient=True) as bars:
        task = bars.add_task("predicting")
        folder = write_panels(
            run, load_run(run), trial, machine, protocol_name=protocol,
            on_image=lambda done, of: bars.update(task, completed=done, total=of),
        )  # fmt: skip
    OUT.print(f"written: {console.shown_path(folder)}")


@app.command()
def plot(
    run: RunFolder,
    kind: Annotated[
        str,
        typer.Option(
            help="heatmap, difference, confusion, images, curves, pareto, frequency, leaderboard."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf file.")
    ],
    dataset: Annotated[str | None, typer.Option(help="Needed where the run has several.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Needed where the run has several.")] = None,
    cost: Annotated[
        str,
        typer.Option(
            help="For pareto: parameters, flops, forward_ms, step_ms, training_s, peak_memory_mib."
        ),
    ] = "parameters",
) -> None:
    """Draw one figure of a run for a paper; the same results give the same bytes."""
    from segbench.report.figures import chosen_board, write_figure
    from segbench.report.write import read_run

    board = chosen_board(read_run(run, judged=False).boards, protocol, dataset)
    write_figure(output, kind, board, run, cost=cost)
    OUT.print(f"written: {console.shown_path(output)}")


@app.command()
def serve(
    run: RunFolder,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; others than loopback let others read the run."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Show a run's page in the browser, refreshed while trials run (ctrl-C ends it)."""
    from segbench.report.serve import new_server

    with new_server(run, host=host, port=port) as server:
        OUT.print(f"{server.address} (ctrl-C ends it; what runs goes on)")
        server.serve_forever()


@app.command()
def bundle(
    run: RunFolder,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .zip file.")],
) -> None:
    """Pack a run's results, configuration and hashes, without weights, into one file."""
    from segbench.report.bundle import write_bundle

    OUT.print(f"written: {console.shown_path(output)} ({write_bundle(run, output)} files)")


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of segbench bundle.")],
    results: Results = Path("results"),
) -> None:
    """Unpack a bundle after checking its hashes, records and figures, and write its report."""
    from segbench.report.bundle import import_bundle

    _report(import_bundle(file, results))


@app.command()
def plan(
    file: File,
    cards: Cards = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Plan the first N seeds alone.")] = None,
    launcher: Annotated[str | None, typer.Option(help="local, ray or slurm.")] = None,
    seed_sd: Annotated[
        float | None,
        typer.Option(
            min=0, help="Standard deviation over seeds of a figure, in points (else as measured)."
        ),
    ] = None,
    image_sd: Annotated[
        float | None,
        typer.Option(min=0, help="That of a difference over draws of images, in points."),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Say what would run, and how long it takes where step times were measured; start nothing."""
    from segbench import drive
    from segbench.launch.estimate import estimated

    flags = drive.Flags(
        cards=tuple(cards or ()), settings=(*(settings or ()), *_launch_settings(launcher)),
        only=tuple(only or ()), seeds=seeds, results=results,
    )  # fmt: skip
    prepared = drive.prepare_run(file, flags)
    left = drive.unfinished(prepared, retry_failed=False)
    _say_plan(prepared, left)
    found = estimated(prepared.asked.cells, left, prepared.run_folder)
    launch = prepared.asked.experiment.launch
    gpus = launch.gpus_wanted if launch.gpus_per_trial or launch.ranks_per_trial > 1 else 0
    if found.measured:
        OUT.print(
            f"{found.hours:.2f} h for {found.measured} of the {found.trials} trials, one after another, "
            f"as measured on {', '.join(found.devices)}"
        )
        if gpus:
            OUT.print(f"{found.hours * gpus:.2f} GPU-hours with {gpus:g} GPU per trial")
    if found.trials > found.measured:
        OUT.print(
            f"no step time is known for {found.trials - found.measured} trials: run one seed of each "
            "cell first (--seeds 1), then plan again"
        )
    if prepared.asked.experiment.claims:
        _say_claims_plan(prepared, seed_sd, image_sd)


def _say_claims_plan(prepared: Any, seed_sd: float | None, image_sd: float | None) -> None:
    """Say what each claim could show, with spreads as stated, else as this run has measured them."""
    from segbench.analysis.planning import measured_spreads, plan_claims, planned_cells
    from segbench.analysis.power import STATED_SPREAD, Spread
    from segbench.errors import ResultError
    from segbench.report.claims_page import render_plan
    from segbench.report.write import judged_claims
    from segbench.run import load_rows, load_run

    def stated(spread: Spread) -> Spread:
        return Spread(
            spread.seed_sd if seed_sd is None else seed_sd,
            spread.image_sd if image_sd is None else image_sd,
        )

    measured = []
    with contextlib.suppress(ResultError):  # no run yet, or a damaged one, which report tells of
        record = load_run(prepared.run_folder)
        rows = list(load_rows(prepared.run_folder, record))
        judged = judged_claims(prepared.run_folder, record, rows, resamples=1000)
        measured = [(claim, stated(spread)) for claim, spread in measured_spreads(judged)]
    if seed_sd is not None and image_sd is not None:
        measured = []
    planned = plan_claims(
        prepared.asked.experiment.claims,
        planned_cells(prepared.asked),
        spread=stated(STATED_SPREAD),
        measured=measured,
    )
    OUT.print(f"\n{render_plan(planned)}", end="")


@app.command("status")
def status_command(
    run: RunFolder,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed trials alone.")] = False,
) -> None:
    """Say how far each trial of a run is, and what failed of what."""
    from segbench import status
    from segbench.launch import cluster_jobs
    from segbench.run import load_run

    found = status.statuses(run, load_run(run), cluster_jobs(run))
    shown = [s for s in found if s.state == "failed"] if failed else found
    if shown:
        OUT.print(console.status_table(shown))
    counts = Counter(s.state for s in found)
    OUT.print(", ".join(f"{number} {state}" for state, number in sorted(counts.items())))


@app.command()
def watch(
    run: RunFolder,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
) -> None:
    """Follow a run, wherever it runs, until nothing is left to do (ctrl-C leaves it running)."""
    from segbench.run import load_run

    _watch(run, load_run(run), every)


def _watch(run: Path, record: Any, every: float) -> None:
    """Show the grid until nothing is left to do; twice, as a shared disk may show a result late."""
    from rich.live import Live

    from segbench import status
    from segbench.launch import cluster_jobs

    quiet_looks = 0
    with Live(console=OUT, auto_refresh=False) as live:
        while quiet_looks < 2:
            jobs = cluster_jobs(run)
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
    """Take a run's jobs out of Slurm's queue; running trials save their state first."""
    from segbench.launch import cancel_jobs
    from segbench.run import find_trial

    chosen = {find_trial(run, prefix)[0].name for prefix in trials or ()}
    cancelled = cancel_jobs(run, chosen)
    arrays = sorted({job.split("_")[0] for job in cancelled}, key=int)
    OUT.print(
        f"cancelled: {len(cancelled)} jobs of {', '.join(arrays)}"
        if cancelled
        else "no job of this run is in the queue"
    )


@app.command()
def logs(
    run: RunFolder,
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="The first digits of a trial's id.")
    ],
) -> None:
    """Print what a trial's worker has printed, and its traceback if it failed."""
    from segbench.launch import cluster_jobs
    from segbench.run import find_trial

    folder, _ = find_trial(run, trial)
    paths = [folder / name for name in ("worker.log", "ray.log", "traceback.txt")]
    if job := cluster_jobs(run).get(folder.name):
        OUT.print(job.message)
        paths.insert(0, run / "jobs" / "submitit" / f"{job.job_id}_0_log.err")
    for path in paths:
        if path.exists():
            OUT.print(f"--- {console.shown_path(path)}")
            OUT.print(path.read_text(encoding="utf-8", errors="replace"))


@app.command("list")
def list_command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="backbones, datasets, heads or experiments.")
    ],
    cards: Cards = None,
) -> None:
    """List the cards, heads or experiments at hand."""
    from segbench import listing

    headers, rows = listing.table_of(kind, tuple(cards or ()))
    OUT.print(console.plain_table(headers, rows))


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A backbone, data set or head, or an experiment file."),
    ],
    cards: Cards = None,
) -> None:
    """Show a card, a head or an experiment, as it is after `base` and defaults are filled in."""
    from segbench import listing

    OUT.print(listing.description_of(name, tuple(cards or ())), end="")


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Cards and experiments (YAML).")
    ],
    cards: Cards = None,
) -> None:
    """Check cards and experiments; report all problems of all files at once."""
    from segbench import listing

    problems = [
        problem for file in files for problem in listing.problems_of(file, tuple(cards or ()))
    ]
    if problems:
        _fail("\n".join(problems))
    OUT.print("the file is in order" if len(files) == 1 else f"{len(files)} files are in order")


@app.command()
def prepare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Data sets or backbones (for their weights), or experiment files.",
        ),
    ],
    data: Data = None,
    weights: Weights = None,
    cache: Cache = None,
    cards: Cards = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Convert what is here; download nothing.")
    ] = False,
) -> None:
    """Download, verify, unpack and convert data sets, and fetch weights, once."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from segbench import listing

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=ERR, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, of: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=of)

        for name, summary in listing.prepare_all(
            names,
            data=tuple(data or ()),
            weights=tuple(weights or ()),
            cache=cache,
            cards=tuple(cards or ()),
            download=not offline,
            progress=progress,
        ):
            OUT.print(f"{name}: {summary}")


@app.command("evaluate")
def evaluate_command(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's folder, for its trained trials.")
    ] = None,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIAL...]", help="Ids' first digits; all trained trials where left out."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of PNGs of anybody, `<image name>.png`."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="The data set that was predicted.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="S", help="The split (else the protocol's).")
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML lines `raw value: class`, where the encoding is another."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="What the method, or the new protocol, is called."),
    ] = None,
    of_run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run whose leaderboard the method joins."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the run's protocols, to start from.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the protocol, e.g. flip=true. Repeatable."
        ),
    ] = None,
    data: Data = None,
    cache: Cache = None,
    cards: Cards = None,
    device: Device = "auto",
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; as many processes for a CRF.")
    ] = 1,
    results: Results = Path("results"),
) -> None:
    """Score trained trials by another protocol, or a folder of predictions of anybody."""
    from segbench import drive_evaluate as work

    asked = work.Asked(tuple(settings or ()), split, protocol, name)
    machine = work.machine_of(tuple(data or ()), cache, device, threads)
    with _progress() as progress:
        if predictions is None:
            if run is None:
                raise ExperimentError(
                    "segbench evaluate: name a RUN, or a folder of --predictions with its --dataset"
                )
            scored = work.score_run(run, tuple(trials or ()), asked, machine, progress)
        else:
            if dataset is None or run is not None:
                raise ExperimentError(
                    "segbench evaluate --predictions DIR needs --dataset NAME; the run whose "
                    "leaderboard it joins goes to --run"
                )
            source = work.Predictions(predictions, dataset, mapping, tuple(cards or ()))
            scored = work.score_external(source, asked, machine, of_run, results, progress)
    for line in scored.lines:
        OUT.print(line)
    if scored.run_folder is not None:
        _report(scored.run_folder)


@app.command("compare")
def compare_command(
    left: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A folder of predictions, a file of counts (.npz), a trial's folder, or "
            "RUN:axis=value[,axis=value].",
        ),
    ],
    right: Annotated[str, typer.Argument(metavar="B", help="The same of the other.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="The data set that was predicted.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="S", help="Its split (else val).")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML lines `raw value: class` for both folders."),
    ] = None,
    seeds: Annotated[
        bool,
        typer.Option("--seeds", help="A and B hold one folder or .npz file for each seed."),
    ] = False,
    metric: Annotated[str, typer.Option(help="The figure to compare.")] = "mean_iou",
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where trials were scored by several protocols."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How predictions are scored, e.g. with_background=false. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here too.")
    ] = None,
    data: Data = None,
    cache: Cache = None,
    cards: Cards = None,
) -> None:
    """Compare two result sets of anybody on the same images: difference, interval, p, each class."""
    from segbench import drive_evaluate as work
    from segbench.drive_compare import Asked, compare_results
    from segbench.files import write_text
    from segbench.report.claims_page import render_comparison
    from segbench.spec.protocol import Protocol

    asked = Asked(
        dataset=dataset, mapping=mapping, metric=metric, has_seeds=seeds, protocol_name=protocol,
        protocol=work.changed(Protocol(), tuple(settings or ()), split), cards=tuple(cards or ()),
    )  # fmt: skip
    with _progress() as progress:
        found = compare_results(
            left, right, asked, work.machine_of(tuple(data or ()), cache), progress
        )
    text = render_comparison(found.comparison, left, right, found.notes)
    OUT.print(text, end="")
    if output is not None:
        write_text(output, text)


@app.command("crf-search")
def crf_search_command(
    run: RunFolder,
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="The first digits of a trial's id.")
    ],
    samples: Annotated[
        int, typer.Option(min=1, help="Settings to try, of DeepLab's 128; above that all of them.")
    ] = 20,
    images: Annotated[
        int | None, typer.Option(min=1, help="Held-out images to try them on (else all).")
    ] = None,
    data: Data = None,
    cache: Cache = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Processes for the CRF.")] = 1,
) -> None:
    """Look for CRF parameters on the images that a trial's training left out."""
    from segbench import drive_evaluate as work
    from segbench.crf_search import search_crf
    from segbench.model_folder import first_protocol
    from segbench.run import find_trial

    workdir, _ = find_trial(run, trial)
    machine = work.machine_of(tuple(data or ()), cache, device, threads)
    with _progress() as progress:
        found = search_crf(
            workdir, first_protocol(workdir).revised(crf=None), machine,
            samples=samples, max_images=images,
            progress=lambda done, of: progress("held-out images", done, of),
        )  # fmt: skip
    rows = []
    for one in found[:10]:
        settings = {} if one.crf is None else one.crf.model_dump(exclude_defaults=True)
        shown = ", ".join(f"{key}: {value:g}" for key, value in settings.items())
        rows.append(
            (f"{100 * one.mean_iou:.2f}", f"crf={{{shown}}}" if one.crf else "without a CRF")
        )
    OUT.print(console.plain_table(("mean IoU, held-out images", "--set"), rows))


Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A trial's folder, or one that segbench export wrote."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")]


@app.command("export")
def export_command(trial: Model, out: Out) -> None:
    """Write a trained model with its cards and figures, for somebody else to use."""
    from segbench.model_folder import export_model, find_model

    for path in export_model(find_model(trial), out):
        OUT.print(console.shown_path(path))


@app.command("predict")
def predict_command(
    model: Model,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Photographs, or folders of them.")
    ],
    out: Out,
    crf: Annotated[bool, typer.Option("--crf", help="Refine with a CRF (extra `crf`).")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write NAME_probabilities.npz too.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the protocol, e.g. flip=true. Repeatable."
        ),
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Label photographs with a trained model: palette PNGs, and overlays with a legend."""
    from segbench import drive_evaluate as work
    from segbench.label_images import label_images
    from segbench.model_folder import find_model, first_protocol

    folder = find_model(model)
    protocol = work.changed(first_protocol(folder), tuple(settings or ()))
    machine = work.machine_of((), None, device, threads)
    OUT.print(f"protocol: {protocol.description()}")
    with _progress() as progress:
        written = label_images(
            folder, images, out, protocol, machine,
            with_crf=crf, with_probabilities=probabilities,
            progress=lambda done, of: progress("images", done, of),
        )  # fmt: skip
    OUT.print(f"{len(written)} images labelled: {console.shown_path(out)}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (what, done, of) that moves a bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=ERR, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def moved(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=of)

        yield moved


def _fail(message: str) -> NoReturn:
    ERR.print(message)
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app()
