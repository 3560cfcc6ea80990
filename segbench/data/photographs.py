"""Check an image file's bytes and make sure that training can decode them fast.

RGB and grey JPEG and PNG files stay as they are, byte for byte; anything else (CMYK, palettes,
alpha, other formats) is stored as an RGB PNG of the same pixels; 16 bit images keep the upper 8. An
EXIF rotation is not applied: labels are drawn on the stored pixels.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from segbench.errors import DataError


def checked_image(raw: bytes, name: str) -> tuple[bytes, int, int]:
    """Return the bytes to store, and the image's height and width in pixels.

    Raises:
        DataError: the file is damaged, cut short, or not an image.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            width, height = image.size
            if image.format in {"JPEG", "PNG"} and image.mode in {"RGB", "L"}:
                return raw, height, width
            buffer = io.BytesIO()
            _eight_bits(image).convert("RGB").save(buffer, format="PNG", compress_level=3)
            return buffer.getvalue(), height, width
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = "is empty" if not raw else "is of no image format that Pillow knows"
        raise DataError(f"{name}: {what}; fetch it again") from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"{name}: is not a readable image ({error}); fetch it again") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per value; Pillow's own conversion turns most of it white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError(f"its values are of the kind {image.mode}; save it with 8 bits")
    return image
