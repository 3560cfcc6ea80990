"""Figures read off summed counts, against loops that know nothing of arrays."""

import itertools

import numpy as np
import pytest

from segbench.metrics import METRICS, values_of
from segbench.metrics.counts import Counts, Sums, foreground_of, per_class_iou
from segbench.metrics.mean_accuracy import MeanAccuracy
from segbench.metrics.mean_iou import mean_iou
from segbench.metrics.metric import Scored
from segbench.metrics.of_images import mean_of_worst, per_image_iou
from segbench.statistics.resample import image_draws, image_weights
from segbench.statistics.samples import point

WITHOUT_BOUNDARY = [name for name, metric in METRICS.items() if not metric.needs_boundary]


def random_counts(seed: int, images: int = 30, classes: int = 5, share: float = 0.6) -> Counts:
    rng = np.random.default_rng(seed)
    label = rng.integers(1, 400, (images, classes)) * (rng.random((images, classes)) < share)
    label[:, 0] += 1  # every image has some label
    tp = rng.binomial(label, 0.6)
    pred = tp + rng.integers(0, 60, label.shape) * (rng.random(label.shape) < 0.3)
    return Counts(tp, label, pred, [f"image{index}" for index in range(images)])


def naive_ious(counts: Counts) -> list[list[float | None]]:
    rows = []
    for tp, label, pred in zip(counts.tp, counts.label, counts.pred, strict=True):
        rows.append(
            [
                None if u == 0 else int(t) / (int(u) + int(p) - int(t))
                for t, u, p in zip(tp, label, pred, strict=True)
            ]
        )
    return rows


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(20))
def test_every_figure_agrees_with_a_loop(seed: int):
    counts = random_counts(seed)
    found = values_of(counts)
    ious, accuracies, weighted, right, all_label = [], [], 0.0, 0, 0
    for tp, label, pred in zip(counts.tp.T, counts.label.T, counts.pred.T, strict=True):
        t, u, p = int(sum(tp)), int(sum(label)), int(sum(pred))
        ious.append(t / (u + p - t))
        accuracies.append(t / u)
        weighted += u * t / (u + p - t)
        right += t
        all_label += u
    images = naive_ious(counts)
    per_image = [mean([v for v in row if v is not None]) for row in images]
    columns = [[v for row in images if (v := row[c]) is not None] for c in range(5)]
    worst = [mean(sorted(column)[: max(1, len(column) // 10)]) for column in columns]
    expected = {
        "mean_iou": mean(ious),
        "mean_accuracy": mean(accuracies),
        "pixel_accuracy": right / all_label,
        "frequency_weighted_iou": weighted / all_label,
        "mean_iou_per_image": mean(per_image),
        "mean_iou_per_class": mean([mean(column) for column in columns]),
        "worst_images_iou": mean(sorted(per_image)[:3]),
        "worst_class_images_iou": mean(worst),
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_absent_class_rules_differ_as_worked_by_hand():
    # Class 0: 6 of 8 union pixels. Class 1: predicted, never labelled. Class 2: neither.
    sums = Sums(tp=np.array([6, 0, 0]), label=np.array([8, 0, 0]), pred=np.array([6, 2, 0]))
    assert mean_iou(sums, "skip") == pytest.approx((6 / 8 + 0) / 2)
    assert mean_iou(sums, "skip_unlabelled") == pytest.approx(6 / 8)
    assert mean_iou(sums, "zero") == pytest.approx(6 / 8 / 3)
    assert MeanAccuracy().of_sums(sums, "skip") == pytest.approx(6 / 8)
    assert MeanAccuracy().of_sums(sums, "zero") == pytest.approx(6 / 8 / 3)
    np.testing.assert_array_equal(per_class_iou(sums, "skip"), [0.75, 0, np.nan])


def test_a_prediction_outside_the_classes_is_a_miss_and_nobodys_false_positive():
    sums = Sums(tp=np.array([3, 2]), label=np.array([5, 2]), pred=np.array([3, 2]))
    assert mean_iou(sums) == pytest.approx((3 / 5 + 1) / 2)


def test_means_run_over_the_chosen_classes_alone():
    counts = random_counts(3)
    chosen = values_of(counts, class_indices=(1, 2, 3))
    only = Counts(counts.tp[:, 1:4], counts.label[:, 1:4], counts.pred[:, 1:4], counts.names)
    for name in ("mean_iou", "mean_accuracy", "mean_iou_per_image", "mean_iou_per_class"):
        assert chosen[name] == pytest.approx(values_of(only)[name])
    assert chosen["pixel_accuracy"] == values_of(counts)["pixel_accuracy"]


FOUR_IMAGES = Counts(  # background and foreground, as in the two columns
    # found; nothing there and nothing predicted; missed; a false alarm
    tp=np.array([[6, 3], [10, 0], [6, 0], [8, 0]]),
    label=np.array([[6, 4], [10, 0], [6, 4], [10, 0]]),
    pred=np.array([[7, 3], [10, 0], [10, 0], [8, 2]]),
    names=["found", "empty", "missed", "alarm"],
)


@pytest.mark.parametrize("chosen", [(), (0, 1), (1,)])
def test_of_two_classes_the_foreground_alone_counts_in_an_image_as_worked_by_hand(chosen):
    found = values_of(FOUR_IMAGES, class_indices=chosen)
    for name in ("mean_iou_per_image", "mean_iou_per_class"):
        assert found[name] == pytest.approx((3 / 4 + 1 + 0 + 0) / 4)
    assert found["worst_images_iou"] == found["worst_class_images_iou"] == 0


def test_the_foreground_is_the_class_that_is_not_the_cards_background():
    swapped = Counts(
        FOUR_IMAGES.tp[:, ::-1], FOUR_IMAGES.label[:, ::-1], FOUR_IMAGES.pred[:, ::-1],
        FOUR_IMAGES.names, foreground=foreground_of(1),
    )  # fmt: skip
    assert values_of(swapped) == values_of(FOUR_IMAGES)
    assert [foreground_of(background) for background in (None, 0, 1)] == [1, 1, 0]


def test_an_image_without_a_labelled_pixel_counts_in_no_figure_of_images():
    empty = np.array([[0, 0], [6, 4]])
    counts = Counts(np.array([[0, 0], [6, 3]]), empty, np.array([[0, 0], [7, 3]]), ["void", "seen"])
    assert values_of(counts)["mean_iou_per_image"] == pytest.approx(3 / 4)


def test_draws_of_images_of_two_classes_give_the_figure_of_the_drawn_images():
    counts = random_counts(6, classes=2)
    model = Scored(counts)
    for metric in ("mean_iou_per_image", "mean_iou_per_class", "worst_images_iou"):
        drawn = image_draws([model], metric, resamples=30, seed=5)
        weights = np.concatenate(list(image_weights(counts.images, 30, resamples=30, seed=5)))
        for draw, row in enumerate(weights.astype(int)):
            rows = np.repeat(np.arange(30), row)
            again = Counts(
                counts.tp[rows], counts.label[rows], counts.pred[rows], list(map(str, rows))
            )
            assert drawn.values[0, draw] == pytest.approx(point(Scored(again), metric), abs=2e-6)


def test_the_worst_share_holds_at_least_one_image():
    counts = random_counts(1, images=4)
    assert mean_of_worst(per_image_iou(counts), 0.01) == pytest.approx(
        min(mean([v for v in row if v is not None]) for row in naive_ious(counts))
    )
    assert mean_of_worst(per_image_iou(counts), 1.0) == pytest.approx(
        values_of(counts)["mean_iou_per_image"]
    )


def test_counts_that_cannot_be_are_refused():
    good = random_counts(0)
    with pytest.raises(ValueError, match="tp must lie between 0 and both label and pred"):
        Counts(good.label + 1, good.label, good.label + 1, good.names)
    with pytest.raises(ValueError, match="and 29 names"):
        Counts(good.tp, good.label, good.pred, good.names[:29])


@pytest.mark.parametrize("metric", WITHOUT_BOUNDARY)
@pytest.mark.parametrize("absent_class", ["skip", "zero", "skip_unlabelled"])
def test_a_draw_gives_the_figure_of_the_drawn_images(metric: str, absent_class):
    models = [Scored(random_counts(seed), absent_class) for seed in (1, 2, 3)]
    drawn = image_draws(models, metric, resamples=40, seed=5)
    weights = np.concatenate(
        list(image_weights(models[0].counts.images, 30, resamples=40, seed=5))
    ).astype(int)
    assert (weights.sum(axis=1) == 30).all()
    for (row, model), draw in itertools.product(enumerate(models), range(40)):
        picked = np.repeat(np.arange(30), weights[draw])
        c = model.counts
        again = Counts(c.tp[picked], c.label[picked], c.pred[picked], list(map(str, picked)))
        expected = point(Scored(again, absent_class), metric)
        assert drawn.values[row, draw] == pytest.approx(expected, abs=2e-6)


def test_a_class_that_a_draw_misses_leaves_the_mean_of_all_models_alike():
    base = random_counts(4, images=40, share=1.0)
    label = base.label.copy()
    label[1:, 4] = 0  # class 4 is labelled in one image
    models = []
    for quality in (0.9, 0.2):
        tp = np.floor(label * quality).astype(int)
        models.append(Scored(Counts(tp, label, tp, base.names)))
    drawn = image_draws(models, "mean_iou", resamples=4000, seed=0)
    weights = np.concatenate(
        list(image_weights(models[0].counts.images, 40, resamples=4000, seed=0))
    )
    missed = weights[:, 0] == 0
    assert drawn.dropped == pytest.approx(missed.mean(), abs=1e-6)
    assert drawn.dropped == pytest.approx(np.exp(-1), abs=0.03)
    for model, values in zip(models, drawn.values, strict=True):
        ious = np.einsum("bi,ic->bc", weights, model.counts.tp) / np.maximum(
            np.einsum("bi,ic->bc", weights, label), 1
        )
        np.testing.assert_allclose(values[missed], ious[missed, :4].mean(1), atol=1e-5)
        np.testing.assert_allclose(values[~missed], ious[~missed].mean(1), atol=1e-5)


def test_models_on_the_same_images_get_the_same_draws_in_any_company():
    models = [Scored(random_counts(seed)) for seed in range(4)]
    together = image_draws(models, "mean_iou", resamples=50, seed=1).values
    alone = image_draws(models[2:3], "mean_iou", resamples=50, seed=1).values
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)


def test_models_on_other_images_cannot_share_draws():
    other = random_counts(1)
    renamed = Counts(other.tp, other.label, other.pred, [f"x{n}" for n in other.names])
    with pytest.raises(ValueError, match="the same images"):
        image_draws([Scored(other), Scored(renamed)], "mean_iou", resamples=5, seed=0)


def test_the_digest_of_names_is_pinned_since_files_of_results_hold_it():
    """The first 16 digits of sha256 over the text `["2007_000033","2007_000042"]`."""
    ones = np.ones((2, 1), dtype=np.int64)
    assert Counts(ones, ones, ones, ["2007_000033", "2007_000042"]).images == "f775aaf3d35d03b8"
