"""Before launch: what each claim could show. After a look: which cells deserve more seeds.

Spreads are stated or measured; see `power.py` for the rule that keeps the error rate while seeds
are added. Units are points for figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segbench.analysis.contrasts import is_count
from segbench.analysis.inference import MIN_SEEDS
from segbench.analysis.observations import Cell
from segbench.analysis.power import (
    ALPHA,
    SETTLE_LOOKS,
    STATED_SPREAD,
    Spread,
    minimum_detectable_effect,
    settle_schedule,
)
from segbench.analysis.verdict import Verdict
from segbench.spec.claims import (
    AnyClaim,
    Correlate,
    Equivalent,
    Trend,
    Value,
    is_fact,
)


@dataclass(frozen=True)
class PlannedClaim:
    """A claim before launch.

    detectable: the smallest distance from the margin, in points, that is found with 80 % power;
    None where the spread is unknown. warning: empty, or why the claim cannot be decided as planned.
    """

    claim: AnyClaim
    detectable: float | None
    warning: str = ""


def plan_claims(
    claims: Sequence[AnyClaim],
    axes: dict[str, tuple[str, ...]],
    seeds: int,
    *,
    spread: Spread = STATED_SPREAD,
    looks: int = 1,
) -> tuple[PlannedClaim, ...]:
    """Return what each claim could show with this many seeds for each cell of the sweep.

    Holm's strictest level is taken for all, so a claim may turn out easier than said.
    """
    family = sum(not is_count(claim) for claim in claims)
    alpha = ALPHA / looks / max(1, family)
    return tuple(_planned(claim, axes, seeds, spread, alpha) for claim in claims)


def _planned(
    claim: AnyClaim, axes: dict[str, tuple[str, ...]], seeds: int, spread: Spread, alpha: float
) -> PlannedClaim:
    if is_count(claim):
        return PlannedClaim(claim, 0.0)
    if seeds < MIN_SEEDS:
        return PlannedClaim(
            claim,
            None,
            f"can never be decided with {seeds} seed{'s' * (seeds > 1)}: a verdict on a method "
            f"takes at least {MIN_SEEDS} (--seeds {MIN_SEEDS} or more)",
        )
    weights = _squared_weights(claim, axes)
    if weights is None:
        return PlannedClaim(claim, None)
    images = 0.0 if isinstance(claim, Value) else spread.image_sd * math.sqrt(sum(weights) / 2)
    found = minimum_detectable_effect(
        Spread(spread.seed_sd, images), seeds, squared_weights=weights, alpha=alpha
    )
    width = claim.margin if isinstance(claim, Equivalent) else math.inf
    width = claim.tolerance if isinstance(claim, Value) else width
    if found > width:
        return PlannedClaim(
            claim,
            found,
            f"can hardly hold with {seeds} seeds: the smallest band that can be shown is about "
            f"{found:.2f} points, the claim asks for {width:g}",
        )
    return PlannedClaim(claim, found)


def _squared_weights(claim: AnyClaim, axes: dict[str, tuple[str, ...]]) -> tuple[float, ...] | None:
    """Return the squared weights of the cells in one judgement, None where it is not in points."""
    if isinstance(claim, Correlate) or is_fact(claim.metric):
        return None
    averaged = _averaged(claim, axes)
    if isinstance(claim, Trend):
        if is_fact(claim.along):
            return None  # the levels are known only from the data sets' cards
        levels = np.array([float(value) for value in axes[claim.along]])
        levels = np.log2(levels) if claim.scale == "log" else levels
        centred = levels - levels.mean()
        return tuple((centred**2 / (centred**2).sum() ** 2 / averaged).tolist())
    sides = 1 if isinstance(claim, Value) else 2
    return (1 / averaged**2,) * (sides * averaged)


def _averaged(claim: AnyClaim, axes: dict[str, tuple[str, ...]]) -> int:
    """Return over how many combinations one judgement averages."""
    fixed = claim.fixed_axes()
    sizes = {
        axis: len(set(values) & set(claim.where.get(axis, values)))
        for axis, values in axes.items()
        if axis not in fixed
    }
    if claim.average:
        return max(1, math.prod(sizes.values()))
    if claim.within is None:
        return 1
    return max(1, math.prod(size for axis, size in sizes.items() if axis not in claim.within))


@dataclass(frozen=True)
class TopUp:
    """A cell that needs more seeds: its axes without the protocol, and how many in all."""

    axes: dict[str, str]
    seeds_now: int
    seeds_next: int
    claims: tuple[str, ...]


@dataclass(frozen=True)
class SettlePlan:
    """What `run --settle` does next. given_up: sentences on claims that seeds will not settle."""

    top_ups: tuple[TopUp, ...]
    given_up: tuple[str, ...]


def settle_plan(
    verdicts: Sequence[Verdict], planned_seeds: int, looks: int = SETTLE_LOOKS
) -> SettlePlan:
    """Return which cells get seeds up to the next look, for verdicts judged with the same `looks`.

    Raises:
        ValueError: a verdict was judged at another level than these looks ask for.
    """
    schedule = settle_schedule(planned_seeds, looks)
    wanted: dict[str, tuple[Cell, list[str]]] = {}
    given_up = []
    for verdict in verdicts:
        if not math.isclose(verdict.alpha, ALPHA / looks):
            raise ValueError(
                f"verdicts were judged at {verdict.alpha:g}, but {looks} looks need "
                f"{ALPHA / looks:g}; call judge(..., looks={looks})"
            )
        if verdict.outcome != "undecided" or not verdict.parts:
            continue
        why = _hopeless(verdict, schedule)
        if why:
            given_up.append(f"{verdict.claim.says}: {why}")
            continue
        unclear = [part for part in verdict.parts if part.leaning == "unclear"]
        for part in unclear or verdict.parts:
            for cell in part.cells:
                says = wanted.setdefault(cell.training, (cell, []))[1]
                says.append(verdict.claim.says)
    return SettlePlan(_top_ups(wanted, schedule), tuple(given_up))


def _hopeless(verdict: Verdict, schedule: Sequence[int]) -> str:
    if isinstance(verdict.claim, Correlate):
        return "more seeds cannot settle it, the number of classes sets the limit"
    if min(part.seeds[0] for part in verdict.parts) < MIN_SEEDS:
        return ""
    needed = verdict.seeds_needed
    if needed is None:
        return "no number of seeds settles it"
    if needed > 2 * schedule[-1]:
        return f"it would take about {needed} seeds, the last look has {schedule[-1]}"
    return ""


def _top_ups(
    wanted: dict[str, tuple[Cell, list[str]]], schedule: Sequence[int]
) -> tuple[TopUp, ...]:
    top_ups = []
    for cell, says in wanted.values():
        now = len(cell.seeds)
        following = next((seeds for seeds in schedule if seeds > now), None)
        if following is not None:
            axes = {axis: value for axis, value in cell.axes.items() if axis != "protocol"}
            top_ups.append(TopUp(axes, now, following, tuple(dict.fromkeys(says))))
    return tuple(top_ups)


def measured_spread(verdicts: Sequence[Verdict]) -> Spread | None:
    """Return the spreads that earlier verdicts in points saw, None where there were too few seeds.

    The seeds' is pooled over the two-sided comparisons, the images' is their root mean square.
    """
    parts = [
        part
        for verdict in verdicts
        if verdict.unit == "points" and not isinstance(verdict.claim, Value)
        for part in verdict.parts
        if part.seed_variance is not None and len(part.cells) == 2
    ]
    if not parts:
        return None
    seed = [(part.seed_variance or 0.0) * part.seeds[0] / 2 for part in parts]
    image = [part.image_variance or 0.0 for part in parts]
    return Spread(float(np.sqrt(np.mean(seed))), float(np.sqrt(np.mean(image))))
