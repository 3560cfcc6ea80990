"""`trend`: the metric falls or rises along an axis or a fact whose values are numbers."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from segbench.claims.cells import Combination, Step, cells_in, metric_in_words
from segbench.claims.kind import Measured
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import Trend, is_fact
from segbench.statistics.observations import ObservedCell


class TrendKind(Measured[Trend]):
    """See the module."""

    def region(self, claim: Trend) -> Region:
        """See `Kind`."""
        return Region.beyond(claim.margin, rises=claim.direction == "rises")

    def effects(self, claim: Trend, combinations: Sequence[Combination]) -> Iterable[Step]:
        """See `Kind`: the slope over the levels, and each step between neighbours if asked for."""
        cells = cells_in(combinations)
        levels = np.array([_level(claim, cell) for cell in cells])
        if claim.scale == "log":
            levels = np.log2(levels)
        centred = levels - levels.mean()
        if len(set(levels.tolist())) < 2:
            yield Step(problem=f"{claim.along} has one level, a trend needs two")
            return
        weights = centred / (centred**2).sum()  # of least squares
        yield Step("", tuple(zip(weights.tolist(), cells, strict=True)), self.region(claim))
        if claim.monotone:
            yield from _steps(claim, cells, levels.tolist())

    def unit(self, claim: Trend) -> str:
        """See `Kind`."""
        per = "doubling" if claim.scale == "log" else "unit"
        return f"{super().unit(claim)} per {per} of {metric_in_words(claim.along)}"

    def asked(self, claim: Trend) -> str:
        """See `Kind`."""
        lies = self.region(claim).in_words(self.unit(claim))
        steps = ", and each step goes that way" if claim.monotone else ""
        return f"the slope of {self.what(claim)} lies {lies}{steps}"

    def notes(self, claim: Trend, parts: Sequence[Part]) -> list[str]:
        """See `Kind`: what else differs between data sets is in the slope too."""
        del claim
        if len({cell.axes.get("dataset") for part in parts for cell in part.cells}) < 2:
            return []
        return [
            "The levels are different data sets, which differ in more than this; the verdict "
            "speaks of these data sets."
        ]


def _steps(claim: Trend, cells: Sequence[ObservedCell], levels: Sequence[float]) -> Iterable[Step]:
    """Yield each level's mean less that of the level below it."""
    by_level: dict[float, list[ObservedCell]] = {}
    for level, cell in sorted(zip(levels, cells, strict=True), key=lambda pair: pair[0]):
        by_level.setdefault(level, []).append(cell)
    region = Region.beyond(0.0, rises=claim.direction == "rises")
    for lower, upper in itertools.pairwise(by_level.values()):
        label = f"{_level(claim, upper[0]):g} against {_level(claim, lower[0]):g}"
        pair = [(1 / len(upper), c) for c in upper] + [(-1 / len(lower), c) for c in lower]
        yield Step(label, tuple(pair), region)


def _level(claim: Trend, cell: ObservedCell) -> float:
    if is_fact(claim.along):
        return cell.observations[0].facts[claim.along]
    return float(cell.axes[claim.along])
