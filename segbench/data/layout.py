"""Find a data set's raw files: which folder, which names, which pairs. Reads no image.

Raw files are looked for at every root of the card: in each data folder, with and without the
card's name above it, then in the cache, in `data/NAME` and where the card's archives are unpacked.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from segbench.errors import DataError, counted, listed
from segbench.files import check_file_names, digest
from segbench.schema.cards import Archive, DatasetCard, Split
from segbench.schema.catalog import built_in_root
from segbench.schema.machine import Machine

_IMAGE_TYPES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
_ANY_TYPE = ", ".join(_IMAGE_TYPES[:-1]) + f" or {_IMAGE_TYPES[-1]}"
CARD_LIST = "card:"


class RawPair(NamedTuple):
    """An image file and its label file."""

    name: str
    image: Path
    label: Path


def download_folder(card: DatasetCard, machine: Machine) -> Path:
    """Return the folder that the card's archives are unpacked to.

    Cards with the same archives share it; of others it holds nothing, whose files may be called alike.
    """
    return _data_folder(machine) / _archives_key(card)


def _data_folder(machine: Machine) -> Path:
    """Return the folder of the cache for raw files: downloads, and what users put there."""
    return Path(machine.cache) / "data"


def _archives_key(card: DatasetCard) -> str:
    return digest([[archive.url, archive.into] for archive in card.archives], length=8)


def archive_file(archive: Archive, machine: Machine) -> Path:
    """Return where an archive is downloaded to; two cards' `data.zip` do not meet there."""
    name = PurePosixPath(urlsplit(archive.url).path).name
    key = digest([archive.url, archive.into], length=8)
    return _data_folder(machine) / "archives" / f"{key}-{name}"


def archive_mark(card: DatasetCard, archive: Archive, machine: Machine, mark: str) -> Path:
    """Return the empty file beside an archive that says how far its unpacking for the card is."""
    path = archive_file(archive, machine)
    return path.with_name(f"{path.name}.{_archives_key(card)}.{mark}")


def possible_roots(card: DatasetCard, machine: Machine) -> list[Path]:
    """Return every folder that may hold the card's files, in the order of search.

    Downloads are left out while an archive is unpacked in part: a half would pass for the whole.
    """
    is_half = any(archive_mark(card, a, machine, "unpacking").exists() for a in card.archives)
    downloads = [download_folder(card, machine)] if card.archives and not is_half else []
    roots = [
        folder / place / root
        for folder, places in (
            *((Path(given), (card.name, "")) for given in machine.data),
            (own_folder(card, machine), ("",)),
            *((unpacked, (card.name, "")) for unpacked in downloads),
        )
        for root in card.roots
        for place in places
    ]
    return list(dict.fromkeys(roots))


def own_folder(card: DatasetCard, machine: Machine) -> Path:
    """Return the folder of the cache where a user may put the card's files."""
    return _data_folder(machine) / card.name


def find_root(card: DatasetCard, split: Split, machine: Machine) -> Path | None:
    """Return the first folder that has the split's list, or its first label; None without any."""
    for root in possible_roots(card, machine):
        if split.list is not None and not split.list.startswith(CARD_LIST):
            if (root / split.list).is_file():
                return root
        elif next(_label_files(root, split), None) is not None:
            return root
    return None


def raw_pairs(card: DatasetCard, split_name: str, root: Path) -> list[RawPair]:
    """Return the pairs of a split, sorted as its list is, or by name.

    Raises:
        DataError: files are missing, or there are not as many as the card says; both at once.
    """
    split = card.splits[split_name]
    names = image_names(split, root)
    problems = [] if names else [f"{root}: {card.name} {split_name} has no images"]
    if split.count is not None and len(names) != split.count:
        problems.append(
            f"{root}: {card.name} {split_name} has {counted(len(names), 'image')}, but the card says "
            f"{split.count}; complete the folder, or make a card of your own with "
            f"`base: {card.name}` and the right `count`"
        )
    if split.list is None and (split.count is None or problems):  # the labels alone made the names
        without = [str(path) for path in _images_without_label(root, split)]
        if without:
            problems.append(
                f"{card.name} {split_name}: images without a label: {listed(without)}; a label is "
                f"{split.labels}, where {{name}} is the image's without its ending; add labels, or "
                "take the images out of the folder"
            )
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        problems.append(f"{card.name} {split_name}: {split.list} names twice: {listed(twice)}")
    pairs, wrong = _found_pairs(card, split_name, names, root)
    if problems + wrong:
        raise DataError("\n".join(problems + wrong))
    return pairs


def _found_pairs(
    card: DatasetCard, split_name: str, names: list[str], root: Path
) -> tuple[list[RawPair], list[str]]:
    """Return the pairs that are whole and clear, and what is wrong with the others."""
    split = card.splits[split_name]
    pairs, missing, unclear, problems = [], [], [], []
    files = _Folders()
    for name in names:
        place = split.images.replace("{name}", name)
        label = root / split.labels.replace("{name}", name)
        images = [image for image in files.images(root / place) if image != label]
        if not images:
            missing.append(_missing_image(root / place))
        elif not files.has(label):
            missing.append(_missing(label))
        elif len(images) > 1:
            unclear.append(" or ".join(map(str, images)))
        else:
            pairs.append(RawPair(name, images[0], label))
    if unclear:
        problems.append(
            f"{card.name} {split_name}: which is the image: {listed(unclear)}? Keep one of each, or "
            "write the ending into the pattern, such as {name}.jpg"
        )
    if missing:
        problems.append(
            f"{card.name} {split_name}: missing files: {listed(missing)}; add them, take their "
            f"names out of {'the labels' if split.list is None else split.list}, or mend the card's "
            "patterns (other types of image need their ending there, such as {name}.tif)"
        )
    return pairs, problems


def _missing_image(exact: Path) -> str:
    links = [path for path in _image_candidates(exact) if path.is_symlink()]
    if links:
        return _missing(links[0])
    return f"{exact}{'' if exact.suffix in _IMAGE_TYPES else f' ({_ANY_TYPE})'}"


def _missing(path: Path) -> str:
    return f"{path} (a link to nothing)" if path.is_symlink() else str(path)


def _images_without_label(root: Path, split: Split) -> list[Path]:
    """Return the images that the split's pattern finds and whose label file is not there."""
    before, _, after = split.images.partition("{name}")
    endings = (after,) if after else _IMAGE_TYPES
    known = {name for path in split.minus for name in _read_list(path, root)}
    labels = set(_label_files(root, split))  # they may lie in the folder of the images
    found = []
    for path in _files_named(root, before):
        if path in labels:
            continue
        text = path.relative_to(root).as_posix()
        ending = next((ending for ending in endings if text.endswith(ending)), None)
        if ending is None:
            continue
        name = text[len(before) : len(text) - len(ending)]
        if name not in known and not (root / split.labels.replace("{name}", name)).is_file():
            found.append(path)
    return sorted(found)


def image_names(split: Split, root: Path) -> list[str]:
    """Return the names of a split's images: its list's, or those of the label files, sorted.

    Raises:
        DataError: a list cannot be read, or results could not hold a name.
    """
    if split.list is None:
        names = sorted(_name_of(path, root, split) for path in _label_files(root, split))
    else:
        names = _read_list(split.list, root)
    check_file_names(root if split.list is None else root / split.list, names)
    without = {name for path in split.minus for name in _read_list(path, root)}
    return [name for name in names if name not in without]


def _read_list(place: str, root: Path) -> list[str]:
    is_ours = place.startswith(CARD_LIST)
    ours = built_in_root() / "datasets" / place.removeprefix(CARD_LIST)
    path = ours if is_ours else root / place
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the list of a split's images is not UTF-8 text") from error
    except OSError as error:
        if is_ours:
            raise DataError(
                f"{place}: segbench brings no such list; put one of your own into the folder of the "
                f"data and name it without `{CARD_LIST}`"
            ) from error
        raise DataError(
            f"{path}: the list of a split's images cannot be read ({error.strerror})"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _label_files(root: Path, split: Split) -> Iterator[Path]:
    before, _, after = split.labels.partition("{name}")
    yield from _files_named(root, before, after)


def _files_named(root: Path, before: str, after: str = "") -> Iterator[Path]:
    """Yield the files whose place below `root` begins and ends so; deeper folders are left out."""
    folder, _, stem = before.rpartition("/")
    yield from (root / folder).glob(f"{stem}*{after}")


def _name_of(path: Path, root: Path, split: Split) -> str:
    before, _, after = split.labels.partition("{name}")
    text = path.relative_to(root).as_posix()
    return text[len(before) : len(text) - len(after)]


class _Folders:
    """The files of folders, each folder listed once: asking for one file at a time is slow.

    A link to nothing is no file.
    """

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        if path.parent not in self._names:
            try:
                with os.scandir(path.parent) as entries:
                    self._names[path.parent] = frozenset(e.name for e in entries if e.is_file())
            except OSError:
                self._names[path.parent] = frozenset()
        return path.name in self._names[path.parent]

    def images(self, exact: Path) -> list[Path]:
        """Return the file of that name, or all that have it and the ending of an image."""
        if self.has(exact):
            return [exact]
        return [path for path in _image_candidates(exact) if self.has(path)]


def _image_candidates(exact: Path) -> list[Path]:
    """Return the file of that name, and those that have the ending of an image."""
    return [exact, *(exact.with_name(exact.name + suffix) for suffix in _IMAGE_TYPES)]
