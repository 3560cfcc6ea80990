"""The loss: the cross-entropy of each image, and what it counts for in its batch.

The loss of a batch is the sum of its images' losses, each times the image's weight. Weights come
from the labels of the whole batch, so a batch has one loss, however it is cut into parts and ranks.
N images, C classes, H W size.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from segbench.schema.cards import IGNORE_INDEX
from segbench.schema.recipe import Reduction


def image_losses(score_map: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each image, summed over its labelled pixels: (N,).

    score_map: (N, C, H, W). label: (N, H, W) int64. class_weights: (C,), one for each class.
    """
    pixels = F.cross_entropy(
        score_map, label, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none"
    )  # (N, H, W)
    return pixels.flatten(1).sum(1)


def labelled_pixels(label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the labelled pixels of (N, H, W) labels, each counted as its class weighs: (N,) float64."""
    weights = pixel_weights(class_weights)[label.long()]  # (N, H, W)
    return weights.flatten(1).sum(1, dtype=torch.float64)


def pixel_weights(class_weights: Tensor | None = None) -> Tensor:
    """Return what a pixel counts for by the value of its label: (256,) float32, void 0."""
    weights = torch.ones(IGNORE_INDEX) if class_weights is None else class_weights
    return F.pad(weights, (0, IGNORE_INDEX + 1 - len(weights)))


def loss_weights(labelled: Tensor, reduction: Reduction, *, over_ranks: bool = False) -> Tensor:
    """Return what each image's loss counts for in that of its batch: (N,) float64.

    `mean`: the loss is divided by the labelled pixels of the whole batch. `mean_per_image`: each
    image's by its own, then by the number of images. `sum`: by nothing. Where there is no labelled
    pixel the weight is 0.

    labelled: (N,) what `labelled_pixels` counts, of all images of the batch, on the CPU. over_ranks:
    they are this rank's, and each rank has equally many.
    """
    ranks = dist.get_world_size() if over_ranks and dist.is_initialized() else 1
    if reduction == "sum":
        return torch.ones_like(labelled)
    if reduction == "mean_per_image":
        return _inverse(labelled) / (len(labelled) * ranks)
    total = labelled.sum()
    if ranks > 1:
        dist.all_reduce(total)
    return _inverse(total).expand_as(labelled)


def _inverse(count: Tensor) -> Tensor:
    return torch.where(count > 0, 1 / count, 0)
