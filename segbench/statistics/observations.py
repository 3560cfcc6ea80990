"""What the statistics are given: one scored trial each, grouped into cells of equal axes.

A cell is one point of the sweep under one protocol, with one observation for each seed. `protocol`
is an axis like the others here. Letters: C classes. Knows nothing of claims.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from segbench.errors import ResultError
from segbench.metrics.blank import Blank, why_blank
from segbench.metrics.counts import AbsentClass, Counts, Floats
from segbench.metrics.metric import Scored
from segbench.statistics.inference import SeedSample, Term
from segbench.statistics.resample import point, samples_of


@dataclass(frozen=True, eq=False)
class Observation:
    """One trial, scored by one protocol.

    axes: the trial's point of the sweep, without seed and protocol. class_indices: the classes that
    enter the protocol's means; empty means all. training_pixels, training_images: (C,) how much of
    each class the training split had, where known. initial_weights: the name of what the trunk
    started from, where known. loss_rose: whether the training's loss ended above its start.
    code: what the protocol's own metrics were made of.
    """

    axes: dict[str, str]
    protocol: str
    seed: int
    counts: Counts
    class_names: Sequence[str]
    absent_class: AbsentClass = "skip"
    class_indices: tuple[int, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)
    training_pixels: Floats | None = None
    training_images: Floats | None = None
    initial_weights: str = ""
    loss_rose: bool = False
    code: dict[str, str] = field(default_factory=dict)

    @property
    def blank(self) -> Blank:
        """How its predictions show that the model did not learn."""
        return why_blank(self.counts.sums, self.absent_class, self.class_indices)


@dataclass(frozen=True, eq=False)
class ObservedCell:
    """The observations of one point of the sweep under one protocol, by rising seed."""

    axes: dict[str, str]
    observations: tuple[Observation, ...]

    @cached_property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The cell's axes in a form that can be looked up."""
        return tuple(sorted(self.axes.items()))

    @property
    def training(self) -> str:
        """The name of what was trained: equal for the protocols that scored the same weights."""
        return str([pair for pair in self.key if pair[0] != "protocol"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds at hand."""
        return tuple(observation.seed for observation in self.observations)

    @property
    def initial_weights(self) -> str:
        """What the trunk started from; several names where the seeds differ in it."""
        return " / ".join(dict.fromkeys(o.initial_weights for o in self.observations))


def cells_of(observations: Sequence[Observation]) -> list[ObservedCell]:
    """Return the cells in the order in which they first occur.

    Raises:
        ResultError: a seed occurs twice in a cell.
    """
    found: dict[tuple[tuple[str, str], ...], list[Observation]] = {}
    for observation in observations:
        axes = {**observation.axes, "protocol": observation.protocol}
        found.setdefault(tuple(sorted(axes.items())), []).append(observation)
    cells = []
    for members in found.values():
        axes = {**members[0].axes, "protocol": members[0].protocol}
        cell = ObservedCell(axes, tuple(sorted(members, key=lambda member: member.seed)))
        if len(set(cell.seeds)) < len(cell.seeds):
            raise ResultError(
                f"{' '.join(axes.values())}: a seed stands twice in {list(cell.seeds)}; "
                "give each trial once"
            )
        cells.append(cell)
    return cells


class Samples:
    """The values of metrics for cells, each drawn once and kept.

    Figures are in per cent, facts in their own unit.
    """

    def __init__(self, *, resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        self._kept: dict[tuple, SeedSample] = {}
        self._dropped: dict[tuple, float] = {}

    def prepare(
        self, cells: Iterable[ObservedCell], metric: str, classes: tuple[str, ...], *, images: bool
    ) -> None:
        """Draw for all these cells at once: cells on the same images share one matrix product.

        Other numbers of classes on the same images are drawn apart, with the same draws of images.
        """
        groups: dict[tuple[str, int], dict[tuple, ObservedCell]] = {}
        for cell in cells:
            if (cell.key, metric, classes, images) not in self._kept:
                counts = cell.observations[0].counts
                groups.setdefault((counts.images, counts.tp.shape[1]), {})[cell.key] = cell
        for group in groups.values():
            drawn, dropped = self._draw(list(group.values()), metric, classes, images)
            for key, sample in zip(group, drawn, strict=True):
                self._kept[(key, metric, classes, images)] = sample
                self._dropped[(key, metric, classes, images)] = dropped

    def dropped_classes(
        self, cells: Iterable[ObservedCell], metric: str, classes: tuple[str, ...], *, images: bool
    ) -> float:
        """Return the mean number of classes that left a draw's mean, the most among these cells."""
        keys = ((cell.key, metric, classes, images) for cell in cells)
        return max((self._dropped.get(key, 0.0) for key in keys), default=0.0)

    def term(
        self,
        weight: float,
        cell: ObservedCell,
        metric: str,
        classes: tuple[str, ...],
        *,
        images: bool = True,
        seeds: frozenset[int] | None = None,
    ) -> Term:
        """Return the cell's term in an effect, narrowed to these seeds."""
        key = (cell.key, metric, classes, images)
        if key not in self._kept:
            self.prepare([cell], metric, classes, images=images)
        sample = self._kept[key]
        if seeds is not None and seeds != frozenset(cell.seeds):
            rows = [index for index, seed in enumerate(cell.seeds) if seed in seeds]
            draws, without = (
                None if both is None else both[rows] for both in (sample.draws, sample.left_out)
            )
            sample = SeedSample(sample.values[rows], draws, without, sample.images)
        return Term(weight, sample, cell.training)

    def _draw(
        self, cells: Sequence[ObservedCell], metric: str, classes: tuple[str, ...], images: bool
    ) -> tuple[list[SeedSample], float]:
        """Return each cell's sample, and how many classes a draw of images lacks on average."""
        if any(metric in one.facts for cell in cells for one in cell.observations):
            facts = [np.array([one.facts[metric] for one in cell.observations]) for cell in cells]
            return [SeedSample(values) for values in facts], 0.0
        models = [[scored(one, classes) for one in cell.observations] for cell in cells]
        if not images:
            points = [np.array([point(one, metric) for one in seeds]) for seeds in models]
            return [SeedSample(100 * values) for values in points], 0.0
        return samples_of(models, metric, resamples=self.resamples, seed=self.seed)


def scored(observation: Observation, classes: tuple[str, ...] = ()) -> Scored:
    """Return the observation's counts with its protocol's rules, its means over these classes."""
    indices = observation.class_indices
    if classes:
        names = list(observation.class_names)
        indices = tuple(names.index(name) for name in classes)
    return Scored(observation.counts, observation.absent_class, indices)


def is_blank(cell: ObservedCell) -> bool:
    """Return whether most of the cell's models did not learn."""
    blank = sum(one.loss_rose or one.blank != "" for one in cell.observations)
    return 2 * blank > len(cell.observations)
