"""What is asked of a source of data: one split of a card, as it is on this machine.

Knows nothing of any one source, and of how rows are kept once they are checked.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

Progress = Callable[[int, int], None]  # (done, of)


class CheckedPair(NamedTuple):
    """A checked pair: encoded image, label as (H, W) uint8 class indices, digest of the pixels."""

    name: str
    image: bytes
    label: NDArray[np.uint8]
    image_digest: str


class SplitSource:
    """The raw data of one split. Every kind of source is one; what most of them share is here.

    Building one reads nothing. What it says must not depend on the card's view.
    """

    place = ""  # where raw data lie that may change, in words

    def __init__(self, card: DatasetCard, split: str, machine: Machine) -> None:
        self.card = card
        self.split = split
        self.machine = machine

    def is_here(self) -> bool:
        """Return whether rows can be made here, as far as can be told without reading a file."""
        return True

    def missing_sentence(self) -> str:
        """Return what is missing and what to do, where `is_here` is false."""
        return ""

    def key(self) -> Any:
        """Return what tells converted rows from those of other raw data; JSON-ready.

        Raises:
            DataError: what the raw data are cannot be read.
        """
        return None

    def names(self) -> list[str] | None:
        """Return the images' names in the split's order; None where they are not known unread.

        Raises:
            DataError: what says them cannot be read.
        """
        return None

    def check(self) -> None:
        """Look at what can be seen quickly, before a run whose trials would convert the split.

        Raises:
            DataError: one line for each problem.
        """

    def stamp(self) -> str | None:
        """Return a digest that changes when raw data are edited in place; None where none can be."""
        return None

    def photographs(self) -> dict[str, Path]:
        """Return the image files by name; none where images are no files, or not here."""
        return {}

    def rows(self, progress: Progress | None = None) -> Iterator[CheckedPair]:
        """Yield every sound pair in the split's order; raise at the end with what is wrong.

        Raises:
            DataError: one line for each problem.
        """
        raise NotImplementedError


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) pixels as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
