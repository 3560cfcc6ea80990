"""Check an image file's bytes and make sure that training can decode them fast.

RGB and grey JPEG and PNG files stay as they are, byte for byte; anything else (CMYK, palettes,
alpha, other formats, what the card has turned or scaled) is stored as an RGB PNG. Of 16 bit images
the upper 8 of the significant bits are kept.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segbench.data.as_stored import (
    as_shown,
    as_stored,
    check_one_picture,
    deep_values,
    orientation_of,
    turned_by_pillow,
)
from segbench.errors import DamagedError, FileError
from segbench.schema.cards import Exif

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM")
_SENSOR_BITS = (8, 10, 12, 14)  # what cameras put into files of 16
_TURNED = (
    "EXIF has [it|them] shown turned or mirrored, and the card does not say which pixels the labels are "
    "drawn on; add to the card `exif: apply` (as shown) or `exif: stored` (as they lie in the file)"
)


class Photograph(NamedTuple):
    """An image that can be decoded.

    stored: its file's bytes. height, width: of what is stored. digest: of its size and RGB pixels.
    is_turned: EXIF has it shown otherwise than it lies in the file. brightest: the largest value of
    a 16 bit file, None where values have 8 bits.
    """

    stored: bytes
    height: int
    width: int
    digest: str
    is_turned: bool
    brightest: int | None


def checked_image(
    raw: bytes, name: str, *, exif: Exif | None = None, bits: int | None = None
) -> Photograph:
    """Return the bytes to store, and what is known of the image.

    exif: whether EXIF's orientation is applied; not where nothing is said. bits: the significant
    ones of a 16 bit file, all where nothing is said; larger values become the largest.

    Raises:
        DataError: the file is damaged, cut short, or not an image.
    """
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            check_one_picture(image, raw, name)
            turned = turned_by_pillow(image)
            values = deep_values(image, raw, name)
            orientation = orientation_of(image) if turned == 1 else turned
            seen = image if values is None else _eight_bits(image, values, bits or 16)
            seen = as_stored(seen, turned)
            if exif == "apply":
                seen = as_shown(seen, orientation)
            known = orientation != 1, None if values is None else int(values.max())
            if seen is image and image.format in {"JPEG", "PNG"} and image.mode in {"RGB", "L"}:
                return Photograph(raw, image.height, image.width, digest_of_pixels(image), *known)
            rgb, buffer = seen.convert("RGB"), io.BytesIO()
            rgb.save(buffer, format="PNG", compress_level=3)
            return Photograph(
                buffer.getvalue(), rgb.height, rgb.width, digest_of_pixels(rgb), *known
            )
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = f"[is|are] none of {', '.join(_FORMATS)}" if raw else "[is|are] empty"
        raise DamagedError(name, what) from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DamagedError(
            name, "[is not a readable image|are no readable images] ({})", error
        ) from error


class Doubts:
    """What a split's photographs leave open, for the card to say."""

    def __init__(self, exif: Exif | None, bits: int | None) -> None:
        self._exif = exif
        self._bits = bits
        self._turned: list[str] = []
        self._brightest: dict[str, int] = {}  # of 16 bit files

    def add(self, name: str, photograph: Photograph) -> None:
        """Look at one photograph of the split."""
        if photograph.is_turned and self._exif is None:
            self._turned.append(name)
        if photograph.brightest is not None:
            self._brightest[name] = photograph.brightest

    def problems(self) -> list[FileError]:
        """Return what is open, for each file."""
        found = [FileError(name, _TURNED) for name in self._turned]
        largest, most = max(self._brightest.values(), default=0), 2 ** (self._bits or 16) - 1
        bits = next((b for b in _SENSOR_BITS if largest < 2**b), None)
        if self._bits is None and bits is not None:
            dark = (
                f"[has|have] 16 bits, and no value above {largest}: [it|they] would be read as nearly "
                "black; scale [it|them] up, or add to the data set's card "
                f"`image_bits: {bits}` (16 if [it is|they are] so dark)"
            )
            found += [FileError(name, dark) for name in self._brightest]
        bright = (
            f"[has|have] values above {most}, the largest by the card's `image_bits: {self._bits}`, up "
            f"to {largest}; scale [it|them] down, or mend the card"
        )
        found += [
            FileError(name, bright) for name, value in self._brightest.items() if value > most
        ]
        return found


def digest_of_pixels(image: Image.Image) -> str:
    """Return 16 hexadecimal digits that tell images apart by size and RGB pixels."""
    hashed = hashlib.sha256(f"{image.height}x{image.width} ".encode())
    hashed.update(image.convert("RGB").tobytes())
    return hashed.hexdigest()[:16]


def _eight_bits(image: Image.Image, values: NDArray[np.uint16], bits: int) -> Image.Image:
    """Return the image with 8 bits per value; Pillow's own conversion turns grey mostly white."""
    if bits == 16 and not image.mode.startswith("I;16"):
        return image  # it has the upper 8 bits already
    return Image.fromarray((np.minimum(values, 2**bits - 1) >> (bits - 8)).astype(np.uint8))
