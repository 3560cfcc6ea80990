"""`segbench run --settle`: more seeds where a claim is undecided, under a rule that is fixed before.

The rule and why it keeps the error rate: `segbench.statistics.power`. The looks with their seeds, and
which cells have more seeds, stand in run.json, so every later command and report knows them. Prints
nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segbench.errors import ExperimentError
from segbench.runs.record import (
    TopUp,
    axes_key,
    load_earlier_run,
    load_rows,
    load_run,
    write_top_ups,
)
from segbench.runs.registration import seeds_judged, seeds_of_a_verdict
from segbench.schema.experiment import Experiment
from segbench.schema.sweep import Plan

if TYPE_CHECKING:  # scipy takes a second to load, and most commands settle nothing
    from segbench.claims.planning import SettlePlan


class Settling(NamedTuple):
    """How often claims may be judged, the seeds of a cell at each look, and what was added."""

    looks: int = 1
    schedule: tuple[int, ...] = ()
    top_ups: tuple[TopUp, ...] = ()


def settling_of(run_folder: Path, experiment: Experiment, *, is_asked: bool) -> Settling:
    """Return what the run's record says of it, or what is to be recorded now.

    Raises:
        ExperimentError: nothing to settle, or the claims were judged already without the rule.
    """
    before = load_earlier_run(run_folder)
    if before is not None and before.looks > 1:
        return Settling(before.looks, before.schedule, before.top_ups)
    if not is_asked:
        return Settling()
    if not experiment.claims or not isinstance(experiment.sweep.seeds, int):
        raise ExperimentError(
            f"--settle: {experiment.name} needs `claims:` and sweep.seeds as a number of seeds"
        )
    if before is not None and seeds_judged(run_folder, before):
        raise ExperimentError(
            f"--settle: {run_folder.name} was judged at one look already, at the full 5 %; seeds that "
            "are added after such a look nearly double the rate of false verdicts. Say --settle when "
            "a run begins; another --results folder begins one"
        )
    from segbench.claims.rules import NEWEST
    from segbench.statistics.power import settle_schedule

    schedule = settle_schedule(len(experiment.sweep.seed_values))
    needed = seeds_of_a_verdict(experiment, NEWEST.number)
    if schedule[-1] < needed:
        raise ExperimentError(
            f"--settle: with {len(experiment.sweep.seed_values)} planned seeds the looks are at "
            f"{', '.join(map(str, schedule))} seeds, and a verdict on a method takes {needed}: "
            f"plan more (--seeds {needed} wastes no look)"
        )
    return Settling(len(schedule), schedule)


def with_last_look(experiment: Experiment, settling: Settling) -> Experiment:
    """Return the experiment with the seeds of the last look, from which top-ups take theirs."""
    seeds = max(settling.schedule[-1], len(experiment.sweep.seed_values))
    return experiment.revised(sweep=experiment.sweep.revised(seeds=seeds))


def with_top_ups(whole: Plan, planned: int, settling: Settling) -> Plan:
    """Return the cells that are to be run: those planned, and the seeds that were added."""
    added = {axes_key(top.axes): top.seeds for top in settling.top_ups}
    cells = tuple(
        cell for cell in whole.cells if cell.seed < max(planned, added.get(axes_key(cell.axes), 0))
    )
    return Plan(whole.experiment, cells)


def add_seeds(run_folder: Path) -> "SettlePlan":
    """Judge the run, note in its record which cells get more seeds, and return them.

    Raises:
        ResultError: a file of the run is damaged.
    """
    from segbench.claims.planning import settle_plan
    from segbench.report.write import judged_claims

    record = load_run(run_folder)
    verdicts = judged_claims(run_folder, record, list(load_rows(run_folder, record)))
    found = settle_plan(verdicts, record.schedule)
    seeds = {axes_key(top.axes): top.seeds for top in record.top_ups}
    for top in found.top_ups:
        seeds[axes_key(top.axes)] = top.seeds_next
    write_top_ups(run_folder, tuple(TopUp(axes=dict(a), seeds=n) for a, n in sorted(seeds.items())))
    return found
