"""Counts of pixels for each image and class, their sums, and which classes enter a mean.

`class_indices` narrows means to these classes; empty means all. Letters: N images, C classes.
Knows nothing of metrics, trials or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.files import digest

AbsentClass = Literal["skip", "zero", "skip_unlabelled"]
Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Counts:
    """What one model gave on one split: for each image and class three pixel counts.

    tp, label, pred: (N, C) integers: rightly predicted, labelled, and predicted pixels. `pred` sees
    labelled pixels alone; a prediction outside the classes is in `label` and in no `pred`.
    names: (N,) the images' names; counts with equal names are compared image by image.
    foreground: the class that metrics of single images score where there are two classes.
    boundary: the counts of boundary pixels alone, where the protocol counts them.
    """

    tp: NDArray[np.integer]
    label: NDArray[np.integer]
    pred: NDArray[np.integer]
    names: Sequence[str]
    foreground: int = 1
    boundary: "Counts | None" = None

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

    def of_images(self, rows: NDArray[np.integer]) -> "Counts":
        """Return the counts of the images at these places, in this order; one may stand twice."""
        return replace(
            self,
            **{key: getattr(self, key)[rows] for key in ("tp", "label", "pred")},
            names=[self.names[row] for row in rows],
            boundary=None if self.boundary is None else self.boundary.of_images(rows),
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
    """All that is counted of one model on one split; `as_counts` is the part that metrics need.

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
        """Return what metrics and statistics are computed from; background: its class, if any."""
        foreground = foreground_of(background)
        boundary = None
        if self.boundary is not None:
            tp, label, pred = self.boundary
            boundary = Counts(tp, label, pred, self.names, foreground)
        return Counts(self.tp, self.label, self.pred, self.names, foreground, boundary)


def foreground_of(background: int | None) -> int:
    """Return which of two classes is the foreground: 1, or 0 where the card calls 1 background."""
    return 0 if background == 1 else 1


@dataclass(frozen=True, eq=False)
class Sums:
    """Pixels of each class, (C,) summed over images or (..., C) of parts; named as in `Counts`."""

    tp: NDArray
    label: NDArray
    pred: NDArray

    @property
    def union(self) -> NDArray:
        """Pixels labelled or predicted as the class."""
        return self.label + self.pred - self.tp


def labelled_alone(absent_class: AbsentClass) -> AbsentClass:
    """Return the rule that leaves out every class without label pixels, or counts it as 0.

    Comparisons follow it, and shares of label pixels: under `skip` a single pixel that one model
    alone predicts would bring a class into its mean and not into the other's, so that the difference
    would be one of class sets.
    """
    return "zero" if absent_class == "zero" else "skip_unlabelled"


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
    return kept & chosen_classes(len(sums.tp), class_indices)


def per_class_iou(sums: Sums, absent_class: AbsentClass = "skip") -> NDArray[np.float64]:
    """Return (C,) IoU, NaN for a class that the rule leaves out of the mean."""
    iou = ratio(sums.tp, sums.union)
    return np.where(kept_classes(sums, absent_class), iou, np.nan)


def chosen_classes(num_classes: int, class_indices: Sequence[int]) -> NDArray[np.bool_]:
    """Return (C,) which classes are meant."""
    chosen = np.zeros(num_classes, dtype=bool)
    chosen[list(class_indices) or slice(None)] = True
    return chosen


def ratio(above: NDArray | np.number, below: NDArray | np.number, empty: float = 0.0) -> Floats:
    """Return above / below in float64, `empty` where below is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full_like(below, empty), where=below != 0)


def mean_of(values: Floats) -> float:
    """Return the mean of the values that are there, NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
