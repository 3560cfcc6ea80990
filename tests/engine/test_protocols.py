"""What each field of an evaluation protocol does to a prediction, against the plainest form of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segbench.data.resize import resized_image
from segbench.data.split import open_split
from segbench.engine.evaluate import scored_label
from segbench.engine.predict import predict, probability_map
from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.runs.trial_files import scored_classes
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol, Sliding
from segbench.work.predictions import PredictionFolder, score_predictions
from segbench.work.reading import as_labels

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 41, 58)).astype(np.uint8))


class Contextual(nn.Module):
    """A model whose scores depend on what lies around a pixel, and on where the border is."""

    minimum_side = 8

    def fitting_side(self, side: int) -> int:
        return max(side, self.minimum_side)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 3, 9, 9, generator=generator) / 4
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape[-2:]))
        return F.conv2d(image, self.weight, padding=4)

    def coarse_score_map(self, image: Tensor) -> tuple[Tensor, None]:
        return self(image), None


@pytest.fixture
def model() -> Any:
    return Contextual()


def scores(model: Any, image: Tensor) -> Tensor:
    return model(image[None].float() / 255)[0]


def test_plain_is_one_pass_over_the_whole_image(model):
    assert torch.equal(predict(model, IMAGE, Protocol()), scores(model, IMAGE).argmax(0))
    assert model.seen[0] == (41, 58)


def test_flip_is_the_mean_of_the_probabilities_of_both_images(model):
    found = probability_map(model, IMAGE, Protocol(flip=True))
    mirrored = scores(model, IMAGE.flip(-1)).softmax(0).flip(-1)
    torch.testing.assert_close(found, (scores(model, IMAGE).softmax(0) + mirrored) / 2)
    assert torch.equal(predict(model, IMAGE, Protocol(flip=True)), found.argmax(0))


def test_scales_are_brought_to_the_labels_size_and_averaged_as_probabilities(model):
    protocol = Protocol(scales=(0.5, 1.0, 1.5), flip=True)
    found = probability_map(model, IMAGE, protocol)
    total = torch.zeros(4, 41, 58)
    for size in ([20, 29], [41, 58], [62, 87]):
        resized = resized_image(IMAGE, size)
        for image, back in ((resized, False), (resized.flip(-1), True)):
            one = scores(model, image)
            one = one.flip(-1) if back else one
            total += F.interpolate(one[None], (41, 58), mode="bilinear")[0].softmax(0)
    torch.testing.assert_close(found, total / 6)


@pytest.mark.parametrize(
    ("window", "stride"), [((16, 20), (8, 10)), ((17, 23), (7, 23)), ((16, 16), (16, 16))]
)
def test_sliding_windows_cover_the_image_and_overlaps_are_averaged(model, window, stride):
    protocol = Protocol(sliding=Sliding(window=window, stride=stride))
    found = probability_map(model, IMAGE, protocol)
    tops, lefts = (
        sorted({min(start, side - size) for start in range(0, side, step)})
        for side, size, step in zip((41, 58), window, stride, strict=True)
    )
    here: list[list[list[Tensor]]] = [[[] for _ in range(58)] for _ in range(41)]
    for top in tops:
        for left in lefts:
            part = scores(model, IMAGE[:, top : top + window[0], left : left + window[1]])
            for y in range(window[0]):
                for x in range(window[1]):
                    here[top + y][left + x].append(part[:, y, x])
    naive = torch.stack(
        [torch.stack([torch.stack(p).mean(0) for p in row], dim=1) for row in here], dim=1
    )
    torch.testing.assert_close(found, naive.softmax(0))
    assert torch.equal(predict(model, IMAGE, protocol), found.argmax(0))
    assert set(model.seen) == {window}


def test_a_window_larger_than_the_image_is_the_whole_image(model):
    sliding = Protocol(sliding=Sliding(window=(64, 64), stride=(32, 32)))
    assert torch.equal(predict(model, IMAGE, sliding), predict(model, IMAGE, Protocol()))


def test_short_side_keeps_the_shape_and_the_labels_size(model):
    found = predict(model, IMAGE, Protocol(short_side=82))
    assert model.seen == [(82, 116)]
    assert found.shape == (41, 58)


def test_a_squashed_image_is_scored_at_the_labels_size_or_at_its_own(model):
    label = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (41, 58)).astype(np.uint8))
    squashed = resized_image(IMAGE, (24, 24))
    at_label, at_input = (Protocol(size=(24, 24), score_at=where) for where in ("label", "input"))
    own = scores(model, squashed)
    grown = F.interpolate(own[None], (41, 58), mode="bilinear")[0]
    assert torch.equal(predict(model, IMAGE, at_label), grown.argmax(0))
    assert torch.equal(scored_label(label, at_label), label)
    assert torch.equal(predict(model, IMAGE, at_input), own.argmax(0))
    shrunk = Image.fromarray(label.numpy()).resize((24, 24), Image.Resampling.NEAREST)
    assert np.array_equal(scored_label(label, at_input), shrunk)


def test_images_below_the_models_least_size_are_padded_and_cropped_back(model):
    small = IMAGE[:, :5, :30]
    assert predict(model, small, Protocol()).shape == (5, 30)
    assert model.seen == [(8, 30)]


@pytest.fixture
def real(shared_data, tmp_path):
    """Return a function: card name -> (card, machine, raw labels of its validation images)."""

    def found(name: str) -> tuple[DatasetCard, Machine, dict[str, np.ndarray]]:
        card = Catalog((built_in_root(),)).dataset(name)
        machine = Machine(data=(str(shared_data),), cache=str(tmp_path / "cache"))
        folders = {
            "ade20k_sample": "ade20k/ADEChallengeData2016/annotations/validation",
            "cocostuff164k_sample": "cocostuff164k/annotations/val2017",
        }
        names = open_split(card, "val", machine).names
        files = {Path(n).name: shared_data / folders[name] / f"{Path(n).name}.png" for n in names}
        return card, machine, {name: np.array(Image.open(path)) for name, path in files.items()}

    return found


def figures(tmp_path, card, machine, predictions, **fields):
    folder = tmp_path / "predictions"
    folder.mkdir(exist_ok=True)
    for name, values in predictions.items():
        Image.fromarray(values).save(folder / f"{name}.png")
    return score_predictions(
        PredictionFolder(folder, "theirs", card, as_labels(card)), Protocol(**fields), machine
    ).scored


def test_ade20ks_label_0_counts_nowhere_and_its_official_mean_is_over_all_150_classes(
    real, tmp_path
):
    card, machine, labels = real("ade20k_sample")
    occurring = len(set(np.unique(np.concatenate([v.ravel() for v in labels.values()]))) - {0})
    perfect = figures(tmp_path, card, machine, labels)
    assert perfect.evaluation.figures["mean_iou"] == 1
    assert perfect.counts.confusion.shape == (150, 151)
    assert perfect.counts.confusion.sum() == sum((v > 0).sum() for v in labels.values())
    official = figures(tmp_path, card, machine, labels, absent_class="zero")
    assert official.evaluation.figures["mean_iou"] == pytest.approx(occurring / 150, abs=1e-12)
    # what is predicted where the label is 0 changes nothing; 0 predicted elsewhere is a miss
    filled = {name: np.where(v == 0, 7, v).astype(np.uint8) for name, v in labels.items()}
    found = figures(tmp_path, card, machine, filled)
    assert np.array_equal(found.counts.confusion, perfect.counts.confusion)
    (name, one), *_ = labels.items()
    missed = {**labels, name: np.zeros_like(one)}
    found = figures(tmp_path, card, machine, missed)
    assert found.counts.confusion[:, -1].sum() == (one > 0).sum()
    assert found.evaluation.figures["pixel_accuracy"] != 1


def test_coco_stuff_is_scored_over_171_of_its_182_ids(real, tmp_path):
    card, machine, labels = real("cocostuff164k_sample")
    perfect = figures(tmp_path, card, machine, labels)
    assert perfect.evaluation.figures["mean_iou"] == 1
    assert perfect.counts.confusion.shape == (171, 172)
    assert perfect.counts.confusion.sum() == sum((v != 255).sum() for v in labels.values())
    occurring = len(set(np.unique(np.concatenate([v.ravel() for v in labels.values()]))) - {255})
    official = figures(tmp_path, card, machine, labels, absent_class="zero")
    assert official.evaluation.figures["mean_iou"] == pytest.approx(occurring / 171, abs=1e-12)


def test_without_background_the_means_are_over_the_other_classes():
    card = Catalog((built_in_root(),)).dataset("voc2012_2007")
    counts = np.array([[90, 10, 0], [5, 5, 0], [0, 0, 4]])  # IoU 90/105, 5/20 and 1
    padded = np.zeros((21, 22), dtype=np.int64)
    padded[:3, :3] = counts
    means = {}
    for counted in (True, False):
        protocol = Protocol(with_background=counted)
        kept = scored_classes(card, protocol)
        sums = Sums(padded.diagonal(), padded.sum(1), padded[:, :21].sum(0))
        means[counted] = mean_iou(sums, protocol.absent_class, kept)
    assert means[True] == pytest.approx((90 / 105 + 5 / 20 + 1) / 3)
    assert means[False] == pytest.approx((5 / 20 + 1) / 2)
