"""Every figure equals three independently written references; boundaries equal the paper's method."""

import math

import numpy as np
import torch
from scipy import ndimage
from torchmetrics.classification import MulticlassConfusionMatrix

from segbench.engine.counting import boundary_counts, boundary_width_px
from segbench.engine.evaluate import count_predictions
from segbench.runs.trial_files import evaluation_of, load_counts, write_counts
from segbench.schema.cards import DatasetCard, Source, Split
from segbench.schema.protocol import Protocol

MAPS = 1000
FIELD = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
RULES = ("skip", "zero", "skip_unlabelled")


def card(num_classes):
    return DatasetCard(
        name="maps", title="maps", splits={"val": Split(images="{name}", labels="{name}.png")},
        classes=tuple(f"c{i}" for i in range(num_classes)), palette=((0, 0, 0),) * num_classes,
        licence="CC0", source=Source(paper="none"),
    )  # fmt: skip


def random_split(seed):
    """1 to 3 maps with ignored pixels, classes that occur nowhere, and predictions of no class."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 8))
    present = rng.choice(num_classes, int(rng.integers(1, num_classes + 1)), replace=False)
    predicted = rng.choice(num_classes, int(rng.integers(1, num_classes + 1)), replace=False)
    pairs = []
    for index in range(int(rng.integers(1, 4))):
        shape = tuple(rng.integers(2, 8, 2))
        label = rng.choice(present, shape)
        label[rng.random(shape) < 0.4 * rng.random()] = 255
        prediction = rng.choice(predicted, shape)
        prediction[rng.random(shape) < 0.1] = rng.choice([255, num_classes])
        pairs.append((str(index), torch.from_numpy(prediction), torch.from_numpy(label)))
    return num_classes, pairs


def ours(num_classes, pairs, **fields):
    protocol = Protocol(**fields)
    counts = count_predictions(pairs, num_classes=num_classes, protocol=protocol)
    return evaluation_of(
        counts, trial_id="x", protocol=protocol, dataset=card(num_classes), split_fingerprint="f"
    )


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def by_loop(num_classes, pairs, rule):
    """Pixel by pixel, in plain Python, class by class, as the FCN paper defines its figures."""
    right, labelled, predicted = ([0] * num_classes for _ in range(3))
    for _, prediction, label in pairs:
        for row_p, row_l in zip(prediction.tolist(), label.tolist(), strict=True):
            for p, t in zip(row_p, row_l, strict=True):
                if t == 255:
                    continue
                labelled[t] += 1
                if p < num_classes:
                    predicted[p] += 1
                if p == t:
                    right[t] += 1
    total = sum(labelled)
    iou, accuracy = [], []
    for c in range(num_classes):
        union = labelled[c] + predicted[c] - right[c]
        counted = {"skip": union > 0, "zero": True, "skip_unlabelled": labelled[c] > 0}[rule]
        iou.append((right[c] / union if union else 0.0) if counted else None)
        # a class that occurs nowhere in the labels has no accuracy, but where it must count as 0
        has_accuracy = labelled[c] > 0 or rule == "zero"
        accuracy.append((right[c] / labelled[c] if labelled[c] else 0.0) if has_accuracy else None)
    weighted = [
        labelled[c] / total * right[c] / (labelled[c] + predicted[c] - right[c])
        for c in range(num_classes)
        if total and labelled[c]
    ]
    return {
        "pixel_accuracy": sum(right) / total if total else None,
        "mean_accuracy": mean(accuracy),
        "mean_iou": mean(iou),
        "frequency_weighted_iou": sum(weighted) if total else None,
    }, iou


def pixel_sets(num_classes, pairs):
    """For each class the sets of places that are labelled and predicted as it; void places left out."""
    truth: list[set] = [set() for _ in range(num_classes)]
    said: list[set] = [set() for _ in range(num_classes)]
    for name, prediction, label in pairs:
        for place, t in np.ndenumerate(label.numpy()):
            if t != 255:
                truth[t].add((name, place))
                p = int(prediction.numpy()[place])
                if p in range(num_classes):
                    said[p].add((name, place))
    return truth, said


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else None


def same(value, expected):
    if expected is None or value is None:
        return value is None and expected is None
    return math.isclose(value, expected, rel_tol=0, abs_tol=1e-9)


def test_a_thousand_random_splits_have_the_figures_of_a_naive_loop():
    for seed in range(MAPS):
        rule = RULES[seed % 3]
        num_classes, pairs = random_split(seed)
        found = ours(num_classes, pairs, absent_class=rule)
        expected, iou = by_loop(num_classes, pairs, rule)
        for figure in FIELD:
            assert same(found.figures[figure], expected[figure]), (seed, figure)
        assert all(map(same, found.per_class_iou, iou)), seed


def foreground_alone(truth, said, foreground=1):
    """An image's IoUs as the authors of mIoU-I count two classes (JDTLosses, miouic_metric.py).

    Where label and prediction hold one class alone, and the same, the image counts as 1.
    """
    if not any(truth):
        return [None, None]
    here, there = truth[foreground], said[foreground]
    found = [None, None]
    found[foreground] = jaccard(here, there) if here or there else 1.0
    return found


def test_a_thousand_random_splits_have_the_figures_of_sets_of_pixels():
    for seed in range(MAPS):
        num_classes, pairs = random_split(seed)
        found = ours(num_classes, pairs)
        truth, said = pixel_sets(num_classes, pairs)
        iou = [jaccard(t, s) for t, s in zip(truth, said, strict=True)]
        every = set().union(*truth)
        right = set().union(*(t & s for t, s in zip(truth, said, strict=True)))
        recall = [len(t & s) / len(t) if t else None for t, s in zip(truth, said, strict=True)]
        weighted = [len(t) / len(every) * (i or 0) for t, i in zip(truth, iou, strict=True) if t]
        per_image = []  # mIoU-I: over the classes that an image's label has
        by_class: list[list] = [[] for _ in range(num_classes)]
        for pair in pairs:
            t, s = pixel_sets(num_classes, [pair])
            of_image = [jaccard(a, b) if a else None for a, b in zip(t, s, strict=True)]
            if num_classes == 2:
                of_image = foreground_alone(t, s)
            per_image.append(mean(of_image))
            for column, value in zip(by_class, of_image, strict=True):
                column.append(value)
        expected = {
            "mean_iou": mean(iou),
            "pixel_accuracy": len(right) / len(every) if every else None,
            "mean_accuracy": mean(recall),
            "frequency_weighted_iou": sum(weighted) if every else None,
            "mean_iou_per_image": mean(per_image),
            "mean_iou_per_class": mean(map(mean, by_class)),
        }
        for figure, value in expected.items():
            assert same(found.figures[figure], value), (seed, figure)


def test_a_thousand_random_splits_have_the_figures_of_torchmetrics_confusion_matrix():
    for seed in range(MAPS):
        num_classes, pairs = random_split(seed)
        found = ours(num_classes, pairs)
        reference = MulticlassConfusionMatrix(
            num_classes + 1, ignore_index=255
        )  # + one for 'no class'
        for _, prediction, label in pairs:
            reference.update(prediction.clip(0, num_classes), label)
        matrix = reference.compute().numpy().astype(np.float64)
        right = np.diag(matrix)[:num_classes]
        labelled = matrix.sum(1)[:num_classes]
        with np.errstate(invalid="ignore"):
            iou = right / (labelled + matrix.sum(0)[:num_classes] - right)
            accuracy = right / labelled
            figures = {
                "pixel_accuracy": right.sum() / matrix.sum(),
                "mean_accuracy": np.nanmean(accuracy) if labelled.any() else np.nan,
                "mean_iou": np.nanmean(iou) if labelled.any() else np.nan,
                "frequency_weighted_iou": np.nansum(labelled / matrix.sum() * iou)
                if labelled.any()
                else np.nan,
            }
        for figure, value in figures.items():
            assert same(found.figures[figure], None if np.isnan(value) else value), (seed, figure)


def eroded_mask_boundary(mask, width):
    """The paper's way: erode the mask `width` times by 3x3, the outside of the image being empty."""
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
    return mask & np.logical_not(inner)


def test_boundary_counts_equal_erosion_class_by_class():
    rng = np.random.default_rng(0)
    for _ in range(60):
        num_classes = int(rng.integers(2, 5))
        height, width = rng.integers(6, 24, 2)
        blocks = rng.integers(0, num_classes + 2, ((height + 4) // 5, (width + 4) // 5))
        blocks = np.where(blocks >= num_classes, 255, blocks)
        label = np.kron(blocks, np.ones((5, 5), dtype=int))[:height, :width]
        prediction = np.where(rng.random(label.shape) < 0.03, 0, np.roll(label, 1, axis=1))
        width_px = int(rng.choice([1, 2, 3, 12, 30]))  # the last two windows hold whole maps
        found = boundary_counts(
            torch.from_numpy(prediction), torch.from_numpy(label), num_classes, width_px=width_px
        )
        for c in range(num_classes):
            truth = eroded_mask_boundary(label == c, width_px)
            said = eroded_mask_boundary(prediction == c, width_px) & (label != 255)
            expected = [(truth & said).sum(), truth.sum(), said.sum()]
            assert found[:, c].tolist() == expected


def test_boundary_iou_is_1_for_the_label_and_falls_faster_than_iou_for_a_shifted_square(tmp_path):
    label = torch.zeros(60, 80, dtype=torch.int64)
    label[15:45, 20:60] = 1
    shifted = label.roll(2, 1)
    perfect = ours(2, [("a", label, label)], boundary=0.02).figures
    assert perfect["boundary_iou"] == 1
    moved = ours(2, [("a", shifted, label)], boundary=0.02).figures
    assert (moved["boundary_iou"] or 0) < (moved["mean_iou"] or 0) - 0.1
    assert "boundary_iou" not in ours(2, [("a", label, label)]).figures


def test_boundary_counts_are_kept_for_every_image(tmp_path):
    pairs = random_split(3)[1]
    counted = count_predictions(pairs, num_classes=8, protocol=Protocol(boundary=0.02))
    write_counts(tmp_path / "counts.npz", counted)
    read = load_counts(tmp_path / "counts.npz")
    assert read.boundary is not None
    assert read.boundary.shape == (3, len(pairs), 8)
    np.testing.assert_array_equal(read.boundary, counted.boundary)


def test_the_boundarys_width_is_a_share_of_the_diagonal_and_at_least_a_pixel():
    assert boundary_width_px(0.02, (300, 400)) == 10
    assert boundary_width_px(0.02, (16, 16)) == 1


def test_a_protocol_without_boundaries_keeps_the_digest_it_had():
    assert Protocol().digest() == "44136fa3"
    assert Protocol(boundary=0.02).digest() != Protocol().digest()
    assert "boundary 0.02" in Protocol(boundary=0.02).description()
