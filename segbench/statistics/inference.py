"""The effect of a contrast between cells, with an interval and p values that know seeds and images.

The model behind it: the figure of cell k and seed s on a set of images is
    cell mean + seed effect + image effect + interaction,
seeds are drawn anew for each side of the effect, images are shared by cells scored on the same
names. The effect is a weighted sum of cell means, each the mean over seeds of the figure of summed
counts.

A seed's number decides the order of the data for every cell, so cells that are averaged move
together, and their mean varies more than that of independent ones. So what stands on one side of the
effect is summed seed by seed and varies as a whole, whatever the correlation. The two sides are
independent, or paired seed by seed where the caller says so: a matter of the design, to be settled
before anybody looks. Independent sides whose seeds go together are found to differ too seldom, and
sides whose seeds go against each other too often.

Nothing is drawn at random. What an image adds to an effect is the weighted sum of what it adds to
each model's figure (`Metric.influences`), so every effect is a dot product of the same few vectors:
1. the variance over seeds is that of the sums of a side, s^2 / n, with n - 1 degrees of freedom;
2. that over images is the jackknife's, N / (N - 1) times the sum of squared influences, less what
   seeds show of it already: how much their own influences differ;
3. images of one group (a drive, a patient) are no independent witnesses: influences are summed over
   a group before they are squared, and groups are counted instead of images;
4. the variances are themselves estimated, so that the interval is Student's with the degrees of
   freedom of Welch and Satterthwaite. Few images that carry most of the variance have few degrees.
A hierarchical bootstrap gives the same at many times the cost (`resample.py`, kept as a check).
How often this is wrong: `python benchmarks/calibration.py`, and docs/claims.md.

Letters: n seeds, N images, G groups. Knows nothing of claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segbench.metrics.counts import Floats

LEVEL = 0.95
MIN_SEEDS = 3  # fewer give an interval and no verdict on the method
MIN_GROUPS = 5  # of images; fewer tell nothing of new ones


Target = Literal["mean", "median", "iqm"]  # of seeds; iqm: interquartile mean


def summed_by_group(influences: Floats, groups: NDArray[np.int64]) -> Floats:
    """Return (..., G) the sums over the images of each group, of (..., N)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    return np.add.reduceat(influences[..., order], starts, axis=-1)


def groups_in_words(groups: int, images: int) -> str:
    """Return what a reader must know of images that come in groups."""
    said = f"The {images} images come from {groups} group{'s' * (groups != 1)} and count as so many"
    if groups >= MIN_GROUPS:
        return f"{said}: images of one group are alike."
    return (
        f"{said}: fewer than {MIN_GROUPS} do not show how groups differ, so that nothing can be said "
        "of new images, only of these."
    )


@dataclass(frozen=True, eq=False)
class SeedSample:
    """One cell's values of one metric.

    values: (n,) one for each seed, on all images. influences: (n, N) what each image adds to them
    (`Metric.influences`), or None where images play no part: facts. images: names what was scored;
    cells with the same name are paired image by image. groups: (N,) a number for the group of each
    image, None where images are independent.
    """

    values: Floats
    influences: Floats | None = None
    images: str = ""
    groups: NDArray[np.int64] | None = None

    def of_seeds(self, rows: Sequence[int]) -> "SeedSample":
        """Return the sample of these seeds alone."""
        own = None if self.influences is None else self.influences[rows]
        return replace(self, values=self.values[rows], influences=own)

    def of_groups(self) -> Floats | None:
        """Return (n, G) the influences summed over groups; as they are where there are none."""
        if self.influences is None or self.groups is None:
            return self.influences
        return summed_by_group(self.influences, self.groups)


@dataclass(frozen=True, eq=False)
class Term:
    """A cell with its weight in the effect.

    training: names what was trained; terms that share it are the same weights scored in several
    ways. Cells on one side of the effect have the same seeds in the same order.
    """

    weight: float
    sample: SeedSample
    training: str


class Errors(NamedTuple):
    """The independent variances that a squared standard error adds up from, each with its df."""

    variances: tuple[float, ...]
    dfs: tuple[float, ...]

    def are_known(self) -> bool:
        """Return whether each has degrees of freedom: images of a single group have none."""
        return all(map(math.isfinite, self.variances)) and min(self.dfs, default=1) > 0


@dataclass(frozen=True, eq=False)
class Estimate:
    """An effect and what is known of its error, in the unit of the samples.

    of_seeds: the variance of each side's mean with its degrees of freedom, none with one seed.
    image_variance: what images add; both add up to the squared standard error. image_df: its degrees
    of freedom, infinite where images play no part. seeds: the fewest in a cell; with 1 only images
    vary. num_groups: of images, the fewest of any set of images, None where images are independent.
    paired: whether the two sides were summed seed by seed.
    """

    effect: float
    of_seeds: Errors
    image_variance: float
    image_df: float
    seeds: int
    terms: tuple[Term, ...]
    num_groups: int | None = None
    paired: bool = False

    @property
    def seed_variance(self) -> float:
        """The variance that seeds make."""
        return sum(self.of_seeds.variances)

    @property
    def errors(self) -> Errors:
        """All variances with their degrees of freedom, that of the images last."""
        variances, dfs = self.of_seeds
        return Errors((*variances, self.image_variance), (*dfs, self.image_df))

    @property
    def df(self) -> float:
        """Degrees of freedom of the squared standard error."""
        return satterthwaite(*self.errors)

    @property
    def standard_error(self) -> float:
        """The square root of both variances together."""
        return math.sqrt(self.seed_variance + self.image_variance)

    @property
    def speaks_of_new_images(self) -> bool:
        """Whether there are enough groups of images to know how they differ."""
        return self.num_groups is None or self.num_groups >= MIN_GROUPS

    def on_these_images(self) -> "Estimate":
        """Return the same effect with the error of other seeds on the very images that were scored."""
        return replace(self, image_variance=0.0, image_df=math.inf, num_groups=None)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return Student's interval, the effect alone where nothing varies."""
        error = self.standard_error
        half = error * float(stats.t.isf((1 - level) / 2, self.df)) if error else 0.0
        return self.effect - half, self.effect + half

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of 'the effect is above the bound', by Welch's t."""
        return _t_tail(self.effect - bound, self.standard_error, self.df)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of 'the effect is below the bound'."""
        return _t_tail(bound - self.effect, self.standard_error, self.df)


def estimate(terms: Sequence[Term], *, paired: bool = False, target: Target = "mean") -> Estimate:
    """Return the weighted sum of what the cells reach over seeds.

    paired: whether both sides have the same seeds and go together. target: of the seeds of a side,
    or of their differences where these are paired. With one seed in any cell only images vary, and
    the effect is that of the checkpoints at hand.

    Raises:
        ValueError: cells that are summed seed by seed have other numbers of seeds.
    """
    fewest = min(len(term.sample.values) for term in terms)
    sides = [_side(group, target) for group in _by_side(terms, paired=paired)]
    image_variance, image_df = _image_part(sides, seeds_vary=fewest > 1)
    varying = sides if fewest > 1 else []
    return Estimate(
        effect=sum(float(side.values @ side.weights) for side in sides),
        of_seeds=Errors(
            tuple(side.variance for side in varying), tuple(side.df for side in varying)
        ),
        image_variance=image_variance,
        image_df=image_df,
        seeds=fewest,
        terms=tuple(terms),
        num_groups=_num_groups(terms),
        paired=paired,
    )


class _Side(NamedTuple):
    """What stands on one side of an effect: its sum for each seed, and how seeds are weighed.

    values, weights: (n,). variance, df: of the weighted sum. influences: of each set of images (n, G).
    """

    values: Floats
    weights: Floats
    variance: float
    df: float
    influences: dict[str, Floats]


def _side(terms: Sequence[Term], target: Target) -> _Side:
    values = np.asarray(sum(term.weight * term.sample.values for term in terms), dtype=np.float64)
    influences: dict[str, Floats] = {}
    for term in terms:
        if (own := term.sample.of_groups()) is not None:
            before = influences.get(term.sample.images, 0.0)
            influences[term.sample.images] = before + term.weight * own
    return _Side(values, *centre_of(values, target), influences)


def _image_part(sides: Sequence[_Side], *, seeds_vary: bool) -> tuple[float, float]:
    """Return the variance that images add to that of seeds, and its degrees of freedom.

    The degrees are Satterthwaite's for a sum S of squared influences u^2, 2 S^2 / sum u^4, less 2
    because few images decide it: 2 (k - 1) where k images carry the variance alike, never below 1
    and never above the G - 1 of G groups.
    """
    squares, seen, most = [], 0.0, 0
    for images in dict.fromkeys(name for side in sides for name in side.influences):
        found = [(s.influences[images], s.weights) for s in sides if images in s.influences]
        groups = found[0][0].shape[1]
        if groups < 2:
            return math.inf, 1.0  # how one differs from others cannot be seen
        once_more, most = groups / (groups - 1), most + groups - 1
        squares.append(once_more * np.sum([weights @ own for own, weights in found], axis=0) ** 2)
        if seeds_vary:
            spreads = [float(w @ w) * own.var(axis=0, ddof=1).sum() for own, w in found]
            seen += once_more * float(sum(spreads))
    total = float(sum(own.sum() for own in squares))
    if total == 0:
        return 0.0, math.inf
    carried = total**2 / float(sum((own**2).sum() for own in squares))
    return max(0.0, total - seen), min(max(1.0, 2 * (carried - 1)), float(most))


def centre_of(values: Floats, target: Target) -> tuple[Floats, float, float]:
    """Return (n,) weights of the seeds, the variance of their weighted sum, and its df.

    One seed has no variance. Sources: interquartile mean (a quarter trimmed from each end): Yuen,
    Biometrika 1974; median: Price and Bonett, J. Statist. Comput. Simul. 2001, held against
    Student's t instead of the normal.
    """
    n, order = len(values), np.argsort(values)
    ranked = values[order]
    weights = np.zeros(n)
    if n == 1:
        return np.ones(1), 0.0, math.inf
    if target == "median":
        weights[order[(n - 1) // 2]] += 0.5
        weights[order[n // 2]] += 0.5
        low = max(1, round((n + 1) / 2 - math.sqrt(n)))
        z = float(stats.norm.isf(stats.binom.cdf(low - 1, n, 0.5)))
        return weights, float((ranked[n - low] - ranked[low - 1]) / (2 * z)) ** 2, n - 1.0
    cut = n // 4 if target == "iqm" else 0
    left = n - 2 * cut
    weights[order[cut : n - cut]] = 1 / left
    winsorised = np.clip(values, ranked[cut], ranked[n - cut - 1])
    spread = float(winsorised.var(ddof=1))
    return weights, spread * (n - 1) / (left * (left - 1)), left - 1.0


def sides_of(weights: Sequence[tuple[float, str]]) -> dict[str, int]:
    """Return on which side of the effect each training stands, from (weight, training) pairs.

    1 and -1: what is added and what is subtracted; 0: one that is compared with itself, scored in
    several ways.
    """
    sums: dict[str, list[float]] = {}
    for weight, training in weights:
        sums.setdefault(training, []).append(weight)
    return {
        training: 0 if abs(sum(own)) < 1e-9 * max(map(abs, own), default=0) else _sign(sum(own))
        for training, own in sums.items()
    }


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _by_side(terms: Sequence[Term], *, paired: bool) -> list[list[Term]]:
    """Return the terms that vary together; those of one seed each are the checkpoints at hand."""
    sides = sides_of([(term.weight, term.training) for term in terms])
    groups: dict[int, list[Term]] = {}
    for term in terms:
        groups.setdefault(0 if paired else sides[term.training], []).append(term)
    if any(len({len(term.sample.values) for term in group}) > 1 for group in groups.values()):
        raise ValueError("cells on one side of an effect must have the same seeds")
    return list(groups.values())


def seed_values(terms: Sequence[Term], *, paired: bool = False) -> list[Floats]:
    """Return for each side (n,) what its seeds add to the effect; sides vary apart.

    Raises:
        ValueError: cells that are summed seed by seed have other numbers of seeds.
    """
    return [
        np.asarray(sum(term.weight * term.sample.values for term in group), dtype=np.float64)
        for group in _by_side(terms, paired=paired)
    ]


def _num_groups(terms: Sequence[Term]) -> int | None:
    """Return the groups of the set of images that has fewest, None where no set has any."""
    known = [len(np.unique(term.sample.groups)) for term in terms if term.sample.groups is not None]
    return min(known, default=None)


def satterthwaite(variances: Sequence[float], dfs: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of estimated variances (Welch-Satterthwaite)."""
    total = sum(variances)
    if total == 0:
        return float(sum(dfs))
    if math.isinf(total):
        return 1.0
    return total**2 / sum(v**2 / df for v, df in zip(variances, dfs, strict=True) if v)


def _t_tail(distance: float, error: float, df: float) -> float:
    if error == 0:  # nothing varies: the effect is known
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, df))


def tails(result: Estimate, bound: float) -> tuple[float, float]:
    """Return one-sided p for above and below the bound: Student's t on seeds and images together."""
    return result.p_above(bound), result.p_below(bound)


def name_of_test(result: Estimate) -> str:
    """Return what `tails` is called in reports."""
    if result.seeds == 1:
        return "t over images"
    if len(result.of_seeds.variances) > 1:
        return "Welch"
    return "paired t" if result.paired else "t over seeds"


def direction(result: Estimate, bound: float, *, alpha: float) -> int:
    """Return 1 or -1 where the effect is shown to lie above or below the bound, else 0.

    Two-sided, so that the interval at 1 - alpha says the same.
    """
    above, below = tails(result, bound)
    return int(2 * above <= alpha) - int(2 * below <= alpha)


def holm_counts(p_values: Sequence[float]) -> list[int]:
    """Return how often each p value counts in `holm` before it is held against those below it."""
    order = np.argsort(np.asarray(p_values, dtype=np.float64))
    counts = np.empty(len(order), dtype=np.int64)
    counts[order] = np.arange(len(order), 0, -1)
    return counts.tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for being several.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian J. of Statistics 1979:
    the k-th smallest of n counts n - k + 1 times, and none less than the one before it. Written out
    because statsmodels collects garbage at each call, and a report makes hundreds.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    counted = p * np.asarray(holm_counts(p_values), dtype=np.int64)
    corrected[order] = np.minimum(np.maximum.accumulate(counted[order]), 1.0)
    return corrected.tolist()
