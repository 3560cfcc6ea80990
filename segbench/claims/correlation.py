"""Rank correlation between how much of a class there was to train on and its IoU.

Spearman's rho within each data set; over several data sets Fisher's z is averaged with weights
C - 3, so that differences between data sets do not pass for a relation between classes. There a
perfect order of C classes counts as halfway to the next one, or few classes would outweigh many. The
interval draws classes and seeds with replacement; p at 0 comes from permuting classes within data
sets. Data sets of the same classes (one that is thinned in several ways) draw and permute them
together: a class that is easy in one is easy in all, so they are one sample of classes and not many.
Letters: C classes, B draws, n seeds. Knows nothing of claims.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segbench.metrics.counts import Floats, kept_classes, per_class_iou
from segbench.statistics.inference import LEVEL
from segbench.statistics.observations import ObservedCell

INTERVAL_RESAMPLES = 2_000  # ranking is slow, and an interval needs no far tail


@dataclass(frozen=True, eq=False)
class RankCorrelation:
    """sizes: classes of each sample of classes. draws: (2000,) rho in draws of classes and seeds.

    null: (B,) with classes permuted.
    """

    rho: float
    sizes: tuple[int, ...]
    draws: Floats
    null: Floats

    @property
    def num_classes(self) -> int:
        """Classes of all samples together."""
        return sum(self.sizes)

    def interval(self) -> tuple[float, float]:
        """Return the percentile interval."""
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(self.draws, [tail, 100 - tail])
        return float(low), float(high)

    def tails(self, bound: float) -> tuple[float, float]:
        """Return one-sided p for above and below the bound, (r + 1) / (B + 1)."""
        near, far = (self.null, self.rho) if bound == 0 else (-self.draws, -bound)
        above = (np.count_nonzero(near >= far - 1e-12) + 1) / (len(near) + 1)
        below = (np.count_nonzero(near <= far + 1e-12) + 1) / (len(near) + 1)
        return float(above), float(below)


def rank_correlation(
    datasets: Sequence[Sequence[ObservedCell]],
    by: str,
    classes: Sequence[str] = (),
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> RankCorrelation:
    """Return the correlation over the classes of each data set's cells, pooled over data sets."""
    rng = np.random.default_rng([seed, 3])
    found, sizes = [], []
    times: dict[tuple[int, ...], NDArray[np.int64]] = {}
    samples: dict[tuple[str, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for cells in datasets:
        names, amount, ious = _amount_and_ious(cells, by, classes)  # (C,), (cells, n, C), any n
        if names not in samples:
            every = np.broadcast_to(np.arange(len(names)), (resamples, len(names)))
            samples[names] = (
                rng.integers(len(names), size=(INTERVAL_RESAMPLES, len(names))),
                rng.permuted(every, axis=1),
            )
        picked, order = samples[names]
        mean = np.mean([own.mean(axis=0) for own in ious], axis=0)
        for cell in cells:  # a seed is drawn or not for all cells: they share its order of the data
            if cell.seeds not in times:
                times[cell.seeds] = _times_drawn(len(cell.seeds), rng)
        drawn = np.mean(
            [times[c.seeds] @ own / len(own) for c, own in zip(cells, ious, strict=True)], axis=0
        )  # (B, C)
        in_draws = spearman(amount[picked], np.take_along_axis(drawn, picked, axis=1))
        at_random = _shuffled(amount, mean, order)
        found.append((spearman(amount[None], mean[None]), in_draws, at_random))
        sizes.append(len(names))
    rho, draws, null = (_pooled(values, sizes) for values in zip(*found, strict=True))
    return RankCorrelation(float(rho[0]), tuple(map(len, samples)), draws, null)


def spearman(left: Floats, right: Floats) -> Floats:
    """Return (B,) Spearman's rho of the rows of two (B, C) arrays, 0 where one is constant."""
    a, b = (stats.rankdata(side, axis=1) for side in (left, right))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(norm == 0, 1, norm)


def _times_drawn(seeds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (B, n) how often each of n seeds is drawn, with replacement."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=INTERVAL_RESAMPLES)


def _shuffled(left: Floats, right: Floats, order: NDArray[np.int64]) -> Floats:
    """Return (B,) rho with the classes of one side in these orders (B, C): ranks stay ranks."""
    a, b = (stats.rankdata(side) for side in (left, right))
    a, b = a - a.mean(), b - b.mean()
    return b[order] @ a / max(np.sqrt((a @ a) * (b @ b)), 1e-300)


def _pooled(rhos: Sequence[Floats], sizes: Sequence[int]) -> Floats:
    """Return (B,) the rhos of data sets with so many classes, averaged by Fisher's z."""
    if len(rhos) == 1:
        return rhos[0]
    ceilings = [
        1 - 6 / max(size**3 - size, 12) for size in sizes
    ]  # one exchange costs twice 6 / ...
    z = [np.arctanh(np.clip(r, -top, top)) for r, top in zip(rhos, ceilings, strict=True)]
    return np.tanh(np.average(z, axis=0, weights=[max(1, size - 3) for size in sizes]))


def _amount_and_ious(
    cells: Sequence[ObservedCell], by: str, classes: Sequence[str]
) -> tuple[tuple[str, ...], Floats, Sequence[Floats]]:
    """Return names, (C,) training amounts and each cell's (n, C) IoUs, of the labelled classes."""
    first = cells[0].observations[0]
    kept = kept_classes(first.counts.sums, "skip_unlabelled", first.class_indices)
    if classes:
        kept = kept & np.isin(list(first.class_names), list(classes))
    ious = [
        np.stack([per_class_iou(one.counts.sums, "zero")[kept] for one in cell.observations])
        for cell in cells
    ]
    names = tuple(name for name, is_kept in zip(first.class_names, kept, strict=True) if is_kept)
    return names, np.asarray(getattr(first, by), dtype=np.float64)[kept], ious
