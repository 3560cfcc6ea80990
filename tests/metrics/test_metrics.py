"""What every metric promises, built in or somebody's own: bounds, draws and left-out images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from segbench.claims.judge import judge
from segbench.cli import app
from segbench.metrics import METRICS
from segbench.metrics.counts import Counted, Counts
from segbench.metrics.metric import Metric, Scored
from segbench.report.claims_page import asked
from segbench.report.tables import shown_metrics
from segbench.runs.trial_files import write_counts
from segbench.schema.claims import Compare
from segbench.statistics.observations import Observation
from segbench.statistics.resample import image_draws, image_weights
from segbench.statistics.samples import point

NAMES = list(METRICS)
IMAGES, CLASSES = 23, 5


def counts(seed: int, images: int = IMAGES) -> Counts:
    """Counts with boundaries, where some images lack some classes."""
    rng = np.random.default_rng(seed)
    there = rng.random((images, CLASSES)) < 0.6
    there[:, 0] = True

    def parts(most: int) -> tuple:
        label = np.where(there, rng.integers(1, most, there.shape), 0)
        tp = (label * rng.random(there.shape)).astype(np.int64)
        return tp, label, tp + there * rng.integers(0, 40, there.shape)

    names = [f"image{index}" for index in range(images)]
    tp, label, pred = parts(400)
    alarms = rng.integers(0, 20, there.shape)
    edges = parts(60)
    boundary = Counts(edges[0], edges[1], edges[2], names)
    return Counts(tp, label, pred + alarms, names, boundary=boundary)


def reference(name: str, of: Counts) -> float:
    """Return the metric by loops that know nothing of how segbench computes it."""
    if name == "boundary_iou":
        assert of.boundary is not None
        return reference("mean_iou", of.boundary)
    sums = [
        (int(t.sum()), int(u.sum()), int(p.sum()))
        for t, u, p in zip(of.tp.T, of.label.T, of.pred.T, strict=True)
    ]
    labelled = [(t, u, p) for t, u, p in sums if u]
    ious = [
        [(c, t / (u + p - t)) for c, (t, u, p) in enumerate(zip(*row, strict=True)) if u]
        for row in zip(of.tp, of.label, of.pred, strict=True)
    ]
    per_image = sorted(np.mean([iou for _, iou in row]) for row in ious if row)
    per_class = [sorted(iou for row in ious for d, iou in row if d == c) for c in range(CLASSES)]
    total = sum(u for _, u, _ in sums)
    return float(
        {
            "mean_iou": lambda: np.mean([t / (u + p - t) for t, u, p in labelled]),
            "pixel_accuracy": lambda: sum(t for t, _, _ in sums) / total,
            "mean_accuracy": lambda: np.mean([t / u for t, u, _ in labelled]),
            "frequency_weighted_iou": lambda: (
                sum(u * t / (u + p - t) for t, u, p in labelled) / total
            ),
            "mean_iou_per_image": lambda: np.mean(per_image),
            "mean_iou_per_class": lambda: np.mean([np.mean(own) for own in per_class if own]),
            "worst_images_iou": lambda: np.mean(per_image[: max(1, len(per_image) // 10)]),
            "worst_class_images_iou": lambda: np.mean(
                [np.mean(own[: max(1, len(own) // 10)]) for own in per_class if own]
            ),
        }[name]()
    )


def test_each_metric_stands_in_the_table_under_its_name_and_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title and metric.words and metric.about


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_what_an_independent_reading_says(name):
    for seed in range(5):
        assert point(Scored(counts(seed)), name) == pytest.approx(reference(name, counts(seed)))


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_lies_between_nothing_right_and_all_right(name):
    some = counts(0)
    assert some.boundary is not None
    none, every = (
        replace(some, tp=share * some.label, pred=some.label, boundary=replace(
            some.boundary, tp=share * some.boundary.label, pred=some.boundary.label
        ))
        for share in (0, 1)
    )  # fmt: skip
    assert point(Scored(none), name) == 0
    assert point(Scored(every), name) == pytest.approx(1)
    assert 0 < point(Scored(some), name) < 1


@pytest.mark.parametrize("absent_class", ["skip", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_left_out_images_and_draws_are_those_of_the_images_that_are_there(name, absent_class):
    """`Metric`'s own way counts the images one by one; the ways that are fast give the same."""
    metric = METRICS[name]
    models = [Scored(counts(seed), absent_class) for seed in (1, 2)]
    compared = [model.compared() for model in models]
    for model in compared:
        np.testing.assert_allclose(
            metric.left_out(model), Metric.left_out(metric, model), atol=1e-12
        )
    drawn = image_draws(models, name, resamples=25, seed=4)
    chunks = image_weights(models[0].counts.images, IMAGES, resamples=25, seed=4)
    np.testing.assert_allclose(
        drawn.values, Metric.draws(metric, compared, chunks).values, atol=2e-6
    )


def test_a_draw_without_a_class_says_how_many_are_lost_and_leaves_it_out():
    some = counts(3, images=6)
    rare = (np.arange(6) == some.label[:, -1].argmax())[:, None] | (
        np.arange(CLASSES) < CLASSES - 1
    )
    model = Scored(Counts(some.tp * rare, some.label * rare, some.pred * rare, some.names))
    name = "worst_class_images_iou"
    drawn = image_draws([model], name, resamples=60, seed=1)
    chunks = image_weights(model.counts.images, 6, resamples=60, seed=1)
    slow = Metric.draws(METRICS[name], [model.compared()], chunks)
    np.testing.assert_allclose(drawn.values, slow.values, atol=2e-6)
    assert drawn.dropped == pytest.approx(slow.dropped)
    assert drawn.dropped > 0.2


def test_counts_of_images_keep_their_boundaries():
    picked = np.array([3, 3, 0])
    some = counts(0)
    found = some.of_images(picked)
    assert found.boundary is not None
    assert some.boundary is not None
    assert found.names == ["image3", "image3", "image0"]
    np.testing.assert_array_equal(found.boundary.tp, some.boundary.tp[picked])


def counted(of: Counts) -> Counted:
    def parts(one: Counts) -> list[NDArray[np.int64]]:
        return [part.astype(np.int64) for part in (one.tp, one.label, one.pred)]

    none = np.zeros((CLASSES, CLASSES + 1), dtype=np.int64)
    edges = None if of.boundary is None else np.stack(parts(of.boundary))
    tp, label, pred = parts(of)
    return Counted(tuple(of.names), tp, label, pred, none, edges)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_can_be_claimed(name):
    observations = [
        Observation(
            {"head": head}, "native", seed, counts(seed + start), [f"c{i}" for i in range(5)]
        )
        for head, start in (("a", 0), ("b", 10))
        for seed in range(4)
    ]
    claim = Compare(says="a is better", left={"head": "a"}, right={"head": "b"}, metric=name)
    (verdict,) = judge([claim], observations, resamples=60)
    means = [
        100
        * np.mean([reference(name, one.counts) for one in observations if one.axes["head"] == h])
        for h in "ab"
    ]
    assert verdict.parts[0].effect == pytest.approx(means[0] - means[1])
    assert METRICS[name].words in asked(claim)


def test_a_claim_on_boundaries_leaves_out_cells_that_have_none():
    one = Observation({"head": "a"}, "native", 0, counts(0), [f"c{i}" for i in range(5)])
    other = replace(one, axes={"head": "b"}, counts=replace(counts(1), boundary=None))
    claim = Compare(says="x", left={"head": "a"}, right={"head": "b"}, metric="boundary_iou")
    (verdict,) = judge([claim], [one, other], resamples=60)
    assert "b native: its protocol counts no boundaries" in verdict.missing


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_can_be_compared(tmp_path, name):
    for file, seed in (("a.npz", 0), ("b.npz", 1)):
        write_counts(tmp_path / file, counted(counts(seed)))
    done = compare(tmp_path, name)
    assert done.exit_code == 0, done.output
    left, right = (100 * reference(name, counts(seed)) for seed in (0, 1))
    assert f"{left:.2f} - {right:.2f}" in " ".join(done.output.split())


def test_counts_without_boundaries_are_not_compared_by_them(tmp_path):
    for file, seed in (("a.npz", 0), ("b.npz", 1)):
        write_counts(tmp_path / file, counted(replace(counts(seed), boundary=None)))
    done = compare(tmp_path, "boundary_iou")
    assert done.exit_code == 2
    assert "a.npz has no counts of boundaries" in " ".join(done.output.split())


def compare(folder: Path, metric: str) -> Result:
    sides = [str(folder / name) for name in ("a.npz", "b.npz")]
    return CliRunner().invoke(app, ["compare", *sides, "--metric", metric])


def test_tables_show_the_boundary_where_it_is_counted():
    assert "boundary_iou" not in shown_metrics([{"mean_iou": 0.5}])
    assert list(shown_metrics([{"mean_iou": 0.5}, {"boundary_iou": 0.4}]))[-1] == "boundary_iou"
