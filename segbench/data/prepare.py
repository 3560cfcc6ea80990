"""Make a data set ready: download, verify, unpack, convert; and say beforehand what is missing."""

from collections.abc import Callable, Iterable, Sequence

from segbench.data.chosen import stored_split
from segbench.data.grouped import noted_groups
from segbench.data.layout import archive_file, archive_mark, download_folder
from segbench.data.prepared import is_here, lacking, not_here, open_prepared, prepared_folder
from segbench.data.shared import SplitPart, shared_in_words
from segbench.errors import DataError, counted
from segbench.fetch.download import Expected, download
from segbench.fetch.unpack import unpack
from segbench.schema.cards import DatasetCard
from segbench.schema.groups import counted_groups
from segbench.schema.machine import Machine

Progress = Callable[[str, int, int | None], None]  # (what, done, of)


def prepare_dataset(
    card: DatasetCard,
    machine: Machine,
    *,
    download_missing: bool = True,
    progress: Progress | None = None,
) -> str:
    """Make every split of the data set ready; return what there is now, in words.

    Files that changed since they were converted are converted again: `open_split` refuses them.

    Splits whose files are nowhere, and cannot be fetched, are named and passed over as long as
    another is ready.

    Raises:
        CardError: the card gives an image no group.
        DataError: a file is wrong, of whichever split, or no split is ready.
    """
    ready, absent, wrong = {}, [], []
    reason = _fetch_missing(card, machine, progress) if download_missing else ""
    for split in card.split_names:
        if not is_here(card, split, machine):
            absent.append(split)
            continue
        try:
            prepared = open_prepared(
                card, split, machine, _named(progress, f"converting {split}"), if_changed="convert"
            )
            ready[split] = f"{split} {counted(len(prepared.contents.names), 'image')}"
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    if not ready:
        raise DataError("\n".join(not_here(card, split, machine) for split in absent))
    without = f"; not here: {', '.join(absent)}{reason}" if absent else ""
    said = f"ready: {', '.join(ready.values())}{without}"
    return "\n".join([said, *_grouped(card, machine), *_shared(card, tuple(ready), machine)])


def _grouped(card: DatasetCard, machine: Machine) -> list[str]:
    """Return a sentence on the groups of each split, for a card that has groups."""
    found = (
        f"{split} {counted_groups(part.num_groups, noted.groups.noun)}"
        for noted in noted_groups([card], machine).values()
        for split, part in noted.splits.items()
    )
    told = ", ".join(found)
    return [f"groups: {told}"] if told else []


def _shared(card: DatasetCard, splits: Sequence[str], machine: Machine) -> list[str]:
    """Return a sentence for each split for scoring that has images of one for training."""
    training = [split for split in splits if split.startswith("train")]
    found = (
        shared_in_words(SplitPart(card, trained), SplitPart(card, scored), machine)
        for trained in training
        for scored in splits
        if scored not in training
    )
    return [sentence for sentence in found if sentence]


def preflight(needed: Iterable[tuple[DatasetCard, str]], machine: Machine) -> list[str]:
    """Return what a run needs of these splits and is not here, a sentence each; opens no picture."""
    sentences = []
    for card, split in _stored(needed):
        if not is_here(card, split, machine):
            sentences.append(not_here(card, split, machine))
        elif missing := lacking(card, split, machine):
            sentences.append(missing)
    return sentences


def convert(
    needed: Iterable[tuple[DatasetCard, str]], machine: Machine, progress: Progress | None = None
) -> list[str]:
    """Convert the splits that are here and not converted; return what is wrong with their files."""
    wrong = []
    for card, split in _stored(needed):
        shown = _named(progress, f"converting {card.name} {split}")
        try:
            prepared_folder(card, split, machine, shown, if_changed="pass_over")
        except DataError as error:
            wrong.append(str(error))
    return wrong


def _stored(needed: Iterable[tuple[DatasetCard, str]]) -> list[tuple[DatasetCard, str]]:
    """Return the splits, each once, whose files these are: a holdout's are those of its split."""
    stored = {
        (card.content_digest(), stored_split(split)): (card, stored_split(split))
        for card, split in needed
    }
    return list(stored.values())


def _missing_splits(card: DatasetCard, machine: Machine) -> list[str]:
    return [split for split in card.split_names if not is_here(card, split, machine)]


def _fetch_missing(card: DatasetCard, machine: Machine, progress: Progress | None) -> str:
    """Fetch what is not here; return why that failed where another split is here, else nothing."""
    if not _missing_splits(card, machine):
        return ""
    try:
        _fetch(card, machine, progress)
    except DataError as error:
        if len(_missing_splits(card, machine)) == len(card.split_names):
            raise
        return f" ({error})"
    return ""


def _fetch(card: DatasetCard, machine: Machine, progress: Progress | None) -> None:
    """Download and unpack the archives; those that were unpacked only if all were: files are gone.

    `.unpacking` stands beside an archive from the first file to the last, whatever ends it between.
    """
    pending = [a for a in card.archives if not archive_mark(card, a, machine, "unpacked").exists()]
    for archive in pending or card.archives:
        path = archive_file(archive, machine)
        download(
            archive.url,
            path,
            Expected(archive.sha256, archive.md5, archive.size),
            progress=_named(progress, f"downloading {path.name.partition('-')[2]}"),
        )
        half = archive_mark(card, archive, machine, "unpacking")
        half.touch()
        unpack(path, download_folder(card, machine) / archive.into)
        archive_mark(card, archive, machine, "unpacked").touch()
        half.unlink()


def _named(progress: Progress | None, what: str) -> Callable[[int, int | None], None] | None:
    return None if progress is None else lambda done, of: progress(what, done, of)
