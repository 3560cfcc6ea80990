"""Which sample of a search was best, read from its results alone.

A sample's score is the mean of the search's metric over its cells, on the images held out of
`train`. Samples that failed, and those that ASHA stopped, cannot be best.
"""

from pathlib import Path
from typing import Any, NamedTuple

from segbench import run
from segbench.errors import ExperimentError, ResultError
from segbench.spec.experiment import Experiment
from segbench.spec.searched import searched


class BestSample(NamedTuple):
    """The variant's name, its settings (dotted key -> value), its score in [0, 1], of how many."""

    name: str
    settings: dict[str, Any]
    score: float
    of: int


def best_sample(experiment: Experiment, results: Path) -> BestSample:
    """Return the best sample of the experiment's search, whose run lies in `results`.

    Raises:
        ExperimentError: there is no such run, it is of another `search:`, or it is not done.
    """
    search_of = searched(experiment)
    search = experiment.search
    assert search is not None  # searched() checks it
    run_folder = results / search_of.name
    command = f"segbench run {experiment.name}.yaml --search"
    try:
        record = run.load_run(run_folder)
    except ResultError as error:
        raise ExperimentError(f"{run_folder}: no search was run here; {command} does") from error
    if record.experiment.variants != search_of.variants:
        raise ExperimentError(f"{run_folder}: is of another `search:`; {command} runs this one")
    scores: dict[str, list[float]] = {}
    spoilt, unfinished = set(), 0
    for row in run.load_rows(run_folder, record):
        name = row.cell.axes["variant"]
        figure = row.evaluations["search"].figures[search.metric] if row.is_done else None
        if figure is not None:
            scores.setdefault(name, []).append(figure)
        elif not row.cell.skipped:
            spoilt.add(name)
            unfinished += row.result is None
    if unfinished and search.method != "asha":
        raise ExperimentError(
            f"{run_folder}: {unfinished} trials of the search are not done; {command} goes on"
        )
    means = {name: sum(found) / len(found) for name, found in scores.items() if name not in spoilt}
    if not means:
        raise ExperimentError(f"{run_folder}: no sample of the search is done; {command} goes on")
    best = max(sorted(means), key=lambda name: means[name])
    settings = dict(search_of.variants[best])
    del settings["dataset.view.holdout"]
    return BestSample(best, settings, means[best], len(means))
