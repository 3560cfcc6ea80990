"""What the statistics are given: one scored trial each, grouped into cells of equal axes.

A cell is one point of the sweep under one protocol, with one observation for each seed. `protocol`
is an axis like the others here. Letters: C classes. Knows nothing of claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from segbench.errors import ResultError
from segbench.metrics.blank import Blank, why_blank
from segbench.metrics.counts import AbsentClass, Counts, Floats
from segbench.metrics.metric import Scored
from segbench.statistics.inference import SeedSample, Term
from segbench.statistics.samples import sample_of


@dataclass(frozen=True, eq=False)
class Observation:
    """One trial, scored by one protocol.

    axes: the trial's point of the sweep, without seed and protocol. groups: the name of each image's
    group, in the order of the counts' images; empty where images are independent. class_indices: the classes that
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
    groups: Sequence[str] = ()

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


def shared_seeds(one: Sequence[Observation], two: Sequence[Observation]) -> frozenset[int]:
    """Return the seeds that pair two models; none where they differ in more than head or protocol."""
    recipes = {recipe_of(o.axes) for o in (*one, *two)}
    if len(recipes) > 1 or not one[0].axes:
        return frozenset()
    return frozenset(o.seed for o in one) & frozenset(o.seed for o in two)


def recipe_of(axes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the axes without those that leave trunk, data and order of the data as they are."""
    return tuple(sorted((a, v) for a, v in axes.items() if a not in {"head", "protocol"}))


class Samples:
    """The values of metrics for cells, and what each image adds to them, computed once and kept.

    Figures are in per cent, facts in their own unit.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple, SeedSample] = {}

    def term(
        self,
        weight: float,
        cell: ObservedCell,
        metric: str,
        classes: tuple[str, ...],
        *,
        seeds: frozenset[int] | None = None,
    ) -> Term:
        """Return the cell's term in an effect, narrowed to these seeds."""
        key = (cell.key, metric, classes)
        if key not in self._kept:
            self._kept[key] = _sample(cell, metric, classes)
        sample = self._kept[key]
        if seeds is not None and seeds != frozenset(cell.seeds):
            sample = sample.of_seeds([i for i, seed in enumerate(cell.seeds) if seed in seeds])
        return Term(weight, sample, cell.training)


def _sample(cell: ObservedCell, metric: str, classes: tuple[str, ...]) -> SeedSample:
    first = cell.observations[0]
    if any(metric in one.facts for one in cell.observations):
        return SeedSample(np.array([one.facts[metric] for one in cell.observations]))
    seeds = [scored(one, classes) for one in cell.observations]
    return sample_of(seeds, metric, groups=first.groups)


def scored(observation: Observation, classes: tuple[str, ...] = ()) -> Scored:
    """Return the observation's counts with its protocol's rules, its means over these classes."""
    indices = observation.class_indices
    if classes:
        names = list(observation.class_names)
        indices = tuple(names.index(name) for name in classes)
    return Scored(observation.counts, observation.absent_class, indices)


def is_blank(cell: ObservedCell) -> bool:
    """Return whether most of the cell's models did not learn."""
    return 2 * sum(map(did_not_learn, cell.observations)) > len(cell.observations)


def did_not_learn(one: Observation) -> bool:
    """Return whether a model says nothing of a trained one."""
    return one.loss_rose or one.blank != ""
