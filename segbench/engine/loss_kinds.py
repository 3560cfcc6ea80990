"""Losses beside plain cross-entropy: one function for each kind, and the table `LOSSES`.

Each returns what an image's loss is over all of its labelled pixels together, so that `loss_weights` makes
the mean of it: a kind that has one number for an image multiplies it by the labelled pixels.
N images, C classes, H W size.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.engine.loss import image_losses, labelled_pixels, pixel_weights
from segbench.schema.cards import IGNORE_INDEX
from segbench.schema.recipe import Loss

Kind = Callable[[Tensor, Tensor, Tensor | None, Loss], Tensor]


def losses_of(
    loss: Loss, score_map: Tensor, label: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return the loss of each image, (N,), summed over its labelled pixels.

    score_map: (N, C, H, W). label: (N, H, W) int64. class_weights: (C,), one for each class.
    """
    return LOSSES[loss.kind](score_map, label, class_weights, loss)


def _cross_entropy(
    score_map: Tensor, label: Tensor, class_weights: Tensor | None, loss: Loss
) -> Tensor:
    """Szegedy et al., CVPR 2016, section 7: a share of the target lies evenly on all classes."""
    if loss.label_smoothing == 0:
        return image_losses(score_map, label, class_weights)
    pixels = F.cross_entropy(
        score_map, label, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none",
        label_smoothing=loss.label_smoothing,
    )  # fmt: skip
    return pixels.flatten(1).sum(1)


def _focal(score_map: Tensor, label: Tensor, class_weights: Tensor | None, loss: Loss) -> Tensor:
    """Lin et al., ICCV 2017, equation 4: cross-entropy times (1 - p) ** gamma."""
    surprise = F.cross_entropy(score_map, label, ignore_index=IGNORE_INDEX, reduction="none")
    pixels = (1 - (-surprise).exp()).clamp(min=0) ** loss.gamma * surprise  # (N, H, W)
    if class_weights is not None:
        pixels = pixels * pixel_weights(_on_cpu(class_weights)).to(pixels)[label]
    return pixels.flatten(1).sum(1)


def _ohem(score_map: Tensor, label: Tensor, class_weights: Tensor | None, loss: Loss) -> Tensor:
    """Online hard example mining: the mean over the share of an image's pixels that cost the most.

    Source: Shrivastava et al., CVPR 2016; as a share of the pixels in DeepLab's code.
    """
    pixels = F.cross_entropy(
        score_map, label, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none"
    ).flatten(1)  # (N, H W)
    weights = pixel_weights(_on_cpu(class_weights)).to(pixels)[label].flatten(1)  # void 0
    kept = (loss.keep * (label != IGNORE_INDEX).flatten(1).sum(1)).ceil()  # (N,)
    ordered, order = pixels.sort(1, descending=True)
    is_kept = torch.arange(pixels.shape[1], device=pixels.device) < kept[:, None]
    weight = (weights.gather(1, order) * is_kept).sum(1)
    mean = (ordered * is_kept).sum(1) / weight.clamp(min=1e-6)
    return mean * weights.sum(1)


def _dice(score_map: Tensor, label: Tensor, class_weights: Tensor | None, loss: Loss) -> Tensor:
    """1 - mean over the image's classes of 2 |A B| / (|A| + |B|), and cross-entropy beside it.

    Source: Milletari et al., 3DV 2016, equation 3, without squares, as in nnU-Net; classes without a
    label pixel are left out. Class weights are for the cross-entropy alone.
    """
    is_seen = (label != IGNORE_INDEX)[:, None]  # (N, 1, H, W)
    probability = score_map.softmax(1) * is_seen
    target = F.one_hot(label.where(is_seen[:, 0], 0), score_map.shape[1]).movedim(-1, 1) * is_seen
    both = (probability * target).flatten(2).sum(2)  # (N, C)
    each = probability.flatten(2).sum(2) + target.flatten(2).sum(2)
    has = target.flatten(2).any(2)
    share = (2 * both / each.clamp(min=1e-6) * has).sum(1) / has.sum(1).clamp(min=1)
    counted = labelled_pixels(label.cpu(), _on_cpu(class_weights)).to(score_map)  # (N,)
    losses = (1 - share) * counted
    if loss.cross_entropy == 0:
        return losses
    return losses + loss.cross_entropy * image_losses(score_map, label, class_weights)


def _on_cpu(class_weights: Tensor | None) -> Tensor | None:
    return None if class_weights is None else class_weights.cpu()


LOSSES: dict[str, Kind] = {  # by `Loss.kind`
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "ohem": _ohem,
    "dice": _dice,
}
