"""A source of the user's: a function that yields a split's images and labels.

The function is called as `read(split=..., folders=..., **arguments)`. `folders` are the places where
files of the card may lie, in the order of search. It yields (name, image, label): a name that may
become a file's; (H, W, 3) uint8 RGB, or (H, W) grey; (H, W) class indices of the card, 255 for void.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from segbench.code.own import FAULTS, code_of, look_in, trusted_function
from segbench.data.layout import possible_roots
from segbench.data.photographs import digest_of_pixels
from segbench.data.sources.base import CheckedPair, Progress, SplitSource, png
from segbench.errors import CardError, DataError, counted
from segbench.files import check_file_names
from segbench.schema.cards import IGNORE_INDEX, Reader


class OwnSource(SplitSource):
    """What the user's function yields. Its code and its arguments tell the rows from others."""

    @cached_property
    def _code(self) -> dict[str, str] | str:
        """The sources of the function, or why they cannot be had."""
        look_in(self.machine.code_folders)
        try:
            return code_of([self._reader.function])
        except CardError as error:
            return f"{self.card.name} {self.split}: reader {error}"

    @property
    def _reader(self) -> Reader:
        assert self.card.reader is not None
        return self.card.reader

    @property
    def _told(self) -> str:
        return f"{self.card.name} {self.split}: {self._reader.function}"

    def is_here(self) -> bool:
        """Return whether the function's code is here and trusted."""
        return not isinstance(self._code, str)

    def missing_sentence(self) -> str:
        """Return why the code cannot be had."""
        return str(self._code)

    def key(self) -> Any:
        """Return the code, and where it may look for files; the arguments are the card's."""
        return [self._code, *self.machine.data]

    def check(self) -> None:
        """Read the first image: wrong code and missing files are told before anything starts."""
        next(self.rows())

    def rows(self, progress: Progress | None = None) -> Iterator[CheckedPair]:
        """Yield what the function yields, checked; the first problem ends it."""
        names: dict[str, None] = {}
        for given in self._given():
            row = self._checked(given, len(names))
            if row.name in names:
                raise DataError(f"{self._told}: names twice: {row.name}")
            names[row.name] = None
            yield row
            if progress is not None:
                progress(len(names), len(names))
        if not names:
            raise DataError(f"{self._told}: gives no images")

    def _given(self) -> Iterator[Any]:
        folders = tuple(possible_roots(self.card, self.machine))
        done = 0
        try:
            read: Any = trusted_function(self._reader.function)
            for given in read(split=self.split, folders=folders, **self._reader.arguments):
                yield given
                done += 1
        except CardError as error:
            raise DataError(f"{self.card.name}: reader {error}") from error
        except (OSError, *FAULTS) as error:
            raise DataError(
                f"{self._told}: fails after {counted(done, 'image')}: {type(error).__name__}: {error}"
            ) from error

    def _checked(self, given: Any, number: int) -> CheckedPair:
        if not isinstance(given, tuple | list) or len(given) != 3:
            raise DataError(
                f"{self._told}: expected (name, image, label), but image {number} is {type(given)}"
            )
        name, image, label = given[0], np.asarray(given[1]), np.asarray(given[2])
        if not isinstance(name, str):
            raise DataError(f"{self._told}: the name of image {number} is {name!r}, not a text")
        check_file_names(self._told, [name])
        is_image = image.ndim in {2, 3} and image.shape[2:] in {(), (3,)} and 0 not in image.shape
        if not is_image or image.dtype != np.uint8:
            raise DataError(
                f"{self._told}: the image of {name} is {image.dtype} of shape {image.shape}; "
                "expected uint8 of (H, W, 3) or (H, W)"
            )
        if label.shape != image.shape[:2] or not np.issubdtype(label.dtype, np.integer):
            raise DataError(
                f"{self._told}: the label of {name} is {label.dtype} of shape {label.shape}; expected "
                f"whole numbers of {image.shape[:2]}"
            )
        wrong = label[((label < 0) | (label >= len(self.card.classes))) & (label != IGNORE_INDEX)]
        if wrong.size:
            raise DataError(
                f"{self._told}: the label of {name} has the value {wrong[0]}, which is no index of "
                f"the card's {len(self.card.classes)} classes, nor {IGNORE_INDEX} for void"
            )
        digested = digest_of_pixels(Image.fromarray(image))
        return CheckedPair(name, png(image), label.astype(np.uint8), digested)
