"""Everything that the page and the figures show of a run, gathered once.

A board holds what may be ranked together: one protocol, one data set, the same classes and images.
Predictions that were made elsewhere and scored here (external methods) stand on it as models.
Shares and IoUs are fractions, standings and differences per cent. Letters: C classes.
Knows nothing of how anything is drawn.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.errors import counted, listed
from segbench.metrics.counts import Counts
from segbench.report.cells import Summary, gather, summarised
from segbench.runs import trial_files
from segbench.runs.external import External, external_folder, load_externals
from segbench.runs.observed import facts_of, shared_times
from segbench.runs.record import Row, RunRecord
from segbench.runs.starts import Start, names_of, starts_of
from segbench.runs.timings import TIMES
from segbench.runs.trial_files import Evaluation
from segbench.schema.base import matches
from segbench.schema.experiment import Published
from segbench.schema.protocol import Protocol
from segbench.statistics.inference import MIN_GROUPS, MIN_SEEDS, groups_in_words
from segbench.statistics.observations import Observation, shared_seeds
from segbench.statistics.pairwise import Comparison, compare_two
from segbench.statistics.power import ALPHA
from segbench.statistics.ranking import Ranking, Standing, ranking_of

COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "forward_ms": "forward time, ms per image",
    "step_ms": "training time, ms per step",
    "training_s": "training time, s per trial",
    "peak_memory_mib": "peak memory, MiB",
}
EXTERNAL_NOTE = (
    "External: predictions that were made elsewhere and scored here; how they were made is not on "
    "file."
)
_SHOWN_CONFUSIONS = 20  # classes of a confusion matrix; the others are one row and column


class Confusion(NamedTuple):
    """One trial's confusion matrix. matrix: (c, c + 1) pixels, label by prediction.

    names: of the c rows; above 21 classes the 20 with most wrong pixels, then `others`. The last
    column holds predictions outside the classes.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class BoardModel:
    """A complete cell of the sweep on a board, or an external method.

    telling_axes: those that tell the board's models apart: all but the data set, which is among them
    where models of several data sets are scored on one. rows: its seeds' trials, none for an
    external method. evaluations: the seeds' scores. starts: what each of the trials started from.
    costs: times as `segbench time` measured them; shared_times: lowest and highest over seeds of
    those that trials measured beside others.
    not_learnt: for each seed why its model did not learn, empty where it did.
    """

    axes: dict[str, str]
    telling_axes: tuple[str, ...]
    rows: tuple[Row, ...]
    evaluations: tuple[Evaluation, ...]
    figures: dict[str, Summary]
    standing: Standing
    class_iou: tuple[Summary | None, ...]
    costs: dict[str, float]
    shared_times: dict[str, tuple[float, float]]
    devices: tuple[str, ...]
    published: tuple[Published, ...]
    confusions: tuple[Confusion, ...]
    starts: tuple[Start, ...] = ()
    not_learnt: tuple[str, ...] = ()

    @property
    def initial_weights(self) -> str:
        """The name of what it started from; empty where that is not known."""
        return names_of(self.starts)

    @property
    def name(self) -> str:
        """What tells the model from the others of its board."""
        return _named(self.axes[axis] for axis in self.telling_axes)

    @property
    def besides_backbone(self) -> str:
        """What else tells it from the others."""
        return _named(self.axes[axis] for axis in self.telling_axes if axis != "backbone")

    @property
    def seeds_in_words(self) -> str:
        """How many seeds it has, or that it is external, and how many of them did not learn."""
        seeds = "external" if self.is_external else str(self.standing.num_seeds)
        blank = len([why for why in self.not_learnt if why])
        if not blank:
            return seeds
        return f"{seeds}, {f'{blank} ' if blank < len(self.not_learnt) else ''}did not learn"

    @property
    def is_external(self) -> bool:
        """Whether its predictions were made elsewhere."""
        return not self.rows


@dataclass(frozen=True)
class Duel:
    """Models that differ in nothing but their backbone and its weights, best first.

    is_decided: the first is shown to be above the second.
    """

    models: tuple[BoardModel, ...]
    is_decided: bool

    @property
    def weights_note(self) -> str:
        """What each started from, where that differs."""
        if not weights_differ(self.models):
            return ""
        told = (f"{m.axes['backbone']} {m.initial_weights or '-'}" for m in self.models)
        return f"initial weights differ: {', '.join(told)}"


@dataclass(frozen=True)
class Rival:
    """The leader of a board against another of its models. is_decided: corrected over all pairs."""

    model: BoardModel
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
            return "Equal: both have the same mean."
        if self.seeds == 1:
            return "One seed on a side: this compares these trained weights, not the methods."
        if self.seeds < MIN_SEEDS:
            return f"Not tested: {self.seeds} seeds on a side, and a test takes {MIN_SEEDS}."
        where = " on these very images" * (self.comparison.on == "these_images")
        if self.is_decided:
            return f"Significant{where} after correction for all pairs of models (p at most {ALPHA:g})."
        return (
            f"Not significant{where} after correction for all pairs of models; that is no evidence that "
            "they are equal."
        )


@dataclass(frozen=True)
class Board:
    """Models that may be ranked together, best first.

    dataset: the card that is scored. telling_axes: see `BoardModel`. label_share: (C,) of the evaluated
    split's labelled pixels. training_share: (C,) of the training split's, where it is on file and
    one data set's. rivals: the next model, and the best one with another backbone.
    duels: backbones against each other with all else alike. num_trained_on: how many of the images
    a model was trained on; the most, where models had other training images. groups_note: what a reader
    must know of images that come in groups, empty where they are independent.
    """

    protocol: Protocol
    protocol_name: str
    dataset: str
    telling_axes: tuple[str, ...]
    class_names: tuple[str, ...]
    num_images: int
    models: tuple[BoardModel, ...]
    label_share: tuple[float, ...]
    training_share: tuple[float, ...] | None
    num_trained_on: int
    groups_note: str
    rivals: tuple[Rival, ...]
    duels: tuple[Duel, ...]

    @property
    def title(self) -> str:
        """What is ranked here, in words."""
        return (
            f"{self.dataset} ({len(self.class_names)} classes, "
            f"{counted(self.num_images, 'image')} of {self.protocol.split})"
            f"{self.training_in_words}, protocol {self.protocol_name}"
        )

    @property
    def winner(self) -> BoardModel | None:
        """The model whose mean IoU is significantly above that of each other one, if there is one."""
        first = self.models[0]
        return first if len(self.models) > 1 and first.standing.last == 1 else None

    @property
    def training_in_words(self) -> str:
        """What the models were trained on, where that is another data set; else empty."""
        trained = dict.fromkeys(m.axes["dataset"] for m in self.models if not m.is_external)
        trained.pop(self.dataset, None)
        return f", trained on {', '.join(trained)}" if trained else ""

    @property
    def weights_note(self) -> str:
        """Where the models' initial weights come from, where they differ; else empty."""
        if not weights_differ(self.models):
            return ""
        told: dict[str, None] = {}
        for model in self.models:
            for start in model.starts:
                if start.sha256:
                    told[f"{model.axes['backbone']} {start.in_words}"] = None
        return f"Initial weights: {'; '.join(told)}." if told else ""

    @property
    def reading_note(self) -> str:
        """How figures, places and letters are to be read on this board."""
        told = (self._seen_note, self._lacking_note, self._code_note, self.groups_note)
        return "".join((*told, self._order_note, self._blank_note))

    @property
    def _lacking_note(self) -> str:
        """How many classes of a model the scored card lacks, the most of any model."""
        known = [
            row.result.facts["num_classes"]
            for model in self.models
            for row in model.rows
            if row.result is not None and "num_classes" in row.result.facts
        ]
        lacking = int(max(known, default=0)) - len(self.class_names)
        if self.protocol.dataset is None or lacking <= 0:
            return ""
        return (
            f"{lacking} classes of the training data are none of {self.dataset}: predictions of them "
            "count as errors. "
        )

    @property
    def _blank_note(self) -> str:
        found = [
            f"{model.name} ({len(whys)} of {len(model.not_learnt)}: {'; '.join(dict.fromkeys(whys))})"
            for model in self.models
            if (whys := [why for why in model.not_learnt if why])
        ]
        told = "Did not learn, so that the figures say nothing of a trained model"
        return f" {told}: {listed(found)}." if found else ""

    @property
    def _code_note(self) -> str:
        """Which models were scored with code that they were not trained with."""
        changes = {
            model.name: evaluation.other_code
            for model in self.models
            for evaluation in model.evaluations
            if evaluation.other_code
        }
        told = listed([f"{name} ({change})" for name, change in changes.items()])
        return f"Scored with other code than they were trained with: {told}. " if changes else ""

    @property
    def _seen_note(self) -> str:
        if not self.num_trained_on:
            return ""
        if self.num_trained_on == self.num_images:
            return "These images were trained on, so the figures say nothing about new ones. "
        return (
            f"{self.num_trained_on} of these {self.num_images} images were trained on, so the figures "
            "are higher than on new ones. "
        )

    @property
    def _order_note(self) -> str:
        few = [model for model in self.models if model.standing.num_seeds < MIN_SEEDS]
        is_of_seeds = any(model.standing.varies == "seeds" for model in self.models)
        sources = "seeds" if is_of_seeds else "seeds and images"
        told = (
            f"Place: the ranks compatible with the significant differences ({sources}, p at most "
            f"{ALPHA:g} after Holm's correction over all pairs); "
        )
        if any(model.standing.letters for model in self.models):
            told += "models that share a letter do not differ significantly. "
        else:
            told += "letters are left out, as the models form too many overlapping groups. "
        if len(few) == len(self.models):
            return f"No difference is tested: that takes {MIN_SEEDS} seeds for each model."
        told += (
            "Intervals of two models may overlap although their difference is significant: both are "
            "scored on the same images, and what makes an image hard for both is no part of it."
        )
        return f"{told} Models with fewer than {MIN_SEEDS} seeds have no letter." if few else told


def weights_differ(models: Iterable[BoardModel]) -> bool:
    """Return whether the models, as far as that is known, started from weights of other names."""
    return len({model.initial_weights for model in models} - {""}) > 1


class _Entry(NamedTuple):
    """What is about to stand on a board. folders: where each evaluation's counts lie."""

    axes: dict[str, str]
    rows: tuple[Row, ...]
    evaluations: tuple[Evaluation, ...]
    folders: tuple[Path, ...]
    starts: tuple[Start, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each evaluation; those of an external method are numbered."""
        own = tuple(row.cell.seed for row in self.rows)
        return own or tuple(range(len(self.evaluations)))


def boards(run_folder: Path, record: RunRecord, rows: Sequence[Row]) -> Iterator[Board]:
    """Yield the boards of a run, in the order of its protocols and data sets.

    One board's counts are held at a time.

    Raises:
        ResultError: a file of counts is damaged.
    """
    externals = load_externals(run_folder)
    starts = starts_of(run_folder, rows)
    datasets = [row.cell.axes["dataset"] for row in rows] + [e.method.dataset for e in externals]
    for name, protocol in all_protocols(record, externals).items():
        every = [
            *_complete_cells(run_folder, rows, name, starts),
            *_external_entries(run_folder, externals, protocol, record.axis_names),
        ]
        for dataset in dict.fromkeys(map(protocol.scored_name, datasets)):
            groups: dict[tuple[str, ...], list[_Entry]] = {}
            for entry in every:
                first = entry.evaluations[0]
                if protocol.scored_name(entry.axes["dataset"]) == dataset:
                    key = (*first.class_names, first.split_fingerprint)
                    groups.setdefault(key, []).append(entry)
            for group in groups.values():
                yield _board(record, name, protocol, group)


def all_protocols(record: RunRecord, externals: Sequence[External]) -> dict[str, Protocol]:
    """Return the run's protocols, then those that external methods alone were scored by, by name."""
    found = dict(record.protocols)
    digests = {protocol.digest() for protocol in found.values()}
    for protocol in (e.protocol for external in externals for e in external.evaluations):
        if protocol.digest() not in digests:
            digests.add(protocol.digest())
            name = protocol.name
            found[name if name not in found else f"{name}-{protocol.digest()}"] = protocol
    return found


def _complete_cells(
    run_folder: Path, rows: Sequence[Row], protocol_name: str, starts: Mapping[str, Start]
) -> Iterator[_Entry]:
    for cell in gather(rows, protocol_name):
        if cell.is_complete:
            ids = [row.cell.trial_id for row in cell.rows]
            yield _Entry(
                axes=cell.axes,
                rows=tuple(cell.rows),
                evaluations=tuple(cell.evaluations),
                folders=tuple(trial_files.trial_folder(run_folder, each) for each in ids),
                starts=tuple(starts[each] for each in ids),
            )


def _external_entries(
    run_folder: Path, externals: Sequence[External], protocol: Protocol, axes: Sequence[str]
) -> Iterator[_Entry]:
    """Yield an entry for each external method that the protocol scored; its name is its backbone."""
    for method, evaluations in externals:
        known = {"backbone": method.name, "dataset": method.dataset}
        for evaluation in evaluations:
            if evaluation.protocol.digest() == protocol.digest():
                own = {axis: known.get(axis, "") for axis in axes}
                yield _Entry(own, (), (evaluation,), (external_folder(run_folder, method.name),))


def _board(record: RunRecord, name: str, protocol: Protocol, entries: Sequence[_Entry]) -> Board:
    dataset = protocol.scored_name(entries[0].axes["dataset"])
    loaded = [_observed(record, entry, name, dataset) for entry in entries]
    measured = [seeds for seeds, _ in loaded]
    ranking = ranking_of(measured)
    published = [p for p in record.experiment.published if p.protocol == name]
    trained = {entry.axes["dataset"] for entry in entries if entry.rows}
    telling = tuple(axis for axis in entries[0].axes if axis != "dataset" or len(trained) > 1)
    models = [
        _model(entry, telling, standing, confusions, published, _not_learnt(entry, seeds))
        for entry, standing, (seeds, confusions) in zip(
            entries, ranking.standings, loaded, strict=True
        )
    ]
    order = sorted(range(len(models)), key=lambda index: (-models[index].standing.mean, index))
    evaluation = entries[0].evaluations[0]
    return Board(
        protocol=protocol,
        protocol_name=name,
        dataset=dataset,
        telling_axes=telling,
        class_names=evaluation.class_names,
        num_images=evaluation.num_images,
        models=tuple(models[index] for index in order),
        label_share=_shares(measured[0][0].counts.sums.label),
        training_share=_training_share(entries) if len(trained) < 2 else None,
        num_trained_on=_num_trained_on(record, protocol, entries),
        groups_note=_groups_note(record, protocol, dataset, measured[0][0]),
        rivals=tuple(_rivals(order, models, measured, ranking)),
        duels=tuple(_duels(order, models, ranking)),
    )


def _observed(
    record: RunRecord, entry: _Entry, name: str, dataset: str
) -> tuple[list[Observation], tuple[Confusion, ...]]:
    """Return the counts of each seed, and their confusion matrices."""
    stored = [
        trial_files.load_counts(trial_files.counts_path(folder, evaluation.protocol))
        for folder, evaluation in zip(entry.folders, entry.evaluations, strict=True)
    ]
    groups = record.groups_of(dataset, stored[0].names)
    seeds = []
    for seed, evaluation, kept in zip(entry.seeds, entry.evaluations, stored, strict=True):
        counts = kept.as_counts(evaluation.background)
        seen = _observation(entry.axes, name, evaluation, counts, seed)
        seeds.append(replace(seen, groups=groups))
    names = entry.evaluations[0].class_names
    return seeds, tuple(_confusion(kept.confusion, names) for kept in stored)


def _observation(
    axes: dict[str, str], name: str, evaluation: Evaluation, counts: Counts, seed: int
) -> Observation:
    return Observation(
        axes=axes,
        protocol=name,
        seed=seed,
        counts=counts,
        class_names=evaluation.class_names,
        absent_class=evaluation.protocol.absent_class,
        class_indices=evaluation.scored_classes,
    )


def _groups_note(record: RunRecord, protocol: Protocol, dataset: str, scored: Observation) -> str:
    if not scored.groups:
        return ""
    noted = record.groups[dataset].in_words(protocol.split, trained=record.experiment.train.split)
    groups, images = len(set(scored.groups)), len(scored.groups)
    here = " Places, intervals and letters speak of these very images." * (groups < MIN_GROUPS)
    return f"{noted} {groups_in_words(groups, images)}{here} ".lstrip()


def _num_trained_on(record: RunRecord, protocol: Protocol, entries: Sequence[_Entry]) -> int:
    """Return the most images that a model was trained on; external methods do not say."""
    evaluations = [evaluation for entry in entries for evaluation in entry.evaluations]
    known = [e.num_trained_on for e in evaluations if e.num_trained_on is not None]
    is_own = protocol.dataset is None and protocol.split == record.experiment.train.split
    if not known and is_own:
        return evaluations[0].num_images  # on file before images were compared
    return max(known, default=0)


def _training_share(entries: Sequence[_Entry]) -> tuple[float, ...] | None:
    """Return each class's share of the training pixels, as the first trial that counted has it."""
    for entry in entries:
        for row, evaluation in zip(entry.rows, entry.evaluations, strict=False):
            if row.result is not None and row.result.training_pixels:
                pixels = np.asarray(row.result.training_pixels)
                return evaluation.of_trained(_shares(pixels))
    return None


def _model(
    entry: _Entry,
    telling_axes: tuple[str, ...],
    standing: Standing,
    confusions: tuple[Confusion, ...],
    published: Sequence[Published],
    not_learnt: tuple[str, ...],
) -> BoardModel:
    evaluations = entry.evaluations
    figures = {
        figure: summary
        for figure in evaluations[0].figures
        if (summary := summarised([e.figures.get(figure) for e in evaluations])) is not None
    }
    costs = _costs(entry)
    return BoardModel(
        axes=entry.axes,
        telling_axes=telling_axes,
        rows=entry.rows,
        evaluations=evaluations,
        figures=figures,
        standing=standing,
        class_iou=tuple(
            summarised([e.per_class_iou[index] for e in evaluations])
            for index in range(len(evaluations[0].class_names))
        ),
        costs=costs,
        shared_times=_shared_times(entry, costs),
        devices=tuple(
            sorted({r.provenance.device for r in entry.rows if r.provenance is not None})
        ),
        published=tuple(p for p in published if matches(entry.axes, p.where)),
        confusions=confusions,
        starts=entry.starts,
        not_learnt=not_learnt,
    )


def _costs(entry: _Entry) -> dict[str, float]:
    """Return what a model costs: times as `segbench time` measured them, the rest by its trials."""
    facts = [facts_of(row) for row in entry.rows]
    costs = {
        cost: summary.mean
        for cost in COSTS
        if cost not in TIMES and (summary := summarised([fact.get(cost) for fact in facts]))
    }
    if entry.rows and (timing := entry.rows[0].timing) is not None:
        costs |= timing.medians()
    return {cost: costs[cost] for cost in COSTS if cost in costs}


def _shared_times(entry: _Entry, costs: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the range over seeds of times that nobody measured apart from other trials."""
    shared = [shared_times(row) for row in entry.rows]
    return {
        time: (min(seen), max(seen))
        for time in TIMES
        if time not in costs and (seen := [times[time] for times in shared if time in times])
    }


def _not_learnt(entry: _Entry, seeds: Sequence[Observation]) -> tuple[str, ...]:
    trained = [row.result for row in entry.rows] or [None] * len(seeds)
    return tuple(
        trial_files.why_not_learnt(result, one.blank)
        for result, one in zip(trained, seeds, strict=True)
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
    models: Sequence[BoardModel],
    measured: Sequence[Sequence[Observation]],
    ranking: Ranking,
) -> Iterator[Rival]:
    leader, others = order[0], order[1:]
    backbone = models[leader].axes["backbone"]
    another = [index for index in others if models[index].axes["backbone"] != backbone]
    for index in dict.fromkeys([*others[:1], *another[:1]]):
        one, two = measured[leader], measured[index]
        shared = shared_seeds(one, two)
        paired = len(shared) > 1
        left, right = (
            [o.counts for o in side if not paired or o.seed in shared] for side in (one, two)
        )
        comparison = compare_two(
            left,
            right,
            one[0].class_names,
            absent_class=one[0].absent_class,
            class_indices=one[0].class_indices,
            paired=paired,
            groups=one[0].groups,
            on="new_images" if ranking.is_of_new_images else "these_images",
        )
        yield Rival(models[index], comparison, bool(ranking.decided[leader, index]))


def _duels(order: Sequence[int], models: Sequence[BoardModel], ranking: Ranking) -> Iterator[Duel]:
    alike: dict[str, list[int]] = {}
    for index in order:
        if not models[index].is_external:
            alike.setdefault(models[index].besides_backbone, []).append(index)
    for best, *others in alike.values():
        if others:
            duel = tuple(models[index] for index in (best, *others))
            yield Duel(duel, bool(ranking.decided[best, others[0]]))


def _named(values: Iterable[str]) -> str:
    return " ".join(filter(None, values))


def _shares(pixels: NDArray) -> tuple[float, ...]:
    return tuple((pixels / max(pixels.sum(), 1)).tolist())
