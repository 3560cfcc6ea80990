"""Feature maps of a frozen trunk, computed once for each image and its mirror image.

Kept as float16 beside the prepared data, one file per stride, so heads and seeds share them. They are
written image by image: memory is that of one, and what was stopped goes on where it was.
Letters: N images, D channels, h w feature size. Knows nothing of training.
"""

import contextlib
import errno
import fcntl
import io
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.data.resize import resized_image, resized_label
from segbench.data.split import SegmentationSplit
from segbench.errors import DataError, ResultError
from segbench.models.segmenter import Segmenter
from segbench.schema.recipe import Resize

# Other machines and thread counts differ by float32's rounding, the file by float16's (2**-11 of
# each value); another layer, padding or weight differs by far more than a hundredth of the largest.
_SAME = 0.01
_SAFE_EVERY = 64  # images after which what is written is on the disk


class Squash(NamedTuple):
    """What each image is resized to, (height, width), and how."""

    size: tuple[int, int]
    resize: Resize = "bilinear"


class CachedFeatures(NamedTuple):
    """maps: one (N, 2, D, h, w) float16 array per stage, coarse to fine; [:, 1] is mirrored.

    labels: (N, H, W) uint8, squashed, not mirrored.
    """

    maps: tuple[NDArray[np.float16], ...]
    labels: NDArray[np.uint8]

    def batch(self, indices: Tensor, flipped: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return float32 feature maps (N, D, h, w) per stage, and (N, H, W) int64 labels."""
        places = list(zip(indices.tolist(), map(int, flipped), strict=True))
        maps = tuple(_rows(array, places) for array in self.maps)
        labels = torch.from_numpy(self.labels[indices.numpy()])
        return maps, torch.where(flipped[:, None, None], labels.flip(-1), labels).long()


def _rows(array: NDArray[np.float16], places: list[tuple[int, int]]) -> Tensor:
    """Return the maps at these places as float32, each read once; fancy indexing copies them first."""
    found = torch.empty(len(places), *array.shape[2:])
    for target, place in zip(found, places, strict=True):
        target.copy_(torch.from_numpy(array[place]))
    return found


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
    image. Of two workers that find none one computes them and the other waits.

    Raises:
        ResultError: the folder cannot be written to.
    """
    paths = [*(folder / f"stride{stride}.npy" for stride in strides), folder / "labels.npy"]
    segmenter.eval()

    def pieces_of(index: int) -> Pieces:
        return _pieces(segmenter, split, index, squash, device)

    found = _sound(paths, pieces_of, len(split))
    if found is None:
        with _alone(folder, on_image) as tag:
            found = _sound(paths, pieces_of, len(split))  # another may have made them meanwhile
            if found is None:
                _compute(paths, pieces_of, len(split), on_image, tag)
    found = found or _read(paths)
    if found is None:
        raise DataError(f"{folder}: its feature maps were written and cannot be read; delete it")
    return found


Pieces = list[NDArray[Any]]  # of one image: (2, D, h, w) float16 for each stage, (H, W) uint8 label


def _read(paths: list[Path]) -> CachedFeatures | None:
    """Return what lies there, None where a file is missing or torn."""
    try:
        *maps, labels = (np.load(path, mmap_mode="c") for path in paths)  # nothing is written to it
        return CachedFeatures(tuple(maps), labels)
    except (OSError, ValueError, EOFError):
        return None


def _sound(
    paths: list[Path], pieces_of: Callable[[int], Pieces], number: int
) -> CachedFeatures | None:
    """Return what lies there if the first image's maps are this trunk's, as far as machines differ."""
    found = _read(paths)
    if found is None:
        return None
    computed = pieces_of(0)
    for kept, piece in zip(found.maps, computed, strict=False):
        if kept.shape != (number, *piece.shape) or not _is_same(kept[0], piece):
            return None
    return found


def _is_same(kept: NDArray[Any], computed: NDArray[Any]) -> bool:
    one, other = kept.astype(np.float32), computed.astype(np.float32)
    return bool(np.abs(one - other).max() <= _SAME * np.abs(other).max())


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
def _pieces(
    segmenter: Segmenter,
    split: SegmentationSplit,
    index: int,
    squash: Squash,
    device: torch.device,
) -> Pieces:
    """Return an image's maps with its mirror image's, and its label."""
    sample = split.sample(index)
    image = resized_image(sample.image, squash.size, resize=squash.resize).to(device)
    pair = torch.stack([image, image.flip(-1)]).float() / 255  # (2, 3, H, W)
    maps = [_cacheable(m, sample.name) for m in segmenter.feature_maps(pair)]
    label = resized_label(sample.label, squash.size)
    return [values.cpu().contiguous().numpy() for values in (*maps, label)]


@contextlib.contextmanager
def _alone(folder: Path, on_image: Callable[[int], None]) -> Iterator[str]:
    """Let one worker compute at a time; the others ask each second whether they are to stop.

    Yields what its unfinished files are told by: nothing, or on a disk without locks a name of its own.
    """
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_image(0)
                time.sleep(1)
            except OSError:
                yield f".{secrets.token_hex(4)}"
                return
            else:
                yield ""
                return


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot be written ({error.strerror or error}); free space, or set --cache"
        ) from error


def _compute(
    paths: list[Path],
    pieces_of: Callable[[int], Pieces],
    number: int,
    on_image: Callable[[int], None],
    tag: str = "",
) -> None:
    """Write each image's pieces behind those of the one before; go on with files that were begun."""
    partial = [path.with_name(f".{path.name}{tag}.partial") for path in paths]
    heads = [_head(number, piece) for piece in pieces_of(0)]
    done = _done(partial, heads, pieces_of)
    with contextlib.ExitStack() as stack:
        with _told(paths[0].parent):
            mode = "r+b" if done else "wb"
            files = [stack.enter_context(path.open(mode, buffering=0)) for path in partial]
            for file, (head, size) in zip(files, heads, strict=True):
                _append(file, head)
                file.seek(len(head) + done * size)
                file.truncate()
        for index in range(done, number):
            pieces = pieces_of(index)
            with _told(paths[0].parent):
                for file, piece in zip(files, pieces, strict=True):
                    _append(file, piece.tobytes())
                if index % _SAFE_EVERY == 0 or index == number - 1:
                    _on_disk(files)
            on_image(index + 1)
    for path, made in zip(paths, partial, strict=True):
        made.replace(path)


def _head(number: int, piece: NDArray[Any]) -> tuple[bytes, int]:
    """Return the beginning of a file of so many pieces, in numpy's format, and a piece's bytes."""
    buffer = io.BytesIO()
    about = np.lib.format.header_data_from_array_1_0(piece) | {"shape": (number, *piece.shape)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue(), piece.nbytes


def _done(
    partial: list[Path], heads: list[tuple[bytes, int]], pieces_of: Callable[[int], Pieces]
) -> int:
    """Return how many images lie whole in all files, 0 where the last of them is not this trunk's."""
    try:
        whole = [
            (path.stat().st_size - len(head)) // size
            for path, (head, size) in zip(partial, heads, strict=True)
        ]
        done = max(min(whole), 0)
        for index in {0, done - 1} if done else ():
            for path, (head, size), piece in zip(partial, heads, pieces_of(index), strict=True):
                with path.open("rb") as file:
                    begins_so = file.read(len(head)) == head
                    file.seek(len(head) + index * size)
                    kept = np.frombuffer(file.read(size), piece.dtype).reshape(piece.shape)
                if not (begins_so and _is_same(kept, piece)):
                    return 0
    except FileNotFoundError:
        return 0
    return done


def _append(file: FileIO, content: bytes) -> None:
    if file.write(content) != len(content):  # a full disk may take a part
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _on_disk(files: Iterable[FileIO]) -> None:
    for file in files:
        os.fsync(file.fileno())
