"""`order`: each side lies above the one before it by more than a margin."""

import itertools
from collections.abc import Sequence

from segbench.claims.cells import side_in_words
from segbench.claims.kind import Sides
from segbench.claims.verdict import Region
from segbench.schema.claims import Order, Side


class OrderKind(Sides[Order]):
    """See the module."""

    def pairs(self, claim: Order) -> Sequence[tuple[Side, Side]]:
        """See `Sides`: each side and the one before it."""
        return [(upper, lower) for lower, upper in itertools.pairwise(claim.rising)]

    def region(self, claim: Order) -> Region:
        """See `Kind`."""
        return Region.beyond(claim.margin)

    def asked(self, claim: Order) -> str:
        """See `Kind`."""
        sides = ", ".join(map(side_in_words, claim.rising))
        lies = self.region(claim).in_words(self.unit(claim))
        return f"{self.what(claim)} of each of {sides}, minus that of the one before, lies {lies}"
