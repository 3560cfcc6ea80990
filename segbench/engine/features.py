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
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from segbench.data import SegmentationSplit
from segbench.files import write_atomically
from segbench.models import Segmenter


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
    squash: tuple[int, int],
    *,
    strides: tuple[int, ...],
    folder: Path,
    device: torch.device,
    on_image: Callable[[int], None] = lambda _: None,
) -> CachedFeatures:
    """Return the features of every image of `split`, from `folder` where they lie there already.

    Two workers that find none both compute them; the files are equal and renamed into place.
    """
    paths = [folder / f"stride{stride}.npy" for stride in strides]
    labels_path = folder / "labels.npy"
    if not all(path.exists() for path in (*paths, labels_path)):
        _compute(segmenter, split, squash, paths, labels_path, device, on_image)
    maps = tuple(np.load(path, mmap_mode="r") for path in paths)
    return CachedFeatures(maps, np.load(labels_path, mmap_mode="r"))


@torch.inference_mode()
def _compute(
    segmenter: Segmenter,
    split: SegmentationSplit,
    squash: tuple[int, int],
    paths: list[Path],
    labels_path: Path,
    device: torch.device,
    on_image: Callable[[int], None],
) -> None:
    segmenter.eval()
    arrays: list[NDArray[Any]] = []
    labels = np.empty((len(split), *squash), dtype=np.uint8)
    for index in range(len(split)):
        sample = split.sample(index)
        image = TF.resize(sample.image, list(squash), antialias=True).to(device)
        pair = torch.stack([image, image.flip(-1)]).float() / 255  # (2, 3, H, W)
        maps = segmenter.feature_maps(pair)
        if not arrays:
            arrays = [np.empty((2, len(split), *m.shape[1:]), dtype=np.float16) for m in maps]
        for array, feature_map in zip(arrays, maps, strict=True):
            array[:, index] = feature_map.half().cpu().numpy()
        labels[index] = TF.resize(
            sample.label[None], list(squash), interpolation=InterpolationMode.NEAREST
        )[0].numpy()
        on_image(index + 1)
    for path, array in zip((*paths, labels_path), (*arrays, labels), strict=True):
        write_atomically(path, lambda file, array=array: np.save(file, array))
