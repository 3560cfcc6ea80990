"""Everything that the page and the figures show of a run, gathered once.

A board holds what may be ranked together: one protocol, one data set, the same classes and images.
Shares and IoUs are fractions, standings and differences per cent. Letters: C classes.
Knows nothing of how anything is drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench import results
from segbench.analysis.inference import MIN_SEEDS
from segbench.analysis.observations import Observation
from segbench.analysis.pairwise import Comparison, compare_two
from segbench.report.cells import Summary, summarised
from segbench.report.observed import facts_of, load_counts, observed
from segbench.report.ranking import RESAMPLES, Ranking, Standing, rank
from segbench.run import Row, RunRecord
from segbench.spec.experiment import Published
from segbench.spec.protocol import Protocol
from segbench.spec.sweep import matches

COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "forward_ms": "forward time, ms per image",
    "step_ms": "training time, ms per step",
    "peak_memory_mib": "peak memory, MiB",
}
_SHOWN_CONFUSIONS = 20  # classes of a confusion matrix; the others are one row and column


class Confusion(NamedTuple):
    """One trial's confusion matrix. matrix: (c, c + 1) pixels, label by prediction.

    names: of the c rows; above 21 classes the 20 with most wrong pixels, then `others`. The last
    column holds predictions outside the classes.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Model:
    """A complete cell of the sweep on a board; rows: its seeds' trials."""

    axes: dict[str, str]
    rows: tuple[Row, ...]
    figures: dict[str, Summary]
    standing: Standing
    class_iou: tuple[Summary | None, ...]
    costs: dict[str, float]
    devices: tuple[str, ...]
    published: tuple[Published, ...]
    confusions: tuple[Confusion, ...]

    @property
    def name(self) -> str:
        """What tells the model from the others of its board."""
        return " ".join(value for axis, value in self.axes.items() if axis != "dataset" and value)


@dataclass(frozen=True)
class Rival:
    """The leader of a board against another of its models. decided: corrected over all pairs."""

    model: Model
    comparison: Comparison
    is_decided: bool

    @property
    def seeds(self) -> int:
        """The fewer of both sides' seeds."""
        return min(self.comparison.seeds)

    @property
    def certainty(self) -> str:
        """How sure the difference is, in one sentence."""
        if self.comparison.left == self.comparison.right:
            return "Equal: there is no difference to be sure of."
        if self.seeds == 1:
            return "One seed on a side: this speaks of these trained weights, not of the methods."
        if self.seeds < MIN_SEEDS:
            return f"Undecided: {self.seeds} seeds on a side, and a decision takes {MIN_SEEDS}."
        if self.is_decided:
            return (
                "Decided: chance in seeds and images is ruled out (p at most 0.05, corrected over "
                "all pairs)."
            )
        return "Undecided: chance in seeds and images could have made this difference."


@dataclass(frozen=True)
class Board:
    """Models that may be ranked together, best first.

    label_share: (C,) of the evaluated split's labelled pixels. training_share: (C,) of the training
    split's, where it is on file. rivals: the next model, and the best one with another backbone.
    """

    protocol: Protocol
    protocol_name: str
    dataset: str
    class_names: tuple[str, ...]
    num_images: int
    models: tuple[Model, ...]
    label_share: tuple[float, ...]
    training_share: tuple[float, ...] | None
    rivals: tuple[Rival, ...]

    @property
    def title(self) -> str:
        """What is ranked here, in words."""
        return (
            f"{self.dataset} ({len(self.class_names)} classes, {self.num_images} images of "
            f"{self.protocol.split}), protocol {self.protocol_name}"
        )


def boards(
    run_folder: Path, record: RunRecord, rows: Sequence[Row], *, resamples: int = RESAMPLES
) -> Iterator[Board]:
    """Yield the boards of a run, in the order of its protocols and data sets.

    One board's counts are held at a time.

    Raises:
        ResultError: a file of counts is damaged.
    """
    for name in record.protocols:
        for dataset in dict.fromkeys(row.cell.axes["dataset"] for row in rows):
            cells = _complete_cells([r for r in rows if r.cell.axes["dataset"] == dataset], name)
            groups: dict[tuple[str, ...], list[list[Row]]] = {}
            for cell in cells:
                evaluation = cell[0].evaluations[name]
                key = (*evaluation.class_names, evaluation.split_fingerprint)
                groups.setdefault(key, []).append(cell)
            for group in groups.values():
                yield _board(run_folder, record, name, group, resamples)


def _complete_cells(rows: Sequence[Row], protocol_name: str) -> list[list[Row]]:
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row.cell.skipped:
            cells.setdefault(tuple(row.cell.axes.values()), []).append(row)
    return [
        cell
        for cell in cells.values()
        if all(row.is_done and protocol_name in row.evaluations for row in cell)
    ]


def _board(
    run_folder: Path, record: RunRecord, name: str, cells: Sequence[Sequence[Row]], resamples: int
) -> Board:
    measured: list[list[Observation]] = []
    confusions: list[tuple[Confusion, ...]] = []
    for cell in cells:
        trial = results.load_trial(results.trial_folder(run_folder, cell[0].cell.trial_id))
        stored = [load_counts(run_folder, row, name) for row in cell]
        measured.append([observed(r, name, trial, s) for r, s in zip(cell, stored, strict=True)])
        names = trial.dataset.class_names
        confusions.append(tuple(_confusion(counts.confusion, names) for counts in stored))
    ranking = rank(measured, resamples=resamples)
    published = [p for p in record.experiment.published if p.protocol == name]
    models = [
        _model(cell, name, standing, own, published)
        for cell, standing, own in zip(cells, ranking.standings, confusions, strict=True)
    ]
    order = sorted(range(len(models)), key=lambda index: (-models[index].standing.mean, index))
    evaluation = cells[0][0].evaluations[name]
    first = measured[0][0]
    return Board(
        protocol=record.protocols[name],
        protocol_name=name,
        dataset=cells[0][0].cell.axes["dataset"],
        class_names=evaluation.class_names,
        num_images=evaluation.num_images,
        models=tuple(models[index] for index in order),
        label_share=_shares(first.counts.sums.label),
        training_share=None if first.training_pixels is None else _shares(first.training_pixels),
        rivals=tuple(_rivals(order, models, measured, ranking, resamples)),
    )


def _model(
    cell: Sequence[Row],
    name: str,
    standing: Standing,
    confusions: tuple[Confusion, ...],
    published: Sequence[Published],
) -> Model:
    evaluations = [row.evaluations[name] for row in cell]
    facts = [facts_of(row) for row in cell]
    figures = {
        figure: summary
        for figure in evaluations[0].figures
        if (summary := summarised([e.figures.get(figure) for e in evaluations])) is not None
    }
    costs = {
        cost: summary.mean
        for cost in COSTS
        if (summary := summarised([fact.get(cost) for fact in facts])) is not None
    }
    axes = cell[0].cell.axes
    return Model(
        axes=axes,
        rows=tuple(cell),
        figures=figures,
        standing=standing,
        class_iou=tuple(
            summarised([e.per_class_iou[index] for e in evaluations])
            for index in range(len(evaluations[0].class_names))
        ),
        costs=costs,
        devices=tuple(
            sorted({row.provenance.device for row in cell if row.provenance is not None})
        ),
        published=tuple(p for p in published if matches(axes, p.where)),
        confusions=confusions,
    )


def _confusion(matrix: NDArray[np.int64], names: tuple[str, ...]) -> Confusion:
    """Return the matrix, with all but the most confused classes in one row and column if large."""
    classes = len(names)
    if classes > _SHOWN_CONFUSIONS + 1:
        right = matrix.diagonal()
        wrong = matrix.sum(1) + matrix[:, :classes].sum(0) - 2 * right
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:_SHOWN_CONFUSIONS])
        group = np.full(classes + 1, _SHOWN_CONFUSIONS)
        group[chosen] = np.arange(_SHOWN_CONFUSIONS)
        group[classes] = _SHOWN_CONFUSIONS + 1
        summed = np.zeros((_SHOWN_CONFUSIONS + 1, _SHOWN_CONFUSIONS + 2), dtype=np.int64)
        np.add.at(summed, (group[:classes, None], group[None, :]), matrix)
        matrix = summed
        others = f"{classes - _SHOWN_CONFUSIONS} others"
        names = (*(names[index] for index in chosen), others)
    return Confusion(names, tuple(tuple(map(int, row)) for row in matrix.tolist()))


def _rivals(
    order: Sequence[int],
    models: Sequence[Model],
    measured: Sequence[Sequence[Observation]],
    ranking: Ranking,
    resamples: int,
) -> Iterator[Rival]:
    leader, others = order[0], order[1:]
    backbone = models[leader].axes["backbone"]
    another = [index for index in others if models[index].axes["backbone"] != backbone]
    for index in dict.fromkeys([*others[:1], *another[:1]]):
        one, two = measured[leader], measured[index]
        comparison = compare_two(
            [o.counts for o in one],
            [o.counts for o in two],
            one[0].class_names,
            absent_class=one[0].absent_class,
            class_indices=one[0].class_indices,
            resamples=resamples,
        )
        yield Rival(models[index], comparison, bool(ranking.decided[leader, index]))


def _shares(pixels: NDArray) -> tuple[float, ...]:
    return tuple((pixels / max(pixels.sum(), 1)).tolist())
