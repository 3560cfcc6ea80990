"""Batch norm on tiny batches: what is said of it, and what cannot be trained."""

from pathlib import Path

import pytest
import torch
from command_line import invoked
from torch import nn

from segbench.commands.batch_norm import TinyBatches, tiny_batches
from segbench.errors import CardError
from segbench.models import trunk as trunk_module
from segbench.models.segmenter import build_segmenter
from segbench.models.trunk import trunk_without_memory, verify_card
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.experiment import read_experiment
from segbench.schema.heads import HEADS, Head, Model
from segbench.schema.sweep import expand

CATALOG = Catalog((built_in_root(),))
BACKBONES = CATALOG.names("backbones")
EXPERIMENT = """
question: Is batch norm said to be trained on little?
heads: {{normed: {{strides: [32], feature_norm: batch}}}}
sweep: {{backbone: [{backbone}], head: [{head}], dataset: [shapes_4], seeds: 2}}
model: {{weights: none, geometry: {geometry}}}
train:
  images: {images}
  batch_size: {batch_size}
  accumulate: 20
  stages: [{{name: all, steps: 2, frozen: {frozen}, optimizer: {{lr: 0.1}}}}]
"""
PLAIN = {
    "backbone": "resnet18", "head": "fcn32s", "geometry": "native",
    "images": "{crop: [64, 64]}", "batch_size": 4, "frozen": "[]",
}  # fmt: skip


@pytest.fixture
def found(write, tmp_path):
    def look(**fields: object) -> TinyBatches:
        path = write("tiny.yaml", EXPERIMENT.format(**PLAIN | fields))
        experiment, document = read_experiment(path)
        trials = expand(experiment, CATALOG, document).trials.values()
        return tiny_batches(trials, tmp_path / "cache")

    return look


def test_batch_norm_that_trains_on_few_images_is_told_in_one_line(found):
    told = found()
    assert told.problems == []
    assert told.warning == (
        "batch norm of resnet18 trains on 4 images at a time: statistics of fewer than 8 are noisy, "
        "a handicap against networks without batch norm; raise train.batch_size, or take "
        "frozen: [batch_norm]"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 8},
        {"frozen": "[batch_norm]"},
        {"frozen": "[backbone]"},
        {"backbone": "vgg16"},
        {"backbone": "alexnet", "batch_size": 1, "images": "{crop: [63, 63]}"},
    ],
)
def test_batch_norm_that_does_not_train_or_sees_eight_images_is_not_told(found, fields):
    assert found(**fields) == ("", [])


def test_a_heads_own_batch_norm_trains_whatever_is_frozen(found):
    told = found(head="normed", frozen="[backbone]", batch_size=3).warning
    assert told.startswith("batch norm of head normed trains on 3 images at a time")
    assert told.endswith("take a head without batch norm")
    both = found(head="normed", batch_size=3).warning
    assert both.startswith("batch norm of resnet18, head normed trains on 3 images")


@pytest.mark.parametrize(
    ("head", "frozen", "of"),
    [("fcn32s", "[]", "resnet18"), ("normed", "[backbone]", "head normed")],
)
def test_one_value_per_channel_is_refused(found, head, frozen, of):
    few = {"batch_size": 1, "head": head, "frozen": frozen}
    (told,) = found(images="{crop: [32, 32]}", **few).problems
    assert told.startswith(
        f"train.batch_size 1 with images of 32x32 pixels gives batch norm of {of} one value per channel"
    )
    assert found(images="{crop: [32, 33]}", **few).problems == []


def test_drawn_images_that_are_neither_cropped_nor_squashed_have_a_known_size(found):
    assert found(batch_size=1, images="{flip: true}").problems == []
    (told,) = found(batch_size=1, images="{scale: [0.5, 2]}").problems
    assert "train.batch_size 1 with images of 32x32 pixels gives batch norm of resnet18" in told


def _trains(crop: tuple[int, int], backbone: str, head: Head, geometry: str) -> bool:
    """Ask torch itself: a training step's forward pass on numbers."""
    torch.manual_seed(0)
    model = Model(weights="none", geometry=geometry)  # type: ignore[arg-type]
    segmenter = build_segmenter(CATALOG.backbone(backbone), head, model, 3)
    try:
        segmenter(torch.rand(1, 3, *crop))
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
        return False
    return True


@pytest.mark.parametrize("backbone", ["resnet18", "googlenet"])
@pytest.mark.parametrize("geometry", ["native", "aligned"])
@pytest.mark.parametrize("side", [32, 33, 47, 64])
def test_what_is_refused_is_what_torch_refuses(found, backbone, geometry, side):
    fields = {"backbone": backbone, "geometry": geometry, "images": f"{{crop: [32, {side}]}}"}
    refused = bool(found(batch_size=1, **fields).problems)
    assert refused != _trains((32, side), backbone, HEADS["fcn32s"], geometry)


def test_every_card_says_whether_its_trunk_has_batch_norm(monkeypatch):
    for name in BACKBONES:
        card = CATALOG.backbone(name)
        trunk = trunk_without_memory(card, card.strides)
        assert trunk is not None
        has = any(isinstance(layer, nn.BatchNorm2d) for layer in trunk.network.modules())
        assert card.has_batch_norm is has, name
        # the same trunk, since it is built from what is not revised
        monkeypatch.setattr(trunk_module, "trunk_without_memory", lambda *_, found=trunk: found)
        with pytest.raises(
            CardError, match=f"{name}: is declared with has_batch_norm {not has!s}".lower()
        ):
            verify_card(card.revised(has_batch_norm=not has))


def test_a_card_that_does_not_say_is_asked_once(toy_project, tmp_path):
    card = toy_project / "backbones" / "toynet.yaml"
    card.write_text(card.read_text().replace("has_batch_norm: true\n", ""))
    catalog = Catalog.on_path((toy_project,))
    experiment, document = read_experiment(toy_project / "experiments" / "toy.yaml")
    trials = expand(experiment, catalog, document).trials.values()
    told = tiny_batches(trials, tmp_path / "own")
    assert told.warning.startswith("batch norm of toynet trains on 4 images")
    assert len(list((tmp_path / "own" / "smallest_maps").iterdir())) == 2  # fcn32s and fcn8s
    assert tiny_batches(trials, tmp_path / "own") == told
    assert tiny_batches(trials, Path("/proc/nowhere")) == told


def test_check_and_run_warn_and_refuse(write, tmp_path):
    good = write("good.yaml", EXPERIMENT.format(**PLAIN))
    done = invoked("check", good)
    assert done.exit_code == 0
    assert "good.yaml: batch norm of resnet18 trains on 4 images" in _joined(done.output)
    bad = write(
        "bad.yaml", EXPERIMENT.format(**PLAIN | {"batch_size": 1, "images": "{crop: [32, 32]}"})
    )
    for command in (["check", str(bad)], ["run", str(bad), "--results", str(tmp_path / "r")]):
        done = invoked(*command)
        assert done.exit_code == 2
        assert "bad.yaml: train.batch_size 1 with images of 32x32 pixels" in _joined(done.output)
    assert not (tmp_path / "r").exists()


def _joined(text: str) -> str:
    return " ".join(text.split())
