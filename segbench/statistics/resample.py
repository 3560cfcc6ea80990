"""Draw images with replacement and recompute a metric from the counts of each draw.

A draw is a row of weights (how often each image was drawn); weights @ counts are the summed counts
of that draw for all models at once. Equal images and an equal seed give equal draws, whatever else
is asked for, so models on the same images are paired by construction.
Letters: N images, C classes, K models, B draws, b draws in a chunk. Knows nothing of claims.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segbench.metrics import metric_named
from segbench.metrics.counts import Floats
from segbench.metrics.metric import ResampledMetric, Scored
from segbench.metrics.of_sums import Columns
from segbench.statistics.inference import SeedSample

_CHUNK = 500  # draws; 500 x 5000 weights are 10 MB
_BLOCK_BYTES = 512 * 2**20  # of count columns held as float32 at a time


def point(scored: Scored, metric: str) -> float:
    """Return the metric on the split as it is, a fraction."""
    return metric_named(metric).value(scored.compared())


def left_out(models: Sequence[Scored], metric: str) -> Floats | None:
    """Return (K, N) the metric without one image each, None where it is not smooth.

    A class that loses its last label pixels with the image leaves the mean, as in `image_draws`.
    """
    own = metric_named(metric)
    return np.stack([own.left_out(model.compared()) for model in models]) if own.is_smooth else None


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


def samples_of(
    cells: Sequence[Sequence[Scored]],
    metric: str,
    *,
    resamples: int,
    seed: int,
    scale: float = 100.0,
) -> tuple[list[SeedSample], float]:
    """Return the sample of each cell, and how many classes a draw of images lacks on average.

    cells: the seeds of each, all scored on the same images; they share the draws. scale: of the
    values, 100 for per cent.
    """
    models = [model for cell in cells for model in cell]
    ends = np.cumsum([len(cell) for cell in cells])[:-1]
    values = scale * np.array([point(model, metric) for model in models])
    drawn = image_draws(models, metric, resamples=resamples, seed=seed)
    without = left_out(models, metric)
    each_left_out = [None] * len(cells) if without is None else np.split(scale * without, ends)
    parts = (np.split(values, ends), np.split(scale * drawn.values, ends), each_left_out)
    images = models[0].counts.images
    return [SeedSample(*own, images) for own in zip(*parts, strict=True)], drawn.dropped


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


def iou_draws(
    models: Sequence[Scored], *, resamples: int, seed: int
) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Yield for each chunk of draws (b, K, C) IoUs and whether the class has label pixels there."""
    counts = models[0].counts
    columns = Columns(models, above=lambda sums: sums.tp, below=lambda sums: sums.union)
    for weights in image_weights(counts.images, len(counts.names), resamples=resamples, seed=seed):
        yield columns.ratios(weights)
