"""Training batches: a pure function of (seed, step), so that a training resumes at any step.

Position p = step * batch_size + slot. Epoch p // N is a permutation drawn from (seed, epoch);
every random draw for an image comes from (seed, p). So any number of loader processes gives equal
batches.
Letters: N images, B batch, H W size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from segbench.data.resize import Window, resized_image, resized_label
from segbench.data.split import SegmentationSplit
from segbench.schema.cards import IGNORE_INDEX
from segbench.schema.recipe import TrainImages

_ORDER_STREAM, _IMAGE_STREAM = 0, 1


class TrainingBatch(NamedTuple):
    """image: (B, 3, H, W) uint8; label: (B, H, W) uint8, 255 = counts nowhere."""

    image: Tensor
    label: Tensor


class Draws(NamedTuple):
    """The random numbers of one image: scale factor, flip, and where the crop lies, in [0, 1)."""

    scale: float
    is_flipped: bool
    crop_top: float
    crop_left: float


def training_batches(
    split: SegmentationSplit,
    images: TrainImages,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    loader_workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    pinned: bool = False,
) -> Iterator[TrainingBatch]:
    """Yield the batches of steps first_step ... last_step - 1.

    With several ranks each gets every `ranks`-th slot of every batch. pinned: they lie in memory that
    a GPU copies from while the process goes on.

    Raises:
        ValueError: batch_size cannot be shared out evenly among the ranks.
    """
    if batch_size % ranks:
        raise ValueError(f"batch_size {batch_size} cannot be shared out among {ranks} processes")
    steps = [
        [step * batch_size + slot for slot in range(rank, batch_size, ranks)]
        for step in range(first_step, last_step)
    ]
    loader = DataLoader(
        _Positions(split, images, seed),
        batch_sampler=steps,  # pyright: ignore[reportArgumentType] - any sized iterable of lists
        num_workers=loader_workers,
        collate_fn=_stacked,
        pin_memory=pinned,
        multiprocessing_context="fork" if loader_workers else None,
        # The loader draws a number each time it starts. From torch's global stream, which dropout
        # draws from too, that would make a resumed training differ from a straight one.
        generator=torch.Generator(),
    )
    yield from loader


def training_positions(
    num_images: int, images: TrainImages, *, seed: int, batch_size: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return (indices (B,) int64, flipped (B,) bool) of a step; equal to those of its batch."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    indices = [_image_index(num_images, seed, position) for position in positions]
    flipped = [draws_of(images, seed, position).is_flipped for position in positions]
    return torch.tensor(indices), torch.tensor(flipped)


def draws_of(images: TrainImages, seed: int, position: int) -> Draws:
    """Return the random numbers of a position; scale factors are uniform between the bounds."""
    scale, flip, top, left = np.random.default_rng([seed, _IMAGE_STREAM, position]).random(4)
    low, high = images.scale
    return Draws(low + (high - low) * scale, images.flip and flip < 0.5, top, left)


def transformed(
    image: Tensor, label: Tensor, images: TrainImages, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Return image (3, h, w) and label (h, w) after squash, scale, flip and crop.

    The crop is a window of the resized, flipped frame, and its pixels alone are computed: the same
    as those of the whole frame. Where a crop reaches over the border the image is padded with the
    middle grey 127 and the label with void, at the bottom and right.
    """
    height, width = images.squash or (int(image.shape[-2]), int(image.shape[-1]))
    size = max(round(height * draws.scale), 1), max(round(width * draws.scale), 1)
    crop = images.crop or size
    window = _window(size, crop, draws)
    image = resized_image(image, size, window, resize=images.resize)
    label = resized_label(label, size, window)
    if draws.is_flipped:
        image, label = image.flip(-1), label.flip(-1)
    padding = (0, crop[1] - window.width, 0, crop[0] - window.height)
    if any(padding):
        image, label = pad(image, padding, value=127), pad(label, padding, value=IGNORE_INDEX)
    return image, label


def _window(size: tuple[int, int], crop: tuple[int, int], draws: Draws) -> Window:
    """Return where the crop lies in the resized frame before it is flipped."""
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    top = int(draws.crop_top * (size[0] - height + 1))
    left = int(draws.crop_left * (size[1] - width + 1))
    return Window(top, size[1] - width - left if draws.is_flipped else left, height, width)


class _Positions(Dataset[tuple[Tensor, Tensor]]):
    """Position -> transformed pair; the only thing a loader process needs."""

    def __init__(self, split: SegmentationSplit, images: TrainImages, seed: int) -> None:
        self.split = split
        self.images = images
        self.seed = seed

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        sample = self.split.sample(_image_index(len(self.split), self.seed, position))
        draws = draws_of(self.images, self.seed, position)
        return transformed(sample.image, sample.label, self.images, draws)


def _image_index(num_images: int, seed: int, position: int) -> int:
    epoch, place = divmod(position, num_images)
    return int(_order(num_images, seed, epoch)[place])


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of an epoch; the last few are kept, since they are asked for often."""
    key = (num_images, seed, epoch)
    if key not in _orders:
        while len(_orders) > 4:
            del _orders[next(iter(_orders))]
        _orders[key] = np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_images)
    return _orders[key]


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> TrainingBatch:
    image, label = zip(*pairs, strict=True)
    return TrainingBatch(torch.stack(image), torch.stack(label))
