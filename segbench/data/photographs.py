"""Check an image file's bytes and make sure that training can decode them fast.

RGB and grey JPEG and PNG files stay as they are, byte for byte; anything else (CMYK, palettes,
alpha, other formats, what the card has turned or scaled) is stored as an RGB PNG. Of 16 bit images
the upper 8 of the significant bits are kept. Pillow turns TIFF files itself, whatever a card says.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from segbench.errors import DamagedError
from segbench.spec.cards import Exif

_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_ORDER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
}
_SENSOR_BITS = (8, 10, 12, 14)  # what cameras put into files of 16


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
        with Image.open(io.BytesIO(raw)) as image:
            values = _deep_values(image, raw)
            seen = image if values is None else _eight_bits(image, values, bits or 16)
            to_upright = _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            if to_upright is not None and exif == "apply":
                seen = seen.transpose(to_upright)
            known = to_upright is not None, None if values is None else int(values.max())
            if seen is image and image.format in {"JPEG", "PNG"} and image.mode in {"RGB", "L"}:
                return Photograph(raw, image.height, image.width, digest_of_pixels(image), *known)
            rgb, buffer = seen.convert("RGB"), io.BytesIO()
            rgb.save(buffer, format="PNG", compress_level=3)
            return Photograph(
                buffer.getvalue(), rgb.height, rgb.width, digest_of_pixels(rgb), *known
            )
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = "is empty" if not raw else "is of no image format that Pillow knows"
        raise DamagedError(name, what) from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DamagedError(name, "is not a readable image ({})", error) from error


class Doubts:
    """What a split's photographs leave open, for the card to say: one sentence for each cause."""

    def __init__(self, exif: Exif | None, bits: int | None) -> None:
        self._exif = exif
        self._bits = bits
        self._turned: list[str] = []
        self._deep: list[str] = []
        self._too_bright: list[str] = []
        self._brightest = 0

    def add(self, name: str, photograph: Photograph) -> None:
        """Look at one photograph of the split."""
        if photograph.is_turned and self._exif is None:
            self._turned.append(name)
        if photograph.brightest is not None:
            self._deep.append(name)
            self._brightest = max(self._brightest, photograph.brightest)
            if photograph.brightest >= 2 ** (self._bits or 16):
                self._too_bright.append(name)

    def sentences(self) -> list[str]:
        """Return what is open, with the number of files and the first of them."""
        found = []
        if self._turned:
            found.append(
                f"{_counted(self._turned)}: EXIF has it shown turned or mirrored, and the card does not "
                "say which pixels the labels are drawn on; add to the card `exif: apply` (as shown) "
                "or `exif: stored` (as they lie in the file)"
            )
        bits = next((b for b in _SENSOR_BITS if self._brightest < 2**b), None)
        if self._deep and self._bits is None and bits is not None:
            found.append(
                f"{_counted(self._deep)}: has 16 bits, and no value above {self._brightest}: it would "
                f"be read as nearly black; scale it up, or add to the data set's card `image_bits: {bits}` "
                "(16 if it is so dark)"
            )
        if self._too_bright:
            found.append(
                f"{_counted(self._too_bright)}: has values above {2 ** (self._bits or 16) - 1}, the "
                f"largest by the card's `image_bits: {self._bits}`, up to {self._brightest}; "
                "scale it down, or mend the card"
            )
        return found


def _counted(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def digest_of_pixels(image: Image.Image) -> str:
    """Return 16 hexadecimal digits that tell images apart by size and RGB pixels."""
    hashed = hashlib.sha256(f"{image.height}x{image.width} ".encode())
    hashed.update(image.convert("RGB").tobytes())
    return hashed.hexdigest()[:16]


def _deep_values(image: Image.Image, raw: bytes) -> NDArray[np.uint16] | None:
    """Return a 16 bit file's values, (H, W) or (H, W, 3), and None of any other; loads the image.

    Of colours Pillow keeps the upper byte alone; read in the other byte order it is the lower one.
    """
    other_order = _other_order(image)
    image.load()
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in {"I", "F"}:
        raise ValueError(f"its values are of the kind {image.mode}; save it with 8 bits")
    if other_order is None:
        return None
    with Image.open(io.BytesIO(raw)) as again:
        again.tile = [tile._replace(args=other_order) for tile in again.tile]
        upper, lower = (np.asarray(part)[..., :3].astype(np.uint16) for part in (image, again))
    return (upper << 8 | lower).astype(np.uint16)


def _other_order(image: Image.Image) -> object:
    """Return how Pillow is told to read 16 bit colours in the other byte order, None of others."""
    arguments = image.tile[0].args if isinstance(image, ImageFile) and image.tile else None
    mode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    swapped = _OTHER_ORDER.get(str(mode))
    if swapped is None:
        return None
    return (swapped, *rest) if isinstance(arguments, tuple) else swapped


def _eight_bits(image: Image.Image, values: NDArray[np.uint16], bits: int) -> Image.Image:
    """Return the image with 8 bits per value; Pillow's own conversion turns grey mostly white."""
    if bits == 16 and not image.mode.startswith("I;16"):
        return image  # it has the upper 8 bits already
    return Image.fromarray((np.minimum(values, 2**bits - 1) >> (bits - 8)).astype(np.uint8))
