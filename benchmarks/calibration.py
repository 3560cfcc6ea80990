"""Measure how often the statistics are wrong, on worlds where the truth is known.

    python benchmarks/calibration.py            400 repetitions of each world, minutes
    python benchmarks/calibration.py --bars     groups, pairs, spreads, bands, boards alone: two CPU minutes
    python benchmarks/calibration.py --quick    40 repetitions, seconds: is anything badly off?

A drawn world has images with a difficulty, classes with a frequency, two methods whose gap differs
from image to image, and seeds that move a whole model. `real_world` makes a world of the counts of
real runs instead: `benchmarks/calibration_on_runs.py`. Prints a Markdown table, rates with their
standard errors. Letters: N images, C classes.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import worlds
from numpy.random import Generator
from scipy import stats
from tabulate import tabulate

from segbench.metrics.counts import Counts
from segbench.metrics.mean_iou import mean_iou
from segbench.metrics.metric import Scored
from segbench.statistics.inference import Estimate, Term, direction, estimate
from segbench.statistics.power import ALPHA, settle_schedule
from segbench.statistics.samples import point, sample_of

SEEDS = 5
FAMILY = 6  # claims in a file: Holm's first step tests at a sixth


@dataclass(frozen=True)
class World:
    """A drawn world; spreads are of the logit of the share of a class's pixels that is found.

    seed_sd: spread over seeds of a whole model. taste_sd: how much the gap between the methods
    differs from image to image; with 0 both are the same method. noise_sd: how much a seed differs
    from image to image by itself.
    """

    name: str
    seed_sd: float
    taste_sd: float = 0.0
    noise_sd: float = 0.06
    images: int = 1449
    classes: int = 21


WORLDS = (
    World("one method twice, seed sd 0.3 points", seed_sd=0.0143),
    World("one method twice, seed sd 0.7 points", seed_sd=0.0357),
    World("two methods, margin = true gap, seed sd 0.3", seed_sd=0.0143, taste_sd=0.3),
    World("two methods, margin = true gap, seed sd 0.7", seed_sd=0.0357, taste_sd=0.3),
    World(
        "the same, 200 images, 101 classes, most of them in 1 to 5 images",
        seed_sd=0.0143,
        taste_sd=0.8,
        images=200,
        classes=101,
    ),
)


class Rates(NamedTuple):
    """Shares of the repetitions: wrong verdicts and covering intervals, ours and image-only."""

    false_verdicts: float
    coverage: float
    image_only_false: float
    image_only_coverage: float


Draw = Callable[[Generator, int], tuple[list[Counts], list[Counts]]]


def measure(
    draw: Draw,
    truth: float,
    *,
    repetitions: int,
    seeds: int = SEEDS,
    alpha: float = ALPHA,
    classes: tuple[int, ...] = (),
    seed: int = 0,
) -> Rates:
    """Return how the statistics do over repetitions of a world with this true gap (a fraction).

    alpha: the level of our verdicts; intervals and the images-only method stay at 5 %. classes: the
    means run over these alone; empty means all.
    """
    rows = []
    for repetition in range(repetitions):
        left, right = draw(np.random.default_rng([seed, repetition]), seeds)
        ours = _estimate([left], [right], classes)
        rows.append(_row(ours, truth, alpha))
    return Rates(*np.mean(rows, axis=0).tolist())


def _row(ours: Estimate, truth: float, alpha: float) -> tuple[bool, bool, bool, bool]:
    low, high = ours.interval()
    fixed_low, fixed_high = _images_only(ours).interval()
    fixed_covers = fixed_low <= truth <= fixed_high
    wrong = direction(ours, truth, alpha=alpha) != 0
    return wrong, low <= truth <= high, not fixed_covers, fixed_covers


def measure_averaging(
    world: World, *, shared: float, heads: int, repetitions: int, seed: int = 0
) -> Rates:
    """Return the same for one method twice, each the mean of several heads.

    shared: the share of a seed's variance that all heads of a method have in common.
    """
    rows = []
    for repetition in range(repetitions):
        rng = np.random.default_rng([seed, repetition, heads])
        scene = _scene(world, rng)
        sides = []
        for _ in range(2):
            common = rng.normal(0, world.seed_sd * math.sqrt(shared), SEEDS)
            own = rng.normal(0, world.seed_sd * math.sqrt(1 - shared), (heads, SEEDS))
            sides.append([[_model(world, scene, rng, 0.0, z) for z in row] for row in common + own])
        ours = _estimate(sides[0], sides[1])
        rows.append(_row(ours, 0.0, ALPHA))
    return Rates(*np.mean(rows, axis=0).tolist())


def measure_settling(draw: Draw, *, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of false verdicts over all looks: by the rule, and without correction.

    Both methods are the same; seeds are added until a verdict or the last look.
    """
    schedule = settle_schedule(SEEDS)
    rows = []
    for repetition in range(repetitions):
        left, right = draw(np.random.default_rng([seed, repetition]), schedule[-1])
        looks = [_estimate([left[:n]], [right[:n]]) for n in schedule]
        corrected, plain = (
            any(direction(look, 0.0, alpha=alpha) for look in looks)
            for alpha in (ALPHA / len(schedule), ALPHA)
        )
        rows.append((corrected, plain))
    return tuple(np.mean(rows, axis=0).tolist())


def _estimate(
    left: Sequence[Sequence[Counts]],
    right: Sequence[Sequence[Counts]],
    classes: tuple[int, ...] = (),
) -> Estimate:
    """Return the mean of the cells on the left minus that on the right; a cell is its seeds."""
    cells = [[Scored(counts, class_indices=classes) for counts in cell] for cell in (*left, *right)]
    samples = [sample_of(cell, "mean_iou", scale=1.0) for cell in cells]
    weights = [1 / len(left)] * len(left) + [-1 / len(right)] * len(right)
    terms = [
        Term(weight, sample, f"cell {index}")
        for index, (weight, sample) in enumerate(zip(weights, samples, strict=True))
    ]
    return estimate(terms)


def _images_only(ours: Estimate) -> Estimate:
    """Return the method that this suite warns of: the mean over seeds taken as one checkpoint."""
    terms = []
    for term in ours.terms:
        values, influences = term.sample.values, term.sample.influences
        assert influences is not None
        averaged = replace(
            term.sample, values=values.mean(0, keepdims=True), influences=influences.mean(0)[None]
        )
        terms.append(Term(term.weight, averaged, term.training))
    return estimate(terms)


class _Scene(NamedTuple):
    """What both methods meet: label pixels, difficulty, and the gap between them, (N, C) each."""

    label: np.ndarray
    difficulty: np.ndarray
    taste: np.ndarray


def drawn_world(world: World) -> Draw:
    """Return a function that draws both methods' counts, images and seeds anew."""

    def draw(rng: Generator, seeds: int) -> tuple[list[Counts], list[Counts]]:
        scene = _scene(world, rng)
        left = [_model(world, scene, rng, 1.0) for _ in range(seeds)]
        return left, [_model(world, scene, rng, 0.0) for _ in range(seeds)]

    return draw


def true_gap(world: World, *, repetitions: int = 150) -> float:
    """Return the gap in mean IoU between the methods of a world, a fraction.

    The methods' seeds get equal random numbers here, which leaves the mean and shrinks the noise.
    """
    if world.taste_sd == 0:
        return 0.0
    gaps = []
    for repetition in range(repetitions):
        scene = _scene(world, np.random.default_rng([77, repetition]))
        left, right = (
            _model(world, scene, np.random.default_rng([78, repetition]), side)
            for side in (1.0, 0.0)
        )
        gaps.append(point(Scored(left), "mean_iou") - point(Scored(right), "mean_iou"))
    return float(np.mean(gaps))


def _scene(world: World, rng: Generator) -> _Scene:
    """Return images: background everywhere, each other class in 2 to 13 % of them."""
    often = 0.13 / np.arange(1, world.classes) ** 0.6
    there = rng.random((world.images, world.classes - 1)) < often
    size = rng.lognormal(9.5, 1.0, there.shape).astype(np.int64)
    background = rng.integers(60_000, 160_000, (world.images, 1))
    label = np.concatenate([background, there * size], axis=1)
    by_class = np.linspace(2.5, 0.5, world.classes)
    difficulty = by_class + rng.normal(0, 1, (world.images, 1))
    return _Scene(label, difficulty, world.taste_sd * rng.normal(0.3, 1, label.shape))


def _model(
    world: World, scene: _Scene, rng: Generator, side: float, shift: float | None = None
) -> Counts:
    """Return the counts of one seed of the method that has (1) or lacks (0) the gap.

    shift: what this seed does to the logits; drawn if None.
    """
    moved = rng.normal(0, world.seed_sd) if shift is None else shift
    own = moved + rng.normal(0, world.noise_sd, scene.label.shape)
    logit = scene.difficulty + side * scene.taste + own
    tp = np.floor(scene.label / (1 + np.exp(-logit))).astype(np.int64)
    missed = (scene.label - tp).sum(axis=1, keepdims=True)
    # Missed pixels go to the classes that the image has, few to the others.
    wrong = rng.random(scene.label.shape) ** 4 * ((scene.label > 0) + 0.05)
    pred = tp + np.floor(missed * wrong / wrong.sum(axis=1, keepdims=True)).astype(np.int64)
    return Counts(tp, scene.label, pred, _names(len(tp)))


def _names(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def real_world(
    left: Sequence[Counts],
    right: Sequence[Counts],
    seed_sd: float,
    classes: tuple[int, ...] = (),
) -> tuple[Draw, float]:
    """Return a world of real counts, and the gap in mean IoU between its sides, a fraction.

    classes: those that the mean runs over; empty means all.

    Images are drawn with replacement from those scored. A seed is one of the trained models at
    hand, moved as a whole by a normal shift of the logit of the share of pixels found: a handful of
    models alone has no tails, so that intervals made for normal seeds would cover too often.
    """

    def draw(rng: Generator, seeds: int) -> tuple[list[Counts], list[Counts]]:
        images = rng.integers(len(left[0].names), size=len(left[0].names))

        def drawn(pool: Sequence[Counts]) -> list[Counts]:
            return [
                _shifted(pool[int(rng.integers(len(pool)))], images, rng.normal(0, seed_sd))
                for _ in range(seeds)
            ]

        return drawn(left), drawn(right)

    every = np.arange(len(left[0].names))
    shifts = seed_sd * stats.norm.ppf((np.arange(20) + 0.5) / 20)

    def mean(pool: Sequence[Counts]) -> float:
        moved = (_shifted(counts, every, z).sums for counts in pool for z in shifts)
        return float(np.mean([mean_iou(sums, "skip", classes) for sums in moved]))

    return draw, mean(left) - mean(right)


def _shifted(counts: Counts, images: np.ndarray, shift: float) -> Counts:
    """Return the counts of these images, each class's share of pixels found moved by the shift.

    Pixels lost go to the image's other classes as its errors do already, pixels won come from there.
    """
    tp, label, pred = (
        part[images].astype(float) for part in (counts.tp, counts.label, counts.pred)
    )
    share = np.clip(tp / np.maximum(label, 1), 1e-9, 1 - 1e-9)
    found = np.where((tp > 0) & (tp < label), label / (1 + (1 / share - 1) * np.exp(-shift)), tp)
    errors = pred - tp
    wrong, missed = errors.sum(axis=1, keepdims=True), (label - found).sum(axis=1, keepdims=True)
    tp = np.floor(found).astype(np.int64)
    moved = np.floor(errors * missed / np.maximum(wrong, 1)).astype(np.int64)
    return Counts(tp, label.astype(np.int64), tp + moved, _names(len(images)))


def report(
    rows: Sequence[tuple[str, Rates]],
    repetitions: int,
    settling: tuple[float, float] | None = None,
) -> str:
    """Return the Markdown table, rates in per cent with their standard errors."""
    table = [[name, *(worlds.rate(share, repetitions) for share in rates)] for name, rates in rows]
    headers = ["world", "false verdicts", "coverage", "images only: false", "its coverage"]
    text = tabulate(table, headers=headers, tablefmt="github", disable_numparse=True)
    if settling is None:
        return text
    looks = ", ".join(map(str, settle_schedule(SEEDS)))
    by_rule, plain = (worlds.rate(share, repetitions) for share in settling)
    return (
        f"{text}\n\nSeeds added until a verdict ({looks} seeds): {by_rule} % false verdicts by the "
        f"rule, {plain} % without correction for looking thrice."
    )


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the suite and return its report."""
    parser = argparse.ArgumentParser(prog="python benchmarks/calibration.py")
    parser.add_argument("--quick", action="store_true", help="40 repetitions")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--bars", action="store_true", help="the worlds of worlds.py alone")
    options = parser.parse_args(arguments)
    repetitions = 40 if options.quick else options.repetitions
    if options.bars:
        return worlds.report(repetitions)
    head = f"{SEEDS} seeds, {repetitions} repetitions; per cent\n\n"
    size: dict[str, Any] = {"repetitions": repetitions}
    rows = [(w.name, measure(drawn_world(w), true_gap(w), **size)) for w in WORLDS]
    for world in WORLDS[:2]:
        rates = measure(drawn_world(world), 0.0, seeds=4, alpha=ALPHA / FAMILY, **size)
        rows.append((f"{world.name}; 4 seeds, verdicts at 5 % / {FAMILY}", rates))
    shared = 0.7
    rates = measure_averaging(WORLDS[1], shared=shared, heads=3, **size)
    rows.append((f"{WORLDS[1].name}; means of 3 heads that share {100 * shared:.0f} %", rates))
    first = head + report(rows, repetitions, measure_settling(drawn_world(WORLDS[1]), **size))
    return f"{first}\n\n{worlds.report(repetitions)}"


if __name__ == "__main__":
    print(main())
