"""Claims and observations in, verdicts out.

The rules. A claim says that an effect lies in a region: above a margin, below it, or between two
bounds. p for it and p against it are one-sided; both count, so the claim's p is twice the smaller.
A claim over several combinations holds if it holds in every one (the largest p for it) and fails if
one contradicts it (the smallest p against it, times their number). Holm corrects over the claims of
the file; those that cannot be judged yet take part with p = 1, so that verdicts do not weaken when
they come in. One seed: the question is about these checkpoints, and the verdict on the method is
undecided. Two or three: an interval, no verdict. From four on: a verdict.
A class with label pixels in the split but none in a draw of images leaves that draw's mean, for all
models alike; the mean number of such classes is reported.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from segbench.analysis.correlation import RankCorrelation, rank_correlation
from segbench.analysis.inference import MIN_SEEDS, Estimate, estimate, holm, tails
from segbench.analysis.observations import Cell, Observation, Samples, cells_of, scored
from segbench.analysis.pairwise import ClassDifference, class_differences
from segbench.analysis.power import ALPHA, detectable, seeds_to_settle
from segbench.spec.claims import (
    EXACT_FACTS,
    AnyClaim,
    Compare,
    Correlate,
    Equivalent,
    Order,
    Trend,
    Value,
    is_fact,
)

Outcome = Literal["holds", "fails", "undecided"]
QUESTIONS = {
    "count": "a count, which no seed and no image changes",
    "checkpoints": "these checkpoints, on new images of the same kind; not the method",
    "few": "the method, but from too few seeds for a verdict",
    "method": "the method: new seeds, and new images of the same kind",
    "split": "the method: new seeds, on these very images",
    "measured": "the method: new seeds, measured in the same way",
    "classes": "the method: new seeds, and new classes of the same kind",
}


@dataclass(frozen=True)
class Region:
    """Where the claim puts the effect: above `lower` and below `upper`."""

    lower: float = -math.inf
    upper: float = math.inf

    def bounds(self) -> tuple[float, ...]:
        """The finite ends."""
        return tuple(bound for bound in (self.lower, self.upper) if math.isfinite(bound))

    def distance(self, effect: float) -> float:
        """Return how far the effect is from the nearest end."""
        return min(abs(effect - bound) for bound in self.bounds())


@dataclass(frozen=True, eq=False)
class Part:
    """The effect in one combination. p_for and p_against are one-sided and uncorrected.

    value: what the effect was taken from, for a published figure. detectable: the smallest distance
    from the margin that this design finds with 80 % power; seeds_needed: per cell, if the effect is
    as it looks, None where seeds cannot do it.
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
    cells: tuple[Cell, ...]
    seed_variance: float | None = None
    image_variance: float | None = None
    detectable: float | None = None
    seeds_needed: int | None = None
    per_class: tuple[ClassDifference, ...] = ()
    note: str = ""

    @property
    def seed_share(self) -> float | None:
        """The share of the error's variance that seeds make, None where it is not known."""
        if self.seed_variance is None or self.image_variance is None:
            return None
        total = self.seed_variance + self.image_variance
        return self.seed_variance / total if total > 0 else None

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
    held against. missing: combinations that lack a side.
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

    @property
    def weakest(self) -> Part | None:
        """The part that decides: the least favourable to the claim."""
        return max(self.parts, key=lambda part: (part.p_for, -part.p_against), default=None)

    @property
    def smallest_detectable(self) -> float | None:
        """The largest of the parts' detectable effects."""
        return max((p.detectable for p in self.parts if p.detectable is not None), default=None)

    @property
    def seeds_needed(self) -> int | None:
        """Seeds for each cell that would settle every part in doubt; None where seeds cannot."""
        doubtful = [part.seeds_needed for part in self.parts if part.leaning == "unclear"]
        doubtful = doubtful or [part.seeds_needed for part in self.parts]
        return None if not doubtful or None in doubtful else max(n for n in doubtful if n)


def judge(
    claims: Sequence[AnyClaim],
    observations: Sequence[Observation],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    planned_seeds: int | None = None,
    looks: int = 1,
) -> tuple[Verdict, ...]:
    """Return a verdict for each claim.

    looks: how often the run may be judged in all (`segbench.analysis.power`); 1 without top-up.
    """
    alpha = ALPHA / looks
    samples = Samples(resamples=resamples, seed=seed)
    cells = cells_of(observations)
    family = sum(not _is_count(claim) for claim in claims)
    bench = _Bench(cells, samples, alpha / max(1, family))
    _prepare(claims, bench)
    opened = [_open_verdict(claim, bench, alpha, planned_seeds) for claim in claims]
    tested = [v for v in opened if not _is_count(v.claim)]
    adjusted = dict(
        zip(map(id, tested), holm([1.0 if v.p is None else v.p for v in tested]), strict=True)
    )
    return tuple(_closed(verdict, adjusted.get(id(verdict))) for verdict in opened)


def _prepare(claims: Sequence[AnyClaim], bench: "_Bench") -> None:
    """Draw each metric once for all cells that any claim asks for."""
    wanted: dict[tuple, list[Cell]] = {}
    for claim in claims:
        if not isinstance(claim, Correlate):
            matching = [cell for cell in bench.cells if _matches(cell, claim.where)]
            key = (claim.metric, claim.classes, _draws_images(claim))
            wanted.setdefault(key, []).extend(_usable(claim, matching)[0])
    for (metric, classes, images), cells in wanted.items():
        bench.samples.prepare(cells, metric, classes, images=images)


def _is_count(claim: AnyClaim) -> bool:
    return not isinstance(claim, Correlate) and claim.metric in EXACT_FACTS


@dataclass(frozen=True, eq=False)
class _Bench:
    """What every claim is judged with. alpha: the strictest level that Holm may ask for."""

    cells: Sequence[Cell]
    samples: Samples
    alpha: float


def _open_verdict(
    claim: AnyClaim, bench: _Bench, alpha: float, planned_seeds: int | None
) -> Verdict:
    """Return the verdict before the correction over the claims: its outcome is still undecided."""
    matching = [cell for cell in bench.cells if _matches(cell, claim.where)]
    parts, missing = _parts(claim, matching, bench)
    notes = [claim.notes] if claim.notes else []
    fewest = min((part.seeds[0] for part in parts), default=0)
    if planned_seeds is not None and 0 < fewest < planned_seeds:
        notes.append(f"{fewest} of {planned_seeds} planned seeds are there.")
    if bench.samples.dropped_classes >= 0.05 and _draws_images(claim):
        notes.append(
            f"On average up to {bench.samples.dropped_classes:.1f} classes had no pixel in a draw "
            "of images and left that draw's mean, for all models alike."
        )
    p = None
    if parts and fewest >= MIN_SEEDS and not _is_count(claim):
        p = min(1.0, 2 * min(_p_for(parts), _p_against(parts)))
    return Verdict(
        claim=claim,
        outcome="undecided",
        question=QUESTIONS[_question(claim, fewest)],
        reason="",
        unit=_unit(claim),
        parts=tuple(parts),
        missing=tuple(missing),
        p=p,
        alpha=alpha,
        notes=(*notes, *_standing_notes(claim, parts)),
    )


def _p_for(parts: Sequence[Part]) -> float:
    return max(part.p_for for part in parts)


def _p_against(parts: Sequence[Part]) -> float:
    return min(1.0, len(parts) * min(part.p_against for part in parts))


def _question(claim: AnyClaim, fewest: int) -> str:
    if _is_count(claim):
        return "count"
    if fewest < 2:
        return "checkpoints"
    if fewest < MIN_SEEDS:
        return "few"
    if isinstance(claim, Correlate):
        return "classes"
    if isinstance(claim, Value):
        return "split"
    return "measured" if is_fact(claim.metric) else "method"


def _unit(claim: AnyClaim) -> str:
    if isinstance(claim, Correlate):
        return "rank correlation"
    unit = claim.metric if is_fact(claim.metric) else "points"
    if isinstance(claim, Trend):
        return f"{unit} per {'doubling' if claim.scale == 'log' else 'unit'} of {claim.along}"
    return unit


def _standing_notes(claim: AnyClaim, parts: Sequence[Part]) -> list[str]:
    if (
        isinstance(claim, Trend)
        and len({c.axes.get("dataset") for p in parts for c in p.cells}) > 1
    ):
        return [
            "The levels are different data sets, which differ in more than this; the verdict "
            "speaks of these data sets."
        ]
    if isinstance(claim, Correlate) and parts:
        return ["The interval draws classes and seeds; a class stands for classes of its kind."]
    return []


def _closed(verdict: Verdict, adjusted: float | None) -> Verdict:
    """Return the verdict with its outcome and the sentence that gives the reason."""
    if not verdict.parts:
        return replace(verdict, reason="There are no results to judge it by.")
    if _is_count(verdict.claim):
        return _closed_count(verdict)
    if verdict.p is None or adjusted is None:
        fewest = min(part.seeds[0] for part in verdict.parts)
        return replace(verdict, reason=_too_few(verdict, fewest))
    verdict = replace(verdict, p_adjusted=adjusted)
    outcome = _outcome(verdict, adjusted)
    return replace(verdict, outcome=outcome, reason=_reason(verdict, outcome))


def _outcome(verdict: Verdict, adjusted: float) -> Outcome:
    """Return what p value and intervals together show."""
    p_for, p_against = _p_for(verdict.parts), _p_against(verdict.parts)
    leanings = {part.leaning for part in verdict.parts}
    if adjusted > verdict.alpha:
        return "undecided"
    if p_for <= p_against:
        return "holds" if leanings == {"for"} and not verdict.missing else "undecided"
    return "fails" if "against" in leanings else "undecided"


def _reason(verdict: Verdict, outcome: Outcome) -> str:
    count = len(verdict.parts)
    if outcome == "holds":
        return f"Shown in all {count} combinations." if count > 1 else "Shown."
    if outcome == "fails":
        against = min(verdict.parts, key=lambda part: part.p_against)
        return f"The opposite is shown{_for_label(against)}."
    leanings = [part.leaning for part in verdict.parts]
    if verdict.missing and set(leanings) == {"for"}:
        return "Shown where there are results, but some are missing."
    return _in_doubt(verdict, leanings)


def _for_label(part: Part) -> str:
    return f" for {part.label}" if part.label else ""


def _closed_count(verdict: Verdict) -> Verdict:
    wrong = [part for part in verdict.parts if part.p_for > 0]
    if wrong:
        reason = f"The counts say otherwise{_for_label(wrong[0])}."
        return replace(verdict, outcome="fails", reason=reason)
    if verdict.missing:
        return replace(verdict, reason="Shown where there are results, but some are missing.")
    return replace(verdict, outcome="holds", reason="Counted.")


def _too_few(verdict: Verdict, fewest: int) -> str:
    leanings = {part.leaning for part in verdict.parts}
    if fewest == 1:
        words = {"for": "agree", "against": "disagree"}
        shown = words.get(leanings.pop()) if len(leanings) == 1 else None
        said = f"; these checkpoints {shown}" if shown else ""
        return f"One seed says nothing about the method{said}. {MIN_SEEDS} seeds give a verdict."
    return f"{fewest} seeds give an interval but no verdict; {MIN_SEEDS} do."


def _in_doubt(verdict: Verdict, leanings: Sequence[str]) -> str:
    clear = len(leanings) - leanings.count("unclear")
    if clear == len(leanings):
        said = "Clear by itself, but not after correction for the other claims"
    elif len(leanings) > 1:
        said = f"Clear in {clear} of {len(leanings)} combinations"
    else:
        said = "The interval reaches across the margin"
    if verdict.seeds_needed is not None:
        most = max(part.seeds[0] for part in verdict.parts)
        seeds = max(verdict.seeds_needed, most + 1)
        return f"{said}; about {seeds} seeds for each cell would settle it."
    if isinstance(verdict.claim, Correlate):
        return f"{said}; more seeds cannot settle it, the number of classes sets the limit."
    return (
        f"{said}; no number of seeds up to 100 settles it, because the images set the limit or "
        "the effect lies at the margin."
    )


def _matches(cell: Cell, where: dict[str, tuple[str, ...]]) -> bool:
    return all(cell.axes.get(axis) in values for axis, values in where.items())


def _combinations(
    claim: AnyClaim, cells: Sequence[Cell]
) -> Iterable[tuple[str, list[dict[str, list[Cell]]]]]:
    """Yield for each judgement its label and the combinations that it averages.

    A combination is the cells that agree on all axes but those along which the claim compares,
    listed under the values of these.
    """
    fixed = claim.fixed_axes()
    varying = sorted(
        axis
        for axis in {axis for cell in cells for axis in cell.axes} - fixed
        if len({cell.axes.get(axis) for cell in cells}) > 1
    )
    outer = [] if claim.average else varying
    if claim.within is not None:
        outer = [axis for axis in claim.within if axis in varying]
    groups: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, list[Cell]]]] = {}
    for cell in cells:
        judged = tuple(cell.axes.get(axis, "") for axis in outer)
        inner = tuple(cell.axes.get(axis, "") for axis in varying)
        sides = groups.setdefault(judged, {}).setdefault(inner, {})
        sides.setdefault(_side_key({a: cell.axes.get(a, "") for a in fixed}), []).append(cell)
    for judged, combinations in groups.items():
        label = ", ".join(f"{axis} {value}" for axis, value in zip(outer, judged, strict=True))
        yield label, list(combinations.values())


def _side_key(side: dict[str, str]) -> str:
    return str(sorted(side.items()))


def _parts(claim: AnyClaim, cells: Sequence[Cell], bench: _Bench) -> tuple[list[Part], list[str]]:
    """Return the parts of a claim, and a sentence for each that lacks something."""
    cells, missing = _usable(claim, cells)
    parts: list[Part] = []
    for label, combinations in _combinations(claim, cells):
        if isinstance(claim, Correlate):
            parts.append(_correlated(claim, label, combinations, bench))
            continue
        steps = _trend_steps(claim, combinations) if isinstance(claim, Trend) else None
        for step in steps if steps is not None else _side_steps(claim, combinations):
            name = ", ".join(filter(None, (label, step.label)))
            if step.problem:
                missing.append(f"{name}: {step.problem}" if name else step.problem)
            elif step.weights:
                parts.append(_part(claim, name, step, bench))
    return parts, missing


def _draws_images(claim: AnyClaim) -> bool:
    return not isinstance(claim, Value | Correlate) and not is_fact(claim.metric)


def _compared(claim: AnyClaim, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells on a side of the claim; all where it has no sides."""
    sides = [side for _, side in claim.sides()]
    if not sides:
        return list(cells)
    return [c for c in cells if any(_matches(c, {a: (v,) for a, v in s.items()}) for s in sides)]


def _usable(claim: AnyClaim, cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Return the cells that have what the claim asks of them, and why the others are left out."""
    usable, problems = [], []
    for cell in _compared(claim, cells):
        one = cell.observations[0]
        name = " ".join(filter(None, cell.axes.values()))
        absent = [c for c in claim.classes if c not in one.class_names]
        wanted = [claim.along] if isinstance(claim, Trend) and is_fact(claim.along) else []
        if not isinstance(claim, Correlate) and is_fact(claim.metric):
            wanted.append(claim.metric)
        facts = [f for f in wanted if any(f not in o.facts for o in cell.observations)]
        if absent:
            problems.append(f"{name}: has no class {', '.join(absent)}")
        elif facts:
            problems.append(f"{name}: {', '.join(facts)} is not recorded")
        elif isinstance(claim, Correlate) and getattr(one, claim.by) is None:
            problems.append(f"{name}: {claim.by} of its classes are not recorded")
        else:
            usable.append(cell)
    return usable, problems


@dataclass(frozen=True)
class _Step:
    """One effect: weighted cells, where the claim puts it, or why it cannot be formed."""

    label: str = ""
    weights: tuple[tuple[float, Cell], ...] = ()
    region: Region = Region()
    offset: float = 0.0
    problem: str = ""


def _side_steps(claim: AnyClaim, combinations: Sequence[dict[str, list[Cell]]]) -> Iterable[_Step]:
    """Yield the effects of claims that compare sides (or one side with a published figure)."""
    if isinstance(claim, Value):
        cells = [cell for sides in combinations for group in sides.values() for cell in group]
        region = Region(-claim.tolerance, claim.tolerance)
        weights = tuple((1 / len(cells), cell) for cell in cells)
        yield _Step(weights=weights, region=region, offset=claim.published)
        return
    sides = [side for _, side in claim.sides()]
    if isinstance(claim, Compare | Equivalent):
        pairs = [(claim.left, claim.right)]
    else:
        pairs = [(upper, lower) for lower, upper in itertools.pairwise(sides)]
    for left, right in pairs:
        label = f"{_words(left)} against {_words(right)}" if len(pairs) > 1 else ""
        lacking = [
            _words(side)
            for side in (left, right)
            if any(_side_key(side) not in combination for combination in combinations)
        ]
        if lacking:
            yield _Step(label, problem=f"no results of {' and '.join(lacking)}")
            continue
        weights = tuple(
            (sign / len(combinations), combination[_side_key(side)][0])
            for combination in combinations
            for sign, side in ((1.0, left), (-1.0, right))
        )
        yield _Step(label, weights, _region(claim))


def _words(side: dict[str, str]) -> str:
    return " ".join(side.values())


def _region(claim: AnyClaim) -> Region:
    if isinstance(claim, Equivalent):
        return Region(-claim.margin, claim.margin)
    falls = (isinstance(claim, Compare) and claim.relation == "below") or (
        isinstance(claim, Trend | Correlate) and claim.direction == "falls"
    )
    margin = claim.margin if isinstance(claim, Compare | Order | Trend | Correlate) else 0.0
    return Region(upper=-margin) if falls else Region(lower=margin)


def _trend_steps(claim: Trend, combinations: Sequence[dict[str, list[Cell]]]) -> list[_Step]:
    """Return the slope over the levels, and each step between neighbours where asked for."""
    cells = [cell for sides in combinations for group in sides.values() for cell in group]
    levels = np.array([_level(claim, cell) for cell in cells])
    if claim.scale == "log":
        levels = np.log2(levels)
    centred = levels - levels.mean()
    if len(set(levels.tolist())) < 2:
        return [_Step(problem=f"{claim.along} has one level, a trend needs two")]
    weights = centred / (centred**2).sum()
    steps = [_Step(weights=tuple(zip(weights.tolist(), cells, strict=True)), region=_region(claim))]
    if claim.monotone:
        by_level: dict[float, list[Cell]] = {}
        for level, cell in sorted(zip(levels.tolist(), cells, strict=True), key=lambda x: x[0]):
            by_level.setdefault(level, []).append(cell)
        for lower, upper in itertools.pairwise(by_level.values()):
            label = f"{_level(claim, upper[0]):g} against {_level(claim, lower[0]):g}"
            pair = [(1 / len(upper), c) for c in upper] + [(-1 / len(lower), c) for c in lower]
            falls = claim.direction == "falls"
            region = Region(upper=0.0) if falls else Region(lower=0.0)
            steps.append(_Step(label, tuple(pair), region))
    return steps


def _level(claim: Trend, cell: Cell) -> float:
    if is_fact(claim.along):
        return cell.observations[0].facts[claim.along]
    return float(cell.axes[claim.along])


def _part(claim: AnyClaim, label: str, step: _Step, bench: _Bench) -> Part:
    assert not isinstance(claim, Correlate)
    by_training: dict[str, list[frozenset[int]]] = {}
    for _, cell in step.weights:
        by_training.setdefault(cell.training, []).append(frozenset(cell.seeds))
    terms = [
        bench.samples.term(
            weight,
            cell,
            claim.metric,
            claim.classes,
            images=_draws_images(claim),
            seeds=frozenset.intersection(*by_training[cell.training]),
        )
        for weight, cell in step.weights
    ]
    if isinstance(claim, Value):
        shifted = replace(
            terms[0].sample, values=terms[0].sample.values - step.offset / terms[0].weight
        )
        terms[0] = replace(terms[0], sample=shifted)
    cells = tuple(cell for _, cell in step.weights)
    if _is_count(claim):
        return _count_part(label, terms, step, cells)
    result = estimate(terms, resamples=bench.samples.resamples, seed=bench.samples.seed)
    part = _tested(label, result, step.region, cells, bench.alpha)
    if isinstance(claim, Compare) and claim.per_class:
        part = replace(part, per_class=_per_class(step, bench))
    return part


def _count_part(label: str, terms: Sequence, step: _Step, cells: tuple[Cell, ...]) -> Part:
    effect = sum(term.weight * float(term.sample.values[0]) for term in terms)
    inside = step.region.lower < effect < step.region.upper
    sizes = [len(term.sample.values) for term in terms]
    p_for, p_against = (0.0, 1.0) if inside else (1.0, 0.0)
    seeds = (min(sizes), max(sizes))
    return Part(label, effect, effect, effect, p_for, p_against, "none", seeds, step.region, cells)


def _tested(
    label: str, result: Estimate, region: Region, cells: tuple[Cell, ...], alpha: float
) -> Part:
    low, high = result.interval()
    above = {bound: tails(result, bound, alpha=alpha) for bound in region.bounds()}
    inside, outside, test = [], [], ""
    for bound, (p_above, p_below, test) in above.items():  # noqa: B007
        is_lower = bound == region.lower
        inside.append(p_above if is_lower else p_below)
        outside.append(p_below if is_lower else p_above)
    sizes = [len(term.sample.values) for term in result.terms]
    several = result.seeds > 1
    needed = (
        seeds_to_settle(result, region.distance(result.effect), alpha=alpha) if several else None
    )
    return Part(
        label=label,
        effect=result.effect,
        low=low,
        high=high,
        p_for=max(inside),
        p_against=min(outside),
        test=test,
        seeds=(min(sizes), max(sizes)),
        region=region,
        cells=cells,
        seed_variance=result.seed_variance if several else None,
        image_variance=result.image_variance if several else None,
        detectable=detectable(result.standard_error, result.df, alpha=alpha) if several else None,
        seeds_needed=needed,
    )


def _per_class(step: _Step, bench: _Bench) -> tuple[ClassDifference, ...]:
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
    )


def _correlated(
    claim: Correlate, label: str, combinations: Sequence[dict[str, list[Cell]]], bench: _Bench
) -> Part:
    """Return the correlation in one cell, or pooled over data sets where several are averaged.

    Models on one data set share its classes: their IoUs are averaged first, then data sets pooled.
    """
    cells = [cell for sides in combinations for group in sides.values() for cell in group]
    by_dataset: dict[str, list[Cell]] = {}
    for cell in cells:
        by_dataset.setdefault(cell.axes.get("dataset", ""), []).append(cell)
    result: RankCorrelation = rank_correlation(
        list(by_dataset.values()),
        claim.by,
        claim.classes,
        resamples=bench.samples.resamples,
        seed=bench.samples.seed,
    )
    region = _region(claim)
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
        note=f"over {result.num_classes} classes",
    )
