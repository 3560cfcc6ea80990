"""What every kind of claim answers, and what those that judge one number of each trial share.

A kind is one object without state; the claim is handed to each question. Knows no kind by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from segbench.claims.cells import (
    Combination,
    Step,
    metric_in_words,
    side_in_words,
    side_key,
    unit_of_metric,
)
from segbench.claims.parts import Bench, smallest_difference, weighted_part
from segbench.claims.rules import NEWEST
from segbench.claims.verdict import QUESTIONS, Part, Region
from segbench.code.own import code_in_use, difference
from segbench.errors import CardError
from segbench.metrics.own import own_metric
from segbench.schema.claims import EXACT_FACTS, TIMED_FACTS, BaseClaim, MeasuredClaim, Side, is_fact
from segbench.schema.metric_names import is_own, needs_boundary
from segbench.statistics.inference import Target
from segbench.statistics.observations import ObservedCell
from segbench.statistics.power import Spread

TARGETS: dict[Target, str] = {
    "mean": "",
    "median": "the median over seeds of ",
    "iqm": "the interquartile mean over seeds of ",
}
AnyAsked = TypeVar("AnyAsked", bound=BaseClaim)
AnyMeasured = TypeVar("AnyMeasured", bound=MeasuredClaim)


class Kind(ABC, Generic[AnyAsked]):
    """What is asked of a kind of claim. What a kind leaves out here stops the import, not a report.

    limit: what sets the limit where more seeds cannot settle a claim, empty where they can.
    too_few: what there is too little of where no effect, however large, would be found.
    """

    limit: str = ""
    too_few: str = ""

    # What is compared.

    @abstractmethod
    def metric(self, claim: AnyAsked) -> str | None:
        """Return the figure or fact that is drawn for each cell, None where it is none of these."""

    @abstractmethod
    def draws_images(self, claim: AnyAsked) -> bool:
        """Return whether the claim speaks of other images than those that were scored."""

    @abstractmethod
    def lacks(self, claim: AnyAsked, cell: ObservedCell) -> str:
        """Return why the cell cannot be asked, empty where it can; classes are looked at before."""

    @abstractmethod
    def effects(self, claim: AnyAsked, combinations: Sequence[Combination]) -> Iterable[Step]:
        """Yield the effects that the claim judges, averaged over these combinations."""

    @abstractmethod
    def region(self, claim: AnyAsked) -> Region:
        """Return where the claim puts its effect."""

    @abstractmethod
    def part(self, claim: AnyAsked, label: str, step: Step, bench: Bench, *, power: float) -> Part:
        """Return the effect with its interval and its p values.

        power: what this part needs, for 80 % that all parts of the claim are shown at once.
        """

    @abstractmethod
    def smallest_found(
        self, claim: AnyAsked, step: Step, spread: Spread, *, alpha: float, power: float
    ) -> float | None:
        """Return before launch how far off its bound an effect is found, None if that is not known."""

    def problem(self, claim: AnyAsked, step: Step, bench: Bench) -> str:
        """Return why an effect cannot be formed of the seeds at hand, empty where it can."""
        del claim, step, bench
        return ""

    # What is said.

    @abstractmethod
    def unit(self, claim: AnyAsked) -> str:
        """Return the unit of the effect."""

    @abstractmethod
    def asked(self, claim: AnyAsked) -> str:
        """Return the claim in figures: what is held against the interval."""

    @abstractmethod
    def questions(self, claim: AnyAsked) -> tuple[str, str]:
        """Return what is answered: by one seed, and by enough of them."""

    def failed(self, claim: AnyAsked, part: Part) -> str:
        """Return what is shown where the claim fails, as of one that an effect exceeds a margin."""
        del claim
        if part.is_opposite:
            return f"The opposite is shown{part.for_label}."
        return f"Shown to miss the margin{part.for_label}; that is not to say that the opposite is true."

    def notes(self, claim: AnyAsked, parts: Sequence[Part]) -> list[str]:
        """Return what a reader must know of such verdicts, in sentences."""
        del claim, parts
        return []

    def published(self, claim: AnyAsked) -> str:
        """Return the figure that the claim itself gives, where its source lists none."""
        del claim
        return ""

    def measured(self, claim: AnyAsked, part: Part) -> str:
        """Return what was measured, where the effect alone does not say it."""
        del claim, part
        return ""

    # What follows from these.

    def is_count(self, claim: AnyAsked) -> bool:
        """Return whether the claim is about a number that no seed and no image changes."""
        return self.metric(claim) in EXACT_FACTS

    def needs_learning(self, claim: AnyAsked) -> bool:
        """Return whether models that did not learn say nothing; what they cost they say."""
        return not is_fact(self.metric(claim) or "")

    def is_band(self, claim: AnyAsked) -> bool:
        """Return whether the claim puts its effect between two bounds."""
        return self.region(claim).is_band


class Measured(Kind[AnyMeasured]):
    """A kind that judges one number of each trial, a figure or a fact, weighted over cells."""

    def metric(self, claim: AnyMeasured) -> str | None:
        """See `Kind`."""
        return claim.metric

    def draws_images(self, claim: AnyMeasured) -> bool:
        """See `Kind`: a cost is measured, images do not enter it."""
        return claim.on == "new_images" and not is_fact(claim.metric)

    def lacks(self, claim: AnyMeasured, cell: ObservedCell) -> str:
        """See `Kind`: counts of boundaries, or the facts that the claim reads."""
        if needs_boundary(claim.metric) and cell.observations[0].counts.boundary is None:
            return "its protocol counts no boundaries"
        if is_own(claim.metric) and (told := _other_metric(claim.metric, cell)):
            return told
        absent = [
            fact
            for fact in claim.facts()
            if any(fact not in one.facts for one in cell.observations)
        ]
        return f"{', '.join(absent)} {_not_recorded(absent[0])}" if absent else ""

    def part(
        self, claim: AnyMeasured, label: str, step: Step, bench: Bench, *, power: float
    ) -> Part:
        """See `Kind`."""
        images = self.draws_images(claim)
        return weighted_part(claim, label, step, bench, images=images, power=power)

    def smallest_found(
        self, claim: AnyMeasured, step: Step, spread: Spread, *, alpha: float, power: float
    ) -> float | None:
        """See `Kind`: how much a cost varies is not known before launch."""
        if is_fact(claim.metric):
            return None
        own = spread if self.draws_images(claim) else spread._replace(image_sd=0.0)
        paired, is_one_sided = NEWEST.is_paired(claim, step), NEWEST.is_one_sided(step.region)
        alpha *= 1 + is_one_sided
        return smallest_difference(step, own, paired=paired, alpha=alpha, power=power)

    def problem(self, claim: AnyMeasured, step: Step, bench: Bench) -> str:
        """See `Kind`: cells that are summed seed by seed need a seed that all have."""
        if step.common_seeds(paired=bench.rule.is_paired(claim, step)):
            return ""
        return "its cells have no seed in common"

    def unit(self, claim: AnyMeasured) -> str:
        """See `Kind`."""
        return unit_of_metric(claim.metric)

    def questions(self, claim: AnyMeasured) -> tuple[str, str]:
        """See `Kind`."""
        if is_fact(claim.metric):
            return QUESTIONS["these_checkpoints"], QUESTIONS["measured"]
        if claim.on == "these_images":
            return QUESTIONS["these_checkpoints"], QUESTIONS["these_images"]
        return QUESTIONS["checkpoints"], QUESTIONS["method"]

    def what(self, claim: AnyMeasured) -> str:
        """Return the metric in words, with the classes that it runs over."""
        over = f" over {', '.join(claim.classes)}" if claim.classes else ""
        return TARGETS[claim.target] + metric_in_words(claim.metric) + over


class Sides(Measured[AnyMeasured]):
    """A kind that takes the difference of two sides, or of several pairs of them."""

    @abstractmethod
    def pairs(self, claim: AnyMeasured) -> Sequence[tuple[Side, Side]]:
        """Return the differences that are judged: the first less the second."""

    def effects(self, claim: AnyMeasured, combinations: Sequence[Combination]) -> Iterable[Step]:
        """See `Kind`: the difference of each pair."""
        pairs = self.pairs(claim)
        for pair in pairs:
            label = " against ".join(map(side_in_words, pair)) if len(pairs) > 1 else ""
            lacking = [
                side_in_words(side)
                for side in pair
                if any(side_key(side) not in combination for combination in combinations)
            ]
            if lacking:
                yield Step(label, problem=f"no results of {' and '.join(lacking)}")
                continue
            weights = tuple(
                (sign / len(combinations), combination[side_key(side)][0])
                for combination in combinations
                for sign, side in zip((1.0, -1.0), pair, strict=True)
            )
            yield Step(label, weights, self.region(claim))

    def notes(self, claim: AnyMeasured, parts: Sequence[Part]) -> list[str]:
        """See `Kind`: sides on different images are no pairs."""
        if not self.draws_images(claim) or not any(map(_is_on_different_images, parts)):
            return []
        return [
            "The sides were scored on different images and are not paired: that one split is harder "
            "than another counts as part of the difference."
        ]


def _is_on_different_images(part: Part) -> bool:
    images = [cell.observations[0].counts.images for cell in part.cells]  # left, right, left, ...
    return any(left != right for left, right in zip(images[::2], images[1::2], strict=True))


def _not_recorded(fact: str) -> str:
    if fact not in TIMED_FACTS:
        return "is not recorded"
    return f"was not measured without other trials beside it (`{TIMED_FACTS[fact]}` measures it)"


def _other_metric(name: str, cell: ObservedCell) -> str:
    """Return why a metric of the user's own cannot be read off the cell's counts as it was scored."""
    try:
        needs_boundary = own_metric(name).needs_boundary
        now = code_in_use([name])
    except CardError as error:
        return str(error)
    if needs_boundary and cell.observations[0].counts.boundary is None:
        return "its protocol counts no boundaries"
    then = {key: value for key, value in cell.observations[0].code.items() if key in now}
    changed = difference(then, now)
    return f"was scored by another {name}: {changed}" if changed else ""
