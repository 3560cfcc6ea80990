"""Count predictions against labels: one confusion matrix, exact integers, any order, any sharding.

confusion[i, j] = pixels of true class i predicted as j; column C holds predictions outside the
classes, which are false negatives of the true class and are never dropped.
Letters: H W label size, C classes. Knows nothing of models.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.schema.cards import IGNORE_INDEX


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the (C, C + 1) int64 confusion matrix of integer maps of one shape.

    Pixels with label `ignore_index` count nowhere. Predictions may take any value.

    Raises:
        ValueError: the shapes differ, or a label is neither a class nor `ignore_index`.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label must have one shape, but got {tuple(prediction.shape)} and "
            f"{tuple(label.shape)}"
        )
    true = label.reshape(-1).to(torch.int64)
    predicted = prediction.reshape(-1).to(torch.int64)
    counted = true != ignore_index
    true, predicted = true[counted], predicted[counted]
    if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} or be {ignore_index}, but range from "
            f"{int(true.min())} to {int(true.max())}"
        )
    outside = (predicted < 0) | (predicted >= num_classes)
    predicted = torch.where(outside, num_classes, predicted)
    cells = torch.bincount(
        true * (num_classes + 1) + predicted, minlength=num_classes * (num_classes + 1)
    )
    return cells.reshape(num_classes, num_classes + 1)  # (C, C + 1)


def void_predictions(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return (C,) int64: how many unlabelled pixels are predicted as each class."""
    predicted = prediction.reshape(-1).to(torch.int64)[label.reshape(-1) == IGNORE_INDEX]
    predicted = predicted[(predicted >= 0) & (predicted < num_classes)]
    return torch.bincount(predicted, minlength=num_classes)


def boundary_counts(
    prediction: Tensor, label: Tensor, num_classes: int, *, width_px: int, counts_void: bool = False
) -> Tensor:
    """Return (3, C) int64: boundary pixels of each class in both maps, in the label, predicted.

    A pixel is on its map's boundary when another value, or the image's border, lies within
    `width_px` rows and columns of it. Unlabelled pixels count nowhere, or against the predicted
    class with `counts_void`; they are another value to their neighbours.

    Source: Cheng et al., Boundary IoU, CVPR 2021, for masks of one class; here for all at once.
    """
    inside = (prediction >= 0) & (prediction < num_classes)
    predicted = torch.where(inside, prediction, num_classes).to(torch.int64)
    on_predicted = _on_boundary(predicted, width_px) & inside
    labelled = label != IGNORE_INDEX
    on_label = _on_boundary(label, width_px) & labelled
    if not counts_void:
        on_predicted &= labelled
    both = on_label & on_predicted & (predicted == label)
    true = label.to(torch.int64)
    return torch.stack(
        [
            torch.bincount(true[both], minlength=num_classes),
            torch.bincount(true[on_label], minlength=num_classes),
            torch.bincount(predicted[on_predicted], minlength=num_classes),
        ]
    )


def boundary_width_px(share: float, size: tuple[int, int]) -> int:
    """Return the boundary's width for an image of `size`: a share of its diagonal, at least 1."""
    return max(round(share * (size[0] ** 2 + size[1] ** 2) ** 0.5), 1)


def _on_boundary(values: Tensor, width_px: int) -> Tensor:
    """Return (H, W) bool: whether a square window around the pixel is not all of its value."""
    padded = F.pad(values.float()[None, None], (width_px,) * 4, value=-1.0)  # no map holds -1
    window = 2 * width_px + 1
    highest, lowest = (
        F.max_pool2d(F.max_pool2d(sign * padded, (window, 1), stride=1), (1, window), stride=1)
        for sign in (1, -1)
    )
    return (highest != -lowest)[0, 0]
