"""Counts of predictions that are arrays, for other people's loops and notebooks. No torch here."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segbench.errors import DataError
from segbench.metrics.counts import Counts
from segbench.metrics.pixels import pixel_counts

IGNORE_INDEX = 255


def counts_of_arrays(
    predictions: Iterable[Any],
    labels: Iterable[Any],
    num_classes: int,
    *,
    names: Sequence[str] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Counts:
    """Return the pixel counts of pairs of integer maps, an image each.

    predictions and labels: arrays (or what numpy makes arrays of) of one shape for each image, of class
    indices 0 to num_classes - 1. Pixels with label `ignore_index` count nowhere; a prediction that is
    no class on a labelled pixel is a false negative. names: of the images, by which results are
    paired; numbers where left out.

    Raises:
        DataError: shapes differ, a label is no class, or there are more of one than of the other.
    """
    rows: list[NDArray[np.int64]] = []
    try:
        for prediction, label in zip(predictions, labels, strict=True):
            where = names[len(rows)] if names is not None and len(rows) < len(names) else len(rows)
            rows.append(
                _count(np.asarray(prediction), np.asarray(label), num_classes, ignore_index, where)
            )
    except ValueError as error:  # zip's
        raise DataError(f"predictions and labels are not equally many: {error}") from error
    if names is not None and len(names) != len(rows):
        raise DataError(f"names: {len(names)} given for {len(rows)} images")
    if not rows:
        raise DataError("there is no image to score")
    tp, label_pixels, predicted = np.stack(rows, axis=1)
    known = tuple(map(str, range(len(rows)) if names is None else names))
    return Counts(tp, label_pixels, predicted, known)


def _count(
    prediction: NDArray, label: NDArray, num_classes: int, ignore_index: int, name: str | int
) -> NDArray[np.int64]:
    """Return (3, C): pixels in both, labelled and predicted, of one image."""
    for what, values in (("prediction", prediction), ("label", label)):
        if values.dtype.kind not in "iub":
            raise DataError(
                f"image {name}: the {what} holds {values.dtype}; give class indices as integers"
            )
    try:
        table = pixel_counts(prediction, label, num_classes, ignore_index=ignore_index)[:-1]
    except ValueError as error:
        raise DataError(f"image {name}: {error}") from error
    return np.stack([table.diagonal(), table.sum(1), table[:, :-1].sum(0)])
