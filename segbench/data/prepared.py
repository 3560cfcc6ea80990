"""Convert a split once into Hugging Face `datasets` Arrow files, and open them memory-mapped.

Each row holds an image's encoded bytes and its label as a PNG of class indices. Every pair is
checked on the way, and all problems are reported at once. The finished folder is renamed into
place, so that no reader sees half of one; of several workers that convert at once one wins. Once
made, the Arrow files do without the raw ones.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.data.sources import source_of
from segbench.data.sources.base import CheckedPair, Progress, SplitSource, png
from segbench.errors import DataError, SegbenchError
from segbench.files import digest, read_json, write_json
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

if TYPE_CHECKING:
    from datasets import Dataset

_RULES = 3  # of reading and checking raw files; raised with them, so that splits are made again
_ROWS_IN_MEMORY = 64  # photographs of a megabyte each would fill it with the library's 1,000
IfChanged = Literal["refuse", "convert", "pass_over"]


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


class PreparedSplit(NamedTuple):
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
) -> PreparedSplit:
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
    source = source_of(card, split, machine)
    if not source.is_here():
        return _without_raw_data(source)
    folder = _folder(source)
    if if_changed == "refuse" and (changed := changed_since(card, split, machine)):
        raise DataError(changed)
    is_made = (folder / "about.json").exists()
    if if_changed == "convert" and is_made and _has_changed(source, folder):
        shutil.rmtree(folder)
    if not (folder / "about.json").exists():
        _convert(source, folder, progress)
    return folder


def is_here(card: DatasetCard, split: str, machine: Machine) -> bool:
    """Return whether the split can be opened, as far as can be told without opening a file."""
    if split not in card.split_names:
        return False
    return source_of(card, split, machine).is_here() or bool(_made_folders(card, split, machine))


def lacking(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return which files of a split that is here are missing, empty where it is whole.

    What was converted is whole, also where raw files are gone, unless some were changed since: their
    sizes and times are compared. No file is opened; a function of the user's is asked for one image.
    """
    source = source_of(card, split, machine)
    if not source.is_here():
        return ""
    try:
        if not (_folder(source) / "about.json").exists():
            source.check()
    except DataError as error:
        return str(error)
    return changed_since(card, split, machine)


def changed_since(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return a sentence if raw files were changed since they were converted, else an empty one.

    Their sizes and times are compared. What was converted does without them: where they are gone,
    nothing has changed. No file is opened.
    """
    source = source_of(card, split, machine)
    if not source.is_here():
        return ""
    try:
        folder = _folder(source)
        is_made = (folder / "about.json").exists()
        has_changed = is_made and _has_changed(source, folder)
    except DataError:
        return ""
    return has_changed * (
        f"{card.name} {split}: {source.place} were changed since they were converted; "
        f"`segbench prepare {card.name}` with the same --data converts them again"
    )


def _has_changed(source: SplitSource, folder: Path) -> bool:
    """Return whether the raw data are others than when they were converted."""
    about = read_json(folder / "about.json") or {}  # a torn one is made again
    stamp = source.stamp()
    return stamp is not None and about.get("stamp") != stamp


def contents_here(card: DatasetCard, split: str, machine: Machine) -> Contents | None:
    """Return what was converted here, None where nothing was, or what is not clear or damaged."""
    if split not in card.split_names:
        return None
    source = source_of(card, split, machine)
    try:
        return _contents(_folder(source) if source.is_here() else _without_raw_data(source))
    except (DataError, OSError, EOFError, ValueError, LookupError):
        return None


def _folder(source: SplitSource) -> Path:
    """Return where the Arrow files lie: named by the card's content and by what the raw data are."""
    stem = _stem(source.card, source.split)
    return Path(source.machine.cache) / "arrow" / f"{stem}-{digest(source.key(), length=8)}"


def _stem(card: DatasetCard, split: str) -> str:
    return f"{card.name}-{split}-{digest([_RULES, card.content_digest(), split], length=12)}"


def _made_folders(card: DatasetCard, split: str, machine: Machine) -> list[Path]:
    arrow = Path(machine.cache) / "arrow"
    return sorted(path.parent for path in arrow.glob(f"{_stem(card, split)}-*/about.json"))


def _without_raw_data(source: SplitSource) -> Path:
    card, split, machine = source.card, source.split, source.machine
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


def not_here(card: DatasetCard, split: str, machine: Machine) -> str:
    """Return the sentence for a split that the card lacks, or whose raw files are nowhere."""
    if split not in card.split_names:
        return f"{card.name}: has no split {split!r}; it has: {', '.join(card.split_names)}"
    return source_of(card, split, machine).missing_sentence()


def _convert(source: SplitSource, folder: Path, progress: Progress | None) -> None:
    from datasets import Dataset, Features, Value, disable_progress_bars

    disable_progress_bars()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    notes = _Notes(len(source.card.classes))

    def examples() -> Iterator[dict[str, Any]]:
        for row in source.rows(progress):
            notes.add(row)
            height, width = row.label.shape
            yield {
                "name": row.name,
                "image": row.image,
                "label": png(row.label),
                "height": height,
                "width": width,
            }

    kinds = {"name": "string", "image": "binary", "label": "binary"}
    kinds |= {"height": "int32", "width": "int32"}
    features = Features({name: Value(kind) for name, kind in kinds.items()})
    stamp = source.stamp()  # of the files as they were before they are read
    try:
        temporary.mkdir(parents=True)
        _keep_arrow_files(_from_generator(Dataset, examples, features, temporary), temporary)
        np.save(temporary / "pixels.npy", notes.pixels())
        write_json(temporary / "about.json", notes.about(source.card, source.split, stamp))
        _take_place(temporary, folder)
    except OSError as error:
        if not (folder / "about.json").exists():  # else another worker was faster
            raise DataError(
                f"{folder}: cannot be written ({error}); free space or set --cache"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _keep_arrow_files(table: "Dataset", folder: Path) -> None:
    """Give the table's files the names that are opened, and remove what the library left besides."""
    files = [Path(item["filename"]) for item in table.cache_files]
    del table
    for index, path in enumerate(files):
        _on_disk(path.replace(folder / f"part{index:03d}.arrow"))
    for left in [path for path in folder.iterdir() if path.suffix != ".arrow"]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()  # the library's own lock


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

    def add(self, row: CheckedPair) -> None:
        self.names.append(row.name)
        self.image_digests.append(row.image_digest)
        counts = np.bincount(row.label.ravel(), minlength=256)
        self.rows.append(counts[: self.num_classes].astype(np.int64))
        for part in (row.name.encode(), row.image, row.label.tobytes()):
            self.hash.update(len(part).to_bytes(8, "little"))
            self.hash.update(part)

    def pixels(self) -> NDArray[np.int64]:
        return np.stack(self.rows) if self.rows else np.zeros((0, self.num_classes), np.int64)

    def about(self, card: DatasetCard, split: str, stamp: str | None) -> dict[str, Any]:
        return {
            "card": card.name,
            "split": split,
            "names": self.names,
            "fingerprint": self.hash.hexdigest(),
            "image_digests": self.image_digests,
            "stamp": stamp,
        }


def _contents(folder: Path) -> Contents:
    about = json.loads((folder / "about.json").read_bytes())
    digests = about.get("image_digests")
    return Contents(
        names=tuple(about["names"]),
        pixels=np.load(folder / "pixels.npy"),
        fingerprint=about["fingerprint"],
        image_digests=None if digests is None else tuple(digests),
    )


def _opened(folder: Path) -> PreparedSplit:
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
    return PreparedSplit(table, contents)
