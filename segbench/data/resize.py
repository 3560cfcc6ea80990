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
    part = image[..., rows.reach, columns.reach]  # (..., R, K)
    # The planes of a row lie side by side: they are brought to their height by one product.
    pixels = part.reshape(-1, *part.shape[-2:]).cpu().movedim(0, 1).contiguous().float()
    number, planes = pixels.shape[:2]
    narrow = pixels.new_empty(number * planes, width)
    resized = pixels.new_empty(height, planes * width)
    flat = pixels.flatten(0, 1)  # (R * P, K)
    for block in columns.blocks:  # autocast leaves products with `out` in float32
        torch.mm(flat[:, block.source], block.weights.T, out=narrow[:, block.target])
    narrow = narrow.add_(0.5).floor_().view(number, planes * width)
    for block in rows.blocks:
        torch.mm(block.weights, narrow[block.source], out=resized[block.target])
    rounded = resized.add_(0.5).to(torch.uint8).view(height, planes, width)
    done = rounded.movedim(1, 0).reshape(*image.shape[:-2], height, width)
    return done.to(image.device)


def resized_label(label: Tensor, size: Sequence[int], window: Window | None = None) -> Tensor:
    """Return a label (..., H, W) at `size` (h, w), or the window of it.

    Each pixel is that of the source pixel that holds its centre, as Pillow's NEAREST and torch's
    `nearest-exact` have it. A centre on the border of two source pixels, as all are where W / w is
    even, takes the later one: half a source pixel off, and there alone mirroring matters.
    """
    top, left, height, width = window or Window(0, 0, size[0], size[1])
    rows = _nearest(int(label.shape[-2]), size[0], top, top + height).to(label.device)
    columns = _nearest(int(label.shape[-1]), size[1], left, left + width).to(label.device)
    return label.index_select(-2, rows).index_select(-1, columns)


class _Block(NamedTuple):
    """Output pixels `target` of a window, from source pixels `source` by weights (target, source).

    Both are counted from the first that the window needs.
    """

    target: slice
    source: slice
    weights: Tensor


class _Blocks(NamedTuple):
    """The blocks of a window along one axis, and the source pixels that they need."""

    blocks: tuple[_Block, ...]
    reach: slice


@lru_cache(maxsize=64)
def _blocks(source: int, target: int, start: int, stop: int) -> _Blocks:
    """Return how output pixels start ... stop - 1 of `target` are made from `source` pixels."""
    taps, shares = _weights(source, target, start, stop)
    number = stop - start
    firsts = np.arange(0, number, _BLOCK)
    low = taps[firsts, 0]
    high = taps[np.minimum(firsts + _BLOCK, number) - 1, -1] + 1
    dense = np.zeros((number, int((high - low).max())), dtype=np.float32)
    places = taps - np.repeat(low, _BLOCK)[:number, None]
    dense[np.arange(number)[:, None], places] = shares
    ends = zip(firsts.tolist(), low.tolist(), high.tolist(), strict=True)
    origin, parts = int(low[0]), torch.from_numpy(dense).split(_BLOCK)
    return _Blocks(
        tuple(
            _Block(
                slice(first, first + _BLOCK),
                slice(begin - origin, end - origin),
                weights[:, : end - begin],
            )
            for (first, begin, end), weights in zip(ends, parts, strict=True)
        ),
        slice(origin, int(high[-1])),
    )


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
