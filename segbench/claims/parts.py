"""A weighted difference of cells with its interval and its one-sided p values, and before launch.

Knows nothing of kinds of claims, and of the other claims of a file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from segbench.claims.cells import Step
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import EXACT_FACTS, MeasuredClaim, is_fact
from segbench.statistics.inference import (
    Estimate,
    estimate,
    name_of_test,
    tails,
)
from segbench.statistics.observations import ObservedCell, Samples
from segbench.statistics.power import (
    Spread,
    detectable,
    errors_of,
    image_limit,
    minimum_detectable_effect,
    seeds_to_settle,
)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every claim is judged with.

    alpha: the strictest level that Holm may ask for. resamples: of classes, where these are drawn.
    """

    cells: Sequence[ObservedCell]
    alpha: float
    samples: Samples = field(default_factory=Samples)
    resamples: int = 10_000
    seed: int = 0


def weighted_part(
    claim: MeasuredClaim, label: str, step: Step, bench: Bench, *, images: bool, power: float
) -> Part:
    """Return the part of an effect that weighs one number of each cell.

    images: whether other images are spoken of than those that were scored. power: as in `Kind.part`.
    """
    sides = step.sides()
    seeds: dict[int, frozenset[int]] = {}  # cells on one side are compared seed by seed
    for _, cell in step.weights:
        side = sides[cell.training]
        seeds[side] = seeds.get(side, frozenset(cell.seeds)) & frozenset(cell.seeds)
    terms = [
        bench.samples.term(
            weight,
            cell,
            claim.metric,
            claim.classes,
            seeds=seeds[sides[cell.training]],
        )
        for weight, cell in step.weights
    ]
    if step.offset:
        shifted = replace(
            terms[0].sample, values=terms[0].sample.values - step.offset / terms[0].weight
        )
        terms[0] = replace(terms[0], sample=shifted)
    cells = tuple(cell for _, cell in step.weights)
    if claim.metric in EXACT_FACTS:
        return _count_part(label, terms, step, cells)
    result = estimate(terms)
    if not images:
        result = result.on_these_images()
    part = _tested(label, result, step.region, cells, alpha=bench.alpha, power=power)
    part = replace(part, side_weight=sum(step.side_weights()))
    if not is_fact(claim.metric):
        part = replace(part, initial_weights=_initial_weights(step))
    return part


def _initial_weights(step: Step) -> str:
    """Return what the sides of an effect started from, empty where that is alike or not known."""
    more, less = (
        {cell.initial_weights: None for weight, cell in step.weights if (weight > 0) is is_more}
        for is_more in (True, False)
    )
    if more.keys() == less.keys() or not (more and less) or "" in more.keys() | less.keys():
        return ""
    return f"{', '.join(more)} against {', '.join(less)}"


def _count_part(label: str, terms: Sequence, step: Step, cells: tuple[ObservedCell, ...]) -> Part:
    effect = sum(term.weight * float(term.sample.values[0]) for term in terms)
    inside = step.region.lower < effect < step.region.upper
    sizes = [len(term.sample.values) for term in terms]
    p_for, p_against = (0.0, 1.0) if inside else (1.0, 0.0)
    seeds = (min(sizes), max(sizes))
    return Part(label, effect, effect, effect, p_for, p_against, "none", seeds, step.region, cells)


def _tested(
    label: str,
    result: Estimate,
    region: Region,
    cells: tuple[ObservedCell, ...],
    *,
    alpha: float,
    power: float,
) -> Part:
    low, high = result.interval()
    p_for, p_against = _both(region, {bound: tails(result, bound) for bound in region.bounds()})
    sizes = [len(term.sample.values) for term in result.terms]
    several = result.seeds > 1
    asked = {"alpha": alpha, "power": power}
    needed = seeds_to_settle(result, region.distance(result.effect), **asked) if several else None
    return Part(
        label=label,
        effect=result.effect,
        low=low,
        high=high,
        p_for=p_for,
        p_against=p_against,
        test=name_of_test(result),
        seeds=(min(sizes), max(sizes)),
        region=region,
        cells=cells,
        seed_variance=result.seed_variance if several else None,
        image_variance=result.image_variance if several else None,
        image_df=result.image_df,
        num_groups=result.num_groups,
        squared_weight=sum(term.weight**2 for term in result.terms),
        detectable=detectable(errors_of(result), **asked) if several else None,
        seeds_needed=needed,
        image_limit=image_limit(result, **asked),
    )


def _both(region: Region, tails_at: dict[float, tuple[float, float]]) -> tuple[float, float]:
    """Return one-sided p for and against the region, from p above and below each of its bounds."""
    inside = [both[bound != region.lower] for bound, both in tails_at.items()]
    outside = [both[bound == region.lower] for bound, both in tails_at.items()]
    return max(inside), min(outside)


def smallest_difference(step: Step, spread: Spread, *, alpha: float, power: float) -> float | None:
    """Return how far off its bound an effect is found before launch.

    None where its weights are not known yet.
    """
    weights = [weight**2 for weight, _ in step.weights]
    if not all(map(math.isfinite, weights)):
        return None
    seeds = min(len(cell.seeds) for _, cell in step.weights)
    scaled = spread._replace(image_sd=spread.image_sd * math.sqrt(sum(weights) / 2))
    return minimum_detectable_effect(
        scaled, seeds, squared_weights=step.side_weights(), alpha=alpha, power=power
    )
