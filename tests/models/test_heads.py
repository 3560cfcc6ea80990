"""Every kind of head keeps one contract, and a user's own is tried before it is trained."""

import sys
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from segbench.cli import app
from segbench.code import own as own_code
from segbench.commands.own_heads import wrong_heads
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.errors import CardError
from segbench.models.geometry import Coordinates
from segbench.models.heads import HEAD_KINDS, build_head
from segbench.models.heads.base import StageShape
from segbench.runs import trial_files
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, read_card
from segbench.schema.deconvolutions import Deconvolution
from segbench.schema.heads import HEADS, Head, HeadKind
from segbench.work.trial import run_trial

CLASSES, MODULE = 3, "ownhead_of_a_test"
ASPP = """
import torch
from torch import nn

class Aspp(nn.Module):
    def __init__(self, channels, num_classes, rates, width):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=rate, dilation=rate) for rate in rates
        )
        self.score = nn.Conv2d(width * len(rates), num_classes, 1)

    def forward(self, feature_maps):
        finest = feature_maps[-1]
        seen = [branch(finest).relu() for branch in self.branches]
        return self.score(torch.cat(seen, 1))

def aspp(channels, strides, num_classes, *, rates=(1, 2), width=4):
    assert len(channels) == len(strides)
    return Aspp(channels[-1], num_classes, rates, width)
"""
OWN = Head(name="aspp", strides=(32, 16), builder=f"{MODULE}:aspp")
RECORDS = {
    "fcn": HEADS["fcn16s"],
    "deconvolution": Head(
        name="chain", strides=(32,), fuse="features",
        deconvolutions=(Deconvolution(kernel=32, stride=32),),
    ),
    "own": OWN,
    "linear": Head(name="linear", strides=(32, 16, 16), decoder="linear"),
    "aspp": Head(name="aspp", strides=(16,), decoder="aspp", channels=8),
    "upernet": Head(name="upernet", strides=(32, 16, 8), decoder="upernet", channels=8),
    "segformer": Head(name="segformer", strides=(32, 16, 8), decoder="segformer", channels=8),
}  # fmt: skip


@pytest.fixture
def project(toy_project, monkeypatch):
    """The toy project with a head of the user's, its module beside the cards' folders."""
    (toy_project / f"{MODULE}.py").write_text(ASPP)
    with (toy_project / "experiments" / "toy.yaml").open("a") as experiment:
        builder = f'"{MODULE}:aspp"'
        experiment.write(
            f"heads:\n  aspp: {{strides: [16], builder: {builder}, arguments: {{rates: [1, 3]}}}}\n"
        )
    monkeypatch.setenv("SEGBENCH_TRUSTED", MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(toy_project)])
    yield toy_project
    forget()


def forget() -> None:
    """Let the next import read the files, as another process does."""
    sys.modules.pop(MODULE, None)
    own_code._loaded.clear()


def planned(project, *settings):
    flags = Flags(
        settings=("sweep.head=[aspp]", *settings), seeds=1, device="cpu",
        results=project / "results",
    )  # fmt: skip
    return prepare_run(project / "experiments" / "toy.yaml", flags)


def _stages(head: Head) -> list[StageShape]:
    return [StageShape(4 + stride, Coordinates(stride)) for stride in head.strides]


def test_the_table_has_the_kinds_of_the_schema():
    assert tuple(HEAD_KINDS) == get_args(HeadKind) == tuple(RECORDS)
    assert {head.kind for head in HEADS.values()} <= set(HEAD_KINDS)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_head_makes_a_score_map_of_the_images_size(kind):
    head, size = RECORDS[kind], (64, 96)
    assert head.kind == kind
    stages = _stages(head)
    maps = tuple(
        torch.randn(2, stage.channels, *(side // stage.coordinates.stride for side in size))
        for stage in stages
    )
    torch.manual_seed(0)
    module = build_head(head, stages, CLASSES, clamps=True).eval()
    torch.manual_seed(0)
    again = build_head(head, stages, CLASSES, clamps=True).eval()
    coarse = module(maps)
    score_map = module.upsample_to(coarse, size)
    assert score_map.shape == (2, CLASSES, *size)
    torch.testing.assert_close(again.upsample_to(again(maps), size), score_map)
    torch.testing.assert_close(module.upsample_to(coarse, size, every=4), score_map[..., ::4, ::4])
    bilinear = module.bilinear_to(coarse, size)
    if bilinear is not None:
        torch.testing.assert_close(bilinear.of(coarse), score_map)
    names = {name for name, _ in module.named_parameters()}
    assert module.upsampling_parameters() <= names
    score_map.sum().backward()


@pytest.mark.usefixtures("project")
def test_the_last_step_of_an_own_head_may_be_learned():
    head = OWN.revised(final_upsampling="learned")
    module = build_head(head, _stages(head), CLASSES, clamps=True)
    fixed = build_head(OWN, _stages(OWN), CLASSES, clamps=True)
    assert module.upsampling_parameters() == {"final.weight"}
    coarse = torch.randn(1, CLASSES, 3, 2)
    expected = fixed.upsample_to(coarse, (48, 32))
    torch.testing.assert_close(module.upsample_to(coarse, (48, 32)), expected)


def test_a_head_of_the_users_is_trained_and_its_code_is_part_of_the_trial(project):
    run = planned(project, "train.stages.all.steps=1")
    record_run(run, "segbench run")
    ((trial_id, trial),) = run.asked.trials.items()
    assert list(trial.code) == [MODULE]
    assert wrong_heads([trial], project / "cache") == []
    workdir = trial_files.trial_folder(run.run_folder, trial_id)
    protocols = tuple(run.asked.experiment.evaluate.values())
    assert run_trial(trial, workdir, machine=run.machine, protocols=protocols) == "done"
    tensors = load_file(workdir / trial_files.WEIGHTS)
    assert {"head.own.branches.1.weight", "head.own.score.bias"} <= set(tensors)
    (project / f"{MODULE}.py").write_text(f"{ASPP}# other\n")
    forget()
    assert set(planned(project, "train.stages.all.steps=1").asked.trials) != {trial_id}
    (other,) = planned(project, "heads.aspp.arguments={}").asked.trials
    assert other != trial_id


WRONG = {
    "def aspp(channels, strides, num_classes): return 3": "returned int, not an nn.Module",
    "def aspp(channels): return nn.Identity()": "cannot be built with channels, strides",
    "def aspp(channels, strides, num_classes): return nn.Conv2d(5, num_classes, 1)": (
        "fails on feature maps of 2x48x4x4: TypeError"
    ),
    "def aspp(**_): return Of(lambda maps: maps)": "gives tuple, not a tensor",
    "def aspp(**_): return Of(lambda maps: maps[-1])": (
        "gives a score map of shape 2x48x4x4, but 3 classes on the grid of the finest stage are 2x3x4x4"
    ),
    "def aspp(**_): return Of(lambda maps: maps[-1][:, :3, 1:, 1:])": (
        "gives a score map of shape 2x3x3x3, but 3 classes"
    ),
    "def aspp(**_): return Of(lambda maps: maps[-1][:, :3] / 0)": "gives scores that are not finite",
    "def aspp(**_): return Of(lambda maps: nn.Conv2d(5, 3, 1)(maps[-1]))": (
        "fails on feature maps of 2x48x4x4: RuntimeError: Given groups=1"
    ),
    "": f"builder {MODULE}:aspp cannot be found",
}


@pytest.mark.parametrize("source", WRONG)
def test_a_wrong_head_is_one_sentence_at_check(project, source):
    (project / f"{MODULE}.py").write_text(
        "from torch import nn\n"
        "class Of(nn.Module):\n"
        "    def __init__(self, function):\n"
        "        super().__init__()\n"
        "        self.forward = function\n"
        f"{source}\n"
    )
    forget()
    (trial,) = planned(project, "heads.aspp.arguments={}").asked.trials.values()
    (told,) = wrong_heads([trial], project / "cache")
    assert told.startswith("aspp: ")
    assert WRONG[source] in told


def test_check_tries_the_heads_of_an_experiment(project, monkeypatch):
    experiment = project / "experiments" / "toy.yaml"
    experiment.write_text(experiment.read_text().replace("head: [fcn32s, fcn8s]", "head: [aspp]"))
    checked = CliRunner().invoke(app, ["check", str(experiment)])
    assert checked.exit_code == 0, checked.output
    (project / f"{MODULE}.py").write_text(ASPP.replace("return self.score", "return 1 / "))
    forget()
    checked = CliRunner().invoke(app, ["check", str(experiment)])
    assert checked.exit_code == 2
    assert f"aspp: {MODULE}:aspp gives a score map of shape 2x8x4x4" in " ".join(
        checked.output.split()
    )
    monkeypatch.delenv("SEGBENCH_TRUSTED")
    checked = CliRunner().invoke(app, ["check", str(experiment)])
    assert "aspp: builder" in checked.output
    assert "which is not trusted" in " ".join(checked.output.split())


def test_what_a_builder_makes_idle_is_refused():
    with pytest.raises(ValueError, match=r"leave fuse, skip_scale out"):
        OWN.revised(fuse="features", skip_scale=(1.0, 0.1))
    with pytest.raises(ValueError, match="arguments: they are for a `builder`"):
        HEADS["fcn8s"].revised(arguments={"rates": 3})


def test_a_head_without_a_builder_is_what_it_was():
    assert HEADS["fcn8s"].identity() == {"strides": [32, 16, 8]}


CARD = """
base: resnet50
name: mine
arguments: {replace_stride_with_dilation: %s}
stages: [{name: layer4, module: layer4, stride: %d, channels: 2048}]
"""


def test_arguments_of_a_card_may_be_lists(write):
    path = write("backbones/mine.yaml", CARD % ("[false, true, true]", 8))
    card = read_card(path, BackboneCard, catalog=Catalog.on_path(()))
    assert card.arguments == {"replace_stride_with_dilation": (False, True, True)}
    assert BackboneCard.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize("value", ["{a: 1}", "null", "[1, [2]]"])
def test_a_wrong_argument_is_one_line(write, value):
    path = write("backbones/mine.yaml", CARD % (value, 8))
    with pytest.raises(CardError) as told:
        read_card(path, BackboneCard, catalog=Catalog.on_path(()))
    (line,) = str(told.value).splitlines()
    assert f"{path}:4: arguments.replace_stride_with_dilation: expected a number, true" in line
