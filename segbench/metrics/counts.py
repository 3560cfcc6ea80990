"""Per-image pixel counts, and every figure that is read off their sums.

All figures are fractions in [0, 1], computed in float64 from exact integer sums.
`class_indices` narrows the means of a figure to these classes; empty means all.
Letters: N images, C classes. Knows nothing of resampling, trials or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.files import digest

AbsentClass = Literal["skip", "zero", "skip_unlabelled"]
Blank = Literal["", "one_class", "no_better"]
Floats = NDArray[np.floating]
WORST_SHARE = 0.1  # of the images, for `worst_images_iou`


@dataclass(frozen=True, eq=False)
class Counts:
    """What one model gave on one split: for each image and class three pixel counts.

    tp, label, pred: (N, C) integers: rightly predicted, labelled, and predicted pixels. `pred` sees
    labelled pixels alone; a prediction outside the classes is in `label` and in no `pred`.
    names: (N,) the images' names; counts with equal names are compared image by image.
    foreground: the class that figures of single images score where there are two classes.
    """

    tp: NDArray[np.integer]
    label: NDArray[np.integer]
    pred: NDArray[np.integer]
    names: Sequence[str]
    foreground: int = 1

    def __post_init__(self) -> None:
        shapes = {self.tp.shape, self.label.shape, self.pred.shape}
        if len(shapes) != 1 or self.tp.ndim != 2 or len(self.names) != len(self.tp):
            raise ValueError(
                f"tp, label and pred must be (N, C) arrays with N names, but have shapes "
                f"{self.tp.shape}, {self.label.shape}, {self.pred.shape} and "
                f"{len(self.names)} names"
            )
        if (
            (self.tp > self.label).any()
            or (self.tp > self.pred).any()
            or self.tp.min(initial=0) < 0
        ):
            raise ValueError(
                "tp must lie between 0 and both label and pred for every image and class"
            )

    @cached_property
    def images(self) -> str:
        """The digest of the images' names in their order."""
        return digest(list(map(str, self.names)), length=16)

    @cached_property
    def sums(self) -> "Sums":
        """The counts of the whole split."""
        return Sums(
            *(part.sum(axis=0, dtype=np.int64) for part in (self.tp, self.label, self.pred))
        )


class Counted(NamedTuple):
    """All that is counted of one model on one split; `as_counts` is the part that figures need.

    names: (N,). tp, label, pred: (N, C) int64 pixels; label[n, c] are the labelled pixels of class
    c, pred[n, c] the labelled pixels predicted as c (with the protocol's `void: false_positive` also
    the unlabelled ones), tp[n, c] those in both. confusion: (C, C + 1) int64, label by prediction;
    the last column holds predictions outside the classes. boundary: (3, N, C), tp, label and pred of
    boundary pixels alone, where the protocol scores them.
    """

    names: tuple[str, ...]
    tp: NDArray[np.int64]
    label: NDArray[np.int64]
    pred: NDArray[np.int64]
    confusion: NDArray[np.int64]
    boundary: NDArray[np.int64] | None = None

    def in_labelled_images(self) -> "Counted":
        """Return the counts without predictions of a class in images whose label lacks the class.

        Source: the KTH study's metric, which runs over the classes of each label. The confusion matrix
        still has all predictions.
        """
        return self._replace(pred=self.pred * (self.label > 0))

    def as_counts(self, background: int | None = None) -> Counts:
        """Return what figures and statistics are computed from; background: its class, if any."""
        return Counts(self.tp, self.label, self.pred, self.names, foreground_of(background))


def foreground_of(background: int | None) -> int:
    """Return which of two classes is the foreground: 1, or 0 where the card calls 1 background."""
    return 0 if background == 1 else 1


@dataclass(frozen=True, eq=False)
class Sums:
    """Counts summed over images: three (C,) integer arrays, named as in `Counts`."""

    tp: NDArray[np.integer]
    label: NDArray[np.integer]
    pred: NDArray[np.integer]

    @property
    def union(self) -> NDArray[np.integer]:
        """(C,) pixels labelled or predicted as the class."""
        return self.label + self.pred - self.tp


def kept_classes(
    sums: Sums, absent_class: AbsentClass, class_indices: Sequence[int] = ()
) -> NDArray[np.bool_]:
    """Return (C,) which classes enter the means under the protocol's rule for absent classes.

    skip: those with label or predicted pixels. skip_unlabelled: those with label pixels. zero: all.
    """
    kept = {
        "skip": sums.union > 0,
        "skip_unlabelled": sums.label > 0,
        "zero": np.ones(len(sums.tp), dtype=bool),
    }[absent_class]
    return kept & _chosen(len(sums.tp), class_indices)


def per_class_iou(sums: Sums, absent_class: AbsentClass = "skip") -> NDArray[np.float64]:
    """Return (C,) IoU, NaN for a class that the rule leaves out of the mean."""
    iou = _ratio(sums.tp, sums.union)
    return np.where(kept_classes(sums, absent_class), iou, np.nan)


def mean_iou(
    sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> float:
    """Return the mean over classes of the IoU of summed counts (the field's mean IoU, mIoU-D)."""
    return _mean(_ratio(sums.tp, sums.union)[kept_classes(sums, absent_class, class_indices)])


def why_blank(
    sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> Blank:
    """Return how a model's predictions show that it did not learn, empty where they do not.

    `one_class`: it predicts one class alone. `no_better`: its mean IoU is at most a tenth of a point
    above that of the largest class everywhere. Labels of one class alone tell nothing.
    """
    if np.count_nonzero(sums.label) < 2:
        return ""
    if np.count_nonzero(sums.pred) < 2:
        return "one_class"
    largest = np.arange(len(sums.label)) == sums.label.argmax()
    constant = Sums(largest * sums.label, sums.label, largest * sums.label.sum())
    # under `skip` a class that is predicted and never labelled would lower one of the two alone
    rule: AbsentClass = "zero" if absent_class == "zero" else "skip_unlabelled"
    reached, least = (mean_iou(each, rule, class_indices) for each in (sums, constant))
    return "no_better" if reached <= least + 0.001 else ""


def mean_accuracy(
    sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> float:
    """Return the mean over classes of the share of label pixels that are found.

    A class without label pixels has no accuracy and is left out, or is 0 under the rule `zero`.
    """
    rule: AbsentClass = "zero" if absent_class == "zero" else "skip_unlabelled"
    return _mean(_ratio(sums.tp, sums.label)[kept_classes(sums, rule, class_indices)])


def pixel_accuracy(sums: Sums) -> float:
    """Return the share of labelled pixels that are right."""
    return float(_ratio(sums.tp.sum(), sums.label.sum(), empty=np.nan))


def frequency_weighted_iou(sums: Sums) -> float:
    """Return the IoU averaged with the share of label pixels as weight."""
    weighted = (_ratio(sums.tp, sums.union) * sums.label).sum()
    return float(_ratio(weighted, sums.label.sum(), empty=np.nan))


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
        there = (counts.label.sum(axis=1, keepdims=True) > 0) & _chosen(2, [own])
        return np.where(there, _ratio(counts.tp, union, empty=1.0), np.nan)
    there = (counts.label > 0) & _chosen(counts.label.shape[1], class_indices)
    return np.where(there, _ratio(counts.tp, union), np.nan)


def per_image_iou(counts: Counts, class_indices: Sequence[int] = ()) -> Floats:
    """Return (N,) the mean over the classes that count in an image, NaN for one without any."""
    ious = image_ious(counts, class_indices)
    return _ratio(np.nansum(ious, axis=1), (~np.isnan(ious)).sum(axis=1), empty=np.nan)


def mean_iou_per_image(counts: Counts, class_indices: Sequence[int] = ()) -> float:
    """Return mIoU-I: the mean over images of `per_image_iou`. Source: as `image_ious`."""
    return _mean(per_image_iou(counts, class_indices))


def mean_iou_per_class(counts: Counts, class_indices: Sequence[int] = ()) -> float:
    """Return mIoU-C: over images first, for each class, then over the classes that occur."""
    ious = image_ious(counts, class_indices)
    return _mean(_ratio(np.nansum(ious, axis=0), (~np.isnan(ious)).sum(axis=0), empty=np.nan))


def worst_images_iou(
    counts: Counts, class_indices: Sequence[int] = (), share: float = WORST_SHARE
) -> float:
    """Return mIoU-I over the `share` of images with the lowest `per_image_iou`, at least one."""
    return _mean_of_worst(per_image_iou(counts, class_indices), share)


def worst_class_images_iou(
    counts: Counts, class_indices: Sequence[int] = (), share: float = WORST_SHARE
) -> float:
    """Return mIoU-C over the worst `share` of each class's own images, at least one for each."""
    columns = image_ious(counts, class_indices).T
    return _mean(np.array([_mean_of_worst(column, share) for column in columns]))


def figures(
    counts: Counts, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> dict[str, float]:
    """Return every figure by name, NaN where nothing was labelled."""
    sums, chosen = counts.sums, class_indices
    return {
        "mean_iou": mean_iou(sums, absent_class, chosen),
        "pixel_accuracy": pixel_accuracy(sums),
        "mean_accuracy": mean_accuracy(sums, absent_class, chosen),
        "frequency_weighted_iou": frequency_weighted_iou(sums),
        "mean_iou_per_image": mean_iou_per_image(counts, chosen),
        "mean_iou_per_class": mean_iou_per_class(counts, chosen),
        "worst_images_iou": worst_images_iou(counts, chosen),
        "worst_class_images_iou": worst_class_images_iou(counts, chosen),
    }


def _chosen(num_classes: int, class_indices: Sequence[int]) -> NDArray[np.bool_]:
    chosen = np.zeros(num_classes, dtype=bool)
    chosen[list(class_indices) or slice(None)] = True
    return chosen


def _ratio(above: NDArray | np.number, below: NDArray | np.number, empty: float = 0.0) -> Floats:
    """Return above / below in float64, `empty` where below is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full_like(below, empty), where=below != 0)


def _mean_of_worst(values: Floats, share: float) -> float:
    known = np.sort(values[~np.isnan(values)])
    return _mean(known[: max(1, int(share * len(known)))])


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
