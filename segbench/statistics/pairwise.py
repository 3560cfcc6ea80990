"""Two models, or two methods with several seeds each, compared without any experiment file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segbench.errors import ResultError
from segbench.metrics.counts import AbsentClass, Counts, Floats
from segbench.metrics.metric import Scored
from segbench.statistics.inference import (
    LEVEL,
    MIN_SEEDS,
    Estimate,
    Term,
    estimate,
    holm,
    name_of_test,
    summed_by_group,
    tails,
)
from segbench.statistics.power import ALPHA
from segbench.statistics.resample import resampled_interval
from segbench.statistics.samples import class_influences, class_ious, group_numbers, sample_of

FEWEST_IMAGES = 3  # with a class: the spread over two cannot be told from none
Outcome = Literal["supported", "contradicted", "undecided"]
Population = Literal["new_images", "these_images"]  # that an effect is asked about, with new seeds


@dataclass(frozen=True)
class ClassDifference:
    """One class: mean IoUs and their difference with its interval, in per cent.

    images: how many show it. p is two-sided, p_adjusted corrected over the classes of the table
    (Holm). In fewer than 3 images, or groups of images, the interval is endless, p is 1, and no other
    class pays for it.
    """

    name: str
    images: int
    left: float
    right: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float

    @property
    def has_p(self) -> bool:
        """Whether enough images show the class for a p."""
        return math.isfinite(self.low)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Left minus right in percentage points.

    p: two-sided, against a true difference of `margin`; where `is_equivalence`, of two one-sided tests
    against differences of -margin and +margin, and the interval has 90 %, else 95 % (`level`).
    low, high, p: of new images like these, or of these very images, as `on` says; other: the interval
    of the other population, None where one seed shows no spread. question: `method` from four seeds a
    side, `few` below, `checkpoints` with one, `groups` where too few groups of images tell of new
    ones; then p is 1. resampled: the interval that a bootstrap over seeds and images gives, where one
    was asked for. lone_classes: how many of the classes one image alone shows.
    """

    metric: str
    left: float
    right: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    seeds: tuple[int, int]
    question: str
    num_images: int
    lone_classes: int
    per_class: tuple[ClassDifference, ...]
    on: Population = "new_images"
    other: tuple[float, float] | None = None
    num_groups: int | None = None
    paired: bool = False
    resampled: tuple[float, float] | None = None
    margin: float = 0.0
    is_equivalence: bool = False
    level: float = LEVEL

    @property
    def outcome(self) -> Outcome:
        """Whether left lies above right by more than the margin, or within it either way, as asked."""
        if self.p > ALPHA:
            return "undecided"
        return (
            "supported" if self.is_equivalence or self.difference > self.margin else "contradicted"
        )


def compare_two(
    left: Sequence[Counts],
    right: Sequence[Counts],
    class_names: Sequence[str] | None = None,
    *,
    metric: str = "mean_iou",
    absent_class: AbsentClass = "skip",
    class_indices: tuple[int, ...] = (),
    paired: bool = False,
    groups: Sequence[str] = (),
    on: Population = "new_images",
    margin: float = 0.0,
    equivalent: bool = False,
    resamples: int = 0,
) -> Comparison:
    """Return how two lists of seeds (or two single models) differ on the same images.

    paired: element i of both lists goes together: the same weights scored in two ways, or two
    trainings that saw the same data in the same order. groups: the name of each image's group, in the
    order of the first counts' images; empty where images are independent. on: which images p and the
    interval speak of. margin: in percentage points; p is against left lying above right by so much.
    equivalent: whether instead both are asked to lie within the margin of each other, by two one-sided
    tests (Schuirmann 1987). resamples: of a bootstrap that is made as a check, which knows no groups.

    Raises:
        ResultError: the images or the number of classes differ, there is one image, or paired lists
            have other lengths.
    """
    ordered = _on_the_same_images([*left, *right])
    if len(ordered[0].names) < 2:
        raise ResultError(
            "one image says nothing about others: compare results on at least two images"
        )
    if paired and len(left) != len(right):
        raise ResultError(
            f"{len(left)} and {len(right)} seeds are no pairs; give as many on both sides"
        )
    models = [Scored(counts, absent_class, class_indices) for counts in ordered]
    sides = models[: len(left)], models[len(left) :]
    one, two = (sample_of(side, metric, groups=groups) for side in sides)
    everywhere = estimate((Term(1.0, one, "left"), Term(-1.0, two, "right")), paired=paired)
    here = everywhere.on_these_images() if everywhere.seeds > 1 else None
    asked = everywhere if on == "new_images" or here is None else here
    other = here if asked is everywhere else everywhere
    names = class_names or [f"class {index}" for index in range(ordered[0].tp.shape[1])]
    level = 1 - 2 * ALPHA if equivalent else LEVEL
    low, high = _possible(asked.interval(level))
    return Comparison(
        metric=metric,
        left=float(one.values.mean()),
        right=float(two.values.mean()),
        difference=asked.effect,
        low=low,
        high=high,
        p=_p_value(asked, margin, equivalent=equivalent),
        test=name_of_test(asked),
        seeds=(len(left), len(right)),
        question=_question(asked.seeds, asked.speaks_of_new_images, on),
        num_images=len(ordered[0].names),
        lone_classes=lone_classes(models[0]),
        per_class=class_differences(*sides, names, paired=paired, groups=groups),
        on=on,
        other=None if other is None else _possible(other.interval(level)),
        num_groups=everywhere.num_groups,
        paired=paired,
        resampled=(
            _possible(resampled_interval(everywhere, sides, metric, resamples=resamples))
            if resamples
            else None
        ),
        margin=margin,
        is_equivalence=equivalent,
        level=level,
    )


def _p_value(asked: Estimate, margin: float, *, equivalent: bool) -> float:
    if not asked.speaks_of_new_images:
        return 1.0
    if equivalent:
        return max(asked.p_above(-margin), asked.p_below(margin))
    return min(1.0, 2 * min(tails(asked, margin)))


def _question(seeds: int, has_groups: bool, on: Population) -> str:
    if not has_groups:
        return "groups"
    if seeds == 1:
        return "checkpoints"
    if seeds < MIN_SEEDS:
        return "few"
    return "method" if on == "new_images" else "these_images"


def lone_classes(model: Scored) -> int:
    """Return how many of the classes that enter means one image alone shows."""
    images = np.count_nonzero(model.counts.label, axis=0)
    return int((model.compared().kept() & (images == 1)).sum())


def lone_in_words(classes: int) -> str:
    """Return what a reader must know of so many classes that one image alone shows."""
    some = "1 class" if classes == 1 else f"{classes} classes"
    return (
        f"{some} stand{'s' * (classes == 1)} on one image each: how such a class varies is not known, "
        "so that the interval knows too little of it."
    )


def class_differences(
    left: Sequence[Scored],
    right: Sequence[Scored],
    class_names: Sequence[str],
    *,
    paired: bool = False,
    groups: Sequence[str] = (),
    only: Sequence[str] = (),
) -> tuple[ClassDifference, ...]:
    """Return a row for each labelled class; none where the sides were scored on different images.

    only: the classes asked for, which alone are corrected for; empty means all.
    """
    models = [*left, *right]
    if len({model.counts.images for model in models}) != 1:
        return ()
    shown = np.asarray(np.all([model.counts.label > 0 for model in models], axis=0))  # (N, C)
    images = shown.sum(axis=0)
    numbers = group_numbers(groups)
    witnesses = (
        images
        if numbers is None
        else (summed_by_group(np.asarray(shown.T, np.float64), numbers) > 0).sum(1)
    )
    ious = [100 * np.stack([class_ious(one) for one in side]) for side in (left, right)]  # (n, C)
    moved = [100 * np.stack([class_influences(one).T for one in side]) for side in (left, right)]
    if numbers is not None:
        moved = [summed_by_group(own, numbers) for own in moved]  # (n, C, G)
    errors, dfs = _errors_of_classes(ious, moved, paired=paired)
    means = [own.mean(axis=0) for own in ious]
    known = (witnesses >= FEWEST_IMAGES).tolist()
    asked = [
        index
        for index, name in enumerate(class_names)
        if images[index] > 0 and (not only or name in only)
    ]
    gaps = means[0] - means[1]
    p_values = {i: _two_sided_p(gaps[i], errors[i], dfs[i]) for i in asked if known[i]}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    half = errors * stats.t.isf((1 - LEVEL) / 2, dfs)
    rows = []
    for i in asked:
        low, high = _possible((gaps[i] - half[i], gaps[i] + half[i]))
        rows.append(
            ClassDifference(
                class_names[i],
                int(images[i]),
                left=float(means[0][i]),
                right=float(means[1][i]),
                difference=float(gaps[i]),
                low=low if known[i] else -math.inf,
                high=high if known[i] else math.inf,
                p=p_values.get(i, 1.0),
                p_adjusted=adjusted.get(i, 1.0),
            )
        )
    return tuple(rows)


def _errors_of_classes(
    ious: Sequence[Floats], moved: Sequence[Floats], *, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (C,) standard errors of left minus right and their degrees of freedom.

    ious: (n, C) of each side. moved: (n, C, G) influences. All classes at once, as `estimate` does it
    for one effect.
    """
    if paired:
        ious, moved = [ious[0] - ious[1]], [moved[0] - moved[1]]
        total = moved[0].mean(axis=0)
    else:
        total = moved[0].mean(axis=0) - moved[1].mean(axis=0)  # (C, G)
    groups = total.shape[1]
    once_more = groups / max(1, groups - 1)
    squares = once_more * total**2
    images = squares.sum(axis=1)
    carried = images**2 / np.maximum((squares**2).sum(axis=1), 1e-300)
    dfs = [np.clip(2 * (carried - 1), 1.0, max(1, groups - 1))]
    variances = [images]
    if min(map(len, ious)) > 1:
        seen = sum(own.var(axis=0, ddof=1).sum(axis=1) / len(own) for own in moved)
        variances[0] = np.maximum(images - once_more * seen, 0.0)
        variances += [own.var(axis=0, ddof=1) / len(own) for own in ious]
        dfs += [np.full(len(images), len(own) - 1.0) for own in ious]
    whole = np.sum(variances, axis=0)
    spread = sum(v**2 / df for v, df in zip(variances, dfs, strict=True))
    return np.sqrt(whole), whole**2 / np.maximum(spread, 1e-300) + (whole == 0)


def _two_sided_p(gap: float, error: float, df: float) -> float:
    if error == 0:
        return float(gap == 0)
    return float(2 * stats.t.sf(abs(gap) / error, df))


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """Return what of an interval two figures between 0 and 100 can differ by."""
    return max(interval[0], -100.0), min(interval[1], 100.0)


def _on_the_same_images(models: Sequence[Counts]) -> list[Counts]:
    """Return the counts with their images in the order of the first.

    Raises:
        ResultError: the images or the number of classes differ.
    """
    first = models[0]
    place = {name: index for index, name in enumerate(first.names)}
    ordered = []
    for model in models:
        if model.tp.shape[1] != first.tp.shape[1]:
            raise ResultError(
                f"one result has {first.tp.shape[1]} classes and another {model.tp.shape[1]}; "
                "compare results on the same classes"
            )
        if set(model.names) != set(place):
            only = sorted(set(model.names) ^ set(place))
            raise ResultError(
                f"{len(only)} images are in one result and not in another, such as {only[0]}; "
                "compare results on the same images"
            )
        order = np.argsort([place[name] for name in model.names])
        ordered.append(replace(model.of_images(order), names=first.names))
    return ordered
