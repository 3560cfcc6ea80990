"""Count predictions against labels: one confusion matrix, exact integers, any order, any sharding.

confusion[i, j] = pixels of true class i predicted as j; column C holds predictions outside the
classes, which are false negatives of the true class and are never dropped.
Letters: H W label size, C classes. Knows nothing of models.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.metrics.pixels import pixel_counts
from segbench.schema.cards import IGNORE_INDEX


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the (C, C + 1) int64 confusion matrix of integer maps of one shape.

    Pixels with label `ignore_index` count nowhere. Predictions may take any value.

    Raises:
        ValueError: the shapes differ, or a label is neither a class nor `ignore_index`.
    """
    return pixel_table(prediction, label, num_classes, ignore_index=ignore_index)[:num_classes]


def pixel_table(
    prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the (C + 1, C + 1) int64 pixels by label and prediction, on the label's device.

    The confusion matrix, and below it a row of the pixels with label `ignore_index`. Raises as
    `confusion_matrix`.
    """
    counted = pixel_counts(
        prediction.cpu().numpy(), label.cpu().numpy(), num_classes, ignore_index=ignore_index
    )
    return torch.from_numpy(counted).to(label.device)


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
    predicted = prediction.to(torch.int16).masked_fill(~inside, num_classes)
    true = label.to(torch.int16)
    on_predicted = _on_boundary(predicted, width_px)
    if not counts_void:
        on_predicted &= true != IGNORE_INDEX
    true = true.masked_fill(~_on_boundary(true, width_px), IGNORE_INDEX)
    predicted = predicted.masked_fill(~on_predicted, num_classes)
    table = pixel_table(predicted, true, num_classes)
    labels, predictions = table[:num_classes].sum(1), table[:, :num_classes].sum(0)
    return torch.stack([table.diagonal()[:num_classes], labels, predictions])


def boundary_width_px(share: float, size: tuple[int, int]) -> int:
    """Return the boundary's width for an image of `size`: a share of its diagonal, at least 1."""
    return max(round(share * (size[0] ** 2 + size[1] ** 2) ** 0.5), 1)


def _on_boundary(values: Tensor, width_px: int) -> Tensor:
    """Return (H, W) bool: whether a square window around the pixel is not all of its value.

    It is so where two neighbours in the window differ.
    """
    padded = F.pad(values, (width_px,) * 4, value=-1)  # no map holds -1
    window = 2 * width_px + 1
    across, down = padded[:, 1:] != padded[:, :-1], padded[1:] != padded[:-1]
    return _any_of(_any_of(across, window - 1, dim=1), window, dim=0) | _any_of(
        _any_of(down, window, dim=1), window - 1, dim=0
    )


def _any_of(found: Tensor, number: int, *, dim: int) -> Tensor:
    """Return whether any of so many neighbours from each place on was found; doubles its reach."""
    reach = 1
    while reach < number:
        further = min(reach, number - reach)
        length = found.shape[dim] - further
        found = found.narrow(dim, 0, length) | found.narrow(dim, further, length)
        reach += further
    return found
