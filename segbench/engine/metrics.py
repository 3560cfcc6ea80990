"""Count predictions against labels: one confusion matrix, exact integers, any order, any sharding.

confusion[i, j] = pixels of true class i predicted as j; column C holds predictions outside the
classes, which are false negatives of the true class and are never dropped.
Letters: H W label size, C classes. Knows nothing of models.
"""

import torch
from torch import Tensor

IGNORE_INDEX = 255


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


def void_predictions(
    prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return (C,) int64: how many unlabelled pixels are predicted as each class."""
    predicted = prediction.reshape(-1).to(torch.int64)[label.reshape(-1) == ignore_index]
    predicted = predicted[(predicted >= 0) & (predicted < num_classes)]
    return torch.bincount(predicted, minlength=num_classes)
