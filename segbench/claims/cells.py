"""Which cells a claim compares, with which weights, and where it puts their difference.

A combination is a point of the axes that a claim leaves open. Knows nothing of figures and chance.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from segbench.claims.verdict import Region
from segbench.schema.claims import (
    EXACT_FACTS,
    TIMED_FACTS,
    AnyClaim,
    Compare,
    Correlate,
    Equivalent,
    Order,
    Trend,
    Value,
    is_fact,
)
from segbench.statistics.inference import sides_of
from segbench.statistics.observations import Cell

_ANYWHERE = Region()


@dataclass(frozen=True)
class Step:
    """One effect: weighted cells, where the claim puts it, or why it cannot be formed."""

    label: str = ""
    weights: tuple[tuple[float, Cell], ...] = ()
    region: Region = _ANYWHERE
    offset: float = 0.0
    problem: str = ""

    def sides(self) -> dict[str, int]:
        """Return on which side each training stands; see `sides_of`."""
        return sides_of([(weight, cell.training) for weight, cell in self.weights])

    def side_weights(self) -> tuple[float, ...]:
        """Return the squared weight of each side of the effect, as if its cells moved together."""
        sides = self.sides()
        found: dict[int, float] = {}
        for weight, cell in self.weights:
            side = sides[cell.training]
            found[side] = found.get(side, 0.0) + abs(weight)
        return tuple(total**2 for total in found.values())


def compared(claim: AnyClaim, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that the claim speaks of: those on a side, all where it has no sides."""
    return [cell for cell in cells if claim.asks_of(cell.axes)]


def usable(claim: AnyClaim, cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Return the cells that have what the claim asks of them, and why the others are left out."""
    usable, problems = [], []
    for cell in compared(claim, cells):
        one = cell.observations[0]
        name = " ".join(filter(None, cell.axes.values()))
        absent = [c for c in claim.classes if c not in one.class_names]
        wanted = [claim.along] if isinstance(claim, Trend) and is_fact(claim.along) else []
        if not isinstance(claim, Correlate) and is_fact(claim.metric):
            wanted.append(claim.metric)
        facts = [f for f in wanted if any(f not in o.facts for o in cell.observations)]
        if absent:
            problems.append(f"{name}: has no class {', '.join(absent)}")
        elif facts:
            problems.append(f"{name}: {', '.join(facts)} {_not_recorded(facts[0])}")
        elif isinstance(claim, Correlate) and getattr(one, claim.by) is None:
            problems.append(f"{name}: {claim.by} of its classes are not recorded")
        else:
            usable.append(cell)
    return usable, problems


def _not_recorded(fact: str) -> str:
    if fact not in TIMED_FACTS:
        return "is not recorded"
    return f"was not measured without other trials beside it (`{TIMED_FACTS[fact]}` measures it)"


def draws_images(claim: AnyClaim) -> bool:
    """Return whether the claim speaks of other images than those that were scored."""
    return not isinstance(claim, Value | Correlate) and not is_fact(claim.metric)


def is_count(claim: AnyClaim) -> bool:
    """Return whether the claim is about a number that no seed and no image changes."""
    return not isinstance(claim, Correlate) and claim.metric in EXACT_FACTS


def judgements(
    claim: AnyClaim, cells: Sequence[Cell]
) -> Iterable[tuple[str, list[dict[str, list[Cell]]]]]:
    """Yield for each judgement its label and the combinations that it averages.

    A combination is the cells that agree on all axes but those along which the claim compares,
    listed under the values of these.
    """
    fixed = claim.fixed_axes()
    varying = sorted(
        axis
        for axis in {axis for cell in cells for axis in cell.axes} - fixed
        if len({cell.axes.get(axis) for cell in cells}) > 1
    )
    outer = [] if claim.average else varying
    if claim.within is not None:
        outer = [axis for axis in claim.within if axis in varying]
    groups: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, list[Cell]]]] = {}
    for cell in cells:
        judged = tuple(cell.axes.get(axis, "") for axis in outer)
        inner = tuple(cell.axes.get(axis, "") for axis in varying)
        sides = groups.setdefault(judged, {}).setdefault(inner, {})
        sides.setdefault(_side_key({a: cell.axes.get(a, "") for a in fixed}), []).append(cell)
    for judged, combinations in groups.items():
        label = ", ".join(f"{axis} {value}" for axis, value in zip(outer, judged, strict=True))
        yield label, list(combinations.values())


def _side_key(side: dict[str, str]) -> str:
    return str(sorted(side.items()))


def cells_in(combinations: Sequence[dict[str, list[Cell]]]) -> list[Cell]:
    """Return the cells of all combinations, those on all sides of each."""
    return [cell for sides in combinations for group in sides.values() for cell in group]


def steps_of(claim: AnyClaim, combinations: Sequence[dict[str, list[Cell]]]) -> list[Step]:
    """Return the effects that the claim judges in these combinations; a correlation has none."""
    if isinstance(claim, Trend):
        return _trend_steps(claim, combinations)
    return list(_side_steps(claim, combinations))


def _side_steps(claim: AnyClaim, combinations: Sequence[dict[str, list[Cell]]]) -> Iterable[Step]:
    """Yield the effects of claims that compare sides (or one side with a published figure)."""
    if isinstance(claim, Value):
        cells = cells_in(combinations)
        region = Region(-claim.tolerance, claim.tolerance)
        weights = tuple((1 / len(cells), cell) for cell in cells)
        yield Step(weights=weights, region=region, offset=claim.published)
        return
    sides = [side for _, side in claim.sides()]
    if isinstance(claim, Compare | Equivalent):
        pairs = [(claim.left, claim.right)]
    else:
        pairs = [(upper, lower) for lower, upper in itertools.pairwise(sides)]
    for left, right in pairs:
        label = f"{_words(left)} against {_words(right)}" if len(pairs) > 1 else ""
        lacking = [
            _words(side)
            for side in (left, right)
            if any(_side_key(side) not in combination for combination in combinations)
        ]
        if lacking:
            yield Step(label, problem=f"no results of {' and '.join(lacking)}")
            continue
        weights = tuple(
            (sign / len(combinations), combination[_side_key(side)][0])
            for combination in combinations
            for sign, side in ((1.0, left), (-1.0, right))
        )
        yield Step(label, weights, region_of(claim))


def _words(side: dict[str, str]) -> str:
    return " ".join(side.values())


def region_of(claim: AnyClaim) -> Region:
    """Return where the claim puts its effect."""
    if isinstance(claim, Equivalent):
        return Region(-claim.margin, claim.margin)
    falls = (isinstance(claim, Compare) and claim.relation == "below") or (
        isinstance(claim, Trend | Correlate) and claim.direction == "falls"
    )
    margin = claim.margin if isinstance(claim, Compare | Order | Trend | Correlate) else 0.0
    return Region(upper=-margin) if falls else Region(lower=margin)


def _trend_steps(claim: Trend, combinations: Sequence[dict[str, list[Cell]]]) -> list[Step]:
    """Return the slope over the levels, and each step between neighbours where asked for."""
    cells = cells_in(combinations)
    levels = np.array([_level(claim, cell) for cell in cells])
    if claim.scale == "log":
        levels = np.log2(levels)
    centred = levels - levels.mean()
    if len(set(levels.tolist())) < 2:
        return [Step(problem=f"{claim.along} has one level, a trend needs two")]
    weights = centred / (centred**2).sum()
    steps = [
        Step(weights=tuple(zip(weights.tolist(), cells, strict=True)), region=region_of(claim))
    ]
    if claim.monotone:
        by_level: dict[float, list[Cell]] = {}
        for level, cell in sorted(zip(levels.tolist(), cells, strict=True), key=lambda x: x[0]):
            by_level.setdefault(level, []).append(cell)
        for lower, upper in itertools.pairwise(by_level.values()):
            label = f"{_level(claim, upper[0]):g} against {_level(claim, lower[0]):g}"
            pair = [(1 / len(upper), c) for c in upper] + [(-1 / len(lower), c) for c in lower]
            falls = claim.direction == "falls"
            region = Region(upper=0.0) if falls else Region(lower=0.0)
            steps.append(Step(label, tuple(pair), region))
    return steps


def _level(claim: Trend, cell: Cell) -> float:
    if is_fact(claim.along):
        return cell.observations[0].facts[claim.along]
    return float(cell.axes[claim.along])


def unit_of(claim: AnyClaim) -> str:
    """Return the unit of the claim's effect."""
    if isinstance(claim, Correlate):
        return "rank correlation"
    unit = _UNITS.get(claim.metric, "points")
    if isinstance(claim, Trend):
        along = in_words(claim.along)
        return f"{unit} per {'doubling' if claim.scale == 'log' else 'unit'} of {along}"
    return unit


def in_words(metric: str) -> str:
    """Return what a figure or fact is called in a sentence."""
    return _WORDS.get(metric, metric.replace("_", " "))


_UNITS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "num_classes": "classes",
    "forward_ms": "ms",
    "training_s": "s",
    "peak_memory_mib": "MiB",
}
_WORDS = {
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_iou_per_image": "mean IoU of an image",
    "mean_iou_per_class": "mean IoU of a class in an image",
    "worst_images_iou": "mean IoU of the worst tenth of the images",
    "parameters": "the number of parameters",
    "flops": "the FLOPs of a forward pass",
    "num_classes": "the number of classes",
    "forward_ms": "the forward time",
    "training_s": "the training time",
    "peak_memory_mib": "the peak memory",
    "training_pixels": "the class's training pixels",
    "training_images": "the class's training images",
}
