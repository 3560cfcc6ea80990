"""The effect in each combination of a claim, with its interval and its one-sided p values.

Knows nothing of the other claims of a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segbench.claims.cells import (
    Step,
    cells_in,
    draws_images,
    is_count,
    judgements,
    region_of,
    steps_of,
    usable,
)
from segbench.claims.correlation import RankCorrelation, rank_correlation
from segbench.claims.verdict import Part, Region
from segbench.schema.claims import AnyClaim, Compare, Correlate, Equivalent, Value, is_fact
from segbench.statistics.inference import (
    Estimate,
    estimate,
    holm,
    name_of_test,
    permutation_p,
    tails,
)
from segbench.statistics.observations import Cell, Samples, is_blank, scored
from segbench.statistics.pairwise import ClassDifference, class_differences
from segbench.statistics.power import (
    detectable,
    detectable_correlation,
    errors_of,
    image_limit,
    power_of_each,
    seeds_to_settle,
)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every claim is judged with. alpha: the strictest level that Holm may ask for."""

    cells: Sequence[Cell]
    samples: Samples
    alpha: float


def parts_of(claim: AnyClaim, cells: Sequence[Cell], bench: Bench) -> tuple[list[Part], list[str]]:
    """Return the parts of a claim, and a sentence for each that lacks something."""
    parts, missing = _parts_of(claim, cells, bench)
    if is_count(claim) or (not isinstance(claim, Correlate) and is_fact(claim.metric)):
        return parts, missing
    return [replace(part, is_blank=_is_blank(part)) for part in parts], missing


def _initial_weights(step: Step) -> str:
    """Return what the sides of an effect started from, empty where that is alike or not known."""
    more, less = (
        {cell.initial_weights: None for weight, cell in step.weights if (weight > 0) is is_more}
        for is_more in (True, False)
    )
    if more.keys() == less.keys() or not (more and less) or "" in more.keys() | less.keys():
        return ""
    return f"{', '.join(more)} against {', '.join(less)}"


def _is_blank(part: Part) -> bool:
    return 2 * sum(is_blank(cell) for cell in part.cells) > len(part.cells)


def _parts_of(claim: AnyClaim, cells: Sequence[Cell], bench: Bench) -> tuple[list[Part], list[str]]:
    cells, missing = usable(claim, cells)
    if isinstance(claim, Correlate):
        groups = list(judgements(claim, cells))
        each = power_of_each(len(groups))
        return [_correlated(claim, label, group, bench, each) for label, group in groups], missing
    found: list[tuple[str, Step]] = []
    for label, combinations in judgements(claim, cells):
        for step in steps_of(claim, combinations):
            name = ", ".join(filter(None, (label, step.label)))
            if step.problem:
                missing.append(f"{name}: {step.problem}" if name else step.problem)
            elif step.weights:
                found.append((name, step))
    each = power_of_each(len(found), two_sided_region=isinstance(claim, Equivalent | Value))
    parts = [_part(claim, name, step, bench, each) for name, step in found]
    return _with_classes_corrected(parts), missing


def _with_classes_corrected(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with p of classes corrected over all of the claim's tables together."""
    tested = [row for part in parts for row in part.per_class if row.has_p]
    adjusted = dict(zip(map(id, tested), holm([row.p for row in tested]), strict=True))
    return [
        replace(
            part,
            per_class=tuple(
                replace(row, p_adjusted=adjusted.get(id(row), 1.0)) for row in part.per_class
            ),
        )
        for part in parts
    ]


def _part(claim: AnyClaim, label: str, step: Step, bench: Bench, power: float) -> Part:
    assert not isinstance(claim, Correlate)
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
            images=draws_images(claim),
            seeds=seeds[sides[cell.training]],
        )
        for weight, cell in step.weights
    ]
    if isinstance(claim, Value):
        shifted = replace(
            terms[0].sample, values=terms[0].sample.values - step.offset / terms[0].weight
        )
        terms[0] = replace(terms[0], sample=shifted)
    cells = tuple(cell for _, cell in step.weights)
    if is_count(claim):
        return _count_part(label, terms, step, cells)
    result = estimate(terms, resamples=bench.samples.resamples, seed=bench.samples.seed)
    part = _tested(label, result, step.region, cells, alpha=bench.alpha, power=power)
    part = replace(part, side_weight=sum(step.side_weights()))
    if not is_fact(claim.metric):
        part = replace(part, initial_weights=_initial_weights(step))
    if isinstance(claim, Compare) and claim.per_class:
        part = replace(part, per_class=_per_class(step, claim.classes, bench))
    return part


def _count_part(label: str, terms: Sequence, step: Step, cells: tuple[Cell, ...]) -> Part:
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
    cells: tuple[Cell, ...],
    *,
    alpha: float,
    power: float,
) -> Part:
    low, high = result.interval()
    p_for, p_against = _both(region, {bound: tails(result, bound) for bound in region.bounds()})
    exchanged = {bound: permutation_p(result, bound) for bound in region.bounds()}
    exact = {bound: both for bound, both in exchanged.items() if both is not None}
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
        exchanged=min(1.0, 2 * min(_both(region, exact))) if exact else None,
        seeds=(min(sizes), max(sizes)),
        region=region,
        cells=cells,
        seed_variance=result.seed_variance if several else None,
        image_variance=result.image_variance if several else None,
        image_df=result.image_df,
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


def _per_class(step: Step, classes: tuple[str, ...], bench: Bench) -> tuple[ClassDifference, ...]:
    if len(step.weights) != 2:
        return ()
    left, right = (cell for _, cell in step.weights)
    names = left.observations[0].class_names
    if tuple(names) != tuple(right.observations[0].class_names):
        return ()
    return class_differences(
        [scored(one) for one in left.observations],
        [scored(one) for one in right.observations],
        names,
        seed=bench.samples.seed,
        shared_training=left.training == right.training,
        only=classes,
    )


def _correlated(
    claim: Correlate,
    label: str,
    combinations: Sequence[dict[str, list[Cell]]],
    bench: Bench,
    power: float,
) -> Part:
    """Return the correlation in one cell, or pooled over data sets where several are averaged.

    Models that had the same to train on, for the same classes, are averaged first, then data sets
    pooled: a variant that thins or merges classes is a data set of its own.
    """
    cells = cells_in(combinations)
    by_dataset: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        first = cell.observations[0]
        amounts = np.asarray(getattr(first, claim.by)).tobytes()
        key = (cell.axes.get("dataset", ""), tuple(first.class_names), amounts)
        by_dataset.setdefault(key, []).append(cell)
    result: RankCorrelation = rank_correlation(
        list(by_dataset.values()),
        claim.by,
        claim.classes,
        resamples=bench.samples.resamples,
        seed=bench.samples.seed,
    )
    region = region_of(claim)
    bound = region.bounds()[0]
    above, below = result.tails(bound)
    rises = bound == region.lower
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
        region=region,
        cells=tuple(cells),
        detectable=detectable_correlation(
            result.sizes, bound if rises else -bound, alpha=bench.alpha, power=power
        ),
        note=f"over {result.num_classes} classes",
    )
