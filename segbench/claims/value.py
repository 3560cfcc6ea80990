"""`value`: the metric lies within a tolerance of a published number, on the images that we scored."""

from collections.abc import Iterable, Sequence

from segbench.claims.cells import Combination, Step, cells_in, number_in_words
from segbench.claims.kind import Measured
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import Value


class ValueKind(Measured[Value]):
    """See the module."""

    def region(self, claim: Value) -> Region:
        """See `Kind`."""
        return Region(-claim.tolerance, claim.tolerance)

    def effects(self, claim: Value, combinations: Sequence[Combination]) -> Iterable[Step]:
        """See `Kind`: the mean of all cells, less what was published."""
        cells = cells_in(combinations)
        weights = tuple((1 / len(cells), cell) for cell in cells)
        yield Step("", weights, self.region(claim), offset=claim.published)

    def asked(self, claim: Value) -> str:
        """See `Kind`."""
        band = f"{claim.tolerance:g} {self.unit(claim)}"
        return f"{self.what(claim)} lies within {band} of the published {self.published(claim)}"

    def failed(self, claim: Value, part: Part) -> str:
        """See `Kind`."""
        del claim
        return f"Shown to lie outside the tolerance{part.for_label}."

    def published(self, claim: Value) -> str:
        """See `Kind`."""
        return number_in_words(claim.published)

    def measured(self, claim: Value, part: Part) -> str:
        """See `Kind`."""
        measured = claim.published + part.effect
        shown = f"{measured:,.2f}" if abs(measured) < 1000 else f"{measured:,.0f}"
        return f"{shown} against {self.published(claim)}"
