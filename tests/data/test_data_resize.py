"""Images, labels and score maps lie on one grid of pixel centres, whatever size they are brought to."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from segbench.data.batches import Draws, transformed
from segbench.data.resize import Window, resized_image, resized_label
from segbench.engine.evaluate import count_predictions, scored_label
from segbench.engine.predict import _versions
from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.schema.protocol import Protocol
from segbench.schema.recipe import TrainImages

SIDES = st.integers(1, 90)
# no centre of a target pixel lies on the border of two source pixels
ODD_RATIOS = [
    *[(500, 224), (375, 224), (333, 224), (375, 321), (501, 161)],
    *[(281, 640), (367, 123), (101, 77), (63, 99), (1023, 513)],
]


def noise(height: int, width: int, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, high, (3, height, width), generator=generator).to(torch.uint8)


def naive(values: list[int], target: int) -> list[int]:
    """Return one axis resized by its definition, with weights rounded to 2**-15."""
    source, found = len(values), []
    for i in range(target):
        centre = (i + 0.5) * source / target
        reach = max(1.0, source / target)
        parts = [max(0.0, 1 - abs(j + 0.5 - centre) / reach) for j in range(source)]
        ends = [0, *(round(sum(parts[: j + 1]) / sum(parts) * 2**15) for j in range(source))]
        total = sum(v * (b - a) for v, (a, b) in zip(values, pairwise(ends), strict=True))
        found.append((total + 2**14) // 2**15)
    return found


@pytest.mark.parametrize(("source", "target"), [(37, 15), (15, 37), (50, 50), (9, 1), (1, 4)])
def test_a_line_is_resized_by_the_triangle_filter(source, target):
    line = noise(1, source)[:, 0]
    wide = resized_image(line[:, None], (1, target))[:, 0]
    tall = resized_image(line[:, :, None], (target, 1))[:, :, 0]
    expected = [naive(channel.tolist(), target) for channel in line]
    assert wide.tolist() == expected
    assert tall.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.data())
def test_a_window_is_that_part_of_the_whole(height, width, tall, wide, data):
    image, label = noise(height, width), noise(height, width)[0]
    top, left = data.draw(st.integers(0, tall - 1)), data.draw(st.integers(0, wide - 1))
    window = Window(
        top,
        left,
        data.draw(st.integers(1, tall - top)),
        data.draw(st.integers(1, wide - left)),
    )
    part = (..., slice(top, top + window.height), slice(left, left + window.width))
    size = tall, wide
    assert torch.equal(resized_image(image, size, window), resized_image(image, size)[part])
    assert torch.equal(resized_label(label, size, window), resized_label(label, size)[part])


def test_pixels_depend_on_neither_threads_nor_precision():
    image = noise(120, 160)
    expected = resized_image(image, (70, 230))
    threads = torch.get_num_threads()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resized_image(image, (70, 230)), expected)
    try:
        torch.set_num_threads(2)
        assert torch.equal(resized_image(image, (70, 230)), expected)
    finally:
        torch.set_num_threads(threads)
    hwc = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(resized_image(hwc, (70, 230)), expected)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_images_commute_with_mirroring(height, width, tall, wide):
    image = noise(height, width)
    for axis in (-1, -2):
        mirrored = resized_image(image.flip(axis), (tall, wide)).flip(axis)
        assert torch.equal(mirrored, resized_image(image, (tall, wide)))


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_labels_commute_with_mirroring_but_for_centres_on_a_border(height, width, tall, wide):
    label = noise(height, width)[0]
    here = resized_label(label, (tall, wide))
    for axis, source, target in ((0, height, tall), (1, width, wide)):
        mirrored = resized_label(label.flip(axis), (tall, wide)).flip(axis)
        kept = torch.tensor([i for i in range(target) if (2 * i + 1) * source % (2 * target)])
        kept = kept.to(torch.int64)
        assert torch.equal(mirrored.index_select(axis, kept), here.index_select(axis, kept))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_images_are_pillows_but_for_its_roundings(height, width, tall, wide):
    """Each of two passes is rounded, here and there: one value in a million is two levels off."""
    image = noise(height, width)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
    theirs = np.asarray(pixels.resize((wide, tall), Image.Resampling.BILINEAR)).astype(int)
    ours = resized_image(image, (tall, wide)).permute(1, 2, 0).numpy()
    apart = np.abs(ours - theirs)
    assert apart.max() <= 2
    assert (apart > 1).sum() <= max(1, apart.size // 1000)


@pytest.mark.parametrize(("source", "target"), [*ODD_RATIOS, (480, 240), (128, 32), (90, 180)])
def test_labels_are_pillows(source, target):
    label = noise(3, source)[0]
    theirs = Image.fromarray(label.numpy()).resize((target, 3), Image.Resampling.NEAREST)
    assert np.array_equal(resized_label(label, (3, target)), theirs)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (40, 700), (999, 5)])
@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_a_plain_image_stays_plain(size, level):
    image = torch.full((3, 60, 800), level, dtype=torch.uint8)
    assert resized_image(image, size).unique().tolist() == [level]


@pytest.mark.parametrize(("source", "target"), ODD_RATIOS)
def test_labels_lie_on_the_centres_of_their_pixels_on_average(source, target):
    places = torch.arange(source)
    taken = resized_label(places[None], (1, target))[0]
    centres = (torch.arange(target) + 0.5) * source / target
    assert float((taken + 0.5 - centres).mean()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("source", "target"), [(500, 224), (375, 321), (333, 321), (200, 321)])
def test_image_label_and_score_map_of_a_dot_share_a_centre(source, target):
    rng = np.random.default_rng(0)
    starts = rng.integers(source // 10, source // 2, 40)
    shifts = torch.zeros(3)
    for start in starts.tolist():
        stop = start + int(rng.integers(source // 6, source // 3))
        label = torch.zeros(16, source, dtype=torch.uint8)
        label[:, start:stop] = 1
        image, small = transformed(
            (label * 255).expand(3, -1, -1), label,
            TrainImages(squash=(16, target), flip=False), Draws(1.0, False, 0, 0),
        )  # fmt: skip
        grown = F.interpolate(small[None, None].float(), (16, source), mode="bilinear")[0, 0]
        lines = [image[0, 0].float(), small[0].float(), grown[0]]
        true = (start + stop) / 2 / source
        shifts += torch.tensor([_centre(line) - true for line in lines]) * target / len(starts)
    assert shifts.tolist() == pytest.approx([0, 0, 0], abs=0.1)  # of a target pixel, on average


def _centre(line: Tensor) -> float:
    axis = (torch.arange(len(line)) + 0.5) / len(line)
    return float((line * axis).sum() / line.sum())


def test_a_perfect_prediction_at_the_scored_size_scores_100():
    label = noise(360, 480, 3)[0]
    perfect = Image.fromarray(label.numpy()).resize((224, 200), Image.Resampling.NEAREST)
    protocol = Protocol(size=(200, 224), score_at="input")
    pair = ("a", torch.from_numpy(np.array(perfect)), scored_label(label, protocol))
    found = count_predictions([pair], num_classes=3, protocol=protocol)
    assert mean_iou(Sums(found.tp.sum(0), found.label.sum(0), found.pred.sum(0))) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.floats(0.4, 2.0), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_crop_is_a_part_of_the_resized_flipped_padded_image(flipped, scale, down, across):
    image, label = noise(37, 53), noise(37, 53, 5)[0]
    draws = Draws(scale, flipped, down, across)
    crop = TrainImages(crop=(32, 40))
    moved, moved_label = transformed(image, label, crop, draws)
    whole, whole_label = transformed(image, label, TrainImages(), draws._replace(is_flipped=False))
    if flipped:
        whole, whole_label = whole.flip(-1), whole_label.flip(-1)
    more = (0, max(40 - whole.shape[2], 0), 0, max(32 - whole.shape[1], 0))
    whole, whole_label = F.pad(whole, more, value=127), F.pad(whole_label, more, value=255)
    top, left = int(down * (whole.shape[1] - 31)), int(across * (whole.shape[2] - 39))
    assert torch.equal(moved, whole[:, top : top + 32, left : left + 40])
    assert torch.equal(moved_label, whole_label[top : top + 32, left : left + 40])


@pytest.mark.parametrize(("source", "target"), ODD_RATIOS[:6])
def test_images_resized_by_nearest_are_those_of_pillow(source, target):
    image = noise(source, source)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    expected = pillow.resize((target, target), Image.Resampling.NEAREST)
    found = resized_image(image, (target, target), resize="nearest")
    assert np.array_equal(found.permute(1, 2, 0), expected)


def test_training_and_scoring_resize_images_as_they_are_told():
    image, label = noise(47, 33), noise(47, 33)[0]
    for resize in ("bilinear", "nearest"):
        expected = resized_image(image, (20, 24), resize=resize)
        squash = TrainImages(squash=(20, 24), flip=False, resize=resize)
        assert torch.equal(transformed(image, label, squash, Draws(1, False, 0, 0))[0], expected)
        protocol = Protocol(size=(20, 24), score_at="input", resize=resize)
        assert torch.equal(next(_versions(image, protocol))[0], expected)
