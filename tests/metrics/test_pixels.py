"""Pixels counted by blocks, against loops over single pixels."""

import numpy as np
import pytest
import torch

from segbench.engine.counting import confusion_matrix, pixel_table
from segbench.metrics import pixels
from segbench.metrics.pixels import pixel_counts

KINDS = ("uint8", "int16", "uint16", "int32", "int64")


def naive(prediction, label, num_classes, ignore_index):
    table = [[0] * (num_classes + 1) for _ in range(num_classes + 1)]
    for said, true in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        row = num_classes if true == ignore_index else true
        table[row][said if 0 <= said < num_classes else num_classes] += 1
    return table


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_classes", [1, 21, 171, 255])
@pytest.mark.parametrize("block", [7, 2**16])
def test_counts_are_those_of_a_loop_over_pixels(monkeypatch, kind, num_classes, block):
    monkeypatch.setattr(pixels, "_BLOCK", block)
    rng = np.random.default_rng(num_classes)
    label = rng.integers(0, num_classes, (13, 17)).astype("uint8")
    label[rng.random(label.shape) < 0.2] = 255
    prediction = rng.integers(0, np.iinfo(kind).max, (13, 17), dtype=kind, endpoint=True)
    likely = rng.random(label.shape) < 0.8
    prediction[likely] = rng.integers(0, num_classes + 1, likely.sum())
    if np.iinfo(kind).min < 0:
        prediction[0, :3] = (-1, np.iinfo(kind).min, -num_classes)
    expected = naive(prediction, label, num_classes, 255)
    assert pixel_counts(prediction, label, num_classes, ignore_index=255).tolist() == expected
    tensors = torch.from_numpy(prediction), torch.from_numpy(label)
    assert pixel_table(*tensors, num_classes).tolist() == expected
    assert confusion_matrix(*tensors, num_classes).tolist() == expected[:-1]


@pytest.mark.parametrize("ignore_index", [-1, 0, 2, 300])
def test_any_value_may_be_the_ignored_one(ignore_index):
    label = np.array([[1, 3, 1, ignore_index]])
    prediction = np.array([[1, 1, -(2**40), 3]])
    found = pixel_counts(prediction, label, 4, ignore_index=ignore_index)
    assert found.tolist() == naive(prediction, label, 4, ignore_index)


@pytest.mark.parametrize(
    ("wrong", "span"), [(4, "1 to 4"), (-1, "-1 to 1"), (2**40, f"1 to {2**40}")]
)
def test_a_label_that_is_no_class_is_refused(wrong, span):
    label = np.array([[1, 255, wrong]])
    with pytest.raises(
        ValueError, match=rf"labels must lie in 0\.\.3 or be 255, but range from {span}$"
    ):
        pixel_counts(np.zeros_like(label), label, 4, ignore_index=255)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, but have \(1, 2\) and \(2, 1\)"):
        pixel_counts(np.zeros((1, 2), int), np.zeros((2, 1), int), 4, ignore_index=255)


def test_an_image_without_pixels_has_none():
    empty = np.zeros((0, 5), dtype=np.uint8)
    assert not pixel_counts(empty, empty, 3, ignore_index=255).any()
