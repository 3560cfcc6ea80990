"""Check an image file's bytes and make sure that training can decode them fast.

RGB and grey JPEG and PNG files stay as they are, byte for byte; anything else (CMYK, palettes,
alpha, other formats) is stored as an RGB PNG of the same pixels; 16 bit images keep the upper 8. An
EXIF rotation is not applied: labels are drawn on the stored pixels.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from segbench.errors import DataError


class Photograph(NamedTuple):
    """An image that can be decoded. stored: its file's bytes. digest: of its size and RGB pixels."""

    stored: bytes
    height: int
    width: int
    digest: str


def checked_image(raw: bytes, name: str) -> Photograph:
    """Return the bytes to store, and what is known of the image.

    Raises:
        DataError: the file is damaged, cut short, or not an image.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            if image.format in {"JPEG", "PNG"} and image.mode in {"RGB", "L"}:
                return _photograph(raw, image)
            rgb, buffer = _eight_bits(image).convert("RGB"), io.BytesIO()
            rgb.save(buffer, format="PNG", compress_level=3)
            return _photograph(buffer.getvalue(), rgb)
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = "is empty" if not raw else "is of no image format that Pillow knows"
        raise DataError(f"{name}: {what}; fetch it again") from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"{name}: is not a readable image ({error}); fetch it again") from error


def _photograph(stored: bytes, image: Image.Image) -> Photograph:
    return Photograph(stored, image.height, image.width, digest_of_pixels(image))


def digest_of_pixels(image: Image.Image) -> str:
    """Return 16 hexadecimal digits that tell images apart by size and RGB pixels."""
    hashed = hashlib.sha256(f"{image.height}x{image.width} ".encode())
    hashed.update(image.convert("RGB").tobytes())
    return hashed.hexdigest()[:16]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per value; Pillow's own conversion turns most of it white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError(f"its values are of the kind {image.mode}; save it with 8 bits")
    return image
