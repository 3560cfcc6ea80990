"""What is said of a claim: the verdict, its parts, and the question that each answers.

Knows nothing of how they come about.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

from segbench.schema.claims import AnyClaim
from segbench.statistics.inference import LEVEL, Estimate
from segbench.statistics.observations import ObservedCell
from segbench.statistics.pairwise import ClassDifference
from segbench.statistics.power import ALPHA

Outcome = Literal["holds", "fails", "undecided"]


QUESTIONS = {
    "none": "none, there are no results",
    "count": "a count, which no seed and no image changes",
    "checkpoints": "these checkpoints, on new images of the same kind; not the method",
    "these_checkpoints": "these checkpoints, as they were measured; not the method",
    "few": "the method, but from too few seeds for a verdict",
    "method": "the method: new seeds, and new images of the same kind",
    "these_images": "the method: new seeds, on these very images",
    "groups": "none on new images: there are too few groups of images",
    "measured": "the method: new seeds, measured in the same way",
}


@dataclass(frozen=True)
class Region:
    """Where the claim puts the effect: above `lower` and below `upper`."""

    lower: float = -math.inf
    upper: float = math.inf

    @classmethod
    def beyond(cls, margin: float, *, rises: bool = True) -> Self:
        """Return where an effect lies that exceeds the margin, above 0 or below it."""
        return cls(lower=margin) if rises else cls(upper=-margin)

    def bounds(self) -> tuple[float, ...]:
        """The finite ends."""
        return tuple(bound for bound in (self.lower, self.upper) if math.isfinite(bound))

    @property
    def is_band(self) -> bool:
        """Whether it has two ends."""
        return len(self.bounds()) == 2

    def distance(self, effect: float) -> float:
        """Return how far the effect is from the nearest end."""
        return min(abs(effect - bound) for bound in self.bounds())

    def in_words(self, unit: str = "") -> str:
        """Return `above +20 points` or `below 0`, of a region with one bound."""
        (bound,) = self.bounds()
        side = "above" if bound == self.lower else "below"
        return f"{side} {bound + 0.0:+g} {unit}".rstrip() if bound else f"{side} 0"


@dataclass(frozen=True, eq=False)
class Part:
    """The effect in one combination. p_for and p_against are one-sided and uncorrected.

    low, high: the interval that is held against the region. other: that of the other population, these
    images or new ones, None where it is not known. estimate: all that is known of the error, None
    where the effect is no weighted sum. detectable: the smallest distance from the margin that this
    design finds with 80 % power, in all parts at once; between two bounds the narrowest such region.
    seeds_needed: per cell, if the effect is as it looks, None where seeds cannot do it. image_limit:
    the distance that endless seeds would find on these images. is_blank: most of its cells did not
    learn. initial_weights: `imagenet against random` where the sides started from other weights.
    """

    label: str
    effect: float
    low: float
    high: float
    p_for: float
    p_against: float
    test: str
    seeds: tuple[int, int]
    region: Region
    cells: tuple[ObservedCell, ...]
    estimate: Estimate | None = None
    other: tuple[float, float] | None = None
    detectable: float | None = None
    seeds_needed: int | None = None
    per_class: tuple[ClassDifference, ...] = ()
    image_limit: float | None = None
    is_blank: bool = False
    note: str = ""
    initial_weights: str = ""

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the interval at another level, None where it is not known."""
        return None if self.estimate is None else self.estimate.interval(level)

    @property
    def seeds_values(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """The values of the seeds of each of two cells, with what tells these apart; else empty."""
        if self.estimate is None or len(self.cells) != 2:
            return ()
        one, two = (cell.axes for cell in self.cells)
        differing = [axis for axis in one if one[axis] != two.get(axis)]
        return tuple(
            (
                " ".join(filter(None, (cell.axes.get(axis, "") for axis in differing))),
                tuple(term.sample.values.tolist()),
            )
            for cell, term in zip(self.cells, self.estimate.terms, strict=True)
        )

    @property
    def seed_share(self) -> float | None:
        """The share of the error's variance that seeds make, None where it is not known."""
        if self.estimate is None or self.estimate.seeds == 1 or not self.estimate.standard_error:
            return None
        return self.estimate.seed_variance / self.estimate.standard_error**2

    @property
    def num_groups(self) -> int | None:
        """Groups of images, the fewest of any set of images; None where images are independent."""
        return None if self.estimate is None else self.estimate.num_groups

    @property
    def for_label(self) -> str:
        """The combination as it stands in a sentence, empty where there is only one."""
        return f" for {self.label}" if self.label else ""

    @property
    def is_opposite(self) -> bool:
        """Whether the interval lies beyond no effect at all, on the side that is not claimed."""
        return self.high < 0 if math.isfinite(self.region.lower) else self.low > 0

    @property
    def leaning(self) -> str:
        """Which way the interval points: `for`, `against` or `unclear`."""
        if self.low > self.region.lower and self.high < self.region.upper:
            return "for"
        against = self.high < self.region.lower or self.low > self.region.upper
        return "against" if against else "unclear"


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to a claim.

    parts: one for each combination (and step). p: two-sided, of the claim as a whole; p_adjusted:
    after Holm; both None for counts and where nothing can be judged. alpha: what p_adjusted was
    held against. missing: combinations that lack a side. barred: why there is no verdict, whatever
    the effect; empty where there may be one. seeds_asked: that a verdict takes. rule: the number of the
    rule that it is judged by; again: the verdict by the newest rule, where that is another. confidence:
    of the intervals that the parts have, and decisive: of those that say what p_adjusted says.
    """

    claim: AnyClaim
    outcome: Outcome
    question: str
    reason: str
    unit: str
    parts: tuple[Part, ...]
    missing: tuple[str, ...] = ()
    p: float | None = None
    p_adjusted: float | None = None
    alpha: float = ALPHA
    notes: tuple[str, ...] = ()
    barred: str = ""
    seeds_asked: int = 0
    rule: int = 0
    confidence: float = LEVEL
    decisive: float = LEVEL
    again: "Verdict | None" = None

    @property
    def judged(self) -> tuple[Part, ...]:
        """The parts that say something of a trained model."""
        return tuple(part for part in self.parts if not part.is_blank)

    @property
    def weakest(self) -> Part | None:
        """The part that decides: the least favourable to the claim."""
        parts = self.judged or self.parts
        return max(parts, key=lambda part: (part.p_for, -part.p_against), default=None)

    @property
    def smallest_detectable(self) -> float | None:
        """The largest of the parts' detectable effects."""
        return max((p.detectable for p in self.judged if p.detectable is not None), default=None)

    @property
    def seeds_needed(self) -> int | None:
        """Seeds for each cell that would settle every part in doubt; None where seeds cannot."""
        doubtful = [part.seeds_needed for part in self.judged if part.leaning == "unclear"]
        doubtful = doubtful or [part.seeds_needed for part in self.judged]
        return None if not doubtful or None in doubtful else max(n for n in doubtful if n)
