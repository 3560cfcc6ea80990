"""What metrics of single images share: the IoU of each class in each image, and means of those.

Letters: N images, C classes, K models, b draws in a chunk.
"""

from collections.abc import Sequence

import numpy as np

from segbench.metrics.counts import Counts, Floats, chosen_classes, mean_of, ratio

WORST_SHARE = 0.1  # of the images


def image_ious(counts: Counts, class_indices: Sequence[int] = ()) -> Floats:
    """Return (N, C) the IoU of each class in each image, NaN where the class does not count there.

    A class counts in an image if it is labelled there. Of two classes the foreground alone counts,
    in every image with a labelled pixel: 1 where it is neither labelled nor predicted. If one class
    is chosen, that one is the foreground.
    Source: Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023
    Datasets and Benchmarks; two classes: the authors' code, JDTLosses, metrics/miouic_metric.py.
    """
    union = counts.label.astype(np.int64) + counts.pred - counts.tp
    if counts.label.shape[1] == 2:
        own = class_indices[0] if len(class_indices) == 1 else counts.foreground
        there = (counts.label.sum(axis=1, keepdims=True) > 0) & chosen_classes(2, [own])
        return np.where(there, ratio(counts.tp, union, empty=1.0), np.nan)
    there = (counts.label > 0) & chosen_classes(counts.label.shape[1], class_indices)
    return np.where(there, ratio(counts.tp, union), np.nan)


def per_image_iou(counts: Counts, class_indices: Sequence[int] = ()) -> Floats:
    """Return (N,) the mean over the classes that count in an image, NaN for one without any."""
    ious = image_ious(counts, class_indices)
    return ratio(np.nansum(ious, axis=1), (~np.isnan(ious)).sum(axis=1), empty=np.nan)


def means_left_out(values: Floats) -> Floats:
    """Return (N,) the mean over columns of the mean of each column without one image.

    values: (N, 1) or (N, C), NaN where an image has none; a column without images leaves the mean.
    """
    known = ~np.isnan(values)
    images = known.sum(axis=0) - known  # (N, 1 or C) that are left
    means = (np.nansum(values, axis=0) - np.nan_to_num(values)) / np.maximum(images, 1)
    return (means * (images > 0)).sum(axis=1) / np.maximum((images > 0).sum(axis=1), 1)


def mean_of_worst(values: Floats, share: float = WORST_SHARE) -> float:
    """Return the mean of the lowest `share` of the values that are there, at least of one."""
    known = np.sort(values[~np.isnan(values)])
    return mean_of(known[: max(1, int(share * len(known)))])


def influences_of_worst(values: Floats, share: float = WORST_SHARE) -> Floats:
    """Return (N, ...) what each image adds to `mean_of_worst` of each column; see `Metric.influences`.

    values: (N,) or (N, C), NaN where an image has none. Which image is left out says little here, as
    the next worst takes its place. So this is the influence of a trimmed mean: an image outside of
    the share counts as the nearest outside of it.
    Source: Tukey and McLaughlin, Less vulnerable confidence and significance procedures, Sankhya 1963.
    """
    known = ~np.isnan(values)
    ranked = np.sort(values, axis=0)  # NaN last
    there = known.sum(axis=0, keepdims=True)
    taken = np.maximum(1, (share * there).astype(np.int64))
    nearest = np.take_along_axis(ranked, np.minimum(taken, np.maximum(there - 1, 0)), axis=0)
    lowered = np.where(known, np.minimum(np.nan_to_num(values), nearest), 0.0)
    mean = lowered.sum(axis=0, keepdims=True) / np.maximum(there, 1)
    return np.where(known, lowered - mean, 0.0) / taken


def drawn_means_of_worst(values: Floats, weights: Floats, share: float = WORST_SHARE) -> Floats:
    """Return (b,) `mean_of_worst` in each draw, 0 in a draw of no image with a value.

    values: (N,), NaN where an image has none. weights: (b, N), how often each image was drawn.
    """
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    drawn = weights[:, order]
    wanted = np.maximum(1, np.floor(share * drawn.sum(1, keepdims=True)))
    # Of the images sorted from worst to best, as many as fit into the share.
    taken = np.minimum(drawn, np.maximum(0, wanted - (drawn.cumsum(1) - drawn)))
    return (taken @ values[order].astype(np.float32)) / wanted[:, 0]
