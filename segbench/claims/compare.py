"""`compare`: left lies above, or below, right by more than a margin."""

from collections.abc import Sequence
from dataclasses import replace

from segbench.claims.cells import Step, side_in_words
from segbench.claims.kind import Sides
from segbench.claims.parts import Bench
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import Compare, Side
from segbench.statistics.observations import scored
from segbench.statistics.pairwise import ClassDifference, class_differences


class CompareKind(Sides[Compare]):
    """See the module."""

    def pairs(self, claim: Compare) -> Sequence[tuple[Side, Side]]:
        """See `Sides`."""
        return [(claim.left, claim.right)]

    def region(self, claim: Compare) -> Region:
        """See `Kind`."""
        return Region.beyond(claim.margin, rises=claim.relation == "above")

    def part(self, claim: Compare, label: str, step: Step, bench: Bench, *, power: float) -> Part:
        """See `Kind`; with a table of classes where the claim asks for one."""
        part = super().part(claim, label, step, bench, power=power)
        if not claim.per_class:
            return part
        paired = bench.rule.is_paired(claim, step)
        return replace(part, per_class=_per_class(step, claim.classes, paired=paired))

    def asked(self, claim: Compare) -> str:
        """See `Kind`."""
        left, right = map(side_in_words, (claim.left, claim.right))
        lies = self.region(claim).in_words(self.unit(claim))
        return f"{self.what(claim)} of {left} minus that of {right} lies {lies}"


def _per_class(
    step: Step, classes: tuple[str, ...], *, paired: bool
) -> tuple[ClassDifference, ...]:
    if len(step.weights) != 2:
        return ()
    left, right = (cell for _, cell in step.weights)
    names = left.observations[0].class_names
    if tuple(names) != tuple(right.observations[0].class_names):
        return ()
    paired = paired or left.training == right.training
    sides = (left.observations, right.observations)
    shared = step.common_seeds(paired=True) if paired else {*left.seeds, *right.seeds}
    one, other = ([scored(o) for o in side if o.seed in shared] for side in sides)
    return class_differences(
        one,
        other,
        names,
        paired=paired,
        groups=left.observations[0].groups,
        only=classes,
    )
