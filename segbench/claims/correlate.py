"""`correlate`: a class's IoU rises or falls with how much of the class there was to train on."""

from collections.abc import Iterable, Sequence

import numpy as np

from segbench.claims.cells import Combination, Step, cells_in, metric_in_words
from segbench.claims.correlation import rank_correlation
from segbench.claims.kind import Kind
from segbench.claims.parts import Bench
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import Correlate
from segbench.statistics.observations import ObservedCell
from segbench.statistics.power import Spread, detectable_correlation


class CorrelateKind(Kind[Correlate]):
    """See the module."""

    limit = "the number of classes sets the limit"
    too_few = "it has so few classes that even a perfect order is too likely by chance"

    def metric(self, claim: Correlate) -> str | None:
        """See `Kind`: the classes of a cell are ranked, it has no one number."""
        del claim

    def draws_images(self, claim: Correlate) -> bool:
        """See `Kind`: classes are drawn."""
        del claim
        return False

    def lacks(self, claim: Correlate, cell: ObservedCell) -> str:
        """See `Kind`."""
        is_known = getattr(cell.observations[0], claim.by) is not None
        return "" if is_known else f"{claim.by} of its classes are not recorded"

    def region(self, claim: Correlate) -> Region:
        """See `Kind`."""
        return Region.beyond(claim.margin, rises=claim.direction == "rises")

    def effects(self, claim: Correlate, combinations: Sequence[Combination]) -> Iterable[Step]:
        """See `Kind`: one correlation, in which all cells weigh alike."""
        cells = cells_in(combinations)
        yield Step("", tuple((1 / len(cells), cell) for cell in cells), self.region(claim))

    def part(self, claim: Correlate, label: str, step: Step, bench: Bench, *, power: float) -> Part:
        """See `Kind`: the correlation in one cell, or pooled over the data sets of several.

        Models that had the same to train on, for the same classes, are averaged first, then data
        sets pooled: a variant that thins or merges classes is a data set of its own.
        """
        cells = [cell for _, cell in step.weights]
        by_dataset: dict[tuple[object, ...], list[ObservedCell]] = {}
        for cell in cells:
            first = cell.observations[0]
            amounts = np.asarray(getattr(first, claim.by)).tobytes()
            key = (cell.axes.get("dataset", ""), tuple(first.class_names), amounts)
            by_dataset.setdefault(key, []).append(cell)
        result = rank_correlation(
            list(by_dataset.values()),
            claim.by,
            claim.classes,
            resamples=bench.resamples,
            seed=bench.seed,
        )
        (bound,) = step.region.bounds()
        above, below = result.tails(bound)
        rises = bound == step.region.lower
        low, high = result.interval()
        sizes = [len(cell.seeds) for cell in cells]
        return Part(
            label=label,
            effect=result.rho,
            low=low,
            high=high,
            p_for=above if rises else below,
            p_against=below if rises else above,
            test="permutation of classes" if bound == 0 else "bootstrap of classes",
            seeds=(min(sizes), max(sizes)),
            region=step.region,
            cells=tuple(cells),
            detectable=detectable_correlation(
                result.sizes, bound if rises else -bound, alpha=bench.alpha, power=power
            ),
            note=f"over {result.num_classes} classes",
        )

    def smallest_found(
        self, claim: Correlate, step: Step, spread: Spread, *, alpha: float, power: float
    ) -> float | None:
        """See `Kind`: data sets of the same classes are one sample of classes, as in `part`."""
        del spread
        samples = {
            tuple(
                name
                for name in cell.observations[0].class_names
                if not claim.classes or name in claim.classes
            )
            for _, cell in step.weights
        }
        sizes = sorted(map(len, samples))
        return detectable_correlation(sizes, claim.margin, alpha=alpha, power=power)

    def unit(self, claim: Correlate) -> str:
        """See `Kind`."""
        del claim
        return "rank correlation"

    def asked(self, claim: Correlate) -> str:
        """See `Kind`."""
        lies = self.region(claim).in_words()
        return f"the rank correlation of a class's IoU with {metric_in_words(claim.by)} lies {lies}"

    def questions(self, claim: Correlate) -> tuple[str, str]:
        """See `Kind`."""
        del claim
        return (
            "these checkpoints, on new classes of the same kind; not the method",
            "the method: new seeds, and new classes of the same kind",
        )

    def notes(self, claim: Correlate, parts: Sequence[Part]) -> list[str]:
        """See `Kind`."""
        del claim
        said = "The interval draws classes and seeds; a class stands for classes of its kind."
        return [said] if parts else []
