"""Feature maps of a frozen trunk, computed once for each image and its mirror image.

Kept as float16 beside the prepared data, one file per stride, so heads and seeds share them.
Letters: N images, D channels, h w feature size. Knows nothing of training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.data.resize import resized_image, resized_label
from segbench.data.split import SegmentationSplit
from segbench.errors import DataError
from segbench.files import write_atomically
from segbench.models.segmenter import Segmenter
from segbench.schema.recipe import Resize

# Other machines and thread counts differ by float32's rounding, the file by float16's (2**-11 of
# each value); another layer, padding or weight differs by far more than a hundredth of the largest.
_SAME = 0.01


class Squash(NamedTuple):
    """What each image is resized to, (height, width), and how."""

    size: tuple[int, int]
    resize: Resize = "bilinear"


class CachedFeatures(NamedTuple):
    """maps: one (2, N, D, h, w) float16 array per stage, coarse to fine; [1] is mirrored.

    labels: (N, H, W) uint8, squashed, not mirrored.
    """

    maps: tuple[NDArray[np.float16], ...]
    labels: NDArray[np.uint8]

    def batch(self, indices: Tensor, flipped: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return float32 feature maps (N, D, h, w) per stage, and (N, H, W) int64 labels."""
        rows, mirrored = indices.numpy(), flipped.numpy().astype(np.int64)
        maps = tuple(
            torch.from_numpy(np.asarray(array[mirrored, rows])).float() for array in self.maps
        )
        labels = torch.from_numpy(self.labels[rows]).long()
        return maps, torch.where(flipped[:, None, None], labels.flip(-1), labels)


def cached_features(
    segmenter: Segmenter,
    split: SegmentationSplit,
    squash: Squash,
    *,
    strides: tuple[int, ...],
    folder: Path,
    device: torch.device,
    on_image: Callable[[int], None] = lambda _: None,
) -> CachedFeatures:
    """Return the features of every image of `split`, from `folder` where they lie there already.

    What lies there is computed anew where it is damaged or not what this trunk makes of the first
    image. Two workers that find none both compute them; the files are equal and renamed into place.
    """
    paths = [folder / f"stride{stride}.npy" for stride in strides]
    labels_path = folder / "labels.npy"
    segmenter.eval()
    found = _read(paths, labels_path)
    if found is None or not _is_of(segmenter, split, squash, device, found):
        _compute(segmenter, split, squash, paths, labels_path, device, on_image)
        found = _read(paths, labels_path)
    if found is None:
        raise DataError(f"{folder}: its feature maps were written and cannot be read; delete it")
    return found


def _read(paths: list[Path], labels_path: Path) -> CachedFeatures | None:
    """Return what lies there, None where a file is missing or torn."""
    try:
        maps = tuple(np.load(path, mmap_mode="r") for path in paths)
        return CachedFeatures(maps, np.load(labels_path, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return None


def _is_of(
    segmenter: Segmenter,
    split: SegmentationSplit,
    squash: Squash,
    device: torch.device,
    found: CachedFeatures,
) -> bool:
    """Return whether the first image's maps are this trunk's, as far as machines differ."""
    maps, _ = _maps_of(segmenter, split, 0, squash, device)
    for kept, computed in zip(found.maps, maps, strict=True):
        if kept.shape != (2, len(split), *computed.shape[1:]):
            return False
        other = torch.from_numpy(kept[:, 0].astype(np.float32))
        if not torch.allclose(other, computed, rtol=0.0, atol=_SAME * float(computed.abs().max())):
            return False
    return True


def _cacheable(feature_map: Tensor, image: str) -> Tensor:
    """Return the map in float16; raise where it does not fit, as an endless loss would say less."""
    half = feature_map.half()
    if not half.isfinite().all():
        raise DataError(
            f"{image}: the trunk's features go beyond {torch.finfo(half.dtype).max:g}, the most that "
            "cached ones hold, or are NaN; leave train.cache_features out, or look at the weights"
        )
    return half


@torch.inference_mode()
def _maps_of(
    segmenter: Segmenter,
    split: SegmentationSplit,
    index: int,
    squash: Squash,
    device: torch.device,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return an image's maps and its mirror image's, each (2, D, h, w), and its (H, W) label."""
    sample = split.sample(index)
    image = resized_image(sample.image, squash.size, resize=squash.resize).to(device)
    pair = torch.stack([image, image.flip(-1)]).float() / 255  # (2, 3, H, W)
    maps = tuple(m.float().cpu() for m in segmenter.feature_maps(pair))
    return maps, resized_label(sample.label, squash.size)


def _compute(
    segmenter: Segmenter,
    split: SegmentationSplit,
    squash: Squash,
    paths: list[Path],
    labels_path: Path,
    device: torch.device,
    on_image: Callable[[int], None],
) -> None:
    arrays: list[NDArray[Any]] = []
    labels = np.empty((len(split), *squash.size), dtype=np.uint8)
    for index in range(len(split)):
        maps, label = _maps_of(segmenter, split, index, squash, device)
        if not arrays:
            arrays = [np.empty((2, len(split), *m.shape[1:]), dtype=np.float16) for m in maps]
        for array, feature_map in zip(arrays, maps, strict=True):
            array[:, index] = _cacheable(feature_map, split.names[index]).numpy()
        labels[index] = label.numpy()
        on_image(index + 1)
    for path, array in zip((*paths, labels_path), (*arrays, labels), strict=True):
        write_atomically(path, lambda file, array=array: np.save(file, array))
