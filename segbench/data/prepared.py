"""Convert a split once into Hugging Face `datasets` Arrow files, and open them memory-mapped.

Each row holds an image's encoded bytes and its label as a PNG of class indices. Every pair is
checked on the way, and all problems are reported at once. The finished folder is renamed into
place, so that no reader sees half of one; of several workers that convert at once one wins. Once
made, the Arrow files do without the raw ones.
"""

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.drawn import draw_pair
from segbench.data.labels import class_lookup, decode_label
from segbench.data.layout import (
    CARD_LIST,
    RawPair,
    download_folder,
    find_root,
    image_names,
    own_folder,
    raw_pairs,
)
from segbench.data.photographs import Doubts, checked_image, digest_of_pixels
from segbench.errors import DamagedError, DataError, FileError, SegbenchError, by_cause
from segbench.files import digest, read_json, write_json
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

_RULES = (
    2  # of reading and checking raw files; raised with them, so that splits are converted again
)
_ROWS_IN_MEMORY = 64  # photographs of a megabyte each would fill it with the library's 1,000
Progress = Callable[[int, int], None]  # (done, of)
IfChanged = Literal["refuse", "convert", "pass_over"]


class Row(NamedTuple):
    """A checked pair: encoded image, label as (H, W) uint8 class indices, digest of the pixels."""

    name: str
    image: bytes
    label: NDArray[np.uint8]
    image_digest: str


class Contents(NamedTuple):
    """What is known of a converted split without opening its table.

    pixels: (N, C) labelled pixels of each image and class of the card, not of its view.
    fingerprint: sha256 over names, image bytes and class indices. image_digests: (N,), of each
    image's decoded pixels; None where the split was converted before they were kept.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.int64]
    fingerprint: str
    image_digests: tuple[str, ...] | None


class Prepared(NamedTuple):
    """An opened split. table: rows of name, image, label, height, width."""

    table: Any
    contents: Contents


def open_prepared(
    card: DatasetCard,
    split: str,
    machine: Machine,
    progress: Progress | None = None,
    *,
    if_changed: IfChanged = "refuse",
) -> Prepared:
    """Return the split's Arrow table; converts local raw files where that was not done yet.

    if_changed: what to do where raw files have other sizes or times than when they were converted.
    `convert` is for `prepare` alone, since others may be reading. `pass_over` looks at no file: for
    trials of a run, which all read one copy and whose files were looked at before the run.

    Raises:
        DataError: the files are not here, something is wrong with them (all problems at once), or
            they were changed since they were converted.
    """
    return _opened(prepared_folder(card, split, machine, progress, if_changed=if_changed))


def prepared_folder(
    card: DatasetCard,
    split: str,
    machine: Machine,
    progress: Progress | None = None,
    *,
    if_changed: IfChanged = "refuse",
) -> Path:
    """Return the folder of the split's Arrow files, made where that was not done yet.

    See `open_prepared`.
    """
    if split not in card.split_names:
        raise DataError(not_here(card, split, machine))
    root = _root(card, split, machine)
    if card.drawn is None and root is None:
        return _without_raw_files(card, split, machine)
    folder = _folder(card, split, machine, root)
    if if_changed == "refuse" and (changed := changed_since(card, split, machine)):
        raise DataError(changed)
    is_made = (folder / "about.json").exists()
    if if_changed == "convert" and root and is_made and _has_changed(card, split, root, folder):
        shutil.rmtree(folder)
    if not (folder / "about.json").exists():
        source = None if root is None else raw_pairs(card, split, root)
        _convert(card, split, source, folder, progress, _mend(card, root, machine))
    return folder


def is_here(card: DatasetCard, split: str, machine: Machine) -> bool:
    """Return whether the split can be opened, as far as can be told without opening a file."""
    if split not in card.split_names:
        return False
    return (
        card.drawn is not None
        or _root(card, split, machine) is not None
        or bool(_made_folders(card, split, machine))
    )


def lacking(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return which files of a split that is here are missing, empty where it is whole.

    What was converted is whole, also where raw files are gone, unless some were changed since: their
    sizes and times are compared. No file is opened.
    """
    root = _root(card, split, machine)
    if root is None:
        return ""
    try:
        if not (_folder(card, split, machine, root) / "about.json").exists():
            raw_pairs(card, split, root)
    except DataError as error:
        return str(error)
    return changed_since(card, split, machine)


def changed_since(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return a sentence if raw files were changed since they were converted, else an empty one.

    Their sizes and times are compared. What was converted does without them: where they are gone,
    nothing has changed. No file is opened.
    """
    root = _root(card, split, machine)
    if root is None:
        return ""
    try:
        folder = _folder(card, split, machine, root)
        is_made = (folder / "about.json").exists()
        has_changed = is_made and _has_changed(card, split, root, folder)
    except DataError:
        return ""
    return has_changed * (
        f"{card.name} {split}: files under {root} were changed since they were converted; "
        f"`segbench prepare {card.name}` with the same --data converts them again"
    )


def _has_changed(card: DatasetCard, split: str, root: Path, folder: Path) -> bool:
    """Return whether the raw files have other sizes or times than when they were converted."""
    about = read_json(folder / "about.json") or {}  # a torn one is made again
    return about.get("stamp") != _stamp(raw_pairs(card, split, root))


def contents_here(card: DatasetCard, split: str, machine: Machine) -> Contents | None:
    """Return what was converted here, None where nothing was, or what is not clear or damaged."""
    if split not in card.split_names:
        return None
    root = _root(card, split, machine)
    try:
        if card.drawn is None and root is None:
            return _contents(_without_raw_files(card, split, machine))
        return _contents(_folder(card, split, machine, root))
    except (DataError, OSError, EOFError, ValueError, LookupError):
        return None


def _root(card: DatasetCard, split: str, machine: Machine) -> Path | None:
    """Return the folder of the split's raw files, None where they are not here or it is drawn."""
    return None if card.drawn else find_root(card, card.splits[split], machine)


def _folder(card: DatasetCard, split: str, machine: Machine, root: Path | None) -> Path:
    """Return where the Arrow files lie: named by the card's content and by the raw files' names."""
    source = None if root is None else [str(root), *image_names(card.splits[split], root)]
    return Path(machine.cache) / "arrow" / f"{_stem(card, split)}-{digest(source, length=8)}"


def _stem(card: DatasetCard, split: str) -> str:
    return f"{card.name}-{split}-{digest([_RULES, card.content_digest(), split], length=12)}"


def _made_folders(card: DatasetCard, split: str, machine: Machine) -> list[Path]:
    arrow = Path(machine.cache) / "arrow"
    return sorted(path.parent for path in arrow.glob(f"{_stem(card, split)}-*/about.json"))


def _without_raw_files(card: DatasetCard, split: str, machine: Machine) -> Path:
    made = _made_folders(card, split, machine)
    if not made:
        raise DataError(not_here(card, split, machine))
    if len(made) > 1 and len({_opened(folder).contents.fingerprint for folder in made}) > 1:
        folders = ", ".join(str(folder) for folder in made)
        raise DataError(
            f"{card.name} {split}: was converted from different files to {folders}; delete all but "
            "one, or name the folder of the raw files with --data"
        )
    return made[0]


def _stamp(source: list[RawPair] | None) -> str:
    """Return a digest of the raw files' names, sizes and times."""
    paths = [path for pair in source or [] for path in (pair.image, pair.label)]
    found = [(str(path), path.stat()) for path in paths]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in found])


def not_here(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return the sentence for a split that the card lacks, or whose raw files are nowhere."""
    if split not in card.split_names:
        return f"{card.name}: has no split {split!r}; it has: {', '.join(card.split_names)}"
    expected = " or ".join(str(root) for root in _likely_roots(card, machine))
    wanted = card.splits[split]
    names = wanted.labels if (wanted.list or CARD_LIST).startswith(CARD_LIST) else wanted.list
    fetch = f", or run `segbench prepare {card.name}` on a machine with a network"
    return (
        f"{card.name} {split}: no files here; expected {names} and "
        f"{wanted.images} under {expected}; name their folder with --data"
        f"{fetch if card.archives else ' (the card names no archive to fetch)'}"
    )


def _likely_roots(card: DatasetCard, machine: Machine) -> list[Path]:
    if not machine.data:
        return [own_folder(card, machine) / card.roots[0]]
    folder = Path(machine.data[0])
    return [folder / card.name / card.roots[0], folder / card.roots[0]]


def _mend(card: DatasetCard, root: Path | None, machine: Machine) -> str:
    """Return what to do about damaged files below `root`: what we fetched can be fetched again."""
    fetched = download_folder(card, machine)
    if root is None or not card.archives or not root.is_relative_to(fetched):
        return DamagedError.mend
    return f"delete {fetched} and fetch it again with `segbench prepare {card.name}`"


def _convert(
    card: DatasetCard,
    split: str,
    source: list[RawPair] | None,
    folder: Path,
    progress: Progress | None,
    mend: str,
) -> None:
    from datasets import Dataset, Features, Value, disable_progress_bars

    disable_progress_bars()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    rows = (
        _drawn_rows(card, split) if source is None else _checked_rows(card, source, progress, mend)
    )
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
    stamp = _stamp(source)  # of the files as they were before they are read
    try:
        temporary.mkdir(parents=True)
        table = _from_generator(Dataset, examples, features, temporary)
        files = [Path(item["filename"]) for item in table.cache_files]
        del table
        for index, path in enumerate(files):
            _on_disk(path.replace(temporary / f"part{index:03d}.arrow"))
        for left in [path for path in temporary.iterdir() if path.suffix != ".arrow"]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()  # the library's own lock
        np.save(temporary / "pixels.npy", notes.pixels())
        write_json(temporary / "about.json", notes.about(card, split, stamp))
        _take_place(temporary, folder)
    except OSError as error:
        if not (folder / "about.json").exists():  # else another worker was faster
            raise DataError(
                f"{folder}: cannot be written ({error}); free space or set --cache"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if (folder / "about.json").exists() or not folder.is_dir():
            raise
        # What comes by renaming has its notes: this was damaged later. It goes by renaming too, as
        # another worker may be at the same.
        damaged = temporary.with_name(f"{temporary.name}.damaged")
        folder.rename(damaged)
        temporary.rename(folder)
        shutil.rmtree(damaged, ignore_errors=True)


def _from_generator(dataset_type: Any, examples: Any, features: Any, folder: Path) -> Any:
    """Return the table; our own errors and the disk's come out as they went in, not wrapped."""
    try:
        return dataset_type.from_generator(
            examples,
            features=features,
            cache_dir=str(folder),
            fingerprint="segbench",
            writer_batch_size=_ROWS_IN_MEMORY,
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SegbenchError | OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise


def _on_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class _Notes:
    """What is written beside the Arrow files: names, counts per class, fingerprint."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.names: list[str] = []
        self.rows: list[NDArray[np.int64]] = []
        self.image_digests: list[str] = []
        self.hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        self.names.append(row.name)
        self.image_digests.append(row.image_digest)
        counts = np.bincount(row.label.ravel(), minlength=256)
        self.rows.append(counts[: self.num_classes].astype(np.int64))
        for part in (row.name.encode(), row.image, row.label.tobytes()):
            self.hash.update(len(part).to_bytes(8, "little"))
            self.hash.update(part)

    def pixels(self) -> NDArray[np.int64]:
        return np.stack(self.rows) if self.rows else np.zeros((0, self.num_classes), np.int64)

    def about(self, card: DatasetCard, split: str, stamp: str) -> dict[str, Any]:
        return {
            "card": card.name,
            "split": split,
            "names": self.names,
            "fingerprint": self.hash.hexdigest(),
            "image_digests": self.image_digests,
            "stamp": stamp,
        }


def _drawn_rows(card: DatasetCard, split: str) -> Iterator[Row]:
    assert card.drawn is not None
    for index in range(getattr(card.drawn, split)):
        pair = draw_pair(card, split, index)
        digested = digest_of_pixels(Image.fromarray(pair.image))
        yield Row(f"{split}_{index:05d}", _png(pair.image), pair.label, digested)


def _checked_rows(
    card: DatasetCard, source: list[RawPair], progress: Progress | None, mend: str
) -> Iterator[Row]:
    """Yield every sound pair; raise at the end with all that is wrong with the others.

    mend: what to do about damaged files.
    """
    lookup = class_lookup(card)
    problems: list[DataError] = []
    doubts = Doubts(card.exif, card.image_bits)
    for index, pair in enumerate(source):
        try:
            yield _checked_row(card, pair, lookup, doubts)
        except DataError as error:
            problems.append(error)
        if progress is not None:
            progress(index + 1, len(source))
    if told := [*doubts.sentences(), *by_cause(problems, mend=mend)]:
        raise DataError("\n".join(told))


def _checked_row(
    card: DatasetCard, pair: RawPair, lookup: NDArray[np.uint16], doubts: Doubts
) -> Row:
    try:
        raw_image, raw_label = pair.image.read_bytes(), pair.label.read_bytes()
    except OSError as error:
        raise FileError(error.filename, "cannot be read ({})", error.strerror) from error
    image = checked_image(raw_image, str(pair.image), exif=card.exif, bits=card.image_bits)
    doubts.add(str(pair.image), image)
    label = decode_label(raw_label, str(pair.label), card, lookup)
    is_open = image.is_turned and card.exif is None  # a sentence says so already
    if label.shape != (image.height, image.width) and not is_open:
        exif = f", by EXIF's orientation and the card's `exif: {card.exif}`" * image.is_turned
        raise FileError(
            pair.label,
            f"is {{}}{exif}; a pair must have one size",
            f"{label.shape[1]}x{label.shape[0]} pixels, but its image {image.width}x{image.height}",
        )
    return Row(pair.name, image.stored, label, image.digest)


def _contents(folder: Path) -> Contents:
    about = json.loads((folder / "about.json").read_bytes())
    digests = about.get("image_digests")
    return Contents(
        names=tuple(about["names"]),
        pixels=np.load(folder / "pixels.npy"),
        fingerprint=about["fingerprint"],
        image_digests=None if digests is None else tuple(digests),
    )


def _opened(folder: Path) -> Prepared:
    from datasets import Dataset, concatenate_datasets

    try:
        contents = _contents(folder)
        parts = [Dataset.from_file(str(path)) for path in sorted(folder.glob("part*.arrow"))]
        table = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if len(table) != len(contents.names):
            raise ValueError(f"{len(table)} of {len(contents.names)} rows are there")
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise DataError(
            f"{folder}: is damaged ({error}); delete it, and it is made again from the raw files"
        ) from error
    return Prepared(table, contents)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
