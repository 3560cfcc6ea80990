"""Resize images and labels about pixel centres: whole, or one window of the resized frame.

Pixel i of w covers the share [i / w, (i + 1) / w] of an axis, for images, labels and score maps.
Every pixel is made by integers alone, so that it is the same on any machine, under any version of
torch, and whether the whole frame is computed or a window of it.
Letters: H W source size, h w size of the resized frame. Knows nothing of splits or models.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.schema.recipe import Resize

# 255 * 2**15 plus the half that rounds stays below 2**24: float32 holds every partial sum exactly,
# so the order in which a matrix product adds them up does not matter.
_UNIT = 2**15
_BLOCK = 32  # output pixels per matrix product: few zeros in each, few calls


class Window(NamedTuple):
    """A part of the resized frame, in px: rows [top, top + height), columns likewise."""

    top: int
    left: int
    height: int
    width: int


def resized_image(
    image: Tensor,
    size: Sequence[int],
    window: Window | None = None,
    *,
    resize: Resize = "bilinear",
) -> Tensor:
    """Return a uint8 image (..., H, W) at `size` (h, w), or the window of it.

    resize `nearest`: the pixels that a label's would be. `bilinear`: where an axis shrinks its
    triangle widens to W / w source pixels either side, which is called antialiasing. Weights are
    multiples of 2**-15 that sum to 1. Columns first, then rows, each pass rounded half up to uint8.
    It runs on the CPU: a GPU may shorten factors.
    Differs: Pillow's BILINEAR and torch's antialiased resize round weights otherwise; results are
    one grey level apart at most.
    """
    if resize == "nearest":
        return resized_label(image, size, window)
    top, left, height, width = window or Window(0, 0, size[0], size[1])
    down, across = int(image.shape[-2]), int(image.shape[-1])
    if tuple(size) == (down, across):
        return image[..., top : top + height, left : left + width]
    rows = _blocks(down, size[0], top, top + height)
    columns = _blocks(across, size[1], left, left + width)
    first, last = rows[0].source.start, rows[-1].source.stop
    pixels = image[..., first:last, :].cpu().float()  # (..., R, W)
    narrowed = pixels.new_empty(*pixels.shape[:-1], width)
    resized = pixels.new_empty(*pixels.shape[:-2], height, width)
    flat, narrow = pixels.flatten(0, -2), narrowed.flatten(0, -2)
    for block in columns:  # autocast leaves products with `out` in float32
        torch.mm(flat[:, block.source], block.weights.T, out=narrow[:, block.target])
    narrowed.add_(0.5).floor_()
    for plane, done in zip(narrowed.flatten(0, -3), resized.flatten(0, -3), strict=True):
        for block in rows:
            source = slice(block.source.start - first, block.source.stop - first)
            torch.mm(block.weights, plane[source], out=done[block.target])
    return resized.add_(0.5).to(torch.uint8).to(image.device)


def resized_label(label: Tensor, size: Sequence[int], window: Window | None = None) -> Tensor:
    """Return a label (..., H, W) at `size` (h, w), or the window of it.

    Each pixel is that of the source pixel that holds its centre, as Pillow's NEAREST and torch's
    `nearest-exact` have it. A centre on the border of two source pixels, as all are where W / w is
    even, takes the later one: half a source pixel off, and there alone mirroring matters.
    """
    top, left, height, width = window or Window(0, 0, size[0], size[1])
    rows = _nearest(int(label.shape[-2]), size[0], top, top + height)
    columns = _nearest(int(label.shape[-1]), size[1], left, left + width)
    return label[..., rows[:, None], columns]


class _Block(NamedTuple):
    """Output pixels `target` of a window, from source pixels `source` by weights (target, source)."""

    target: slice
    source: slice
    weights: Tensor


@lru_cache(maxsize=64)
def _blocks(source: int, target: int, start: int, stop: int) -> tuple[_Block, ...]:
    """Return how output pixels start ... stop - 1 of `target` are made from `source` pixels."""
    taps, shares = _weights(source, target, start, stop)
    return tuple(
        _block(taps[first : first + _BLOCK], shares[first : first + _BLOCK], first)
        for first in range(0, stop - start, _BLOCK)
    )


def _block(taps: NDArray[np.int64], shares: NDArray[np.float32], first: int) -> _Block:
    low, high = int(taps[0, 0]), int(taps[-1, -1]) + 1
    dense = np.zeros((len(taps), high - low), dtype=np.float32)
    np.put_along_axis(dense, taps - low, shares, axis=1)
    return _Block(slice(first, first + len(taps)), slice(low, high), torch.from_numpy(dense))


def _weights(
    source: int, target: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the source pixels of each output pixel and their weights, both (stop - start, k)."""
    # In units of 1 / (2 * target) source pixels all lengths are integers.
    support = 2 * max(source, target)
    centres = (2 * np.arange(start, stop)[:, None] + 1) * source
    count = min(support // target + 2, source)
    first = ((centres - support) // (2 * target)).clip(0, source - count)
    taps = first + np.arange(count)
    parts = np.maximum(support - np.abs((2 * taps + 1) * target - centres), 0)
    return taps, _shares(parts).astype(np.float32) / np.float32(_UNIT)


def _shares(parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return non-negative parts (n, k) as whole 2**15ths that sum to 2**15 in each row.

    What is rounded is the sum up to each part, half to even: nothing is left over, and a mirrored
    row has the mirrored shares.
    """
    sums = parts.cumsum(axis=1)
    total = sums[:, -1:]
    whole, rest = np.divmod(sums * _UNIT, total)
    rounds_up = 2 * rest + whole % 2 > total
    return np.diff(whole + rounds_up, axis=1, prepend=0)


def _nearest(source: int, target: int, start: int, stop: int) -> Tensor:
    return torch.div(
        (2 * torch.arange(start, stop) + 1) * source, 2 * target, rounding_mode="floor"
    )
