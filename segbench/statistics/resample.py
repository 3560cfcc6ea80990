"""Draw images with replacement and recompute a figure from the counts of each draw.

A draw is a row of weights (how often each image was drawn); weights @ counts are the summed counts
of that draw for all models at once. Equal images and an equal seed give equal draws, whatever else
is asked for, so models on the same images are paired by construction.
Letters: N images, C classes, K models, B draws, b draws in a chunk. Knows nothing of claims.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.metrics import counts as figure
from segbench.metrics.counts import AbsentClass, Counts, Floats
from segbench.statistics.inference import Sample

_CHUNK = 500  # draws; 500 x 5000 weights are 10 MB
_BLOCK_BYTES = 512 * 2**20  # of count columns held as float32 at a time


class Scored(NamedTuple):
    """The counts of one model, and the rules that its figures follow."""

    counts: Counts
    absent_class: AbsentClass = "skip"
    class_indices: tuple[int, ...] = ()


class Draws(NamedTuple):
    """A figure in every draw of images.

    values: (K, B) float32 fractions. dropped: the mean number of classes for each draw that had
    label pixels in the split and none in the draw; they leave the means of all models alike.
    """

    values: NDArray[np.float32]
    dropped: float


def point(scored: Scored, metric: str) -> float:
    """Return the figure on the split as it is, a fraction."""
    sums, rule = scored.counts.sums, _rule(scored)
    if metric == "mean_iou":
        return figure.mean_iou(sums, rule, scored.class_indices)
    if metric == "mean_accuracy":
        return figure.mean_accuracy(sums, rule, scored.class_indices)
    if metric in {"pixel_accuracy", "frequency_weighted_iou"}:
        return getattr(figure, metric)(sums)
    return getattr(figure, metric)(scored.counts, scored.class_indices)


def _rule(scored: Scored) -> AbsentClass:
    """Return the rule for absent classes in comparisons: those labelled, or all.

    Under `skip` a single pixel that one model alone predicts would bring a class into its mean and
    not into the other's: the difference would be one of class sets.
    """
    return "zero" if scored.absent_class == "zero" else "skip_unlabelled"


def left_out(models: Sequence[Scored], metric: str) -> Floats | None:
    """Return (K, N) the figure without one image each, None for a figure of the worst images.

    A class that loses its last label pixels with the image leaves the mean, as in `image_draws`.
    """
    if metric in {"mean_iou_per_image", "mean_iou_per_class"}:
        return np.stack([_means_left_out(model, metric) for model in models])
    if metric in {"mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"}:
        return np.stack([_ratios_left_out(model, metric) for model in models])
    return None


def _ratios_left_out(model: Scored, metric: str) -> Floats:
    counts, sums = model.counts, model.counts.sums
    tp, label, pred = (
        whole - own.astype(np.float64)
        for whole, own in (
            (sums.tp, counts.tp), (sums.label, counts.label), (sums.pred, counts.pred)
        )
    )  # (N, C) each  # fmt: skip
    below = label if metric in {"mean_accuracy", "pixel_accuracy"} else label + pred - tp
    if metric == "pixel_accuracy":
        return tp.sum(axis=1) / np.maximum(label.sum(axis=1), 1)
    ratio = tp / np.maximum(below, 1)
    if metric == "frequency_weighted_iou":
        return (ratio * label).sum(axis=1) / np.maximum(label.sum(axis=1), 1)
    entering = _kept(model) & ((label > 0) | (sums.label == 0))
    return (ratio * entering).sum(axis=1) / np.maximum(entering.sum(axis=1), 1)


def _means_left_out(model: Scored, metric: str) -> Floats:
    if metric == "mean_iou_per_image":
        values = figure.per_image_iou(model.counts, model.class_indices)[:, None]  # (N, 1)
    else:
        values = figure.image_ious(model.counts, model.class_indices)  # (N, C)
    known = ~np.isnan(values)
    images = known.sum(axis=0) - known  # (N, 1 or C) that are left
    means = (np.nansum(values, axis=0) - np.nan_to_num(values)) / np.maximum(images, 1)
    return (means * (images > 0)).sum(axis=1) / np.maximum((images > 0).sum(axis=1), 1)


def image_draws(models: Sequence[Scored], metric: str, *, resamples: int, seed: int) -> Draws:
    """Return the metric of models that were scored on the same images, in every draw of images."""
    if len({model.counts.images for model in models}) != 1:
        raise ValueError("models that share draws must have been scored on the same images")
    classes = models[0].counts.tp.shape[1]
    per_block = max(1, _BLOCK_BYTES // (8 * len(models[0].counts.tp) * classes))
    blocks = [
        _block_draws(models[start : start + per_block], metric, resamples, seed)
        for start in range(0, len(models), per_block)
    ]
    return Draws(
        np.concatenate([b.values for b in blocks]), float(np.mean([b.dropped for b in blocks]))
    )


def samples_of(
    cells: Sequence[Sequence[Scored]],
    metric: str,
    *,
    resamples: int,
    seed: int,
    scale: float = 100.0,
) -> tuple[list[Sample], float]:
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
    return [Sample(*own, images) for own in zip(*parts, strict=True)], drawn.dropped


def image_weights(images: str, num_images: int, *, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield (b, N) float32 weights, each row a draw of N out of N images with replacement."""
    rng = np.random.default_rng([seed, int(images, 16)])
    even = np.full(num_images, 1 / num_images)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        yield rng.multinomial(num_images, even, size=size).astype(np.float32)


def _block_draws(models: Sequence[Scored], metric: str, resamples: int, seed: int) -> Draws:
    counts = models[0].counts
    chunks = image_weights(counts.images, len(counts.names), resamples=resamples, seed=seed)
    if metric == "mean_iou_per_image":
        return Draws(_means_of_images(models, chunks), 0.0)
    if metric == "worst_images_iou":
        return Draws(_means_of_worst(models, chunks), 0.0)
    if metric == "mean_iou_per_class":
        return _means_of_classes(models, chunks)
    if metric in {"mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"}:
        return _ratios_of_sums(models, metric, chunks)
    raise ValueError(f"no figure {metric!r} can be recomputed from counts")


def iou_draws(
    models: Sequence[Scored], *, resamples: int, seed: int
) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Yield for each chunk of draws (b, K, C) IoUs and whether the class has label pixels there."""
    counts = models[0].counts
    columns = _Columns(models, "mean_iou")
    for weights in image_weights(counts.images, len(counts.names), resamples=resamples, seed=seed):
        yield columns.summed(weights)


class _Columns:
    """The count columns of K models side by side, for one matrix product with the weights."""

    def __init__(self, models: Sequence[Scored], metric: str) -> None:
        self.shape = (len(models), models[0].counts.tp.shape[1])  # (K, C)
        self.shared_label = all(
            np.array_equal(model.counts.label, models[0].counts.label) for model in models[1:]
        )
        labelled = models[:1] if self.shared_label else models
        below = {
            "mean_accuracy": lambda c: c.label,
            "pixel_accuracy": lambda c: c.label,
        }.get(metric, lambda c: c.label.astype(np.int64) + c.pred - c.tp)
        self.table = np.concatenate(
            [
                *(model.counts.tp.astype(np.float32) for model in models),
                *(below(model.counts).astype(np.float32) for model in models),
                *(model.counts.label.astype(np.float32) for model in labelled),
            ],
            axis=1,
        )  # (N, 2 K C + labels)

    def sums(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return tp and denominators (b, K, C), and label pixels, (b, 1, C) where shared."""
        models, classes = self.shape
        summed = weights @ self.table
        split = models * classes
        return (
            summed[:, :split].reshape(-1, models, classes),
            summed[:, split : 2 * split].reshape(-1, models, classes),
            summed[:, 2 * split :].reshape(len(weights), -1, classes),
        )

    def summed(self, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return (b, K, C) ratios, 0 where 0/0, and which classes are there, (b, 1 or K, C)."""
        above, below, label = self.sums(weights)
        return above / np.maximum(below, 1), label > 0


def _ratios_of_sums(models: Sequence[Scored], metric: str, chunks: Iterator[Floats]) -> Draws:
    columns = _Columns(models, metric)
    kept = np.stack([_kept(model) for model in models])  # (K, C)
    labelled = np.stack([model.counts.sums.label > 0 for model in models])
    values, empty, dropped = [], [], 0
    for weights in chunks:
        if metric in {"mean_iou", "mean_accuracy"}:
            ratio, present = columns.summed(weights)
            # A class of the split that this draw missed is 0/0: it says nothing of any model.
            entering = kept & (present | ~labelled)
            values.append((ratio * entering).sum(2) / np.maximum(entering.sum(2), 1))
            empty.append((~entering.any(axis=2)).any(axis=-1))
            dropped += int((kept & ~entering).sum()) / len(models)
        else:
            above, below, label = columns.sums(weights)
            share = label / np.maximum(label.sum(2, keepdims=True), 1)
            per_class = above / np.maximum(below, 1)
            values.append(
                above.sum(2) / np.maximum(below.sum(2), 1)
                if metric == "pixel_accuracy"
                else (per_class * share).sum(2)
            )
    joined = np.concatenate(values).T.astype(np.float32)
    if empty:
        _replace_draws(joined, np.concatenate(empty))
    return Draws(joined, dropped / joined.shape[1])


def _replace_draws(values: Floats, without: NDArray[np.bool_]) -> None:
    """Put draws that have some of the classes in place of those that have none: as if redrawn."""
    having = np.flatnonzero(~without)
    if len(having):
        lacking = np.flatnonzero(without)
        values[:, lacking] = values[:, having[np.arange(len(lacking)) % len(having)]]


def _kept(model: Scored) -> NDArray[np.bool_]:
    return figure.kept_classes(model.counts.sums, _rule(model), model.class_indices)


def _means_of_images(models: Sequence[Scored], chunks: Iterator[Floats]) -> NDArray[np.float32]:
    values = np.stack(
        [figure.per_image_iou(model.counts, model.class_indices) for model in models], axis=1
    )  # (N, K)
    known = (~np.isnan(values)).astype(np.float32)
    filled = np.nan_to_num(values).astype(np.float32)
    means = [(weights @ filled) / (weights @ known) for weights in chunks]  # (b, K) each
    return np.concatenate(means).T.astype(np.float32)


def _means_of_worst(models: Sequence[Scored], chunks: Iterator[Floats]) -> NDArray[np.float32]:
    values = [figure.per_image_iou(model.counts, model.class_indices) for model in models]
    orders = [np.argsort(v)[: int((~np.isnan(v)).sum())] for v in values]
    rows = []
    for weights in chunks:
        row = []
        for value, order in zip(values, orders, strict=True):
            drawn = weights[:, order]
            wanted = np.maximum(1, np.floor(figure.WORST_SHARE * drawn.sum(1, keepdims=True)))
            # Of the images sorted from worst to best, as many as fit into the share.
            taken = np.minimum(drawn, np.maximum(0, wanted - (drawn.cumsum(1) - drawn)))
            row.append((taken @ value[order].astype(np.float32)) / wanted[:, 0])
        rows.append(np.stack(row, axis=1))
    return np.concatenate(rows).T.astype(np.float32)


def _means_of_classes(models: Sequence[Scored], chunks: Iterator[Floats]) -> Draws:
    values = np.stack(
        [figure.image_ious(model.counts, model.class_indices) for model in models], axis=1
    )  # (N, K, C)
    shape = values.shape[1:]
    flat = np.nan_to_num(values).reshape(len(values), -1).astype(np.float32)
    known = (~np.isnan(values)).reshape(len(values), -1).astype(np.float32)
    occurs = known.any(axis=0).reshape(shape)
    rows, dropped = [], 0
    for weights in chunks:
        images = (weights @ known).reshape(-1, *shape)
        ratio = (weights @ flat).reshape(-1, *shape) / np.maximum(images, 1)
        rows.append(ratio.sum(2) / np.maximum((images > 0).sum(2), 1))
        dropped += int((occurs & (images == 0)).sum()) / len(models)
    joined = np.concatenate(rows).T.astype(np.float32)
    return Draws(joined, dropped / joined.shape[1])
