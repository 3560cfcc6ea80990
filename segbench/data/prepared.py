"""Convert a split once into Hugging Face `datasets` Arrow files, and open them memory-mapped.

Each row holds an image's encoded bytes and its label as a PNG of class indices. Every pair is
checked on the way, and all problems are reported at once. The finished folder is renamed into place,
so that no reader sees half of one; of several workers that convert at once one wins.
"""

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.drawn import draw_pair
from segbench.data.labels import class_lookup, decode_label
from segbench.data.layout import RawPair, find_root, raw_pairs
from segbench.data.photographs import checked_image
from segbench.errors import DataError
from segbench.files import digest, write_json
from segbench.spec.cards import DatasetCard
from segbench.spec.machine import Machine

_MOST_PROBLEMS = 20
Progress = Callable[[int, int], None]  # (done, of)


class Row(NamedTuple):
    """A checked pair: encoded image, label as (H, W) uint8 class indices."""

    name: str
    image: bytes
    label: NDArray[np.uint8]


class Prepared(NamedTuple):
    """An opened split. table: rows of name, image, label, height, width.

    class_pixels, class_images: per class of the card, not of its view, for every image: (N, C).
    fingerprint: sha256 over names, image bytes and class indices.
    """

    table: Any
    names: tuple[str, ...]
    pixels: NDArray[np.int64]
    fingerprint: str


def open_prepared(
    card: DatasetCard, split: str, machine: Machine, progress: Progress | None = None
) -> Prepared:
    """Return the split's Arrow table; converts local raw files where that was not done yet.

    Raises:
        DataError: the files are not here, or something is wrong with them; all problems at once.
    """
    source = _source(card, split, machine)
    folder = prepared_folder(card, split, machine, source)
    if not (folder / "about.json").exists():
        _convert(card, split, source, folder, progress)
    return _opened(folder)


def prepared_folder(
    card: DatasetCard, split: str, machine: Machine, source: list[RawPair] | None
) -> Path:
    """Return where the split's Arrow files lie: named by the card's content and the files' names."""
    names = None if source is None else [str(pair.image) for pair in source]
    key = digest([card.content_digest(), split, names], length=12)
    return Path(machine.cache) / "arrow" / f"{card.name}-{split}-{key}"


def not_here(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return the sentence for a split whose raw files are nowhere."""
    expected = " or ".join(str(root) for root in _likely_roots(card, machine))
    wanted = card.splits[split]
    return (
        f"{card.name} {split}: no files here; expected {wanted.list or wanted.labels} and "
        f"{wanted.images} under {expected}; name their folder with --data, or run "
        f"`segbench prepare {card.name}` on a machine with a network"
    )


def _likely_roots(card: DatasetCard, machine: Machine) -> list[Path]:
    folder = Path(machine.data[0]) if machine.data else Path(machine.cache) / "data"
    return [folder / card.name / card.roots[0], folder / card.roots[0]]


def _source(card: DatasetCard, split: str, machine: Machine) -> list[RawPair] | None:
    if card.drawn is not None:
        return None
    root = find_root(card, card.splits[split], machine)
    if root is None:
        raise DataError(not_here(card, split, machine))
    return raw_pairs(card, split, root)


def _convert(
    card: DatasetCard,
    split: str,
    source: list[RawPair] | None,
    folder: Path,
    progress: Progress | None,
) -> None:
    from datasets import Dataset, Features, Value, disable_progress_bars

    disable_progress_bars()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    rows = _drawn_rows(card, split) if source is None else _checked_rows(card, source, progress)
    notes = _Notes(len(card.classes))

    def examples() -> Iterator[dict[str, Any]]:
        for row in rows:
            notes.add(row)
            height, width = row.label.shape
            yield {
                "name": row.name,
                "image": row.image,
                "label": _png(row.label),
                "height": height,
                "width": width,
            }

    features = Features(
        {
            "name": Value("string"),
            "image": Value("binary"),
            "label": Value("binary"),
            "height": Value("int32"),
            "width": Value("int32"),
        }
    )
    try:
        temporary.mkdir(parents=True)
        table = _from_generator(Dataset, examples, features, temporary)
        files = [Path(item["filename"]) for item in table.cache_files]
        del table
        for index, path in enumerate(files):
            path.replace(temporary / f"part{index:03d}.arrow")
        for left in [path for path in temporary.iterdir() if path.suffix != ".arrow"]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()  # the library's own lock
        np.save(temporary / "pixels.npy", notes.pixels())
        write_json(temporary / "about.json", notes.about(card, split, len(files)))
        temporary.rename(folder)
    except OSError as error:
        if not (folder / "about.json").exists():  # else another worker was faster
            raise DataError(
                f"{folder}: cannot be written ({error}); free space or set --cache"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _from_generator(dataset_type: Any, examples: Any, features: Any, folder: Path) -> Any:
    """Return the table; our own errors come out as they went in, not wrapped."""
    try:
        return dataset_type.from_generator(
            examples, features=features, cache_dir=str(folder), fingerprint="segbench"
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DataError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise


class _Notes:
    """What is written beside the Arrow files: names, counts per class, fingerprint."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.names: list[str] = []
        self.rows: list[NDArray[np.int64]] = []
        self.hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        self.names.append(row.name)
        counts = np.bincount(row.label.ravel(), minlength=256)
        self.rows.append(counts[: self.num_classes].astype(np.int64))
        for part in (row.name.encode(), row.image, row.label.tobytes()):
            self.hash.update(len(part).to_bytes(8, "little"))
            self.hash.update(part)

    def pixels(self) -> NDArray[np.int64]:
        return np.stack(self.rows) if self.rows else np.zeros((0, self.num_classes), np.int64)

    def about(self, card: DatasetCard, split: str, num_files: int) -> dict[str, Any]:
        return {
            "card": card.name,
            "split": split,
            "names": self.names,
            "fingerprint": self.hash.hexdigest(),
            "files": num_files,
        }


def _drawn_rows(card: DatasetCard, split: str) -> Iterator[Row]:
    assert card.drawn is not None
    for index in range(getattr(card.drawn, split)):
        pair = draw_pair(card, split, index)
        yield Row(f"{split}_{index:05d}", _png(pair.image), pair.label)


def _checked_rows(
    card: DatasetCard, source: list[RawPair], progress: Progress | None
) -> Iterator[Row]:
    """Yield every sound pair; raise at the end with all that is wrong with the others."""
    lookup = class_lookup(card)
    problems: list[str] = []
    for index, pair in enumerate(source):
        try:
            yield _checked_row(card, pair, lookup)
        except DataError as error:
            problems.append(str(error))
        if progress is not None:
            progress(index + 1, len(source))
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        shown = [*problems[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise DataError("\n".join(shown))


def _checked_row(card: DatasetCard, pair: RawPair, lookup: NDArray[np.uint16]) -> Row:
    try:
        raw_image, raw_label = pair.image.read_bytes(), pair.label.read_bytes()
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    image, height, width = checked_image(raw_image, str(pair.image))
    label = decode_label(raw_label, str(pair.label), card, lookup)
    if label.shape != (height, width):
        raise DataError(
            f"{pair.label}: is {label.shape[1]}x{label.shape[0]} pixels, but its image "
            f"{pair.image.name} is {width}x{height}; a pair must have one size"
        )
    return Row(pair.name, image, label)


def _opened(folder: Path) -> Prepared:
    from datasets import Dataset, concatenate_datasets

    about = json.loads((folder / "about.json").read_bytes())
    parts = [Dataset.from_file(str(path)) for path in sorted(folder.glob("part*.arrow"))]
    table = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    pixels = np.load(folder / "pixels.npy")
    return Prepared(table, tuple(about["names"]), pixels, about["fingerprint"])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
