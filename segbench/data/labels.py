"""Read a raw label file as class indices, and refuse values that the card does not declare.

Knows nothing of images or folders.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.errors import DataError
from segbench.spec.cards import IGNORE_INDEX, OTHERS, DatasetCard

_UNDECLARED = 256
_GREY_STEP = {2: 85, 4: 17}  # Pillow spreads 2 and 4 bit grey over 0..255


def class_lookup(card: DatasetCard) -> NDArray[np.uint16]:
    """Return (65536,) raw value -> class index, 255 where it is ignored, 256 where undeclared."""
    rest = IGNORE_INDEX if OTHERS in card.encoding.ignore else _UNDECLARED
    lookup = np.full(65536, rest, dtype=np.uint16)
    lookup[list(card.encoding.ignored_values)] = IGNORE_INDEX
    lookup[list(card.raw_values)] = np.arange(len(card.classes))
    return lookup


def decode_label(
    raw: bytes, name: str, card: DatasetCard, lookup: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 class indices of a label file's bytes, 255 = counts nowhere.

    Palette images are read as their indices, never as colours.

    Raises:
        DataError: the file is damaged, is not of the card's format, or has undeclared values.
    """
    values = (
        _mat_values(raw, name, card) if card.encoding.format == "mat" else png_values(raw, name)
    )
    indices = lookup[values]
    undeclared = values[indices == _UNDECLARED]
    if undeclared.size:
        found = ", ".join(map(str, np.unique(undeclared)[:8]))
        raise DataError(
            f"{name}: {undeclared.size} pixels have the label value {found}, which {card.name} "
            "declares neither as a class nor as ignored; mend the file, or the card's `encoding`"
        )
    return indices.astype(np.uint8)


def png_values(raw: bytes, name: str) -> NDArray[np.uint16]:
    """Return the (H, W) raw values of a palette or grey PNG; palettes are read as indices.

    Raises:
        DataError: the file is damaged, or holds colours.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            if image.mode not in {"P", "L", "1", "I;16", "I"}:
                raise DataError(
                    f"{name}: is a {image.mode} image; a label must hold one value per pixel "
                    "(palette or grey), not colours"
                )
            values = np.asarray(image)
            if image.format == "PNG" and image.mode == "L":
                values = values // _GREY_STEP.get(raw[24], 1)  # byte 24: bits per value
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{name}: is not a readable label image ({error}); fetch it again"
        ) from error
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise DataError(f"{name}: label values must lie in 0..65535")
    return values.astype(np.uint16)


def _mat_values(raw: bytes, name: str, card: DatasetCard) -> NDArray[np.uint16]:
    from scipy.io import loadmat

    variable = card.encoding.variable or ""
    try:
        value: Any = loadmat(io.BytesIO(raw), squeeze_me=True, struct_as_record=False)
        for index, step in enumerate(variable.split(".")):
            value = value[step] if index == 0 else getattr(value, step)
        with np.errstate(invalid="ignore"):
            whole = np.asarray(value).astype(np.uint16)
    except Exception as error:  # scipy raises many kinds for damaged files
        raise DataError(
            f"{name}: holds no MATLAB variable {variable!r} ({type(error).__name__}: {error}); "
            "fetch it again"
        ) from error
    if whole.ndim != 2 or (whole != value).any():
        raise DataError(
            f"{name}: the MATLAB variable {variable!r} must be a matrix of whole numbers in "
            f"0..65535, but has the shape {whole.shape} and the type {value.dtype}"
        )
    return whole
