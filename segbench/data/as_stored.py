"""What lies in an image file, where Pillow gives something else: orientation, and 16 bit values.

Letters: H W size of the image.
"""

import contextlib
import io
import struct
import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)

from segbench.errors import FileError

_KIND_OF_PAGE = 254  # a TIFF tag
_COPY_OR_MASK = 0b101  # its bits for a page of lower resolution, and for a transparency mask
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
_BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the orientation that undoes another
_GREY_ALPHA = "LA;16B"
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LOWER_BYTES = {  # how Pillow reads a pixel -> how it reads the lower bytes of the colours, or of grey
    _GREY_ALPHA: "ARGB",  # the second of four bytes is red
    **{
        f"{colours};16{order}": f"{colours};16{other}"
        for colours in ("RGB", "RGBA", "RGBX")
        for order, other in _OTHER_ORDER.items()
    },
}
_OF_SEVERAL = {"TIFF", "GIF", "PNG", "WEBP", "AVIF"}  # pictures of one rank; MPO has its copies
_UNREADABLE = (  # what Pillow raises of damaged pages
    *(EOFError, IndexError, OSError, SyntaxError, TypeError, ValueError),
    *(Image.DecompressionBombError, struct.error),
)
_JPEG_2000_SIZES = b"\xff\x4f\xff\x51"  # 42 bytes from here lies the depth of a value, less one


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where EXIF is damaged, as viewers have it."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(SyntaxError, ValueError):
        found = image.getexif().get(_ORIENTATION, 1)
        return found if found in _TO_UPRIGHT else 1
    return 1


def turned_by_pillow(image: Image.Image) -> int:
    """Return the orientation that Pillow applies when it loads the image: a TIFF file's own."""
    return orientation_of(image) if image.format == "TIFF" else 1


def as_shown(stored: Image.Image, orientation: int) -> Image.Image:
    """Return the image as viewers show it."""
    return stored.transpose(_TO_UPRIGHT[orientation]) if orientation != 1 else stored


def as_stored(shown: Image.Image, orientation: int) -> Image.Image:
    """Return the image as it lies in its file."""
    return as_shown(shown, _BACK[orientation])


def check_one_picture(image: Image.Image, raw: bytes, name: str) -> None:
    """Refuse a file of several pictures, of which the first alone would be read.

    Smaller copies of the first and its masks are none of them, in TIFF files as in those of phones.

    Raises:
        DataError: pages of a TIFF file, or frames of an animation, come after the first.
    """
    if image.format not in _OF_SEVERAL:
        return
    number, what = 0, "pages" if image.format == "TIFF" else "frames"
    # Opened again, since what cannot be read of later pages must not harm the first.
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*_UNREADABLE):
        for page in ImageSequence.Iterator(Image.open(io.BytesIO(raw))):
            kind = page.tag_v2.get(_KIND_OF_PAGE, 0) if isinstance(page, TiffImageFile) else 0
            number += not kind & _COPY_OR_MASK
    if number > 1:
        raise FileError(
            name,
            f"[holds|hold] {{}} {what}, of which the first alone would be read; save "
            "[the one that is|those that are] meant as PNG",
            number,
        )


def deep_values(image: Image.Image, raw: bytes, name: str) -> NDArray[np.uint16] | None:
    """Return a 16 bit file's values, (H, W) or (H, W, 3), and None of any other; loads the image.

    Of colours, and of grey with alpha, Pillow keeps the upper bytes alone: the lower are read apart.

    Raises:
        DataError: the values cannot be read whole.
    """
    mode, arguments = _reading_of_lower_bytes(image)
    has_16_bits = _bits_of(image, raw) == 16
    image.load()
    if has_16_bits and has_0_for_white(image):
        raise FileError(
            name, "[has|have] 16 bits per value with 0 for white; save [it|them] as PNG"
        )
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in {"I", "F"}:
        what = (
            f"[has|have] values of the kind {image.mode}, which are not read from this kind of file"
        )
        raise FileError(name, f"{what}; save [it|them] as PNG with 8 or 16 bits")
    if arguments is None and has_16_bits:
        what = "[has|have] 16 bits per value, of which only 8 can be read from this kind of file"
        raise FileError(name, f"{what}; save [it|them] as PNG with 16 bits")
    if arguments is None:
        return None
    with Image.open(io.BytesIO(raw)) as again:
        again.tile = [tile._replace(args=arguments) for tile in again.tile]
        upper, lower = (np.asarray(part)[..., :3].astype(np.uint16) for part in (image, again))
    values = (upper << 8 | lower).astype(np.uint16)
    return values[..., 0] if mode == _GREY_ALPHA else values


def has_0_for_white(image: Image.Image) -> bool:
    """Return whether a TIFF file's larger values are darker ones."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _bits_of(image: Image.Image, raw: bytes) -> int:
    """Return how many bits the file says that a value has; 8 where Pillow scales by what it says."""
    if isinstance(image, TiffImageFile):
        return int(np.max(image.tag_v2.get(BITSPERSAMPLE, 8)))
    if image.format == "PNG":
        return raw[24]
    if image.format == "JPEG2000":
        return (raw[raw.index(_JPEG_2000_SIZES) + 42] & 127) + 1
    return 16 if image.format == "PPM" and _arguments(image)[1:] == (65535,) else 8


def _arguments(image: Image.Image) -> tuple[Any, ...]:
    """Return what Pillow tells its decoder; the first is the mode of a pixel in the file."""
    arguments = image.tile[0].args if isinstance(image, ImageFile) and image.tile else None
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _reading_of_lower_bytes(image: Image.Image) -> tuple[str, object]:
    """Return how Pillow reads a pixel, and what to tell it for the lower bytes, None if nothing can."""
    mode, *rest = _arguments(image)
    lower = _LOWER_BYTES.get(str(mode))
    in_planes = isinstance(image, TiffImageFile) and image.tag_v2.get(PLANAR_CONFIGURATION) == 2
    if lower is None or in_planes:
        return str(mode), None
    return str(mode), (lower, *rest) if rest else lower
