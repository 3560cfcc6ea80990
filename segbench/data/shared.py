"""Images that are scored and were trained on: counted by their pixels, before conversion by bytes.

What two splits share makes figures too high, whether of one data set or of two. No torch here.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from segbench.data.chosen import chosen_names, stored_split
from segbench.data.prepared import contents_here
from segbench.data.sources import source_of
from segbench.errors import DataError, counted
from segbench.files import sha256_of_file
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial

_FIRST_BLOCK = 1 << 16


class SplitPart(NamedTuple):
    """A part of a data set, as `open_split` takes it."""

    card: DatasetCard
    split: str
    max_images: int | None = None
    subset_seed: int = 0


def trained_part(trial: Trial) -> SplitPart:
    """Return what the trial is trained on."""
    return SplitPart(trial.dataset, trial.train.split, trial.train.max_images)


def scored_part(trial: Trial, protocol: Protocol) -> SplitPart:
    """Return what the trial's model is scored on under the protocol."""
    card = protocol.scored_card(trial.dataset)
    return SplitPart(card, protocol.split, protocol.max_images, protocol.subset_seed)


class Shared(NamedTuple):
    """How many of how many scored images are training images too."""

    number: int
    of: int


def shared_images(trained: SplitPart, scored: SplitPart, machine: Machine) -> Shared | None:
    """Return what the parts share by their pixels; None where one was not converted here.

    Images that were stored in two formats are equal if their pixels are. A photograph that was
    compressed again has other pixels and is not found.
    """
    own, theirs = (_digests(part, machine) for part in (trained, scored))
    if own is None or theirs is None:
        return None
    known = set(own)
    return Shared(sum(each in known for each in theirs), len(theirs))


def shared_in_words(trained: SplitPart, scored: SplitPart, machine: Machine) -> str:
    """Return a sentence on what two splits share, empty where they do not, or one is not here.

    Where one was not converted yet the files of the whole splits are compared. A split that is
    scored on purpose after it was trained on asks for no sentence.
    """
    is_one_card = trained.card.content_digest() == scored.card.content_digest()
    if is_one_card and trained.split == scored.split:
        return ""
    shared = shared_images(trained, scored, machine) or _shared_files(trained, scored, machine)
    if shared is None or shared.number == 0:
        return ""
    where = trained.split if is_one_card else f"{trained.card.name} {trained.split}"
    are_in = "is in" if shared.number == 1 else "are in"
    return (
        f"{scored.card.name} {scored.split}: {shared.number} of its {counted(shared.of, 'image')} "
        f"{are_in} {where} too, so figures on it are too high; take them out of one of the two"
    )


def _digests(part: SplitPart, machine: Machine) -> list[str] | None:
    contents = contents_here(part.card, stored_split(part.split), machine)
    if contents is None or contents.image_digests is None:
        return None
    chosen = chosen_names(
        part.card, part.split, contents, max_images=part.max_images, subset_seed=part.subset_seed
    )
    return [contents.image_digests[index] for index in chosen]


def _shared_files(trained: SplitPart, scored: SplitPart, machine: Machine) -> Shared | None:
    """Return what two whole splits share by the bytes of their image files; None if these are not here."""
    files = [(part.card, stored_split(part.split)) for part in (trained, scored)]
    keys = {(card.content_digest(), split) for card, split in files}
    if len(keys) == 1 or any(split not in card.split_names for card, split in files):
        return None
    try:
        ours, theirs = (
            list(source_of(card, split, machine).photographs().values()) for card, split in files
        )
        if not ours or not theirs:  # no files, or not here
            return None
        return Shared(_number_of_equal(ours, theirs), len(theirs))
    except (DataError, OSError):  # told where the files are looked at for their own sake
        return None


def _number_of_equal(ours: Sequence[Path], theirs: Sequence[Path]) -> int:
    """Return how many of their files have the bytes of one of ours.

    Of 100,000 photographs few have a size in common with another split's, and of these few begin
    alike: the cost is a look at each file's size, one block of some, and those that are equal.
    """
    keys: tuple[Callable[[Path], object], ...] = (_size, _first_block, sha256_of_file)
    for key in keys:
        own, other = ({path: key(path) for path in paths} for paths in (ours, theirs))
        both = set(own.values()) & set(other.values())
        ours, theirs = ([p for p in keyed if keyed[p] in both] for keyed in (own, other))
    return len(theirs)


def _size(path: Path) -> int:
    return path.stat().st_size


def _first_block(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_FIRST_BLOCK)).digest()
