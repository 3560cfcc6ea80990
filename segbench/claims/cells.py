"""Which cells a claim compares, in which combinations, and what they are called.

A combination is a point of the axes that a claim leaves open. Knows nothing of chance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segbench.claims.verdict import Region
from segbench.metrics import words_of
from segbench.schema.claims import AnyClaim, Side
from segbench.statistics.inference import sides_of
from segbench.statistics.observations import ObservedCell, recipe_of

_ANYWHERE = Region()
Combination = Mapping[
    str, Sequence[ObservedCell]
]  # its cells, by the `side_key` of what they differ in


@dataclass(frozen=True)
class Step:
    """One effect: weighted cells, where the claim puts it, or why it cannot be formed."""

    label: str = ""
    weights: tuple[tuple[float, ObservedCell], ...] = ()
    region: Region = _ANYWHERE
    offset: float = 0.0
    problem: str = ""

    def sides(self) -> dict[str, int]:
        """Return on which side each training stands; see `sides_of`."""
        return sides_of([(weight, cell.training) for weight, cell in self.weights])

    def common_seeds(self, *, paired: bool) -> frozenset[int]:
        """Return the seeds that all cells have which are summed seed by seed, of the side with fewest."""
        return min(self.seeds_of_sides(paired=paired).values(), key=len, default=frozenset())

    def seeds_of_sides(self, *, paired: bool) -> dict[int, frozenset[int]]:
        """Return the seeds that all cells of a side have; paired sides are one."""
        sides = self.sides()
        found: dict[int, frozenset[int]] = {}
        for _, cell in self.weights:
            side = 0 if paired else sides[cell.training]
            found[side] = found.get(side, frozenset(cell.seeds)) & frozenset(cell.seeds)
        return found

    def shares_recipe(self) -> bool:
        """Return whether what is added and what is subtracted differ in head or protocol alone."""
        more, less = (
            {recipe_of(cell.axes) for weight, cell in self.weights if (weight > 0) is is_more}
            for is_more in (True, False)
        )
        return bool(more) and more == less

    def side_weights(self, *, paired: bool = False) -> tuple[float, ...]:
        """Return the squared weight of each side of the effect, as if its cells moved together.

        Paired sides are one, which varies as much as both would apart: how far they go together is not
        known before launch.
        """
        sides = self.sides()
        found: dict[int, float] = {}
        for weight, cell in self.weights:
            side = sides[cell.training]
            found[side] = found.get(side, 0.0) + abs(weight)
        squares = tuple(total**2 for total in found.values())
        return (sum(squares),) if paired else squares


def compared(claim: AnyClaim, cells: Sequence[ObservedCell]) -> list[ObservedCell]:
    """Return the cells that the claim speaks of: those on a side, all where it has no sides."""
    return [cell for cell in cells if claim.asks_of(cell.axes)]


def judgements(
    claim: AnyClaim, cells: Sequence[ObservedCell]
) -> Iterable[tuple[str, list[Combination]]]:
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
    groups: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, list[ObservedCell]]]] = {}
    for cell in cells:
        judged = tuple(cell.axes.get(axis, "") for axis in outer)
        inner = tuple(cell.axes.get(axis, "") for axis in varying)
        sides = groups.setdefault(judged, {}).setdefault(inner, {})
        sides.setdefault(side_key({a: cell.axes.get(a, "") for a in fixed}), []).append(cell)
    for judged, combinations in groups.items():
        label = ", ".join(f"{axis} {value}" for axis, value in zip(outer, judged, strict=True))
        yield label, list(combinations.values())


def side_key(side: Side) -> str:
    """Return what the cells of a side are looked up by in a combination."""
    return str(sorted(side.items()))


def cells_in(combinations: Sequence[Combination]) -> list[ObservedCell]:
    """Return the cells of all combinations, those on all sides of each."""
    return [cell for sides in combinations for group in sides.values() for cell in group]


def side_in_words(side: Side) -> str:
    """Return `vgg16 fcn32s`."""
    return " ".join(side.values())


def number_in_words(number: float) -> str:
    """Return a published number as papers print it."""
    return f"{number / 1e6:g} M" if number >= 1e6 else f"{number:g}"


def unit_of_metric(metric: str) -> str:
    """Return the unit of a figure or fact."""
    return _UNITS.get(metric, "points")


def metric_in_words(metric: str) -> str:
    """Return what a metric or fact is called in a sentence."""
    return _WORDS.get(metric) or words_of(metric)


_UNITS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "num_classes": "classes",
    "forward_ms": "ms",
    "training_s": "s",
    "peak_memory_mib": "MiB",
}
_WORDS = {
    "parameters": "the number of parameters",
    "flops": "the FLOPs of a forward pass",
    "num_classes": "the number of classes",
    "forward_ms": "the forward time",
    "training_s": "the training time",
    "peak_memory_mib": "the peak memory",
    "training_pixels": "the class's training pixels",
    "training_images": "the class's training images",
}
