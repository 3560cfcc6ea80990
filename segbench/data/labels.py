"""Read a raw label file as class indices, and refuse values that the card does not declare.

Knows nothing of images or folders.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from segbench.data.as_stored import (
    as_stored,
    check_one_picture,
    deep_values,
    has_0_for_white,
    turned_by_pillow,
)
from segbench.errors import DamagedError, FileError
from segbench.schema.cards import IGNORE_INDEX, OTHERS, VOID_COLOUR, DatasetCard

_UNDECLARED = 256
_GREY_STEP = {2: 85, 4: 17}  # Pillow spreads 2 and 4 bit grey over 0..255
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # keep each value; PGM is spread over 0..255 like grey
_LOSSY = {  # by a file's first bytes
    b"\xff\xd8\xff": "JPEG",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}
_NOT_LOSSLESS = (
    "a label must be lossless, but the file[ is|s are] {}, whatever [its name says|their names say]; "
    "save [it|them] as PNG from [its source|their sources]"
)
_LOSSY_IN_TIFF = {"jpeg", "tiff_jpeg", "webp"}


def class_lookup(card: DatasetCard) -> NDArray[np.uint16]:
    """Return (65536,) raw value -> class index, 255 where it is ignored, 256 where undeclared."""
    rest = IGNORE_INDEX if OTHERS in card.encoding.ignore else _UNDECLARED
    lookup = np.full(65536, rest, dtype=np.uint16)
    lookup[list(card.encoding.ignored_values)] = IGNORE_INDEX
    lookup[list(card.raw_values)] = np.arange(len(card.classes))
    return lookup


class RawLabel(NamedTuple):
    """The (H, W) uint16 raw values of a label file; its (K, 3) uint8 palette where it has one."""

    values: NDArray[np.uint16]
    palette: NDArray[np.uint8] | None = None


def decode_label(
    raw: bytes, name: str, card: DatasetCard, lookup: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 class indices of a label file's bytes, 255 = counts nowhere.

    Palette images are read as their indices, never as colours.

    Raises:
        DataError: the file is damaged, is not of the card's format, has undeclared values, or has
            the colours of other classes in its palette.
    """
    is_mat = card.encoding.format == "mat"
    found = RawLabel(_mat_values(raw, name, card)) if is_mat else image_label(raw, name)
    indices = lookup[found.values]
    undeclared = found.values[indices == _UNDECLARED]
    if undeclared.size:
        raise FileError(
            name,
            f"[has|have] label values that {card.name} declares neither as classes nor as ignored: "
            "{}; mend the file[|s], or the card's `encoding`",
            *np.unique(undeclared),
        )
    if problem := palette_problem(found, lookup, card.palette, card.classes):
        raise FileError(name, "{}; save [it|them] with the right values, or mend the card", problem)
    return indices.astype(np.uint8)


def image_label(raw: bytes, name: str) -> RawLabel:
    """Return the raw values of a palette or grey image; palettes are read as indices.

    Raises:
        DataError: the file is damaged, may have lost values, or holds colours.
    """
    if lossy := _lossy_format(raw):
        raise FileError(name, _NOT_LOSSLESS, lossy)
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            check_one_picture(image, raw, name)
            if image.info.get("compression") in _LOSSY_IN_TIFF:
                lossy = f"{image.info['compression']} data in a TIFF"
                raise FileError(name, _NOT_LOSSLESS, lossy)
            if has_0_for_white(image):  # Pillow turns the values round, other readers do not
                why = "so that programs read other values from [it|them]; save [it|them] as PNG"
                raise FileError(name, f"[has|have] 0 for white, {why}")
            values = _one_value(image, raw, name)
            if values is None:
                kind = "fractions" if image.mode == "F" else f"colours ({image.mode})"
                raise FileError(
                    name,
                    "[holds|hold] {}; a label must hold one whole number per pixel (palette or grey)",
                    kind,
                )
            if image.mode == "L":
                values = values // _GREY_STEP.get(_grey_bits(image, raw), 1)
            colours = image.getpalette() if image.mode == "P" else None
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        what = f"[is|are] none of {', '.join(_FORMATS)}" if raw else "[is|are] empty"
        raise DamagedError(name, what) from error
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DamagedError(
            name, "[is not a readable label image|are no readable label images] ({})", error
        ) from error
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise FileError(name, "label values must lie in 0..65535")
    palette = None if colours is None else np.asarray(colours, dtype=np.uint8).reshape(-1, 3)
    return RawLabel(values.astype(np.uint16), palette)


def _one_value(image: Image.Image, raw: bytes, name: str) -> NDArray[np.integer] | None:
    """Return the (H, W) values of an opened image as they lie in its file; None of colours."""
    if image.mode == "RGBA":  # also what Pillow makes of grey with alpha in 16 bits
        deep = deep_values(image, raw, name)
        return deep if deep is not None and deep.ndim == 2 else None
    if image.mode not in {"P", "L", "LA", "1", "I;16", "I;16B", "I"}:
        return None
    turned = turned_by_pillow(image)
    image.load()
    seen = as_stored(image, turned)
    return np.asarray(seen.getchannel("L") if seen.mode == "LA" else seen)


def _lossy_format(raw: bytes) -> str:
    """Return the lossy format that the first bytes tell of, empty for any other."""
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return "WebP data"
    if raw[4:8] == b"ftyp":
        return "AVIF or HEIF data"
    return next((f"{kind} data" for start, kind in _LOSSY.items() if raw.startswith(start)), "")


def _grey_bits(image: Image.Image, raw: bytes) -> int:
    """Return how many bits the file has for a value of a grey image."""
    if isinstance(image, TiffImageFile):
        return int(np.ravel(image.tag_v2.get(BITSPERSAMPLE, 8))[0])
    return raw[24] if image.format == "PNG" else 8


def palette_problem(
    label: RawLabel,
    lookup: NDArray[np.integer],
    colours: Sequence[tuple[int, int, int]],
    names: Sequence[str],
) -> str:
    """Return in what the file's palette contradicts the colours of classes, empty if in nothing.

    A tool that saves a palette image anew may renumber its indices; the colours stay. So the file is
    in order where the colours at the values that it uses are these classes' own, or simply others.
    A value that is no class may have a class's colour, unless the palette is the card's and that class's
    own value has another: the class would be lost. The grey ramp, which grey images are given, says
    nothing.

    lookup: (65536,) raw value -> index into `colours` and `names`; what is not below their length
    is no class.
    """
    if label.palette is None:
        return ""
    palette = [tuple(colour) for colour in label.palette.tolist()]
    class_of = {colour: index for index, colour in reversed(list(enumerate(colours)))}
    meant = lookup[: len(palette)].tolist()
    used = np.flatnonzero(np.bincount(label.values.ravel())[: len(palette)]).tolist()
    wrong = _miscoloured(used, palette, meant, colours)
    if not wrong:
        return ""
    first = wrong[0]
    name = repr(names[meant[first]]) if meant[first] < len(names) else "no class"
    owner = names[class_of[palette[first]]] if palette[first] in class_of else "void"
    return (
        f"the palette gives {len(wrong)} of its values the colours of other classes (value {first} is "
        f"{name} and has the colour of {owner!r})"
    )


def _miscoloured(
    used: Sequence[int],
    palette: Sequence[tuple[int, ...]],
    meant: Sequence[int],
    colours: Sequence[tuple[int, int, int]],
) -> list[int]:
    """Return the values that the palette gives another class's colour; see `palette_problem`.

    meant: value -> its class; what is not below the number of colours is no class.
    """
    pairs = [(seen, colours[c]) for seen, c in zip(palette, meant, strict=True) if c < len(colours)]
    in_place = {seen for seen, own in pairs if seen == own}
    known = set(colours)
    lost = known - in_place if all(seen in known for seen, _ in pairs) else set()
    swapped, hidden, strange = [], [], 0
    for value in used:
        seen = palette[value]
        is_ramp = seen == (value, value, value)
        if meant[value] >= len(colours):
            hidden += [value] if seen in lost and not is_ramp else []
        elif seen != colours[meant[value]]:
            is_known = (seen in known or seen == VOID_COLOUR) and not is_ramp
            swapped += [value] if is_known else []
            strange += not is_known
    return [*swapped, *hidden] if strange <= len(swapped) else []


def _mat_values(raw: bytes, name: str, card: DatasetCard) -> NDArray[np.uint16]:
    variable = card.encoding.variable or ""
    value = _mat_variable(raw, name, variable)
    try:
        with np.errstate(invalid="ignore"):
            whole = np.asarray(value).astype(np.uint16)
    except (TypeError, ValueError):  # text, or records
        whole = np.zeros(0, np.uint16)
    if whole.ndim != 2 or (whole != value).any():
        raise FileError(
            name,
            f"the MATLAB variable {variable!r} must be a matrix of whole numbers in 0..65535, but has {{}}",
            f"the shape {np.shape(value)} and the type {np.asarray(value).dtype}",
        )
    return whole


def _mat_variable(raw: bytes, name: str, variable: str) -> Any:
    """Return the value of `variable`, a name or a path through records such as `GTcls.Segmentation`."""
    from scipy.io import loadmat

    if raw.startswith(b"MATLAB 7.3"):
        raise FileError(
            name,
            "[is a file|are files] of MATLAB v7.3, which is not read; save [it|them] as v7 (`-v7`)",
        )
    try:
        value: Any = loadmat(io.BytesIO(raw), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy raises many kinds for damaged files
        raise DamagedError(
            name, "[is not a readable MATLAB file|are no readable MATLAB files] ({})", error
        ) from error
    held = ", ".join(key for key in value if not key.startswith("__"))
    for index, step in enumerate(variable.split(".")):
        try:
            value = value[step] if index == 0 else getattr(value, step)
        except (LookupError, AttributeError) as error:
            raise FileError(
                name,
                f"[holds|hold] no MATLAB variable {variable!r}, but {{}}; mend the card's `encoding.variable`",
                held or "none at all",
            ) from error
    return value
