"""What a design can find: smallest detectable effect, seeds that would settle, the top-up rule.

The top-up rule (`segbench run --settle`). Looking at the data, adding seeds where a claim is
undecided and looking again is several tests, not one. So the number of looks and the seeds at each
are fixed before the first (`settle_schedule`), and every look spends the same part of the error:
with three looks each tests at 5 % / 3, after Holm's correction over the claims. Whatever is stopped
or continued in between, the chance of a false verdict at any look stays below 5 % (union bound); a
claim that the last look could hardly decide may be given up early, which only lowers it.
Units are those of the effect. Knows nothing of claims.
"""

import bisect
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from segbench.metrics.counts import Floats
from segbench.statistics.inference import MIN_SEEDS, Errors, Estimate

ALPHA = 0.05
POWER = 0.8
SETTLE_LOOKS = 3
_RUNS = 20_000  # made up to see how often a design finds an effect; 80 % is known to 0.3 %
MOST_SEEDS = 100  # beyond this the answer is 'not by seeds'


class Spread(NamedTuple):
    """What a comparison of two cells has to overcome, in the unit of the metric.

    seed_sd: standard deviation over seeds of one cell. image_sd: standard error that the choice of
    images gives to the difference of two cells; image_df: degrees of freedom that it is known with,
    few where few images carry the figure, infinite where it is stated.
    """

    seed_sd: float
    image_sd: float = 0.0
    image_df: float = math.inf


# Of mean IoU in points: public threads show 0.1 to 2 over seeds; two methods on VOC's 1449 images
# differ by about 0.3 from one drawing of images to the next.
STATED_SPREAD = Spread(seed_sd=0.7, image_sd=0.3)


def power_of_each(parts: int, *, two_sided_region: bool = False) -> float:
    """Return the power that each of several parts needs, for 80 % that all are shown at once.

    The parts are taken as independent, which asks too much of each, not too little. Between two
    bounds (an equivalence) an effect in the middle must be shown to lie inside of both, so each of
    the two one-sided tests may miss in half of the rest (Schuirmann, J. Pharmacokinet. Biopharm.
    1987).
    """
    each = POWER ** (1 / max(1, parts))
    return (1 + each) / 2 if two_sided_region else each


def errors_of(result: Estimate, seeds: int | None = None) -> Errors:
    """Return the errors of an effect, or what they would be with so many seeds in each cell."""
    if seeds is None:
        return result.errors
    variances, dfs = result.of_seeds
    then = tuple(v * (df + 1) / seeds for v, df in zip(variances, dfs, strict=True))
    return Errors((*then, result.image_variance), (*[seeds - 1.0] * len(then), result.image_df))


def minimum_detectable_effect(
    spread: Spread,
    seeds: int,
    *,
    squared_weights: Sequence[float] = (1.0, 1.0),
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """Return the distance from the margin that is found with this power, infinite below 2 seeds.

    squared_weights: of the independent sides of the effect; two cells compared have 1 and 1.
    """
    if seeds < 2:
        return math.inf
    variances = [weight * spread.seed_sd**2 / seeds for weight in squared_weights]
    errors = Errors(
        (*variances, spread.image_sd**2), (*[seeds - 1.0] * len(variances), spread.image_df)
    )
    return detectable(errors, alpha=alpha, power=power)


def detectable(errors: Errors, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest distance that a two-sided Welch test at `alpha` finds with this power.

    The test knows its variances and its df from the same few seeds, so both are drawn: the df of
    the true variances promises more than few seeds find. Infinite where a variance is not known, as
    that of images of one group.
    """
    if not errors.are_known():
        return math.inf
    if sum(errors.variances) == 0:
        return 0.0
    return float(np.quantile(_found_from(errors, alpha), power))


def power_at(distance: float, errors: Errors, *, alpha: float = ALPHA) -> float:
    """Return in how many of the cases the test finds an effect at this distance."""
    if not errors.are_known():
        return 0.0
    if sum(errors.variances) == 0:
        return float(distance > 0)
    return float(np.mean(_found_from(errors, alpha) < distance))


@functools.lru_cache(maxsize=64)  # a large sweep asks the same of hundreds of combinations
def _found_from(errors: Errors, alpha: float) -> Floats:
    """Return (B,) from which distance on the test finds the effect, in each of B made-up runs."""
    rng = np.random.default_rng(4)
    noise = rng.normal(0.0, math.sqrt(sum(errors.variances)), _RUNS)
    seen = np.stack(
        [
            np.full(_RUNS, v) if math.isinf(df) else v * rng.chisquare(df, _RUNS) / df
            for v, df in zip(errors.variances, errors.dfs, strict=True)
        ]
    )
    total = seen.sum(axis=0)
    with np.errstate(divide="ignore"):  # where all variances are known, degrees are endless
        df = total**2 / sum(own**2 / df for own, df in zip(seen, errors.dfs, strict=True))
    return stats.t.isf(alpha / 2, df) * np.sqrt(total) - noise


def detectable_correlation(
    sizes: Sequence[int], bound: float = 0.0, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest distance above `bound` at which a rank correlation is told from it.

    sizes: classes of each sample of classes, pooled by Fisher's z; they set the limit. Infinite with
    no sample of more than three classes, and where even a perfect order is too likely by chance:
    one of all orders, in which a relation is told from none.
    Source: Fieller, Hartley, Pearson, Tests for rank correlation coefficients I, 1957: the inverse
    hyperbolic tangent of Spearman's coefficient has variance 1.06 / (n - 3).
    """
    free = sum(max(size - 3, 0) for size in sizes)
    orders = math.prod(map(math.factorial, sizes))
    if free == 0 or (bound == 0 and 2 / orders > alpha):
        return math.inf
    quantiles = stats.norm.isf(alpha / 2) + stats.norm.ppf(power)
    reached = math.atanh(bound) + quantiles * math.sqrt(1.06 / free)
    return math.tanh(reached) - bound


def seeds_to_settle(
    result: Estimate, distance: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return how many seeds each cell needs if the effect is as it looks, or None.

    distance: from the effect to the bound that is in doubt. None: no number of seeds up to 100
    does it, because the images (or the closeness to the bound) set the limit.
    """
    first = max(MIN_SEEDS, result.seeds)

    def is_enough(seeds: int) -> bool:
        return power_at(distance, errors_of(result, seeds), alpha=alpha) >= power

    if not is_enough(MOST_SEEDS):
        return None
    return bisect.bisect_left(range(first, MOST_SEEDS), True, key=is_enough) + first


def image_limit(result: Estimate, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest distance that any number of seeds would find on these images."""
    asked = {"alpha": alpha, "power": power}
    endless = Errors((result.image_variance,), (result.image_df,))
    now = detectable(errors_of(result), **asked) if result.seeds > 1 else math.inf
    return min(detectable(endless, **asked), now)


def settle_schedule(planned: int) -> tuple[int, ...]:
    """Return the seeds of a cell at each look: 5, 8, 13 for five planned."""
    return tuple(math.ceil(planned * 1.6**look) for look in range(SETTLE_LOOKS))
