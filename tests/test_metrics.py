"""Counting: exact against naive loops and torchmetrics, whatever the order or the sharding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassConfusionMatrix

from segbench.engine.counting import boundary_counts, confusion_matrix, void_predictions
from segbench.engine.evaluate import count
from segbench.engine.torchmetric import ConfusionMatrix
from segbench.schema.protocol import Protocol


def naive_confusion(prediction, label, num_classes):
    """The definition, pixel by pixel."""
    matrix = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    for predicted, true in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        if true != 255:
            matrix[true, predicted if 0 <= predicted < num_classes else num_classes] += 1
    return matrix


def random_maps(seed):
    """Labels with ignored pixels and absent classes; predictions, some outside the classes."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 9))
    shape = tuple(rng.integers(1, 9, 2))
    present = rng.choice(num_classes, int(rng.integers(1, num_classes + 1)), replace=False)
    label = rng.choice(present, shape)
    label[rng.random(shape) < rng.random() * 0.5] = 255
    prediction = rng.integers(0, num_classes, shape)
    prediction[rng.random(shape) < 0.1] = rng.choice([255, num_classes, -1])
    return num_classes, prediction, label


def test_a_thousand_random_maps_count_as_a_naive_loop_does():
    for seed in range(1000):
        num_classes, prediction, label = random_maps(seed)
        counted = confusion_matrix(
            torch.from_numpy(prediction), torch.from_numpy(label), num_classes
        )
        np.testing.assert_array_equal(
            counted.numpy(), naive_confusion(prediction, label, num_classes)
        )


def test_a_thousand_random_maps_count_as_torchmetrics_does_inside_the_classes():
    for seed in range(1000):
        num_classes, prediction, label = random_maps(seed)
        prediction = prediction.clip(0, num_classes - 1)
        reference = MulticlassConfusionMatrix(num_classes, ignore_index=255)
        theirs = reference(torch.from_numpy(prediction), torch.from_numpy(label))
        ours = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), num_classes)
        np.testing.assert_array_equal(ours[:, :-1].numpy(), theirs.numpy())


def test_a_prediction_outside_the_classes_is_a_false_negative_never_dropped():
    label = torch.tensor([[0, 1], [1, 255]])
    prediction = torch.tensor([[0, 255], [7, 0]])
    assert confusion_matrix(prediction, label, 2).tolist() == [[1, 0, 0], [0, 0, 2]]


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1 or be 255"):
        confusion_matrix(torch.zeros(1, 1), torch.full((1, 1), 2), 2)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(torch.zeros(1, 2), torch.zeros(2, 1), 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(8)))
def test_eight_shards_in_any_order_give_the_integers_of_one(seed, order):
    rng = np.random.default_rng(seed)
    pairs = [
        (
            str(i),
            torch.from_numpy(rng.integers(0, 5, (3, 4))),
            torch.from_numpy(rng.integers(0, 4, (3, 4))),
        )
        for i in range(16)
    ]
    protocol = Protocol()
    whole = count(pairs, num_classes=4, protocol=protocol)
    shards = [count(pairs[i::8], num_classes=4, protocol=protocol) for i in range(8)]
    np.testing.assert_array_equal(sum(shards[i].confusion for i in order), whole.confusion)
    metric = ConfusionMatrix(4)
    for i in order:
        for _, prediction, label in pairs[i::8]:
            metric.update(prediction, label)
    np.testing.assert_array_equal(metric.compute().numpy(), whole.confusion)
    assert sorted(n for s in shards for n in s.names) == sorted(whole.names)


def test_counts_per_image_add_up_to_the_confusion_matrix():
    rng = np.random.default_rng(0)
    pairs = [
        (
            str(i),
            torch.from_numpy(rng.integers(0, 5, (6, 4))),
            torch.from_numpy(rng.integers(0, 4, (6, 4))),
        )
        for i in range(5)
    ]
    counted = count(pairs, num_classes=4, protocol=Protocol())
    np.testing.assert_array_equal(counted.tp.sum(0), np.diag(counted.confusion[:, :4]))
    np.testing.assert_array_equal(counted.label.sum(0), counted.confusion.sum(1))
    np.testing.assert_array_equal(counted.pred.sum(0), counted.confusion[:, :4].sum(0))


def test_void_as_false_positive_counts_predictions_on_unlabelled_pixels():
    label = torch.tensor([[0, 255, 255]])
    prediction = torch.tensor([[0, 0, 1]])
    ignored = count([("a", prediction, label)], num_classes=2, protocol=Protocol())
    counted = count(
        [("a", prediction, label)], num_classes=2, protocol=Protocol(void="false_positive")
    )
    assert ignored.pred.tolist() == [[1, 0]]
    assert counted.pred.tolist() == [[2, 1]]
    assert counted.label.tolist() == ignored.label.tolist() == [[1, 0]]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_void_and_boundary_counts_pass_over_predictions_that_are_no_class(seed):
    num_classes, prediction, label = random_maps(seed)
    prediction.flat[0], label.flat[0] = num_classes, 255  # the first value that is no class
    maps = torch.from_numpy(prediction), torch.from_numpy(label)
    void = [np.count_nonzero((label == 255) & (prediction == c)) for c in range(num_classes)]
    assert void_predictions(*maps, num_classes).tolist() == void
    whole = max(label.shape)  # so wide that each pixel sees the border
    counted = boundary_counts(*maps, num_classes, width_px=whole, counts_void=True)
    assert counted.tolist() == [
        [np.count_nonzero((label == c) & (prediction == c)) for c in range(num_classes)],
        [np.count_nonzero(label == c) for c in range(num_classes)],
        [np.count_nonzero(prediction == c) for c in range(num_classes)],
    ]
