"""Count the pixels of one prediction against its label: all that the other counts are read off.

Letters: C classes. Knows nothing of images, models or torch.
"""

import numpy as np
from numpy.typing import NDArray

# The pixels of a block, and what is made of them, stay in a core's cache.
_BLOCK = 2**16


def pixel_counts(
    prediction: NDArray[np.integer],
    label: NDArray[np.integer],
    num_classes: int,
    *,
    ignore_index: int,
) -> NDArray[np.int64]:
    """Return (C + 1, C + 1) pixels by label and prediction, of integer maps of one shape.

    The last row holds the pixels with label `ignore_index`, the last column predictions of any value
    that is no class.

    Raises:
        ValueError: the shapes differ, or a label is neither a class nor `ignore_index`.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label must have one shape, but have {prediction.shape} and {label.shape}"
        )
    predicted, true = prediction.reshape(-1), label.reshape(-1)
    cells = np.zeros((num_classes + 2) * (num_classes + 1), dtype=np.int64)

    def rows_of(values: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = _classes_or(num_classes, values)
        rows[values == ignore_index] = num_classes + 1
        return rows * (num_classes + 1)

    rows_of_bytes = rows_of(np.arange(256))
    for start in range(0, len(true), _BLOCK):
        block = slice(start, start + _BLOCK)
        values = true[block]
        is_bytes = values.dtype == np.uint8
        places = rows_of_bytes.take(values) if is_bytes else rows_of(values.astype(np.int64))
        places += _classes_or(num_classes, predicted[block].astype(np.int64))
        cells += np.bincount(places, minlength=len(cells))
    table = cells.reshape(num_classes + 2, num_classes + 1)
    if table[num_classes].any():
        seen = true[true != ignore_index]
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} or be {ignore_index}, but range from "
            f"{seen.min()} to {seen.max()}"
        )
    return np.delete(table, num_classes, axis=0)


def _classes_or(none: int, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return values in 0 ... none - 1 as they are and all others as `none`."""
    unsigned = values.view(np.uint64)  # negative ones are the largest here
    return np.minimum(unsigned, np.uint64(none)).view(np.int64)
