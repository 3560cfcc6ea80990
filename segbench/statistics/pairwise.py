"""Two models, or two methods with several seeds each, compared without any experiment file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segbench.errors import ResultError
from segbench.metrics.counts import AbsentClass, Counts, Floats, per_class_iou
from segbench.metrics.metric import Scored
from segbench.statistics.inference import (
    MIN_SEEDS,
    Estimate,
    SeedSample,
    Term,
    estimate,
    holm,
    name_of_test,
    tails,
)
from segbench.statistics.resample import iou_draws, samples_of

CLASS_RESAMPLES = 2000  # a class needs an interval, not a far tail
FEWEST_IMAGES = 3  # with a class: the spread over two cannot be told from none


@dataclass(frozen=True)
class ClassDifference:
    """One class: mean IoUs and their difference with its interval, in per cent.

    images: how many show it. p is two-sided, p_adjusted corrected over the classes of the table
    (Holm). In fewer than 3 images the interval is endless, p is 1, and no other class pays for it.
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
    """Left minus right in points. p is two-sided.

    question: `method` from four seeds a side, `few` below, `checkpoints` with one.
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
    dropped_classes: float
    per_class: tuple[ClassDifference, ...]


def compare_two(
    left: Sequence[Counts],
    right: Sequence[Counts],
    class_names: Sequence[str] | None = None,
    *,
    metric: str = "mean_iou",
    absent_class: AbsentClass = "skip",
    class_indices: tuple[int, ...] = (),
    shared_training: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Return how two lists of seeds (or two single models) differ on the same images.

    shared_training: element i of both lists is the same weights, scored in two ways.

    Raises:
        ResultError: the images or the number of classes differ, or there is one image.
    """
    ordered = _on_the_same_images([*left, *right])
    if len(ordered[0].names) < 2:
        raise ResultError(
            "one image says nothing about others: compare results on at least two images"
        )
    models = [Scored(counts, absent_class, class_indices) for counts in ordered]
    sides = models[: len(left)], models[len(left) :]
    (one, two), dropped = samples_of(sides, metric, resamples=resamples, seed=seed)
    result = _difference(one, two, shared_training=shared_training, seed=seed)
    names = class_names or [f"class {index}" for index in range(ordered[0].tp.shape[1])]
    low, high = _possible(result.interval())
    few = "few" if result.seeds < MIN_SEEDS else "method"
    return Comparison(
        metric=metric,
        left=float(one.values.mean()),
        right=float(two.values.mean()),
        difference=result.effect,
        low=low,
        high=high,
        p=_two_sided(tails(result, 0.0)),
        test=name_of_test(result),
        seeds=(len(left), len(right)),
        question="checkpoints" if result.seeds == 1 else few,
        num_images=len(ordered[0].names),
        dropped_classes=dropped,
        per_class=class_differences(*sides, names, seed=seed, shared_training=shared_training),
    )


def class_differences(
    left: Sequence[Scored],
    right: Sequence[Scored],
    class_names: Sequence[str],
    *,
    resamples: int = CLASS_RESAMPLES,
    seed: int = 0,
    shared_training: bool = False,
    only: Sequence[str] = (),
) -> tuple[ClassDifference, ...]:
    """Return a row for each labelled class; draws of images that miss the class are left out.

    only: the classes asked for, which alone are corrected for; empty means all.
    """
    models, cut = [*left, *right], len(left)
    if len({model.counts.images for model in models}) != 1:
        return ()
    chunks = list(iou_draws(models, resamples=resamples, seed=seed))
    draws = np.concatenate([ious for ious, _ in chunks])  # (B, K, C)
    present = np.concatenate([there.all(axis=1) for _, there in chunks])  # (B, C)
    ious = 100 * np.stack([per_class_iou(model.counts.sums, "zero") for model in models])
    rows: dict[int, Estimate | None] = {}
    for index, name in enumerate(class_names):
        if (only and name not in only) or _images_with(models, index) == 0:
            continue
        seen = present[:, index]
        if _images_with(models, index) < FEWEST_IMAGES or not seen.any():
            rows[index] = None
            continue
        without = 100 * np.stack([_iou_left_out(model.counts, index) for model in models])
        values, drawn = ious[:, index], 100 * draws[seen, :, index].T
        one, two = (
            SeedSample(values[side], drawn[side], without[side])
            for side in (slice(cut), slice(cut, None))
        )
        rows[index] = _difference(one, two, shared_training=shared_training, seed=seed)
    p_values = {i: _two_sided(tails(found, 0.0)) for i, found in rows.items() if found is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        ClassDifference(
            class_names[index],
            _images_with(models, index),
            left=float(ious[:cut, index].mean()),
            right=float(ious[cut:, index].mean()),
            difference=float(ious[:cut, index].mean() - ious[cut:, index].mean()),
            low=interval[0],
            high=interval[1],
            p=p_values.get(index, 1.0),
            p_adjusted=adjusted.get(index, 1.0),
        )
        for index, found in rows.items()
        for interval in [(-math.inf, math.inf) if found is None else _possible(found.interval())]
    )


def _possible(interval: tuple[float, float]) -> tuple[float, float]:
    """Return what of an interval two figures between 0 and 100 can differ by."""
    return max(interval[0], -100.0), min(interval[1], 100.0)


def _images_with(models: Sequence[Scored], index: int) -> int:
    """Return how many images have label pixels of the class, for the model that has fewest."""
    return min(int(np.count_nonzero(model.counts.label[:, index])) for model in models)


def _iou_left_out(counts: Counts, index: int) -> Floats:
    """Return (N,) the class's IoU without one image each."""
    tp, label, pred = (
        whole[index] - own[:, index].astype(np.float64)
        for whole, own in (
            (counts.sums.tp, counts.tp),
            (counts.sums.label, counts.label),
            (counts.sums.pred, counts.pred),
        )
    )
    return tp / np.maximum(label + pred - tp, 1)


def _two_sided(both: tuple[float, float]) -> float:
    return min(1.0, 2 * min(both))


def _difference(
    left: SeedSample, right: SeedSample, *, shared_training: bool, seed: int
) -> Estimate:
    assert left.draws is not None
    terms = (
        Term(1.0, left, "left"),
        Term(-1.0, right, "left" if shared_training else "right"),
    )
    return estimate(terms, resamples=left.draws.shape[1], seed=seed)


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
