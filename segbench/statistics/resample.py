"""A check on the influences: draw images and seeds with replacement and recompute the metric.

A draw is a row of weights (how often each image was drawn); weights @ counts are the summed counts
of that draw for all models at once. Equal images and an equal seed give equal draws, whatever else
is asked for, so models on the same images are paired by construction.

The plain hierarchical bootstrap (draw seeds, draw images, recompute) is wrong in three known ways
with few seeds, and each draw is corrected for them:
1. n seeds drawn from n have (n - 1)/n of the variance: seed deviations grow by sqrt(n / (n - 1)).
2. the interaction is in the spread over seeds already and comes in again with the images: image
   deviations shrink by its share, estimated from the draws (two-way analysis of variance).
3. the spread is itself estimated from n seeds: each draw is divided by sqrt(chi2_df / df) with the
   degrees of freedom of the estimate, so that normal deviations become t-distributed.
Letters: n seeds, N images, C classes, K models, B draws, b draws in a chunk. Knows nothing of claims.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics import metric_named
from segbench.metrics.counts import Floats
from segbench.metrics.metric import ResampledMetric, Scored
from segbench.statistics.inference import LEVEL, Estimate

_CHUNK = 500  # draws; 500 x 5000 weights are 10 MB
_BLOCK_BYTES = 512 * 2**20  # of count columns held as float32 at a time


def image_draws(
    models: Sequence[Scored], metric: str, *, resamples: int, seed: int
) -> ResampledMetric:
    """Return the metric of models that were scored on the same images, in every draw of images."""
    if len({model.counts.images for model in models}) != 1:
        raise ValueError("models that share draws must have been scored on the same images")
    classes = models[0].counts.tp.shape[1]
    per_block = max(1, _BLOCK_BYTES // (8 * len(models[0].counts.tp) * classes))
    blocks = [
        _block_draws(models[start : start + per_block], metric, resamples, seed)
        for start in range(0, len(models), per_block)
    ]
    return ResampledMetric(
        np.concatenate([b.values for b in blocks]), float(np.mean([b.dropped for b in blocks]))
    )


def image_weights(images: str, num_images: int, *, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield (b, N) float32 weights, each row a draw of N out of N images with replacement."""
    rng = np.random.default_rng([seed, int(images, 16)])
    even = np.full(num_images, 1 / num_images)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        yield rng.multinomial(num_images, even, size=size).astype(np.float32)


def _block_draws(
    models: Sequence[Scored], metric: str, resamples: int, seed: int
) -> ResampledMetric:
    counts = models[0].counts
    chunks = image_weights(counts.images, len(counts.names), resamples=resamples, seed=seed)
    return metric_named(metric).draws([model.compared() for model in models], chunks)


def resampled_interval(
    result: Estimate,
    cells: Sequence[Sequence[Scored]],
    metric: str,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    scale: float = 100.0,
) -> tuple[float, float]:
    """Return the percentile interval of the effect, each draw corrected as the module says.

    cells: the seeds of each of the estimate's terms, all on the same images, taken as independent of
    each other. scale: of the values, 100 for per cent.
    """
    rng = np.random.default_rng([seed, 1])
    models = [model for cell in cells for model in cell]
    ends = np.cumsum([len(cell) for cell in cells])[:-1]
    drawn = scale * image_draws(models, metric, resamples=resamples, seed=seed).values  # (K, B)
    of_sides: dict[bool, list[tuple[Floats, Floats]]] = {}
    for term, own in zip(result.terms, np.split(drawn, ends), strict=True):
        weighed = term.weight * term.sample.values, term.weight * own.astype(np.float64)
        of_sides.setdefault(result.paired or term.weight > 0, []).append(weighed)
    images, seeds, interaction = np.zeros(resamples), np.zeros(resamples), 0.0
    for weighed in of_sides.values():
        values, own = (np.sum(parts, axis=0) for parts in zip(*weighed, strict=True))
        n = len(values)
        images += own.mean(axis=0)
        if result.seeds > 1:
            interaction += float((own - own.mean(1, keepdims=True)).var(0, ddof=1).mean()) / n
            picked = values[rng.integers(n, size=(resamples, n))].mean(axis=1)
            seeds += np.sqrt(n / (n - 1)) * (picked - values.mean())
    images -= images.mean()
    variance = float(images.var(ddof=1))
    kept = max(0.0, variance - interaction) / variance if variance else 0.0
    spread = np.random.default_rng([seed, 2]).chisquare(result.df, resamples) / result.df
    deviations = (seeds + images * np.sqrt(kept)) / np.sqrt(spread)
    low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return result.effect + float(low), result.effect + float(high)
