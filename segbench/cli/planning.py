"""`segbench plan`: what a run would cost, and what its claims could show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segbench.cli.app import ERR, OUT, app
from segbench.cli.flags import Cache, Cards, Data, File, Only, Results, Settings, Weights
from segbench.cli.run import launch_settings, say_plan, warning_of_batches
from segbench.errors import listed
from segbench.schema.claims import TIMED_FACTS, AnyClaim
from segbench.schema.launching import LAUNCHERS


@app.command()
def plan(
    file: File,
    cards: Cards = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Plan the first N seeds alone.")] = None,
    launcher: Annotated[
        str | None, typer.Option(help=f"{', '.join(LAUNCHERS)} or your own, module:name.")
    ] = None,
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
    search: Annotated[
        bool, typer.Option("--search", help="Plan the samples of the file's `search:`.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Plan with the settings that were best in that search.")
    ] = False,
    settle: Annotated[
        bool,
        typer.Option("--settle", help="Plan for `run --settle`, which judges at a stricter level."),
    ] = False,
    results: Results = Path("results"),
    data: Data = None,
    weights: Weights = None,
    cache: Cache = None,
) -> None:
    """Say what would run, and how long it takes where step times were measured; start nothing.

    Takes the options of `run` that say where things lie, so that a command need not be cut down.
    """
    from segbench.commands.estimate import estimated
    from segbench.commands.run import Flags, narrowed, prepare_run, unfinished

    flags = Flags(
        cards=tuple(cards or ()), settings=(*(settings or ()), *launch_settings(launcher)),
        only=tuple(only or ()), seeds=seeds, results=results, data=tuple(data or ()),
        weights=tuple(weights or ()), cache=cache, search=search, best=best, settle=settle,
    )  # fmt: skip
    prepared = prepare_run(file, flags)
    left = unfinished(prepared, retry_failed=False)
    say_plan(prepared, left)
    if warning := warning_of_batches(file, prepared, left):
        ERR.print(warning)
    found = estimated(prepared.asked.cells, left, prepared.run_folder)
    gpus = _gpus(prepared.asked.experiment.launch, found.devices)
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
        looks = prepared.settling.schedule
        last = narrowed(prepared.whole, only or (), None) if looks else None
        _say_claims_plan(prepared, last, seed_sd, image_sd)
        for sentence in times_to_measure(prepared.asked.experiment.claims):
            OUT.print(sentence)


def times_to_measure(claims: Sequence[AnyClaim]) -> list[str]:
    """Return a sentence for each command that must measure what claims ask, after the run."""
    asking: dict[str, list[str]] = {}
    for claim in claims:
        timed = TIMED_FACTS.keys() & claim.facts()
        for command in sorted({TIMED_FACTS[fact] for fact in timed}):
            asking.setdefault(command, []).append(repr(claim.says))
    return [
        f"{listed(said)}: undecided until `{command}` has measured the models one after another, since "
        "trials that run beside each other measure no cost"
        for command, said in asking.items()
    ]


def _gpus(launch: Any, devices: tuple[str, ...]) -> float:
    """Return how many GPUs a trial has: as asked for, or as it was measured."""
    if devices == ("cpu",) and not launch.gpus_per_trial:
        return 0
    return launch.gpus_wanted


def _say_claims_plan(
    prepared: Any, last: Any, seed_sd: float | None, image_sd: float | None
) -> None:
    """Say what each claim could show, with spreads as stated, else as this run has measured them.

    last: the plan with the seeds of the last look under --settle, else None.
    """
    from segbench.claims.planning import plan_claims, planned_cells
    from segbench.report.claims_page import render_plan
    from segbench.runs.spreads import load_spreads
    from segbench.statistics.power import STATED_SPREAD, Spread

    def stated(spread: Spread) -> Spread:
        return Spread(
            spread.seed_sd if seed_sd is None else seed_sd,
            *(spread[1:] if image_sd is None else (image_sd,)),
        )

    is_stated = seed_sd is not None and image_sd is not None
    found = [] if is_stated else load_spreads(prepared.run_folder)
    measured = [(claim, stated(spread)) for claim, spread in found]
    planned, at_last_look = (
        plan_claims(
            prepared.asked.experiment.claims,
            planned_cells(cells),
            spread=stated(STATED_SPREAD),
            measured=measured,
            looks=prepared.settling.looks,
        )
        if cells
        else ()
        for cells in (prepared.asked, last)
    )
    OUT.print(f"\n{render_plan(planned, at_last_look)}", end="")
    if looks := prepared.settling.schedule:
        OUT.print(
            f"--settle judges at {', '.join(map(str, looks))} seeds, each time at 5 % / {len(looks)}; "
            "a claim that is decided, or that seeds will not settle, gets no more."
        )
