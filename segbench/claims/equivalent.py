"""`equivalent`: left and right are apart by less than a margin."""

from collections.abc import Sequence

from segbench.claims.cells import side_in_words
from segbench.claims.kind import Sides
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import Equivalent, Side


class EquivalentKind(Sides[Equivalent]):
    """See the module."""

    def pairs(self, claim: Equivalent) -> Sequence[tuple[Side, Side]]:
        """See `Sides`."""
        return [(claim.left, claim.right)]

    def region(self, claim: Equivalent) -> Region:
        """See `Kind`."""
        return Region(-claim.margin, claim.margin)

    def asked(self, claim: Equivalent) -> str:
        """See `Kind`."""
        left, right = map(side_in_words, (claim.left, claim.right))
        lies = f"lies between -{claim.margin:g} and +{claim.margin:g} {self.unit(claim)}"
        return f"{self.what(claim)} of {left} minus that of {right} {lies}"

    def failed(self, claim: Equivalent, part: Part) -> str:
        """See `Kind`."""
        del claim
        return f"Shown to differ by more than the margin{part.for_label}."
