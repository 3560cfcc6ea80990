"""Worlds that break an assumption: groups of images, seeds that go together, spreads that differ.

`calibration.py` measures on them how often rule 2 of claims is wrong. Both methods of a world are
equal by symmetry, so every verdict is a false one. Letters: N images, C classes, n seeds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from tabulate import tabulate

from segbench.claims.correlation import rank_correlation
from segbench.claims.rules import NEWEST
from segbench.claims.verdict import Region
from segbench.metrics.counts import Counts, Floats
from segbench.metrics.metric import Scored
from segbench.statistics.inference import Estimate, SeedSample, Term, estimate
from segbench.statistics.observations import Observation, ObservedCell
from segbench.statistics.power import ALPHA
from segbench.statistics.ranking import decided_pairs
from segbench.statistics.samples import sample_of

Law = Literal["normal", "t3", "crash", "crash on one side", "skewed on one side"]


@dataclass(frozen=True)
class Design:
    """Two equal methods, and how they are tried; spreads are of the logit of pixels found.

    seeds: of each method. seed_sd: of the first; ratio: how many times as much the second varies.
    law: of the seeds. rho: how far seeds of one number go together. taste_sd: how much the methods
    differ from image to image; icc: the share of it, and of difficulty, that groups have in common.
    gap: of the first over the second in seed_sds: then verdicts are right ones.
    """

    name: str
    images: int = 200
    classes: int = 8
    seeds: int = 5
    seed_sd: float = 0.03
    ratio: float = 1.0
    law: Law = "normal"
    rho: float = 0.0
    paired: bool = False
    taste_sd: float = 0.3
    groups: int = 0
    icc: float = 0.0
    gap: float = 0.0
    on_these: bool = False


DESIGNS = (
    Design("20 images", images=20, seeds=4, seed_sd=0.02),
    Design("50 images", images=50, seed_sd=0.02),
    Design("100 images, 4 seeds", images=100, seeds=4),
    Design("1449 images, 4 seeds", images=1449, seeds=4),
    Design("2 seeds", seeds=2, seed_sd=0.06),
    Design("3 seeds", seeds=3, seed_sd=0.06),
    Design("12 seeds", seeds=12, seed_sd=0.06),
    Design("3 seeds, spreads 1:3", seeds=3, seed_sd=0.03, ratio=3),
    Design("5 seeds, spreads 1:6", seed_sd=0.02, ratio=6),
    Design("seeds of Student's t with 3 df", law="t3", seed_sd=0.04),
    Design("1 seed in 7 crashes, on both sides alike", law="crash", seed_sd=0.03),
    *(
        Design(f"paired, correlation {rho:g}", rho=rho, paired=True, seed_sd=0.08, taste_sd=0.1)
        for rho in (-0.8, 0.0, 0.8)
    ),
    Design("12 groups of 5 images, ICC 0.5", images=60, groups=12, icc=0.5, seed_sd=0.01),
    Design("20 groups of 10 images, ICC 0.2", groups=20, icc=0.2, seed_sd=0.01),
    Design("20 groups of 10 images, ICC 0.5", groups=20, icc=0.5, seed_sd=0.01),
    Design(
        "4 groups of 58 images, on these images",
        images=232,
        groups=4,
        icc=0.3,
        taste_sd=0,
        on_these=True,
    ),
)
WITHOUT_A_BAR = (
    Design("2 seeds, spreads 1:6", seeds=2, seed_sd=0.02, ratio=6),
    Design("3 seeds, spreads 1:6", seeds=3, seed_sd=0.02, ratio=6),
    Design("1 seed in 7 crashes, on one side alone", law="crash on one side", seed_sd=0.03),
    Design(
        "exponential seeds on one side alone, 4 seeds",
        law="skewed on one side",
        seeds=4,
        seed_sd=0.06,
    ),
)
POWER = Design(
    "power at correlation 0.65, 4 seeds",
    seeds=4, rho=0.65, paired=True, gap=1.6, seed_sd=0.08, taste_sd=0.05,
)  # fmt: skip


class Outcome(NamedTuple):
    """Shares of the repetitions; plain: of verdicts where neither groups nor pairs are known."""

    verdicts: float
    coverage: float
    plain: float


def measured(design: Design, *, repetitions: int, seed: int = 0) -> Outcome:
    """Return how often a verdict is given, and how often the 95 % interval covers 0."""
    rows = []
    for repetition in range(repetitions):
        left, right = drawn(design, np.random.default_rng([seed, repetition]))
        result = _difference(left, right, paired=design.paired)
        if design.on_these:
            result = result.on_these_images()
        plain = _difference(*(_ungrouped(one) for one in (left, right)), paired=False)
        low, high = result.interval()
        rows.append((_is_decided(result), low <= 0 <= high, _is_decided(plain)))
    return Outcome(*np.mean(rows, axis=0).tolist())


def _is_decided(result: Estimate) -> bool:
    return min(NEWEST.p_values(result, Region.beyond(0.0))) <= ALPHA / 2


def _ungrouped(sample: SeedSample) -> SeedSample:
    return SeedSample(sample.values, sample.influences, sample.images)


def _difference(left: SeedSample, right: SeedSample, *, paired: bool) -> Estimate:
    return estimate((Term(1.0, left, "left"), Term(-1.0, right, "right")), paired=paired)


def drawn(design: Design, rng: Generator, methods: int = 2) -> list[SeedSample]:
    """Return the sample of each method's mean IoU: images, tastes and seeds drawn anew."""
    shape = (design.images, design.classes)
    groups = np.arange(design.images) % design.groups if design.groups else None

    def of_images(columns: int) -> Floats:
        own = rng.normal(size=(design.images, columns))
        if groups is None:
            return own
        common = rng.normal(size=(design.groups, columns))[groups]
        return math.sqrt(design.icc) * common + math.sqrt(1 - design.icc) * own

    often = 0.6 / np.arange(1, design.classes) ** 0.6
    there = rng.random((design.images, design.classes - 1)) < often
    size = rng.lognormal(9.5, 1.0, there.shape)
    background = rng.integers(60_000, 160_000, (design.images, 1))
    label = np.concatenate([background, there * size], axis=1).astype(np.int64)
    easy = np.linspace(2.5, 0.5, design.classes) + of_images(1)
    shifts = _shifts(design, rng, methods)
    names = tuple(map(str, range(design.images)))
    samples = []
    for method in range(methods):
        taste = easy + design.taste_sd / math.sqrt(2) * of_images(design.classes)
        counts = [
            _counts(label, taste + z + rng.normal(0, 0.06, shape), rng, names)
            for z in shifts[method]
        ]
        scored = [Scored(one) for one in counts]
        samples.append(
            sample_of(scored, "mean_iou", groups=() if groups is None else groups.astype(str))
        )
    return samples


def _counts(label: np.ndarray, logit: Floats, rng: Generator, names: tuple[str, ...]) -> Counts:
    tp = np.floor(label / (1 + np.exp(-logit))).astype(np.int64)
    missed = (label - tp).sum(axis=1, keepdims=True)
    wrong = rng.random(label.shape) ** 4 * ((label > 0) + 0.05)
    pred = tp + np.floor(missed * wrong / wrong.sum(axis=1, keepdims=True)).astype(np.int64)
    return Counts(tp, label, pred, names)


def _shifts(design: Design, rng: Generator, methods: int) -> Floats:
    """Return (methods, n) what each seed does to the logits."""
    n = design.seeds
    common, own = rng.normal(size=n), rng.normal(size=(methods, n))
    signs = np.where(np.arange(methods) % 2, math.copysign(1, design.rho), 1.0)[:, None]
    shifts = math.sqrt(abs(design.rho)) * signs * common + math.sqrt(1 - abs(design.rho)) * own
    if design.law == "t3":
        shifts = rng.standard_t(3, shifts.shape) / math.sqrt(3)
    if design.law.startswith("crash"):
        shifts = shifts - 12 * (rng.random(shifts.shape) < 0.15)
    if design.law.startswith("skewed"):
        shifts[0] = rng.exponential(size=n) - 1
    if design.law == "crash on one side":
        shifts[1:] = own[1:]
        shifts[0] += 12 * 0.15  # so that the means are equal
    spreads = design.seed_sd * np.where(np.arange(methods) == 0, 1.0, design.ratio)[:, None]
    shifts = spreads * shifts
    shifts[0] += design.gap * design.seed_sd
    return shifts


def band(design: Design, *, repetitions: int, width: float = 4.0) -> tuple[float, float]:
    """Return how often a band with the truth at its end is shown, and refuted; both are false.

    width: of the band, in points.
    """
    rows = []
    for repetition in range(repetitions):
        result = _difference(*drawn(design, np.random.default_rng([1, repetition])), paired=False)
        p_for, p_against = NEWEST.p_values(result, Region(-width, 0.0))
        rows.append((p_for <= ALPHA, p_against <= ALPHA))
    return tuple(np.mean(rows, axis=0).tolist())


def board(design: Design, *, models: int, repetitions: int) -> float:
    """Return how often any two of several equal models are put in an order."""
    axes = [
        [Observation({"backbone": str(m)}, "p", s, _NONE, ()) for s in range(design.seeds)]
        for m in range(models)
    ]
    return float(
        np.mean(
            [
                decided_pairs(
                    drawn(design, np.random.default_rng([2, repetition]), models), axes
                ).any()
                for repetition in range(repetitions)
            ]
        )
    )


_NONE = Counts(np.zeros((0, 1), int), np.zeros((0, 1), int), np.zeros((0, 1), int), ())


def trend(design: Design, *, levels: int, repetitions: int) -> float:
    """Return how often several equal models are found to rise or fall along their numbers."""
    centred = np.arange(levels) - (levels - 1) / 2
    found = []
    for repetition in range(repetitions):
        samples = drawn(design, np.random.default_rng([3, repetition]), levels)
        weights = centred / (centred**2).sum()
        terms = [Term(float(w), s, str(w)) for w, s in zip(weights, samples, strict=True)]
        found.append(_is_decided(estimate(terms)))
    return float(np.mean(found))


def correlate(*, classes: int, repetitions: int) -> float:
    """Return how often classes' IoUs are found to go with amounts that have nothing to do with them."""
    names = [str(index) for index in range(classes)]
    label = np.full((1, classes), 10_000)
    wrong = []
    for repetition in range(repetitions):
        rng = np.random.default_rng([4, repetition])
        quality, amounts = rng.uniform(0.2, 0.9, classes), rng.lognormal(size=classes)
        seeds = []
        for seed in range(4):
            tp = (label * np.clip(quality + rng.normal(0, 0.02, classes), 0, 1)).astype(int)
            counts = Counts(tp, label, tp, ("one",))
            seeds.append(Observation({}, "p", seed, counts, names, training_pixels=amounts))
        found = rank_correlation(
            [[ObservedCell({}, tuple(seeds))]], "training_pixels", resamples=1000
        )
        wrong.append(2 * min(found.tails(0.0)) <= ALPHA)
    return float(np.mean(wrong))


def others(*, repetitions: int) -> Iterator[tuple[str, float]]:
    """Yield false verdicts of other kinds of claims, and of a board."""
    plain = Design("", seeds=4, images=100)
    shown, refuted = band(plain, repetitions=repetitions)
    yield "`equivalent`, truth at the margin: shown", shown
    yield "`equivalent`, truth at the margin: refuted", refuted
    yield "board of 5 equal models: any order", board(plain, models=5, repetitions=repetitions)
    yield "`trend` over 4 equal models", trend(plain, levels=4, repetitions=repetitions)
    yield "`correlate`, 21 classes", correlate(classes=21, repetitions=repetitions)


def report(repetitions: int) -> str:
    """Return the Markdown tables, in per cent with standard errors."""
    tables = [
        _table(DESIGNS, repetitions),
        f"Without a bar: no method sees a crash that did not occur.\n\n{_table(WITHOUT_A_BAR, repetitions)}",
        f"Here a verdict is right.\n\n{_table((POWER,), repetitions)}",
        tabulate(
            [[name, rate(found, repetitions)] for name, found in others(repetitions=repetitions)],
            headers=["other questions", "false verdicts"],
            tablefmt="github",
            disable_numparse=True,
        ),
    ]
    return f"Rule 2, {repetitions} repetitions; per cent\n\n" + "\n\n".join(tables)


def _table(designs: Sequence[Design], repetitions: int) -> str:
    rows = []
    for design in designs:
        found = measured(design, repetitions=repetitions)
        knows_more = design.paired or design.groups
        rows.append(
            [
                design.name,
                rate(found.verdicts, repetitions),
                rate(found.coverage, repetitions),
                rate(found.plain, repetitions) if knows_more else "",
            ]
        )
    headers = ["world", "verdicts", "coverage of 0", "verdicts if taken as independent"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def rate(share: float, repetitions: int) -> str:
    """Return a share in per cent with its standard error."""
    error = math.sqrt(share * (1 - share) / repetitions)
    return f"{100 * share:.1f} \u00b1 {100 * error:.1f}"
