"""`segbench run --settle`: more seeds where a claim is undecided, under a rule that is fixed before.

The rule and why it keeps the error rate: `segbench.analysis.power`. That a run is one of several
looks, and which cells have more seeds, stands in run.json, so every later command and report knows
it. Prints nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segbench import results
from segbench.errors import ExperimentError, ResultError
from segbench.run import RunRecord, TopUp, load_rows, load_run, write_top_ups
from segbench.spec.experiment import Experiment
from segbench.spec.sweep import Plan

if TYPE_CHECKING:  # scipy and statsmodels take a second to load, and most commands settle nothing
    from segbench.analysis.planning import SettlePlan


class Settling(NamedTuple):
    """How often claims may be judged, and the cells that have more seeds than the file says."""

    looks: int = 1
    top_ups: tuple[TopUp, ...] = ()


def settling_of(run_folder: Path, experiment: Experiment, *, is_asked: bool) -> Settling:
    """Return what the run's record says of it, or what is to be recorded now.

    Raises:
        ExperimentError: nothing to settle, or the claims were judged already without the rule.
    """
    try:
        before = load_run(run_folder)
    except ResultError:
        before = None
    if before is not None and before.looks > 1:
        return Settling(before.looks, before.top_ups)
    if not is_asked:
        return Settling()
    if not experiment.claims or not isinstance(experiment.sweep.seeds, int):
        raise ExperimentError(
            f"--settle: {experiment.name} needs `claims:` and sweep.seeds as a number of seeds"
        )
    if before is not None and _was_judged(run_folder, before):
        raise ExperimentError(
            f"--settle: {run_folder.name} was judged at one look already, at the full 5 %; seeds that "
            "are added after such a look nearly double the rate of false verdicts. Say --settle when "
            "a run begins; another --results folder begins one"
        )
    from segbench.analysis.power import SETTLE_LOOKS

    return Settling(SETTLE_LOOKS)


def _was_judged(run_folder: Path, record: RunRecord) -> bool:
    folders = [results.trial_folder(run_folder, c.trial_id) for c in record.cells if c.trial_id]
    return bool(folders) and all(results.load_result(folder) is not None for folder in folders)


def judged_at(run_folder: Path, whole: Plan, seeds: int) -> tuple[int, ...]:
    """Return at how many seeds claims were judged without the rule, if now `seeds` are asked for.

    A pilot with too few seeds for a verdict is no look.
    """
    try:
        before = load_run(run_folder)
    except ResultError:
        return ()
    trials = whole.trials
    if not any(cell.trial_id in trials for cell in before.cells if cell.trial_id):
        return ()  # another sweep, whose verdicts were about other trials
    grows = before.looks == 1 and before.experiment.claims and seeds > before.most_seeds
    if not grows or not _was_judged(run_folder, before):
        return before.judged_at
    from segbench.analysis.inference import MIN_SEEDS

    had_verdicts = before.most_seeds >= MIN_SEEDS
    return (*before.judged_at, before.most_seeds) if had_verdicts else before.judged_at


def most_seeds(experiment: Experiment, settling: Settling) -> Experiment:
    """Return the experiment with the seeds of the last look, from which top-ups take theirs."""
    from segbench.analysis.power import settle_schedule

    planned = len(experiment.sweep.seed_values)
    seeds = settle_schedule(planned, settling.looks)[-1]
    return experiment.revised(sweep=experiment.sweep.revised(seeds=seeds))


def with_top_ups(whole: Plan, planned: int, settling: Settling) -> Plan:
    """Return the cells that are to be run: those planned, and the seeds that were added."""
    added = {tuple(sorted(top.axes.items())): top.seeds for top in settling.top_ups}
    cells = tuple(
        cell
        for cell in whole.cells
        if cell.seed < max(planned, added.get(tuple(sorted(cell.axes.items())), 0))
    )
    return Plan(whole.experiment, cells)


def add_seeds(run_folder: Path) -> "SettlePlan":
    """Judge the run, note in its record which cells get more seeds, and return them.

    Raises:
        ResultError: a file of the run is damaged.
    """
    from segbench.analysis.planning import settle_plan
    from segbench.report.write import judged_claims

    record = load_run(run_folder)
    verdicts = judged_claims(run_folder, record, list(load_rows(run_folder, record)))
    planned = len(record.experiment.sweep.seed_values)
    found = settle_plan(verdicts, planned, record.looks)
    seeds = {tuple(sorted(top.axes.items())): top.seeds for top in record.top_ups}
    for top in found.top_ups:
        seeds[tuple(sorted(top.axes.items()))] = top.seeds_next
    write_top_ups(run_folder, tuple(TopUp(axes=dict(a), seeds=n) for a, n in sorted(seeds.items())))
    return found
