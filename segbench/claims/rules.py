"""The rules by which claims are judged; a run keeps the one that its claims were registered under.

Rule 1 is that of the first runs: the two sides of a comparison are independent, a verdict takes four
seeds, and a band (`equivalent`, `value`) is held against 2.5 % at each end, as if it could be shown
and refuted at once. Rule 2: sides that share all but head or protocol are paired seed by seed, a
verdict takes three seeds, and each end of a band is held against 5 %. What a claim itself says
(`seeds`, `min_seeds`) goes before either. Knows nothing of kinds of claims.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from segbench.claims.cells import Step
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import BaseClaim, MeasuredClaim, is_fact
from segbench.statistics.inference import LEVEL, MIN_SEEDS, Estimate, tails


@dataclass(frozen=True)
class Rule:
    """How claims are judged.

    min_seeds: that a verdict takes. pairs: whether sides may be paired where the claim does not say.
    has_one_sided_bands: whether the ends of a band are each held against the whole level.
    """

    number: int
    min_seeds: int
    pairs: bool
    has_one_sided_bands: bool

    def seeds_needed(self, claim: BaseClaim) -> int:
        """Return how many seeds a verdict on the claim takes."""
        return self.min_seeds if claim.min_seeds is None else claim.min_seeds

    def is_paired(self, claim: MeasuredClaim, step: Step) -> bool:
        """Return whether the sides of the effect are summed seed by seed."""
        if claim.seeds is not None:
            return claim.seeds == "paired"
        shared = step.common_seeds(paired=True)
        return self.pairs and not is_fact(claim.metric) and step.shares_recipe() and len(shared) > 1

    def interval(self, result: Estimate, region: Region) -> tuple[float, float]:
        """Return the interval that is held against the region."""
        return result.interval(2 * LEVEL - 1 if self.is_one_sided(region) else LEVEL)

    def is_one_sided(self, region: Region) -> bool:
        """Return whether p for and p against are each held against the whole level."""
        return self.has_one_sided_bands and region.is_band

    def p_values(self, result: Estimate, region: Region) -> tuple[float, float]:
        """Return p for and against the effect's lying in the region, one-sided.

        Rule 2, against a band: how easily an effect at the worse of its ends would come out as far
        from the band as this one, on either side.
        """
        at = {bound: tails(result, bound) for bound in region.bounds()}
        inside = [both[bound != region.lower] for bound, both in at.items()]
        outside = [both[bound == region.lower] for bound, both in at.items()]
        if not self.is_one_sided(region):
            return max(inside), min(outside)
        either = [sum(both[side] for both in at.values()) for side in (0, 1)]
        return max(inside), min(1.0, *either)

    def p_of(self, parts: Sequence[Part]) -> float:
        """Return the p of a claim with these parts: of the smaller of both, as often as they count."""
        times = 1 if self.is_one_sided(parts[0].region) else 2
        return min(1.0, times * min(p_for(parts), p_against(parts)))


RULES = {
    1: Rule(1, min_seeds=4, pairs=False, has_one_sided_bands=False),
    2: Rule(2, min_seeds=MIN_SEEDS, pairs=True, has_one_sided_bands=True),
}
NEWEST = RULES[max(RULES)]


def p_for(parts: Sequence[Part]) -> float:
    """Return p for a claim, which must hold in all of its parts."""
    return max(part.p_for for part in parts)


def p_against(parts: Sequence[Part]) -> float:
    """Return p against a claim, which one of its parts refutes."""
    return min(1.0, len(parts) * min(part.p_against for part in parts))
