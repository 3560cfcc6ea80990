"""Pairs of image and label files, found by a card's patterns and checked one by one."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from segbench.data.photographs import Doubts, checked_image
from segbench.data.sources.base import CheckedPair, Progress, SplitSource
from segbench.errors import DamagedError, DataError, FileError, by_cause
from segbench.files import digest


class FilesSource(SplitSource):
    """The files of a split under the first folder that has them."""

    @cached_property
    def _root(self) -> Path | None:
        return find_root(self.card, self.card.splits[self.split], self.machine)

    @property
    def place(self) -> str:
        """Where the files lie, in words."""
        return f"files under {self._root}"

    def is_here(self) -> bool:
        """Return whether a folder has the split's list, or its first label."""
        return self._root is not None

    def missing_sentence(self) -> str:
        """Return which files were looked for, and where to put them."""
        card, wanted = self.card, self.card.splits[self.split]
        expected = " or ".join(str(root) for root in self._likely_roots())
        names = wanted.labels if (wanted.list or CARD_LIST).startswith(CARD_LIST) else wanted.list
        fetch = f", or run `segbench prepare {card.name}` on a machine with a network"
        return (
            f"{card.name} {self.split}: no files here; expected {names} and "
            f"{wanted.images} under {expected}; name their folder with --data"
            f"{fetch if card.archives else ' (the card names no archive to fetch)'}"
        )

    def key(self) -> Any:
        """Return the folder and the names of the images."""
        return [str(self._root), *self.names()]

    def names(self) -> list[str]:
        """Return the names that the split's list or its label files have."""
        assert self._root is not None
        return image_names(self.card.splits[self.split], self._root)

    def check(self) -> None:
        """Look for every file of every pair; no file is opened."""
        _ = self._pairs

    def stamp(self) -> str:
        """Return a digest of the files' names, sizes and times."""
        paths = [path for pair in self._pairs for path in (pair.image, pair.label)]
        found = [(str(path), path.stat()) for path in paths]
        return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in found])

    def photographs(self) -> dict[str, Path]:
        """Return the image files by name."""
        return {} if self._root is None else {pair.name: pair.image for pair in self._pairs}

    def rows(self, progress: Progress | None = None) -> Iterator[CheckedPair]:
        """Yield every sound pair; raise at the end with all that is wrong with the others."""
        card, pairs = self.card, self._pairs
        lookup = class_lookup(card)
        problems: list[DataError] = []
        doubts = Doubts(card.exif, card.image_bits)
        for index, pair in enumerate(pairs):
            try:
                yield self._checked_row(pair, lookup, doubts)
            except DataError as error:
                problems.append(error)
            if progress is not None:
                progress(index + 1, len(pairs))
        if told := by_cause([*doubts.problems(), *problems], mend=self._mend()):
            raise DataError("\n".join(told))

    @cached_property
    def _pairs(self) -> list[RawPair]:
        assert self._root is not None
        return raw_pairs(self.card, self.split, self._root)

    def _checked_row(
        self, pair: RawPair, lookup: NDArray[np.uint16], doubts: Doubts
    ) -> CheckedPair:
        card = self.card
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
                f"[is|are] {{}}{exif}; a pair must have one size",
                f"{label.shape[1]}x{label.shape[0]} pixels, "
                f"but the image {image.width}x{image.height}",
            )
        return CheckedPair(pair.name, image.stored, label, image.digest)

    def _likely_roots(self) -> list[Path]:
        card, machine = self.card, self.machine
        if not machine.data:
            return [own_folder(card, machine) / card.roots[0]]
        folder = Path(machine.data[0])
        return [folder / card.name / card.roots[0], folder / card.roots[0]]

    def _mend(self) -> str:
        """Return what to do about damaged files: what we fetched can be fetched again."""
        fetched = download_folder(self.card, self.machine)
        assert self._root is not None
        if not self.card.archives or not self._root.is_relative_to(fetched):
            return DamagedError.mend
        return f"delete {fetched} and fetch it again with `segbench prepare {self.card.name}`"
