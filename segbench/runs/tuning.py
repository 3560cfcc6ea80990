"""Which samples of a search were best, read from its results alone. No torch here.

A sample's score is the mean of the search's metric over its cells, on the images held out of
`train`; with `search.per` over the cells of one value, and each value has a best sample of its own.
Samples that failed in one of these cells, and those that ASHA stopped, cannot be best. Of equal
scores the sample that was drawn first is best.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbench.errors import ExperimentError, ResultError, listed
from segbench.runs.record import CellRecord, Row, RunRecord, axes_key, load_rows, load_run
from segbench.schema.experiment import Experiment, Selector
from segbench.schema.search import Search
from segbench.schema.searched import Tuned, searched, settings_of
from segbench.schema.sweep import Cell

_RECIPE = {"heads", "overrides", "start_from", "model", "train", "evaluate"}


class Tried(NamedTuple):
    """A sample in the cells that match `where`. scores: of those that ended well, fractions.

    cells: how many there are; failed: how many of them failed.
    """

    where: Selector
    sample: str
    settings: dict[str, Any]
    scores: tuple[float, ...]
    cells: int
    failed: int

    @property
    def score(self) -> float | None:
        """The mean over the cells; None unless all of them ended well."""
        return sum(self.scores) / self.cells if len(self.scores) == self.cells else None

    @property
    def num_unfinished(self) -> int:
        """How many cells wait, run or were stopped."""
        return self.cells - len(self.scores) - self.failed


def tried_samples(record: RunRecord, rows: Iterable[Row], search: Search) -> list[list[Tried]]:
    """Return the samples of a search's run in the order drawn, a list for each value of `per`."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        if not row.cell.skipped:
            key = tuple(search.selector_of(row.cell.axes).values())
            samples = groups.setdefault(key, {})
            samples.setdefault(row.cell.axes["variant"], []).append(row)
    return [
        [
            _tried(record.experiment, search, name, samples[name])
            for name in record.experiment.variants
            if name in samples
        ]
        for samples in groups.values()
    ]


def _tried(experiment: Experiment, search: Search, name: str, rows: Sequence[Row]) -> Tried:
    figures = [
        row.evaluations["search"].figures[search.metric]
        for row in rows
        if row.is_done and "search" in row.evaluations
    ]
    return Tried(
        where=search.selector_of(rows[0].cell.axes),
        sample=name,
        settings=settings_of(experiment, name),
        scores=tuple(figure for figure in figures if figure is not None),
        cells=len(rows),
        failed=len([row for row in rows if row.status == "failed"]) + figures.count(None),
    )


def best_of(samples: Sequence[Tried]) -> Tried | None:
    """Return the best of the samples of one value, None where none has a score."""
    scored = [sample for sample in samples if sample.score is not None]
    return max(scored, key=lambda sample: sample.score or 0.0, default=None)  # the first of equals


def best_samples(
    experiment: Experiment,
    results: Path,
    wanted: Sequence[Selector],
    planned: Iterable[Cell] = (),
) -> tuple[Tuned, ...]:
    """Return what the experiment's search, whose run lies in `results`, found for each of `wanted`.

    wanted: as `search.selectors_of` returns them for the cells that are to be tuned. planned: the
    cells of the search as the experiment now says; those that were run otherwise are told.

    Raises:
        ExperimentError: there is no such run, it is of another `search:`, it is not done, a value
            has no sample that is, or values were tried with other samples.
    """
    search_of = searched(experiment)
    search = experiment.search
    assert search is not None  # searched() checks it
    run_folder = results / search_of.name
    command = f"segbench run {experiment.name}.yaml --search"
    try:
        record = load_run(run_folder)
    except ResultError as error:
        raise ExperimentError(f"{run_folder}: no search was run here; {command} does") from error
    if _as_recorded(record.experiment) != _as_recorded(search_of):
        raise ExperimentError(f"{run_folder}: is of another `search:`; {command} runs this one")
    groups = tried_samples(record, load_rows(run_folder, record), search)
    by_value = {tuple(group[0].where.values()): group for group in groups}
    chosen = [by_value.get(tuple(where.values()), []) for where in wanted]
    if lacks := _lacks(search, wanted, chosen):
        raise ExperimentError(f"{run_folder}: {lacks}; {command} goes on")
    if uneven := unequal_in_words(chosen):
        raise ExperimentError(f"{run_folder}: {uneven}; {command} runs the rest")
    used = [cell for cell in record.cells if search.selector_of(cell.axes) in wanted]
    differs = _differs(record.experiment, search_of, used, planned)
    return tuple(_tuned(search_of, search, group, differs) for group in chosen)


def _lacks(search: Search, wanted: Sequence[Selector], chosen: Sequence[Sequence[Tried]]) -> str:
    """Return what the samples lack that were tried for each of `wanted`, empty if nothing."""
    unfinished = sum(sample.num_unfinished for group in chosen for sample in group)
    if unfinished and search.method != "asha":
        are = "trial of the search is" if unfinished == 1 else "trials of the search are"
        return f"{unfinished} {are} not done"
    missing = [
        in_words(where)
        for where, group in zip(wanted, chosen, strict=True)
        if best_of(group) is None
    ]
    if not missing:
        return ""
    return "no sample of the search is done" + (f" for {listed(missing)}" if search.per else "")


def _differs(
    before: Experiment, now: Experiment, cells: Iterable[CellRecord], planned: Iterable[Cell]
) -> str:
    """Return in what a search was run otherwise than it is planned now, empty if in nothing.

    cells: those that are used. A cell that is not planned now was not run otherwise.
    """
    ids = {(axes_key(cell.axes), cell.seed): cell.trial_id for cell in planned}
    are_alike = all(
        ids.get((axes_key(cell.axes), cell.seed), cell.trial_id) == cell.trial_id for cell in cells
    )
    if are_alike and before.evaluate["search"].digest() == now.evaluate["search"].digest():
        return ""
    ran, runs = (_leaves(e.model_dump(mode="json", include=_RECIPE)) for e in (before, now))
    changed = [key for key in {**ran, **runs} if ran.get(key) != runs.get(key)]
    return listed([f"{k} {ran.get(k)}, now {runs.get(k)}" for k in changed], 4) or "cards or code"


def _leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Return dotted key -> value of what lies within mappings and lists."""
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        return {place.removeprefix("."): value}
    inside = (_leaves(item, f"{place}.{key}") for key, item in value.items())
    return {key: leaf for leaves in inside for key, leaf in leaves.items()}


def _as_recorded(experiment: Experiment) -> Any:
    """Return the samples as JSON has them: a list in a record stands for a tuple of the file's."""
    return experiment.model_dump(mode="json", include={"variants"})


def unequal_in_words(groups: Sequence[Sequence[Tried]]) -> str:
    """Return how many samples each value was tried with where these differ, else an empty text."""
    if len({tuple(sample.sample for sample in group) for group in groups}) <= 1:
        return ""
    counted = [f"{in_words(group[0].where)} with {len(group)}" for group in groups]
    return f"not every value was tried with the same samples: {listed(counted)}"


def in_words(where: Selector) -> str:
    """Return `backbone=vgg16 head=fcn8s`, or what stands for all cells."""
    return " ".join(f"{axis}={value}" for axis, value in where.items()) or "all cells"


def tuned_in_words(tuned: Tuned) -> str:
    """Return in one line which sample was best, of how many, and its settings."""
    shown = ", ".join(f"{key}={value}" for key, value in tuned.settings.items())
    of_what = f"{in_words(tuned.where)}: " if tuned.where else ""
    samples = f"{tuned.done} samples"
    if tuned.done < tuned.tried:
        samples += f" ({tuned.tried} tried)"
    return (
        f"{of_what}best of {samples}: {tuned.sample}, {tuned.metric} {tuned.score:.4f} on the "
        f"held-out images: {shown}"
    )


def _tuned(search_of: Experiment, search: Search, group: Sequence[Tried], differs: str) -> Tuned:
    best = best_of(group)
    assert best is not None  # best_samples() looks
    assert best.score is not None
    return Tuned(
        where=best.where,
        search=search_of.name,
        sample=best.sample,
        settings=settings_of(search_of, best.sample),
        metric=search.metric,
        score=best.score,
        cells=best.cells,
        tried=len(group),
        done=len([sample for sample in group if sample.score is not None]),
        differs=differs,
    )
