"""Measure how often the statistics are wrong, on worlds where the truth is known.

    python -m segbench.analysis.calibration            300 repetitions a world, minutes
    python -m segbench.analysis.calibration --quick    few repetitions, seconds
    python -m segbench.analysis.calibration --counts RUNS_OF_A RUNS_OF_B

A drawn world has images with a difficulty, classes with a frequency, two methods whose gap differs
from image to image, and seeds that move a whole model. With --counts the world is made of real
counts: each folder holds the counts.npz files of one method's seeds, and images and seeds are drawn
from them. Prints a Markdown table. Letters: N images, C classes, n seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from segbench.counts import Counts, mean_iou

ALPHA = 0.05


@dataclass(frozen=True)
class World:
    """A drawn world. seed_sd: spread over seeds of a model's logit; 0.1 is about 1 point of mIoU.

    gap: by how much method A's logit is above B's on average; it varies over images if not 0.
    """

    name: str
    seed_sd: float
    gap: float = 0.0
    images: int = 500
    classes: int = 21


class Rates(NamedTuple):
    """Shares of the repetitions: wrong verdicts and covering intervals, ours and image-only."""

    false_verdicts: float
    coverage: float
    image_only_false: float
    image_only_coverage: float
    repetitions: int


Draw = Callable[[Generator, int], tuple[list[Counts], list[Counts]]]


def draw_method(
    world: World, label: np.ndarray, rng: Generator, seeds: int, side: int
) -> list[Counts]:
    """Return the counts of one method's seeds on images with these (N, C) label pixels."""
    num_images, classes = label.shape
    # What the images are like is fixed by `label`'s own generator: both methods meet the same.
    hard = np.random.default_rng(int(label.sum()) + 7)
    difficulty = hard.normal(0, 0.7, (num_images, 1)) + hard.normal(0, 0.5, (1, classes))
    taste = np.random.default_rng(int(label.sum()) + 11 + side).normal(0, 1, (num_images, classes))
    method = side * world.gap * (1 + 2 * taste)
    counts = []
    for _ in range(seeds):
        own = rng.normal(0, world.seed_sd) + rng.normal(0, 2 * world.seed_sd, (1, classes))
        noise = rng.normal(0, 0.3, (num_images, classes))
        found = 1 / (1 + np.exp(-(1.2 + difficulty + method + own + noise)))
        tp = np.floor(label * found).astype(np.int64)
        missed = (label - tp).sum(axis=1, keepdims=True)
        share = rng.dirichlet(np.full(classes, 0.1), num_images)
        share = share / share.sum(axis=1, keepdims=True)
        pred = tp + np.floor(missed * share).astype(np.int64)
        counts.append(Counts(tp, label, pred, NAMES[:num_images]))
    return counts


NAMES = tuple(f"image{index}" for index in range(50_000))


def draw_labels(rng: Generator, num_images: int, classes: int) -> np.ndarray:
    """Return (N, C) label pixels: background everywhere, the others in a falling share of images."""
    often = 0.12 / np.arange(1, classes) ** 0.5
    there = rng.random((num_images, classes - 1)) < often
    size = rng.lognormal(9.5, 1.0, (num_images, classes - 1)).astype(np.int64)
    rest = rng.integers(60_000, 160_000, (num_images, 1))
    return np.concatenate([rest, there * size], axis=1)


def drawn_world(world: World) -> Draw:
    """Return a function that draws both methods' counts, seeds and images anew."""

    def draw(rng: Generator, seeds: int) -> tuple[list[Counts], list[Counts]]:
        label = draw_labels(rng, world.images, world.classes)
        return draw_method(world, label, rng, seeds, 1), draw_method(world, label, rng, seeds, 0)

    return draw


def true_gap(world: World, seeds: int = 300, images: int = 4000) -> float:
    """Return the gap in mean IoU that a huge number of seeds and images would show."""
    if world.gap == 0:
        return 0.0
    rng = np.random.default_rng(12345)
    gaps = []
    for _ in range(seeds // 10):
        label = draw_labels(rng, images, world.classes)
        a = draw_method(world, label, rng, 5, 1)
        b = draw_method(world, label, rng, 5, 0)
        gaps.append(np.mean([mean_iou(x.sums) for x in a]) - np.mean([mean_iou(x.sums) for x in b]))
    return float(np.mean(gaps))
