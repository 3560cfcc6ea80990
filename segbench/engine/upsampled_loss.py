"""The cross-entropy of a score map that is upsampled bilinearly, without ever making the large map.

Both upsampling and its gradient are linear, so a block of fine rows is upsampled, scored and brought
back to the coarse grid before the next one: the gradient is made in the forward pass. No tensor is
larger than a block. N images, C classes, h w coarse and H W fine size.
Source of the trick: Liger-Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv 2410.10989).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segbench.engine.loss import pixel_weights
from segbench.models.upsampling import Bilinear, RowBlock, row_blocks
from segbench.schema.cards import IGNORE_INDEX

# Scores of a block: on a CPU they are to stay in a core's cache, on a GPU to fill it with few launches.
_BLOCK = {"cpu": 2**18, "cuda": 2**25}


def upsampled_losses(
    coarse: Tensor, upsampling: Bilinear, label: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return `image_losses(upsampling.of(coarse), label, class_weights)`, (N,), by blocks of rows.

    coarse: (N, C, h, w). label: (N, H, W) int64. Gradients are for `coarse` alone, and are made only
    where they are asked for. Computed in the type of `coarse`, whatever autocast says.
    """
    weights = pixel_weights(class_weights).to(coarse)
    target = _Target(upsampling, label, weights[label], _BLOCK.get(coarse.device.type, 2**25))
    with torch.autocast(coarse.device.type, enabled=False):
        if not (coarse.requires_grad and torch.is_grad_enabled()):
            return _losses(coarse, target, None)
        losses = _UpsampledLosses.apply(coarse, target)
    assert isinstance(losses, Tensor)
    return losses


class _Target(NamedTuple):
    """label, weights: (N, H, W), each pixel's class, and what it counts for. block: scores at once."""

    upsampling: Bilinear
    label: Tensor
    weights: Tensor
    block: int


class _UpsampledLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coarse: Tensor, target: _Target) -> Tensor:
        gradient = torch.empty_like(coarse)
        losses = _losses(coarse, target, gradient)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's types
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None, None, None], None


def _losses(coarse: Tensor, target: _Target, gradient: Tensor | None) -> Tensor:
    """Return the losses (N,); fill `gradient`, (N, C, h, w), where one is given."""
    rows, columns = target.upsampling
    fine_rows = max(target.block // (coarse.shape[1] * len(columns)), 1)
    blocks = [b._replace(shares=b.shares.to(coarse)) for b in row_blocks(rows, fine_rows)]
    columns = columns.to(coarse)
    at_once = max(fine_rows // len(rows), 1)  # images
    losses = []
    for first in range(0, len(coarse), at_once):
        images = slice(first, first + at_once)
        wide = F.linear(coarse[images], columns)  # (n, C, h, W)
        pixels = target.label[images, None], target.weights[images, None]  # (n, 1, H, W)
        wide_gradient = None if gradient is None else torch.zeros_like(wide)
        parts = [_block_losses(wide, block, pixels, wide_gradient) for block in blocks]
        losses.append(torch.stack(parts).sum(0))  # pairwise: a running sum loses digits
        if gradient is not None and wide_gradient is not None:
            gradient[images] = wide_gradient @ columns
    return torch.cat(losses)


def _block_losses(
    wide: Tensor, block: RowBlock, pixels: tuple[Tensor, Tensor], wide_gradient: Tensor | None
) -> Tensor:
    """Return the losses (n,) of a block of rows; add its gradient to `wide_gradient`."""
    label, weights = (values[:, :, block.fine] for values in pixels)  # (n, 1, rows, W)
    true = label.masked_fill(label == IGNORE_INDEX, 0)
    log_probability = (block.shares @ wide[:, :, block.coarse]).log_softmax(1)  # (n, C, rows, W)
    of_true = log_probability.gather(1, true)
    if wide_gradient is not None:
        scores_gradient = log_probability.exp_().scatter_(1, true, of_true.expm1())  # p - one-hot
        wide_gradient[:, :, block.coarse] += block.shares.T @ scores_gradient.mul_(weights)
    return -(of_true * weights).sum((1, 2, 3))
