"""`segbench run`: plan, say, start, follow, report."""

import math
import shlex
import signal
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from segbench.cli import console
from segbench.cli.app import ERR, OUT, app, fail
from segbench.cli.flags import Cache, Cards, Data, Device, File, Only, Results, Settings, Weights
from segbench.cli.pages import show_report
from segbench.cli.watching import follow_run
from segbench.errors import ExperimentError
from segbench.schema.launching import LAUNCHERS

_MOST_CELLS = 40


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
        str | None,
        typer.Option(
            help=f"{', '.join(LAUNCHERS)} or your own, module:name (else the file's launch.launcher)."
        ),
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
        bool, typer.Option("--best", help="With the settings that were best in that search.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="After submitting to a cluster, follow until all has ended."),
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
    from segbench.commands import preflight
    from segbench.commands.run import Flags, prepare_run, unfinished

    if retry not in {None, "failed"}:
        raise ExperimentError(f"--retry {retry}: the only choice is `failed`")
    flags = Flags(
        cards=tuple(cards or ()),
        settings=(*(settings or ()), *launch_settings(launcher, workers, address)),
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
    command = _command(file, flags)
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
        _say_cells(prepared, left)
        return
    _work_off(prepared, left, command, wait, warning)
    while settle and not unfinished(prepared, retry_failed=False) and _add_seeds(prepared):
        prepared = prepare_run(file, flags)
        _work_off(prepared, unfinished(prepared, retry_failed=False), command, wait)
    left = unfinished(prepared, retry_failed=False)
    if search and not (
        left and prepared.launcher.leaves
    ):  # elsewhere what is left was stopped by asha
        _say_best(file, flags, prepared)
    failed = _count_failed(prepared)
    lost = len(left) if wait and prepared.launcher.leaves else 0
    for number, what in ((failed, "failed"), (lost, "ended without a result")):
        if number:
            ERR.print(
                f"{number} of {len(prepared.asked.trials)} trials {what}; "
                f"segbench status {console.shown_path(prepared.run_folder)} says why."
            )
    if failed or lost:
        raise typer.Exit(1)


def _work_off(
    prepared: Any, left: dict[str, Any], command: str, wait: bool, warning: str = ""
) -> None:
    """Record the run, do what is left of it, and report."""
    from segbench.commands import preflight
    from segbench.commands.run import record_run

    if left and (missing := preflight.missing_files(prepared)):
        fail("\n".join(missing))
    for sentence in preflight.shared_images_in_words(prepared) if left else ():
        ERR.print(sentence)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a ctrl-C
    record = record_run(prepared, command)
    for told in (*filter(None, [warning]), *record.claim_warnings):
        ERR.print(told)
    leaves = prepared.launcher.leaves and not wait
    try:
        if left:
            _follow(prepared, record, left)
            if wait:
                follow_run(prepared.run_folder, record, every=2.0)
    finally:
        if not leaves:
            show_report(prepared.run_folder)
    if left and leaves:
        OUT.print(
            f"This command need not wait; segbench watch {console.shown_path(prepared.run_folder)} follows, "
            "segbench report writes the tables."
        )


def _add_seeds(prepared: Any) -> bool:
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


def _say_best(file: Path, flags: Any, prepared: Any) -> None:
    """Say what the search found for the cells that were asked for."""
    from segbench.commands.run import best_of_search
    from segbench.runs.tuning import tuned_in_words
    from segbench.schema.experiment import read_experiment

    experiment, _ = read_experiment(file, flags.settings)
    for tuned in best_of_search(experiment, flags, prepared.asked, prepared.catalog):
        OUT.print(tuned_in_words(tuned))
    OUT.print("segbench run --best takes these settings")


def _command(file: Path, flags: Any) -> str:
    """Return what to type to get these trials again; where they run changes no table."""
    asked = {"--search": flags.search, "--best": flags.best, "--settle": flags.settle}
    words = ["segbench", "run", str(file), *(flag for flag, is_asked in asked.items() if is_asked)]
    for setting in flags.settings:
        if setting.partition("=")[0].partition(".")[0] != "launch":
            words += ["--set", setting]
    for selector in flags.only:
        words += ["--only", selector]
    return shlex.join(words if flags.seeds is None else [*words, "--seeds", str(flags.seeds)])


def launch_settings(
    launcher: str | None, workers: int | None = None, address: str | None = None
) -> list[str]:
    """Return the settings that the flags stand for; an address names a Ray, unless told."""
    if address is not None:
        launcher = launcher or "ray"
    given = {"launcher": launcher, "workers": workers, "address": address}
    return [f"launch.{name}={value}" for name, value in given.items() if value is not None]


def say_plan(prepared: Any, left: dict[str, Any]) -> None:
    """Say how large the plan is, what is skipped, where it goes, and what weights are compared."""
    from segbench.runs.tuning import tuned_in_words
    from segbench.schema.initial_weights import random_by_default

    plan = prepared.asked
    for tuned in prepared.tuned:
        OUT.print(tuned_in_words(tuned))
    for sentence in dict.fromkeys(tuned.warning for tuned in prepared.tuned if tuned.warning):
        ERR.print(sentence)
    for sentence in prepared.hidden_cards:
        ERR.print(f"hidden card: {sentence}")
    if warning := random_by_default(plan):
        ERR.print(warning)
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in plan.axes.items())
    seeds = len({cell.seed for cell in plan.cells})
    trials = plan.trials
    points = math.prod(len(values) for values in plan.axes.values()) * seeds
    skipped = Counter(cell.skipped for cell in plan.cells if cell.skipped)
    gaps = "without what is left out:" if skipped or plan.experiment.sweep.exclude else "give"
    equals = "=" if points == len(trials) else gaps
    OUT.print(
        f"{plan.experiment.name}: {axes} x {seeds} seeds {equals} {len(trials)} trials; "
        f"{len(trials) - len(left)} ended, {len(left)} to run"
    )
    if prepared.search is not None and prepared.search.per:
        values = prepared.search.selectors_of(cell.axes for cell in plan.cells if cell.trial)
        samples = len(plan.axes["variant"])
        by = " x ".join(prepared.search.per)
        OUT.print(f"search: {samples} samples for each of {len(values)} values of {by}")
    for reason, number in skipped.items():
        OUT.print(f"skipped ({number}): {reason}")
    if len(whole := prepared.whole.trials) != len(trials):
        OUT.print(
            f"at most {len(whole)} trials, if every cell gets the seeds of the last look"
            if prepared.settling.schedule
            else f"narrowed from {len(whole)} trials of the whole sweep"
        )
    OUT.print(
        f"protocols: {', '.join(plan.experiment.evaluate)}; launcher: {plan.experiment.launch.launcher}; "
        f"results: {console.shown_path(prepared.run_folder)}"
    )


def warning_of_batches(file: Path, prepared: Any, left: dict[str, Any]) -> str:
    """Return what to say of batch norm on few images; leave where it cannot train at all."""
    from segbench.commands.batch_norm import tiny_batches

    tiny = tiny_batches(left.values(), Path(prepared.machine.cache))
    if tiny.problems:
        fail("\n".join(f"{file}: {problem}" for problem in tiny.problems))
    return tiny.warning


def _say_cells(prepared: Any, left: dict[str, Any]) -> None:
    """Name the trials and say which are done or failed; of a large grid the first ones."""
    from segbench.commands.run import cells_by_id
    from segbench.runs import trial_files
    from segbench.runs.status import label

    cells = cells_by_id(prepared.asked)
    for trial_id, cell in list(cells.items())[:_MOST_CELLS]:
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        failure = trial_files.load_failure(workdir)
        state = f"failed ({failure.kind})" if failure else "done"
        if trial_id in left:
            torn = ", ".join(path.name for path in trial_files.torn_files(workdir))
            state = f"to run ({torn}: damaged)" if torn else "to run"
        OUT.print(f"  {trial_id}  {label(cell.axes, cell.seed)}: {state}")
    if len(cells) > _MOST_CELLS:
        OUT.print(f"  and {len(cells) - _MOST_CELLS} more")


def _follow(prepared: Any, record: Any, left: dict[str, Any]) -> None:
    """Start the work; show a live view on a terminal, a line for each event elsewhere."""
    from segbench.commands.run import start
    from segbench.runs import status

    labels = {
        cell.trial_id: status.label(cell.axes, cell.seed)
        for cell in prepared.asked.cells
        if cell.trial
    }
    if not OUT.is_terminal or prepared.launcher.place == "process":  # they share the terminal
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
            start(prepared, left, say)
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
            start(prepared, left, keep)
    finally:
        for note in notes:
            OUT.print(note)


def _count_failed(prepared: Any) -> int:
    from segbench.runs import trial_files

    found = (
        trial_files.load_failure(trial_files.trial_folder(prepared.run_folder, trial_id))
        for trial_id in prepared.asked.trials
    )
    return sum(failure is not None for failure in found)
