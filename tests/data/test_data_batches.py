"""Batches are a pure function of seed and step, whatever loads them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from segbench.data.batches import (
    Draws,
    draws_of,
    training_batches,
    training_positions,
    transformed,
)
from segbench.data.sources.drawn import SHAPES, draw_pair
from segbench.data.split import open_split
from segbench.schema.cards import DRAWN_SHAPES, DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.recipe import TrainImages

IMAGES = TrainImages(crop=(24, 24), scale=(0.5, 2.0), flip=True)


def shapes(classes=("background", "circle", "star"), **drawn) -> DatasetCard:
    return DatasetCard.model_validate(
        {
            "name": "shapes", "title": "shapes", "licence": "none", "source": {"paper": "none"},
            "classes": classes, "palette": tuple((i, i, i) for i in range(len(classes))),
            "drawn": {"train": 10, "val": 3, "height": 32, "width": 40, **drawn},
        }
    )  # fmt: skip


@pytest.fixture
def split(tmp_path):
    return open_split(shapes(), "train", Machine(cache=str(tmp_path)))


def batches(split, first, last, **options):
    given = {"seed": 3, "batch_size": 4, **options}
    return list(training_batches(split, IMAGES, first_step=first, last_step=last, **given))


def equal(a, b):
    return all(
        torch.equal(x.image, y.image) and torch.equal(x.label, y.label)
        for x, y in zip(a, b, strict=True)
    )


def test_loader_processes_do_not_change_batches(split):
    loaded = batches(split, 0, 6, loader_workers=2)
    assert equal(batches(split, 0, 6), loaded)
    kinds = {tensor.dtype for batch in loaded for tensor in batch}
    assert kinds == {torch.uint8}, "larger labels cost a pipe and a bus eight times as much"


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_loading_leaves_the_random_numbers_of_dropout_alone(split, loader_workers):
    before = torch.get_rng_state()
    batches(split, 0, 2, loader_workers=loader_workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def whole_way(tmp_path_factory):
    split = open_split(shapes(), "train", Machine(cache=str(tmp_path_factory.mktemp("whole"))))
    return split, batches(split, 0, 24)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12))
def test_batches_from_any_step_are_those_of_the_whole_way(whole_way, first, length):
    split, whole = whole_way
    assert equal(batches(split, first, first + length), whole[first : first + length])


def test_an_epoch_has_every_image_once():
    seen = []
    for step in range(5):
        indices, _ = training_positions(10, IMAGES, seed=1, batch_size=4, step=step)
        seen += indices.tolist()
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]


def test_ranks_share_a_batch_without_overlap(split):
    whole = batches(split, 0, 3)
    for ranks in (2, 4):
        parts = [batches(split, 0, 3, rank=rank, ranks=ranks) for rank in range(ranks)]
        for step in range(3):
            for slot in range(4):
                part = parts[slot % ranks][step]
                assert torch.equal(part.image[slot // ranks], whole[step].image[slot])
    with pytest.raises(ValueError, match="cannot be shared out"):
        batches(split, 0, 1, ranks=3)


def test_seeds_differ_and_flips_are_half():
    flips = [draws_of(IMAGES, 0, p).is_flipped for p in range(2000)]
    assert 0.45 < np.mean(flips) < 0.55
    assert draws_of(IMAGES, 0, 5) != draws_of(IMAGES, 1, 5)
    scales = [draws_of(IMAGES, 0, p).scale for p in range(2000)]
    assert 0.5 <= min(scales) < 0.52
    assert 1.98 < max(scales) <= 2.0


def test_image_and_label_move_together():
    label = torch.arange(20 * 30, dtype=torch.int64).reshape(20, 30) % 200
    image = label.to(torch.uint8).expand(3, 20, 30)
    for flipped in (False, True):
        draws = Draws(1.0, flipped, 0.7, 0.3)
        moved, moved_label = transformed(
            image, label.to(torch.uint8), TrainImages(crop=(16, 16)), draws
        )
        assert torch.equal(moved[0], moved_label)


def test_what_lies_over_the_border_is_void():
    image, label = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.uint8)
    moved, moved_label = transformed(
        image, label, TrainImages(crop=(32, 32)), Draws(1.0, False, 0, 0)
    )
    assert (moved_label[20:] == 255).all()
    assert (moved_label[:, 30:] == 255).all()
    assert (moved_label[:20, :30] == 0).all()
    assert (moved[:, 20:] == 127).all()


def test_squash_gives_one_size_and_labels_keep_their_values():
    image = torch.randint(0, 255, (3, 37, 53), dtype=torch.uint8)
    label = torch.randint(0, 5, (37, 53), dtype=torch.uint8)
    moved, moved_label = transformed(
        image, label, TrainImages(squash=(32, 48)), Draws(1.0, False, 0, 0)
    )
    assert moved.shape == (3, 32, 48)
    assert set(moved_label.unique().tolist()) <= set(range(5))


def test_drawings_are_the_same_everywhere_and_have_void_borders():
    card = shapes(("background", *SHAPES))
    first, again = draw_pair(card, "train", 3), draw_pair(card, "train", 3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.image, draw_pair(card, "val", 3).image)
    assert int(first.image.astype(np.int64).sum()) == 360_316  # what every machine must draw
    labels = [draw_pair(card, "train", i).label for i in range(60)]
    assert {255, *range(11)} == set(np.unique(np.stack(labels)).tolist())
    for label in labels:  # a class never touches the background without void between them
        inner = label[1:-1, 1:-1]
        for rows, columns in ((slice(2, None), slice(1, -1)), (slice(1, -1), slice(2, None))):
            beside = label[rows, columns]
            assert not ((inner == 0) & (beside > 0) & (beside < 255)).any()


@pytest.mark.parametrize(
    ("classes", "changes", "sentence"),
    [
        (("background", "sphere"), {}, "no shape is called sphere; behind the background there"),
        (("background", "circle"), {"shapes_per_image": (4, 1)}, "from the fewest to the most"),
        (("background", "circle"), {"shapes_per_image": (0, 0)}, "at least one"),
        (("background", "circle"), {"border_px": 9}, "border_px 9 is more than a tenth"),
        (("background", "circle"), {"seed": -3}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_when_the_card_is_read(classes, changes, sentence):
    with pytest.raises(ValidationError, match=sentence):
        shapes(classes, **changes)


def test_the_shapes_that_a_card_may_name_are_those_that_are_drawn():
    assert tuple(SHAPES) == DRAWN_SHAPES
