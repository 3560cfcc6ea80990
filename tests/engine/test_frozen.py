"""What stands still while a part is frozen, and what goes on."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from segbench.commands import preflight
from segbench.commands.run import Flags, prepare_run
from segbench.engine.train import set_frozen
from segbench.errors import CardError, ExperimentError
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk import check_not_random
from segbench.runs import trial_files
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.experiment import read_experiment
from segbench.schema.heads import HEADS, Model
from segbench.schema.recipe import Optimizer, TrainStage
from segbench.schema.sweep import expand
from segbench.work.trial import run_trial

CATALOG = Catalog((built_in_root(),))
CACHED = """
question: Are features cached that dropout draws anew?
heads: {{in_front: {{strides: [16, 8]}}}}
sweep: {{backbone: [{backbone}], head: [{head}], dataset: [shapes_4], seeds: 1}}
model: {{weights: none, dropout: {dropout}}}
train:
  images: {{squash: [64, 64]}}
  batch_size: 2
  cache_features: true
  stages: [{{name: head, steps: 2, frozen: [backbone], optimizer: {{lr: 0.1}}}}]
"""


def _frozen(segmenter: Segmenter, *what: str) -> Segmenter:
    stage = TrainStage(name="s", steps=1, frozen=what, optimizer=Optimizer(lr=0.1))  # type: ignore[arg-type]
    set_frozen(segmenter, stage, segmenter.parameter_kinds())
    return segmenter


def test_a_frozen_backbone_keeps_the_dropout_of_fc6_and_fc7():
    segmenter = build_segmenter(CATALOG.backbone("alexnet"), HEADS["fcn32s"], Model(), 3)
    _frozen(segmenter, "backbone")
    drops = {
        name: layer.training
        for name, layer in segmenter.trunk.named_modules()
        if isinstance(layer, nn.Dropout)
    }
    assert drops == {"classifier.1_dropout": True, "classifier.4_dropout": True}
    image = torch.rand(1, 3, 65, 65)
    (first,), (second,) = segmenter.feature_maps(image), segmenter.feature_maps(image)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("what", ["backbone", "batch_norm"])
def test_frozen_batch_statistics_stay(what):
    segmenter = build_segmenter(CATALOG.backbone("resnet18"), HEADS["fcn32s"], Model(), 3)
    _frozen(segmenter, what)
    before = {name: value.clone() for name, value in segmenter.trunk.named_buffers()}
    segmenter.feature_maps(torch.rand(2, 3, 64, 64))
    after = dict(segmenter.trunk.named_buffers())
    assert any(name.endswith("running_mean") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    moving = {p.requires_grad for p in segmenter.trunk.parameters()}
    assert moving == {what == "batch_norm"}


def _problems(write, **fields: object) -> str:
    path = write("cached.yaml", CACHED.format(**fields))
    experiment, document = read_experiment(path)
    try:
        expand(experiment, CATALOG, document)
    except ExperimentError as error:
        return str(error)
    return ""


def test_features_behind_dropout_are_not_cached(write):
    told = _problems(write, backbone="vgg16", head="fcn8s", dropout=0.5)
    assert told.endswith(
        "cached.yaml:9: train.cache_features: fcn8s reads vgg16 behind the dropout of fc6 and fc7, "
        "which draws anew at each step: take cache_features false, or model.dropout 0"
    )


@pytest.mark.parametrize(
    ("backbone", "head", "dropout"),
    [
        ("vgg16", "fcn8s", 0),
        ("vgg16", "in_front", 0.5),
        ("squeezenet1_1", "fcn4s_from16", 0.5),
        ("resnet18", "fcn32s", 0.5),
    ],
)
def test_features_in_front_of_dropout_are_cached(write, backbone, head, dropout):
    assert _problems(write, backbone=backbone, head=head, dropout=dropout) == ""


def test_random_layers_are_dropout_and_stochastic_depth_that_draw():
    layers = nn.ModuleDict(
        {
            "dropout": nn.Dropout(0.5),
            "channels": nn.Dropout2d(0.1),
            "depth": StochasticDepth(0.2, "row"),
            "idle": nn.Dropout(0.0),
            "norm": nn.BatchNorm2d(3),
        }
    )
    for name, layer in layers.items():
        if name in {"idle", "norm"}:
            check_not_random(CATALOG.backbone("resnet18"), nn.ModuleDict({name: layer}))
        else:
            with pytest.raises(
                CardError, match=f"^resnet18: the head reads it behind {name}, which"
            ):
                check_not_random(CATALOG.backbone("resnet18"), nn.ModuleDict({name: layer}))


def test_features_behind_stochastic_depth_are_not_cached(toy_project, tmp_path):
    card = toy_project / "backbones" / "toynet.yaml"
    card.write_text(
        card.read_text()
        .replace("mobilenet_v3_small", "efficientnet_b0")
        .replace("features.12, stride: 32, channels: 576", "features.8, stride: 32, channels: 1280")
        .replace("features.8, stride: 16, channels: 48", "features.5, stride: 16, channels: 112")
        .replace("features.3, stride: 8, channels: 24", "features.3, stride: 8, channels: 40")
    )
    flags = Flags(
        cards=(toy_project,),
        settings=("train.stages.all.frozen=[backbone]", "train.cache_features=true"),
        only=("head=fcn32s",),
        seeds=1,
        cache=tmp_path / "cache",
        device="cpu",
        results=tmp_path / "results",
    )
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=()) == "failed"
    failure = trial_files.load_failure(workdir)
    assert failure is not None
    told = "toynet: the head reads it behind features.2.1.stochastic_depth, which draws at random"
    assert told in failure.message
    assert told in "".join(preflight.missing_files(prepared))
