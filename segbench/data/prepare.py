"""Make a data set ready: download, verify, unpack, convert; and say beforehand what is missing."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from segbench.data.download import download
from segbench.data.layout import download_folder, find_root
from segbench.data.prepared import not_here, open_prepared
from segbench.data.unpack import unpack
from segbench.errors import DataError
from segbench.spec.cards import DatasetCard
from segbench.spec.machine import Machine

Progress = Callable[[str, int, int | None], None]  # (what, done, of)


def prepare(
    card: DatasetCard,
    machine: Machine,
    *,
    download_missing: bool = True,
    progress: Progress | None = None,
) -> str:
    """Make every split of the data set ready; return what there is now, in words.

    Splits whose files are nowhere, and cannot be fetched, are named and passed over as long as
    another is ready.

    Raises:
        DataError: a file is wrong, or no split is ready.
    """
    ready, absent, reason = [], [], ""
    if card.drawn is None and download_missing and _missing_splits(card, machine):
        try:
            _fetch(card, machine, progress)
        except DataError as error:
            if len(_missing_splits(card, machine)) == len(card.splits):
                raise
            reason = f" ({error})"
    for split in ("train", "val") if card.drawn else card.splits:
        if card.drawn is None and find_root(card, card.splits[split], machine) is None:
            absent.append(split)
            continue
        prepared = open_prepared(card, split, machine, _named(progress, f"converting {split}"))
        ready.append(f"{split} {len(prepared.names)} images")
    if not ready:
        raise DataError("\n".join(not_here(card, split, machine) for split in absent))
    without = f"; not here: {', '.join(absent)}{reason}" if absent else ""
    return f"ready: {', '.join(ready)}{without}"


def preflight(cards: Sequence[DatasetCard], splits: Sequence[str], machine: Machine) -> list[str]:
    """Return a sentence for each split that a run needs and whose files are not here; opens none."""
    sentences = []
    for card in cards:
        stored = {"train" if split == "holdout" else split for split in splits}
        for split in sorted(stored):
            if card.drawn is None and find_root(card, card.splits[split], machine) is None:
                sentences.append(not_here(card, split, machine))
    return sentences


def _missing_splits(card: DatasetCard, machine: Machine) -> list[str]:
    return [name for name, split in card.splits.items() if find_root(card, split, machine) is None]


def _fetch(card: DatasetCard, machine: Machine, progress: Progress | None) -> None:
    """Download and unpack every archive; an archive that was unpacked is not fetched again."""
    folder = download_folder(machine)
    for archive in card.archives:
        name = PurePosixPath(urlsplit(archive.url).path).name
        path = folder / "archives" / name
        done = path.with_name(f"{name}.unpacked")
        if done.exists():
            continue
        download(
            archive.url,
            path,
            sha256=archive.sha256,
            md5=archive.md5,
            size=archive.size,
            progress=_named(progress, f"downloading {name}"),
        )
        unpack(path, folder / Path(archive.into))
        done.touch()


def _named(progress: Progress | None, what: str) -> Callable[[int, int | None], None] | None:
    return None if progress is None else lambda done, of: progress(what, done, of)
