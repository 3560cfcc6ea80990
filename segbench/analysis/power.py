"""What a design can find: smallest detectable effect, seeds that would settle, the top-up rule.

The top-up rule (`segbench run --settle`). Looking at the data, adding seeds where a claim is
undecided and looking again is several tests, not one. So the number of looks and the seeds at each
are fixed before the first (`settle_schedule`), and every look spends the same part of the error:
with three looks each tests at 5 % / 3, after Holm's correction over the claims. Whatever is stopped
or continued in between, the chance of a false verdict at any look stays below 5 % (union bound); a
claim that the last look could hardly decide may be given up early, which only lowers it.
Units are those of the effect. Knows nothing of claims.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import optimize, stats

from segbench.analysis.inference import MIN_SEEDS, Estimate, satterthwaite, seed_values

ALPHA = 0.05
POWER = 0.8
SETTLE_LOOKS = 3
_LARGE_DF = 1e6  # scipy's noncentral t needs a finite one
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


def minimum_detectable_effect(
    spread: Spread,
    seeds: int,
    *,
    squared_weights: Sequence[float] = (1.0, 1.0),
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """Return the distance from the margin that is found with this power, infinite below 2 seeds.

    squared_weights: of the independent cells in the effect; two cells compared have 1 and 1.
    """
    if seeds < 2:
        return math.inf
    variances = [weight * spread.seed_sd**2 / seeds for weight in squared_weights]
    return detectable(
        math.sqrt(sum(variances) + spread.image_sd**2),
        satterthwaite(
            [*variances, spread.image_sd**2],
            [seeds - 1.0] * len(variances) + [spread.image_df],
        ),
        alpha=alpha,
        power=power,
    )


def detectable(
    standard_error: float, df: float, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest distance that a two-sided t test at `alpha` finds with this power."""
    if standard_error == 0:
        return 0.0
    found = optimize.root_scalar(lambda ratio: _power(ratio, df, alpha) - power, bracket=(0.0, 1e4))
    return found.root * standard_error


def _power(ratio: float, df: float, alpha: float) -> float:
    """Return the power at a distance of `ratio` standard errors, on the right side."""
    df = min(df, _LARGE_DF)
    return float(stats.nct.sf(stats.t.isf(alpha / 2, df), df, ratio))


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
    per_seed = [float(values.var(ddof=1)) for values in seed_values(result.terms)]
    for seeds in range(max(MIN_SEEDS, result.seeds), MOST_SEEDS + 1):
        variances = [variance / seeds for variance in per_seed]
        error = math.sqrt(sum(variances) + result.image_variance)
        dfs = [seeds - 1.0] * len(variances) + [result.image_df]
        df = satterthwaite([*variances, result.image_variance], dfs)
        if error == 0:
            return seeds if distance > 0 else None
        if _power(distance / error, df, alpha) >= power:
            return seeds
    return None


def settle_schedule(planned: int, looks: int = SETTLE_LOOKS) -> tuple[int, ...]:
    """Return the seeds of a cell at each look: 5, 8, 13 for five planned and three looks."""
    return tuple(math.ceil(planned * 1.6**look) for look in range(looks))
