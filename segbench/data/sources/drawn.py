"""The built-in drawn data set: shapes of several classes on textured backgrounds. Deterministic.

Each class has its shape and a hue of its own with much spread, so that a small network learns it in
a few hundred steps and never gets it all right. Knows nothing of files.
"""

import colorsys
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from segbench.data.photographs import digest_of_pixels
from segbench.data.sources.base import CheckedPair, Progress, SplitSource, png
from segbench.schema.cards import IGNORE_INDEX, DatasetCard, Drawn

_SPLIT_STREAM = {"train": 0, "val": 1}
Polygon = list[tuple[float, float]]


class DrawnSource(SplitSource):
    """Images that are drawn anew wherever they are asked for: always here, and always the same."""

    def rows(self, progress: Progress | None = None) -> Iterator[CheckedPair]:
        """Yield the images in their order."""
        number = self.card.split_counts[self.split]
        assert number is not None
        for index in range(number):
            pair = draw_pair(self.card, self.split, index)
            digested = digest_of_pixels(Image.fromarray(pair.image))
            yield CheckedPair(f"{self.split}_{index:05d}", png(pair.image), pair.label, digested)
            if progress is not None:
                progress(index + 1, number)


class DrawnPair(NamedTuple):
    """image: (H, W, 3) uint8 RGB; label: (H, W) uint8 class indices, 255 on the shapes' borders."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def draw_pair(card: DatasetCard, split: str, index: int) -> DrawnPair:
    """Return image `index` of a split; the same bytes on every machine."""
    drawn = card.drawn
    assert drawn is not None
    rng = np.random.default_rng([drawn.seed, _SPLIT_STREAM[split], index])
    image = _background(rng, drawn)
    label = np.zeros((drawn.height, drawn.width), dtype=np.uint8)
    low, high = drawn.shapes_per_image
    for _ in range(int(rng.integers(low, high + 1))):
        klass = int(rng.integers(1, len(card.classes)))
        _place(rng, drawn, image, label, klass, card.classes)
    noise = rng.normal(0, 8, image.shape)
    return DrawnPair((image + noise).clip(0, 255).astype(np.uint8), label)


def _background(rng: np.random.Generator, drawn: Drawn) -> NDArray[np.float64]:
    """Return (H, W, 3) of grey clouds at two scales and stripes: texture without a class."""
    clouds = np.zeros((drawn.height, drawn.width))
    for cells in (3, 9):
        coarse = (rng.random((cells, cells)) * 255).astype(np.uint8)
        grown = Image.fromarray(coarse).resize(
            (drawn.width, drawn.height), Image.Resampling.BICUBIC
        )
        clouds += np.asarray(grown, dtype=np.float64) / 2
    angle, period = rng.random() * math.pi, rng.uniform(4, 12)
    rows, columns = np.mgrid[: drawn.height, : drawn.width]
    phase = (rows * math.sin(angle) + columns * math.cos(angle)) * 2 * math.pi / period
    grey = 0.6 * clouds + 20 * np.sin(phase) + 20
    return grey[..., None] + rng.normal(0, 12, 3)  # (H, W, 3)


def _place(
    rng: np.random.Generator,
    drawn: Drawn,
    image: NDArray[np.float64],
    label: NDArray[np.uint8],
    klass: int,
    classes: tuple[str, ...],
) -> None:
    """Draw one shape over what is there, its border void."""
    short = min(drawn.height, drawn.width)
    radius = rng.uniform(0.16, 0.32) * short
    centre = (
        rng.uniform(0.6 * radius, drawn.width - 0.6 * radius),
        rng.uniform(0.6 * radius, drawn.height - 0.6 * radius),
    )
    turn = rng.uniform(0, 2 * math.pi)
    inside = _silhouette(SHAPES[classes[klass]], drawn, centre, radius, turn)
    hue = (klass - 1) / (len(classes) - 1) + rng.normal(0, 0.03)
    colour = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 0.9), rng.uniform(0.5, 0.95))
    image[inside] = np.asarray(colour) * 255 + rng.normal(0, 18, (int(inside.sum()), 1))
    label[inside] = klass
    label[_border(inside, drawn.border_px)] = IGNORE_INDEX


def _silhouette(
    shape: Callable[[], list[Polygon]],
    drawn: Drawn,
    centre: tuple[float, float],
    radius: float,
    turn: float,
) -> NDArray[np.bool_]:
    """Return (H, W): the shape's first outline, less the others (holes)."""
    canvas = Image.new("1", (drawn.width, drawn.height))
    pen = ImageDraw.Draw(canvas)
    cos, sin = math.cos(turn), math.sin(turn)
    for index, outline in enumerate(shape()):
        points = [
            (
                centre[0] + radius * (x * cos - y * sin),
                centre[1] + radius * (x * sin + y * cos),
            )
            for x, y in outline
        ]
        pen.polygon(points, fill=0 if index else 1)
    return np.asarray(canvas, dtype=bool)


def _border(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels within `width` of the silhouette's edge, on both sides."""
    if width == 0:
        return np.zeros_like(inside)
    grey = Image.fromarray(inside.astype(np.uint8) * 255)
    grown = np.asarray(grey.filter(ImageFilter.MaxFilter(2 * width + 1))) > 0
    shrunk = np.asarray(grey.filter(ImageFilter.MinFilter(2 * width + 1))) > 0
    return grown & ~shrunk


def _regular(corners: int, radius: float = 1.0, start: float = 0.0) -> Polygon:
    angles = [start + 2 * math.pi * k / corners for k in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star() -> Polygon:
    return [
        ((1.0 if k % 2 == 0 else 0.42) * math.cos(math.pi * k / 5),
         (1.0 if k % 2 == 0 else 0.42) * math.sin(math.pi * k / 5))
        for k in range(10)
    ]  # fmt: skip


def _cross() -> Polygon:
    a = 0.33
    return [
        (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a),
        (-a, -a), (-a, -1), (a, -1), (a, -a), (1, -a), (1, a),
    ]  # fmt: skip


_ARROW: Polygon = [
    (1, 0),
    (0.1, 0.8),
    (0.1, 0.35),
    (-1, 0.35),
    (-1, -0.35),
    (0.1, -0.35),
    (0.1, -0.8),
]

SHAPES: dict[str, Callable[[], list[Polygon]]] = {
    "circle": lambda: [_regular(40)],
    "square": lambda: [_regular(4, 1.1)],
    "triangle": lambda: [_regular(3, 1.2)],
    "ring": lambda: [_regular(40), _regular(40, 0.5)],
    "star": lambda: [_star()],
    "cross": lambda: [_cross()],
    "diamond": lambda: [[(1.2, 0), (0, 0.6), (-1.2, 0), (0, -0.6)]],
    "hexagon": lambda: [_regular(6)],
    "crescent": lambda: [_regular(40), [(x + 0.5, y) for x, y in _regular(40, 0.8)]],
    "arrow": lambda: [_ARROW],
}
