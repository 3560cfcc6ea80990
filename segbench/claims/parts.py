"""A weighted difference of cells with its interval and its one-sided p values, and before launch.

Knows nothing of kinds of claims, and of the other claims of a file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from segbench.claims.cells import Step
from segbench.claims.rules import NEWEST, Rule
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import EXACT_FACTS, MeasuredClaim, is_fact
from segbench.statistics.inference import Estimate, Term, estimate, name_of_test
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
    rule: Rule = NEWEST
    samples: Samples = field(default_factory=Samples)
    resamples: int = 10_000
    seed: int = 0


def weighted_part(
    claim: MeasuredClaim, label: str, step: Step, bench: Bench, *, images: bool, power: float
) -> Part:
    """Return the part of an effect that weighs one number of each cell.

    images: whether other images are spoken of than those that were scored. power: as in `Kind.part`.
    """
    paired = bench.rule.is_paired(claim, step)
    terms = terms_of(claim, step, bench.samples, paired=paired)
    cells = tuple(cell for _, cell in step.weights)
    if claim.metric in EXACT_FACTS:
        return _count_part(label, terms, step, cells)
    everywhere = estimate(terms, paired=paired, target=claim.target)
    here = everywhere.on_these_images()
    result, other = (everywhere, here) if images else (here, everywhere)
    part = _tested(label, result, step.region, cells, bench, power=power)
    if is_fact(claim.metric):
        return part
    return replace(
        part,
        initial_weights=_initial_weights(step),
        other=other.interval() if result.seeds > 1 else None,
    )


def terms_of(
    claim: MeasuredClaim, step: Step, samples: Samples, *, paired: bool
) -> tuple[Term, ...]:
    """Return the effect's terms, cells that are summed seed by seed with the seeds that all have."""
    sides, seeds = step.sides(), step.seeds_of_sides(paired=paired)
    terms = [
        samples.term(
            weight,
            cell,
            claim.metric,
            claim.classes,
            seeds=seeds[0 if paired else sides[cell.training]],
        )
        for weight, cell in step.weights
    ]
    if step.offset:
        first = terms[0].sample
        shifted = replace(first, values=first.values - step.offset / terms[0].weight)
        terms[0] = replace(terms[0], sample=shifted)
    return tuple(terms)


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
    bench: Bench,
    *,
    power: float,
) -> Part:
    low, high = bench.rule.interval(result, region)
    p_for, p_against = bench.rule.p_values(result, region)
    sizes = [len(term.sample.values) for term in result.terms]
    several = result.seeds > 1
    asked = {"alpha": bench.alpha * (1 + bench.rule.is_one_sided(region)), "power": power}
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
        estimate=result,
        detectable=detectable(errors_of(result), **asked) if several else None,
        seeds_needed=needed,
        image_limit=image_limit(result, **asked),
    )


def smallest_difference(
    step: Step, spread: Spread, *, paired: bool, alpha: float, power: float
) -> float | None:
    """Return how far off its bound an effect is found before launch.

    None where its weights are not known yet.
    """
    weights = [weight**2 for weight, _ in step.weights]
    if not all(map(math.isfinite, weights)):
        return None
    seeds = min(len(cell.seeds) for _, cell in step.weights)
    scaled = spread._replace(image_sd=spread.image_sd * math.sqrt(sum(weights) / 2))
    return minimum_detectable_effect(
        scaled, seeds, squared_weights=step.side_weights(paired=paired), alpha=alpha, power=power
    )
