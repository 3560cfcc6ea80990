"""Before launch: what each claim could show. After a look: which cells deserve more seeds.

Spreads are stated or measured; see `power.py` for the rule that keeps the error rate while seeds
are added. A planned sweep is laid out like results, cell by cell, so that a claim compares the same
cells with the same weights before and after. Units are points for figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from segbench.claims.cells import judgements
from segbench.claims.kinds import is_count, kind_of, usable
from segbench.claims.rules import NEWEST
from segbench.claims.verdict import Verdict
from segbench.metrics.counts import Counts
from segbench.schema.claims import AnyClaim, Fact, MeasuredClaim, is_fact
from segbench.schema.sweep import Plan
from segbench.statistics.inference import MIN_SEEDS, Estimate, sides_of
from segbench.statistics.observations import Observation, ObservedCell, cells_of
from segbench.statistics.power import (
    ALPHA,
    STATED_SPREAD,
    Spread,
    minimum_detectable_effect,
    power_of_each,
)


@dataclass(frozen=True)
class PlannedClaim:
    """A claim before launch.

    detectable: the smallest distance from the margin that is found with 80 % power in all of its
    combinations at once, in the unit of the claim (points, points per doubling, rank correlation);
    for `equivalent` and `value` the narrowest band that an effect in its middle is shown to lie in.
    None where the spread is unknown.
    warning: empty, or why the claim cannot be decided as planned. spread: what it was computed
    from, None where no spread enters; is_measured: it was measured on this claim or its like. sides:
    `paired` or `independent`, empty where no two sides are compared by seeds.
    """

    claim: AnyClaim
    detectable: float | None
    warning: str = ""
    spread: Spread | None = None
    is_measured: bool = False
    sides: str = ""


def planned_cells(plan: Plan) -> list[ObservedCell]:
    """Return the cells that results will have, without results; of facts only classes are known."""
    unknown = dict.fromkeys(get_args(Fact), math.nan)
    none = np.zeros((0, 1), dtype=np.int64)
    nothing = Counts(none, none, none, ())
    on_boundary = replace(nothing, boundary=nothing)
    protocols = plan.experiment.evaluate
    datasets = [cell.trial.dataset for cell in plan.cells if cell.trial]
    scored = [protocol.dataset for protocol in protocols.values() if protocol.dataset]
    names = {key: card.class_names for key, card in {id(c): c for c in datasets + scored}.items()}
    return cells_of(
        [
            Observation(
                cell.axes,
                name,
                cell.seed,
                nothing if protocol.boundary is None else on_boundary,
                names[id(protocol.scored_card(cell.trial.dataset))],
                facts={**unknown, "num_classes": len(names[id(cell.trial.dataset)])},
                training_pixels=_NONE_YET,
                training_images=_NONE_YET,
                code=protocol.code,
            )
            for cell in plan.cells
            if cell.trial is not None
            for name, protocol in protocols.items()
        ]
    )


_NONE_YET = np.zeros(0)


def plan_claims(
    claims: Sequence[AnyClaim],
    cells: Sequence[ObservedCell],
    *,
    spread: Spread = STATED_SPREAD,
    measured: Sequence[tuple[AnyClaim, Spread]] = (),
    looks: int = 1,
) -> tuple[PlannedClaim, ...]:
    """Return what each claim could show with the seeds that these cells have.

    measured: what earlier verdicts saw (`measured_spreads`); it goes before `spread` for the claim
    itself, else for claims on the same figure over the same classes.
    Holm's strictest level is taken for all, so a claim may turn out easier than said. Cells that are
    averaged are taken to move together over seeds, as heads of one trunk nearly do, and seeds of one
    training that is scored in two ways as independent: both say too much, not too little.
    """
    family = sum(not is_count(claim) for claim in claims)
    alpha = ALPHA / looks / max(1, family)
    planned = []
    for claim in claims:
        seen = _measured_for(claim, measured)
        known = spread if seen is None else seen
        planned.append(replace(_planned(claim, cells, known, alpha), sides=_sides(claim, cells)))
        metric = kind_of(claim).metric(claim)
        enters = metric is not None and not is_fact(metric)
        if enters and planned[-1].detectable is not None:
            planned[-1] = replace(planned[-1], spread=known, is_measured=seen is not None)
    return tuple(planned)


def _measured_for(claim: AnyClaim, measured: Sequence[tuple[AnyClaim, Spread]]) -> Spread | None:
    """Return the spread seen on the claim, else the widest of claims on the same figure, else None."""
    metric = kind_of(claim).metric(claim)
    if metric is None:
        return None
    own = [spread for one, spread in measured if one == claim]
    alike = [
        spread
        for one, spread in measured
        if (kind_of(one).metric(one), one.classes) == (metric, claim.classes)
    ]
    chosen = own or alike
    return max(chosen, key=_hardness) if chosen else None


def _hardness(spread: Spread) -> float:
    """Return what orders spreads by how much they hide: a claim needs its hardest combination."""
    return minimum_detectable_effect(spread, MIN_SEEDS)


def _planned(
    claim: AnyClaim, cells: Sequence[ObservedCell], spread: Spread, alpha: float
) -> PlannedClaim:
    compared, missing = usable(claim, cells)
    kind = kind_of(claim)
    steps = [
        step
        for _, combinations in judgements(claim, compared)
        for step in kind.effects(claim, combinations)
    ]
    missing += [step.problem for step in steps if step.problem]
    sound = [step for step in steps if not step.problem]
    power = power_of_each(len(sound), two_sided_region=kind.is_band(claim))
    found = [kind.smallest_found(claim, s, spread, alpha=alpha, power=power) for s in sound]
    if kind.is_count(claim):
        return PlannedClaim(claim, 0.0, _lacks(missing))
    seeds = min((len(cell.seeds) for cell in compared), default=0)
    needed = NEWEST.seeds_needed(claim)
    if 0 < seeds < needed:
        return PlannedClaim(
            claim,
            None,
            f"can never be decided with {seeds} seed{'s' * (seeds > 1)}: a verdict on a method "
            f"takes at least {needed} (--seeds {needed} or more)",
        )
    known = [value for value in found if value is not None]
    largest = max(known) if known and len(known) == len(found) else None
    warning = _lacks(missing) or _too_wide(claim, largest, seeds, alpha)
    return PlannedClaim(claim, None if largest == math.inf else largest, warning)


def _sides(claim: AnyClaim, cells: Sequence[ObservedCell]) -> str:
    """Return how the sides of a claim's effects are compared over seeds."""
    if not isinstance(claim, MeasuredClaim) or is_fact(claim.metric):
        return ""
    kind = kind_of(claim)
    found = {
        "paired" if NEWEST.is_paired(claim, step) else "independent": None
        for _, combinations in judgements(claim, usable(claim, cells)[0])
        for step in kind.effects(claim, combinations)
        if len({weight > 0 for weight, _ in step.weights}) > 1
    }
    return " and ".join(found)


def _lacks(missing: Sequence[str]) -> str:
    return f"can never hold as planned: {missing[0]}" if missing else ""


def _too_wide(claim: AnyClaim, found: float | None, seeds: int, alpha: float) -> str:
    kind = kind_of(claim)
    if kind.too_few and found == math.inf:
        return (
            f"can never be decided: {kind.too_few}, for p is held against {100 * alpha:.2g} % in this "
            "file"
        )
    region = kind.region(claim)
    width = (region.upper - region.lower) / 2  # infinite but for a band
    if found is None or found <= width:
        return ""
    return (
        f"can hardly hold with {seeds} seeds: the smallest band that can be shown is about "
        f"{found:.2f} points, the claim asks for {width:g}"
    )


@dataclass(frozen=True)
class WantedSeeds:
    """A cell that needs more seeds: its axes without the protocol, and how many in all."""

    axes: dict[str, str]
    seeds_now: int
    seeds_next: int
    claims: tuple[str, ...]


@dataclass(frozen=True)
class SettlePlan:
    """What `run --settle` does next. given_up: sentences on claims that seeds will not settle."""

    top_ups: tuple[WantedSeeds, ...]
    given_up: tuple[str, ...]


def settle_plan(verdicts: Sequence[Verdict], schedule: Sequence[int]) -> SettlePlan:
    """Return which cells get seeds up to the next look; schedule: a cell's seeds at each look.

    Raises:
        ValueError: a verdict was judged at another level than so many looks ask for.
    """
    looks = len(schedule)
    wanted: dict[str, tuple[ObservedCell, list[str]]] = {}
    given_up = []
    for verdict in verdicts:
        if not math.isclose(verdict.alpha, ALPHA / looks):
            raise ValueError(
                f"verdicts were judged at {verdict.alpha:g}, but {looks} looks need "
                f"{ALPHA / looks:g}; call judge(..., looks={looks})"
            )
        if not _is_open(verdict):
            continue
        if why := _hopeless(verdict, schedule):
            given_up.append(f"{verdict.claim.says}: {why}")
            continue
        unclear = [part for part in verdict.judged if part.leaning == "unclear"]
        for part in unclear or verdict.judged:
            for cell in part.cells:
                says = wanted.setdefault(cell.training, (cell, []))[1]
                says.append(verdict.claim.says)
    return SettlePlan(_top_ups(wanted, schedule), tuple(given_up))


def with_settle_note(verdict: Verdict, schedule: Sequence[int]) -> Verdict:
    """Return the verdict with a note where `--settle` with these looks gives it no more seeds."""
    why = _hopeless(verdict, schedule) if schedule and _is_open(verdict) else ""
    if not why:
        return verdict
    return replace(verdict, notes=(*verdict.notes, f"--settle gives it no more seeds: {why}."))


def _is_open(verdict: Verdict) -> bool:
    return verdict.outcome == "undecided" and bool(verdict.parts)


def _hopeless(verdict: Verdict, schedule: Sequence[int]) -> str:
    if not verdict.judged:
        return "the cells that it compares did not learn"
    if limit := kind_of(verdict.claim).limit:
        return f"more seeds cannot settle it, {limit}"
    if min(part.seeds[0] for part in verdict.parts) < verdict.seeds_asked:
        return ""
    needed = verdict.seeds_needed
    if needed is None:
        return "no number of seeds settles it"
    if needed > 2 * schedule[-1]:
        return f"it would take about {needed} seeds, the last look has {schedule[-1]}"
    return ""


def _top_ups(
    wanted: dict[str, tuple[ObservedCell, list[str]]], schedule: Sequence[int]
) -> tuple[WantedSeeds, ...]:
    top_ups = []
    for cell, says in wanted.values():
        now = len(cell.seeds)
        following = next((seeds for seeds in schedule if seeds > now), None)
        if following is not None:
            axes = {axis: value for axis, value in cell.axes.items() if axis != "protocol"}
            top_ups.append(WantedSeeds(axes, now, following, tuple(dict.fromkeys(says))))
    return tuple(top_ups)


def measured_spreads(verdicts: Sequence[Verdict]) -> list[tuple[AnyClaim, Spread]]:
    """Return the spreads in points that earlier verdicts saw, claim by claim.

    As of two cells, each with several seeds, whatever the weights in an average; of a claim's
    combinations the one that hides most. Trends have another unit, published figures no second cell:
    none.
    """
    found = []
    for verdict in verdicts:
        parts = [
            _spread_of(part.estimate)
            for part in verdict.parts
            if part.estimate is not None and part.estimate.seeds > 1
        ]
        draws_images = kind_of(verdict.claim).draws_images(verdict.claim)
        if parts and verdict.unit == "points" and draws_images:
            found.append((verdict.claim, max(parts, key=_hardness)))
    return found


def _spread_of(result: Estimate) -> Spread:
    """Return the spreads of one cell over seeds, and of two cells over images.

    Sides that are paired have half the variance of their difference each, as if they were apart.
    """
    sides: dict[int, float] = {}
    of_trainings = sides_of([(term.weight, term.training) for term in result.terms])
    for term in result.terms:
        side = of_trainings[term.training]
        sides[side] = sides.get(side, 0.0) + abs(term.weight)
    seeds = min(len(term.sample.values) for term in result.terms)
    return Spread(
        math.sqrt(result.seed_variance * seeds / sum(total**2 for total in sides.values())),
        math.sqrt(result.image_variance * 2 / sum(term.weight**2 for term in result.terms)),
        result.image_df,
    )
