"""What lies in an image file, where Pillow gives something else: orientation, and 16 bit values.

Letters: H W size of the image.
"""

import contextlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

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
_LOWER_BYTES = {  # how Pillow reads a pixel -> how it reads the lower bytes of the colours, or of grey
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    _GREY_ALPHA: "ARGB",  # the second of four bytes is red
}


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


def deep_values(image: Image.Image, raw: bytes) -> NDArray[np.uint16] | None:
    """Return a 16 bit file's values, (H, W) or (H, W, 3), and None of any other; loads the image.

    Of colours, and of grey with alpha, Pillow keeps the upper bytes alone: the lower are read apart.
    """
    mode, arguments = _reading_of_lower_bytes(image)
    image.load()
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in {"I", "F"}:
        raise ValueError(f"its values are of the kind {image.mode}; save it with 8 bits")
    if arguments is None:
        return None
    with Image.open(io.BytesIO(raw)) as again:
        again.tile = [tile._replace(args=arguments) for tile in again.tile]
        upper, lower = (np.asarray(part)[..., :3].astype(np.uint16) for part in (image, again))
    values = (upper << 8 | lower).astype(np.uint16)
    return values[..., 0] if mode == _GREY_ALPHA else values


def _reading_of_lower_bytes(image: Image.Image) -> tuple[str, object]:
    """Return how Pillow reads a pixel, and what to tell it for the lower bytes, None of 8 bits."""
    arguments = image.tile[0].args if isinstance(image, ImageFile) and image.tile else None
    mode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    lower = _LOWER_BYTES.get(str(mode))
    if lower is None:
        return str(mode), None
    return str(mode), (lower, *rest) if isinstance(arguments, tuple) else lower
