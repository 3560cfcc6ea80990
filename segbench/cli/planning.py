"""`segbench plan`: what a run would cost, and what its claims could show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from segbench.cli.app import ERR, OUT, app
from segbench.cli.flags import File, GridOptions
from segbench.cli.preview import say_plan, warning_of_batches
from segbench.cli.records import takes_records
from segbench.errors import counted, listed
from segbench.schema.claims import TIMED_FACTS, AnyClaim

if TYPE_CHECKING:
    from segbench.commands.estimate import CostEstimate
    from segbench.commands.run import PreparedRun
    from segbench.schema.launching import Launch
    from segbench.schema.sweep import Plan
    from segbench.statistics.power import Spread


@app.command("plan")
@takes_records
def plan_command(
    file: File,
    grid: GridOptions,
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
) -> None:
    """Say what would run, and how long it takes where step times were measured; start nothing.

    Takes the options of `run` that say what runs where, so that a command need not be cut down.
    """
    from segbench.commands.estimate import estimated
    from segbench.commands.run import narrowed, prepare_run, unfinished

    prepared = prepare_run(file, grid.flags())
    left = unfinished(prepared, retry_failed=False)
    say_plan(prepared, left)
    if warning := warning_of_batches(file, prepared, left):
        ERR.print(warning)
    experiment = prepared.asked.experiment
    _say_cost(experiment.launch, estimated(prepared.asked.cells, left, prepared.run_folder))
    if experiment.claims:
        looks = prepared.settling.schedule
        last = narrowed(prepared.whole, grid.only or (), None) if looks else None
        _say_claims_plan(prepared, last, _Stated(seed_sd, image_sd))
        for sentence in times_to_measure(experiment.claims):
            OUT.print(sentence)


def _say_cost(launch: "Launch", found: "CostEstimate") -> None:
    """Say how long the trials take that are left, as far as times of steps were measured."""
    if found.measured:
        OUT.print(
            f"{found.hours:.2f} h for {found.measured} of the {counted(found.trials, 'trial')}, one "
            f"after another, as measured on {', '.join(found.devices)}"
        )
        if gpus := _gpus(launch, found.devices):
            OUT.print(f"{found.hours * gpus:.2f} GPU-hours with {gpus:g} GPU per trial")
    if found.trials > found.measured:
        unknown = counted(found.trials - found.measured, "trial")
        OUT.print(
            f"no step time is known for {unknown}: run one seed of each cell first (--seeds 1), then "
            "plan again"
        )


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


def _gpus(launch: "Launch", devices: tuple[str, ...]) -> float:
    """Return how many GPUs a trial has: as asked for, or as it was measured."""
    if devices == ("cpu",) and not launch.gpus_per_trial:
        return 0
    return launch.gpus_wanted


class _Stated(NamedTuple):
    """Spreads in points that the command was given; None where they are to be looked up."""

    seed_sd: float | None
    image_sd: float | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing has to be looked up."""
        return None not in self

    def over(self, spread: "Spread") -> "Spread":
        """Return a spread with what was stated in place of what it says."""
        from segbench.statistics.power import Spread

        return Spread(
            spread.seed_sd if self.seed_sd is None else self.seed_sd,
            *(spread[1:] if self.image_sd is None else (self.image_sd,)),
        )


def _say_claims_plan(prepared: "PreparedRun", last: "Plan | None", stated: _Stated) -> None:
    """Say what each claim could show, with spreads as stated, else as this run has measured them.

    last: the plan with the seeds of the last look under --settle, else None.
    """
    from segbench.claims.planning import plan_claims, planned_cells
    from segbench.report.claims_page import render_plan
    from segbench.runs.spreads import load_spreads
    from segbench.statistics.power import STATED_SPREAD

    found = [] if stated.is_whole else load_spreads(prepared.run_folder)
    measured = [(claim, stated.over(spread)) for claim, spread in found]
    planned, at_last_look = (
        plan_claims(
            prepared.asked.experiment.claims,
            planned_cells(cells),
            spread=stated.over(STATED_SPREAD),
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
