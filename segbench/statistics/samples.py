"""From counts to what effects are made of: a cell's values, and what each image adds to them.

Letters: n seeds, N images, C classes. Knows nothing of claims.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segbench.metrics import metric_named
from segbench.metrics.counts import Floats, per_class_iou
from segbench.metrics.metric import Scored
from segbench.metrics.of_sums import sums_left_out
from segbench.statistics.inference import SeedSample


def point(scored: Scored, metric: str) -> float:
    """Return the metric on the split as it is, a fraction."""
    return metric_named(metric).value(scored.compared())


def sample_of(
    seeds: Sequence[Scored], metric: str, *, groups: Sequence[str] = (), scale: float = 100.0
) -> SeedSample:
    """Return the sample of a cell, its seeds all scored on the same images.

    groups: the name of each image's group, empty where images are independent. scale: of the values,
    100 for per cent.
    """
    own = metric_named(metric)
    return SeedSample(
        np.array([scale * point(seed, metric) for seed in seeds]),
        np.stack([scale * own.influences(seed.compared()) for seed in seeds]),
        seeds[0].counts.images,
        group_numbers(groups),
    )


def group_numbers(groups: Sequence[str]) -> NDArray[np.int64] | None:
    """Return (N,) a number for the group of each image, None without groups."""
    return np.unique(np.asarray(groups), return_inverse=True)[1] if len(groups) else None


def class_influences(scored: Scored) -> Floats:
    """Return (N, C) what each image adds to the IoU of each class; see `Metric.influences`."""
    sums = sums_left_out(scored.counts)
    without = sums.tp / np.maximum(sums.union, 1)
    return (without.mean(axis=0) - without) * (len(without) - 1) / len(without)


def class_ious(scored: Scored) -> NDArray[np.float64]:
    """Return (C,) the IoU of each class, 0 where it is neither labelled nor predicted."""
    return per_class_iou(scored.counts.sums, "zero")
