"""`segbench run --settle`: more seeds where a claim is undecided, under a rule that is fixed before.

The rule and why it keeps the error rate: `segbench.statistics.power`. The looks with their seeds, and
which cells have more seeds, stand in run.json, so every later command and report knows them. Prints
nothing.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segbench.errors import ExperimentError
from segbench.runs import trial_files
from segbench.runs.record import (
    RunRecord,
    TopUp,
    axes_key,
    load_earlier_run,
    load_rows,
    load_run,
    write_top_ups,
)
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
    if before is not None and _seeds_judged(run_folder, before):
        raise ExperimentError(
            f"--settle: {run_folder.name} was judged at one look already, at the full 5 %; seeds that "
            "are added after such a look nearly double the rate of false verdicts. Say --settle when "
            "a run begins; another --results folder begins one"
        )
    from segbench.statistics.inference import MIN_SEEDS
    from segbench.statistics.power import settle_schedule

    schedule = settle_schedule(len(experiment.sweep.seed_values))
    if schedule[-1] < MIN_SEEDS:
        raise ExperimentError(
            f"--settle: with {len(experiment.sweep.seed_values)} planned seeds the looks are at "
            f"{', '.join(map(str, schedule))} seeds, and a verdict on a method takes {MIN_SEEDS}: "
            f"plan more (--seeds {MIN_SEEDS} wastes no look)"
        )
    return Settling(len(schedule), schedule)


def _seeds_judged(run_folder: Path, record: RunRecord) -> int:
    """Return how many seeds the run's verdicts can have seen; 0 where they were too few for one.

    Also where trials are missing: whoever stopped a run has seen its page all the same.
    """
    from segbench.statistics.inference import MIN_SEEDS

    if not record.experiment.claims or not (run_folder / "claims.md").exists():
        return 0
    done = Counter(
        tuple(cell.axes.values())
        for cell in record.cells
        if cell.trial_id
        and trial_files.load_result(trial_files.trial_folder(run_folder, cell.trial_id)) is not None
    )
    most = max(done.values(), default=0)
    return most if most >= MIN_SEEDS else 0


def with_earlier_looks(run_folder: Path, asked: RunRecord, whole: Plan) -> RunRecord:
    """Return the record with what verdicts were seen before seeds were added or claims changed."""
    before = load_earlier_run(run_folder)
    if before is None:
        return asked
    trials = whole.trials
    if not any(cell.trial_id in trials for cell in before.cells if cell.trial_id):
        return asked  # another sweep, whose verdicts were about other trials
    first: dict[str, object] = {
        name: getattr(before, name) for name in ("first_claims", "first_seeds", "first_cells")
    }
    looks = before.judged_at
    by_rule = (*before.schedule[:1], *(top.seeds for top in before.top_ups))
    has_more_seeds = asked.most_seeds > max((before.most_seeds, *by_rule))
    has_other_claims = _asked(before.experiment) != _asked(asked.experiment)
    has_other_cells = _swept(before.experiment) != _swept(asked.experiment) and (
        {axes_key(axes) for axes in before.asked_cells()}
        != {
            axes_key({**cell.axes, "protocol": name})
            for cell in whole.cells
            for name in asked.experiment.evaluate
            if cell.trial is not None
        }
    )
    changes = has_more_seeds or has_other_claims or has_other_cells
    if changes and (seen := _seeds_judged(run_folder, before)):
        looks = (*looks, seen) if has_more_seeds else looks
        if not before.first_claims and has_other_claims:
            first |= {"first_claims": before.experiment.claims, "first_seeds": seen}
        if not before.first_cells and has_other_cells:
            first |= {"first_cells": before.asked_cells(), "first_seeds": seen}
    return asked.model_copy(update={"judged_at": looks, **first})


def _asked(experiment: Experiment) -> set[str]:
    return {claim.asks() for claim in experiment.claims}


def _swept(experiment: Experiment) -> tuple[str, ...]:
    """Return what decides which cells there are, but for their seeds."""
    sweep = experiment.sweep.model_dump_json(exclude={"seeds"})
    return sweep, *sorted(experiment.evaluate)


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
