"""The study's network from cards and fields, against its forward pass written again in plain torch.

Source: DeepSegment/FCN-GoogLeNet, inception_FCN.py, and TF-slim's inception_v3: convolutions have
ReLU, a bias and no batch norm; the stem and the reductions pad nothing; average pools divide by what
lies inside; images go in as 0 to 255.
"""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from segbench.commands.export import trunk_card
from segbench.commands.run import Flags, prepare_run
from segbench.engine.predict import predict
from segbench.errors import CardError, DataError
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.runs import trial_files
from segbench.schema.cards import BackboneCard, Input
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import Head, Model
from segbench.schema.protocol import Protocol
from segbench.work.trial import run_trial

CLASSES = 22
STRIDES = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}
RAW = Input(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), range=255)
STUDY = Model(batch_norm="removed", input=RAW)
NARROW = 16  # channels are divided by it


class NarrowConv2d(BasicConv2d):
    """Inception's convolution with a sixteenth of the channels."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        reads = in_channels if in_channels == 3 else in_channels // NARROW
        super().__init__(reads, out_channels // NARROW, **kwargs)


def narrow_inception() -> Inception3:
    blocks = [InceptionA, InceptionB, InceptionC, InceptionD, InceptionE, InceptionAux]
    narrow = [partial(block, conv_block=NarrowConv2d) for block in blocks]
    inception_blocks: Any = [NarrowConv2d, *narrow]
    return Inception3(aux_logits=False, init_weights=False, inception_blocks=inception_blocks)


def study_card() -> BackboneCard:
    return Catalog((built_in_root(),)).backbone("inception_v3_5c")


def narrow_card() -> BackboneCard:
    card = study_card()
    stages = tuple(s.revised(channels=s.channels // NARROW) for s in card.stages)
    builder = f"{__name__}:narrow_inception"
    return card.revised(name="narrow", builder=builder, arguments={}, stages=stages)


def study_head(strides: tuple[int, ...], channels: tuple[int, int] = (768, 288)) -> Head:
    chain = (
        {"kernel": 4, "stride": 2, "channels": channels[0]},
        {"kernel": 3, "stride": 2, "channels": channels[1]},
        {"kernel": 32, "stride": 8},
    )
    fields = {"name": "study", "strides": strides, "fuse": "features", "deconvolutions": chain}
    return Head.model_validate(fields)


def narrow_head(strides: tuple[int, ...]) -> Head:
    return study_head(strides, (768 // NARROW, 288 // NARROW))


def randomised(segmenter: Segmenter) -> Segmenter:
    """Draw kernels that keep the scale of what they are fed, and biases that are felt."""
    torch.manual_seed(0)
    for name, parameter in segmenter.named_parameters():
        if parameter.dim() == 4 and name.startswith("trunk."):
            nn.init.kaiming_normal_(parameter)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.1)
    first = segmenter.get_parameter("trunk.Conv2d_1a_3x3.conv.weight")
    first.data /= 128  # it reads 0 to 255
    return segmenter.eval()


class Study:
    """The study's forward pass from the parameters alone."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = parameters

    def convolution(self, x: Tensor, name: str, stride: int = 1, padding: str = "same") -> Tensor:
        weight, bias = (self.parameters[f"trunk.{name}.conv.{part}"] for part in ("weight", "bias"))
        return F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))

    def row(self, x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = self.convolution(x, f"{block}.{name}")
        return x

    def reduced(self, x: Tensor, name: str) -> Tensor:
        return self.convolution(x, name, 2, "valid")

    def pooled(self, x: Tensor, block: str) -> Tensor:
        inside = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # as TensorFlow pads
        return self.convolution(inside, f"{block}.branch_pool")

    def mixed_5(self, x: Tensor, block: str) -> Tensor:
        branches = (
            self.row(x, block, "branch1x1"),
            self.row(x, block, "branch5x5_1", "branch5x5_2"),
            self.row(x, block, *(f"branch3x3dbl_{n}" for n in (1, 2, 3))),
            self.pooled(x, block),
        )
        return torch.cat(branches, 1)

    def mixed_6a(self, x: Tensor) -> Tensor:
        double = self.row(x, "Mixed_6a", "branch3x3dbl_1", "branch3x3dbl_2")
        branches = (
            self.reduced(x, "Mixed_6a.branch3x3"),
            self.reduced(double, "Mixed_6a.branch3x3dbl_3"),
            F.max_pool2d(x, 3, 2),
        )
        return torch.cat(branches, 1)

    def mixed_6(self, x: Tensor, block: str) -> Tensor:
        branches = (
            self.row(x, block, "branch1x1"),
            self.row(x, block, *(f"branch7x7_{n}" for n in (1, 2, 3))),
            self.row(x, block, *(f"branch7x7dbl_{n}" for n in (1, 2, 3, 4, 5))),
            self.pooled(x, block),
        )
        return torch.cat(branches, 1)

    def mixed_7a(self, x: Tensor) -> Tensor:
        seven = self.row(x, "Mixed_7a", *(f"branch7x7x3_{n}" for n in (1, 2, 3)))
        branches = (
            self.reduced(self.row(x, "Mixed_7a", "branch3x3_1"), "Mixed_7a.branch3x3_2"),
            self.reduced(seven, "Mixed_7a.branch7x7x3_4"),
            F.max_pool2d(x, 3, 2),
        )
        return torch.cat(branches, 1)

    def mixed_7(self, x: Tensor, block: str) -> Tensor:
        three = self.row(x, block, "branch3x3_1")
        double = self.row(x, block, "branch3x3dbl_1", "branch3x3dbl_2")
        branches = (
            self.row(x, block, "branch1x1"),
            self.row(three, block, "branch3x3_2a"),
            self.row(three, block, "branch3x3_2b"),
            self.row(double, block, "branch3x3dbl_3a"),
            self.row(double, block, "branch3x3dbl_3b"),
            self.pooled(x, block),
        )
        return torch.cat(branches, 1)

    def stages(self, image: Tensor) -> dict[int, Tensor]:
        """Return Mixed_5c, Mixed_6e and Mixed_7c by stride, of images from 0 to 255."""
        x = self.reduced(image, "Conv2d_1a_3x3")
        x = self.convolution(x, "Conv2d_2a_3x3", padding="valid")
        x = F.max_pool2d(self.convolution(x, "Conv2d_2b_3x3"), 3, 2)
        x = self.convolution(x, "Conv2d_3b_1x1", padding="valid")
        x = F.max_pool2d(self.convolution(x, "Conv2d_4a_3x3", padding="valid"), 3, 2)
        mixed_5c = self.mixed_5(self.mixed_5(x, "Mixed_5b"), "Mixed_5c")
        x = self.mixed_6a(self.mixed_5(mixed_5c, "Mixed_5d"))
        for block in "bcde":
            x = self.mixed_6(x, f"Mixed_6{block}")
        mixed_6e = x
        x = self.mixed_7(self.mixed_7(self.mixed_7a(x), "Mixed_7b"), "Mixed_7c")
        return {8: mixed_5c, 16: mixed_6e, 32: x}

    def deconvolution(self, x: Tensor, name: str, stride: int) -> Tensor:
        weight, bias = (self.parameters[f"head.{name}.{part}"] for part in ("weight", "bias"))
        return F.conv_transpose2d(x, weight, bias, stride=stride)

    def score_map(self, stages: dict[int, Tensor], skips: tuple[int, ...]) -> Tensor:
        x = self.deconvolution(stages[32], "upsample.16", 2)
        x = x + stages[16] if 16 in skips else x
        x = self.deconvolution(x, "upsample.8", 2)
        x = x + stages[8] if 8 in skips else x
        return self.deconvolution(x, "final", 8)


@torch.no_grad()
def compare(card: BackboneCard, head: Head, sides: list[int]) -> None:
    segmenter = randomised(build_segmenter(card, head, STUDY, CLASSES))
    study = Study({name: p.detach() for name, p in segmenter.named_parameters()})
    for side in sides:
        pixels = torch.randint(0, 256, (1, 3, side, side)).float()
        ours, theirs = segmenter(pixels / 255), study.score_map(study.stages(pixels), head.strides)
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture
def narrow(monkeypatch) -> BackboneCard:
    monkeypatch.setenv("SEGBENCH_TRUSTED", __name__)
    return narrow_card()


@pytest.mark.parametrize("skips", STRIDES)
def test_the_narrow_network_is_the_study_s(narrow, skips):
    compare(narrow, narrow_head(STRIDES[skips]), [224, 256, 320])


@pytest.mark.slow
@pytest.mark.parametrize("skips", STRIDES)
def test_the_whole_network_is_the_study_s(skips):
    compare(study_card(), study_head(STRIDES[skips]), [224, 256, 320])


@torch.no_grad()
def test_at_224_px_maps_of_5_12_and_25_become_224(narrow):
    segmenter = randomised(build_segmenter(narrow, narrow_head(STRIDES["8s"]), STUDY, CLASSES))
    maps = segmenter.feature_maps(torch.rand(1, 3, 224, 224))
    assert [m.shape[-1] for m in maps] == [5, 12, 25]
    first = segmenter.head.upsample["16"](maps[0])
    assert (first.shape[-1], segmenter.head.upsample["8"](first).shape[-1]) == (12, 25)


@pytest.mark.parametrize("skips", STRIDES)
def test_every_head_has_the_study_s_parameters(skips):
    with torch.device("meta"):
        segmenter = build_segmenter(study_card(), study_head(STRIDES[skips]), STUDY, CLASSES)
    layers = 2048 * 768 * 4 * 4 + 768, 768 * 288 * 3 * 3 + 288, 288 * CLASSES * 32 * 32 + CLASSES
    assert sum(p.numel() for p in segmenter.head.parameters()) == sum(layers) == 33_645_622
    assert not any(isinstance(m, nn.BatchNorm2d) for m in segmenter.modules())
    assert {kind for n, kind in segmenter.parameter_kinds().items() if "head" in n} == {"head"}


def test_kernels_start_as_xavier_s_and_biases_at_zero(narrow):
    segmenter = build_segmenter(narrow, narrow_head(STRIDES["8s"]), STUDY, CLASSES)
    for layer in (
        segmenter.head.upsample["16"],
        segmenter.head.upsample["8"],
        segmenter.head.final,
    ):
        made, read = layer.weight.shape[1], layer.weight.shape[0]
        bound = (6 / ((made + read) * layer.weight[0, 0].numel())) ** 0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    biases = [p for n, p in segmenter.trunk.named_parameters() if n.endswith("conv.bias")]
    assert len(biases) == 94
    assert not any(bias.any() for bias in biases)


def test_pretrained_kernels_load_without_their_batch_norm(narrow, tmp_path):
    torch.manual_seed(3)
    whole = narrow_inception()
    path = tmp_path / "whole.pth"
    torch.save(whole.state_dict(), path)
    head = narrow_head(STRIDES["32s"])
    segmenter = build_segmenter(narrow, head, STUDY, CLASSES, weights_path=path)
    name = "Mixed_7c.branch1x1.conv"
    assert torch.equal(
        segmenter.trunk.get_parameter(f"{name}.weight"), whole.get_parameter(f"{name}.weight")
    )
    assert not segmenter.trunk.get_parameter(f"{name}.bias").any()
    randomised(segmenter)
    torch.save(segmenter.state_dict(), path)  # a trained trunk has its biases, and they are read
    again = build_segmenter(narrow, head, STUDY, CLASSES, weights_path=path)
    assert torch.equal(
        again.trunk.get_parameter(f"{name}.bias"), segmenter.trunk.get_parameter(f"{name}.bias")
    )


def test_batch_norm_that_is_folded_cannot_be_removed():
    card = Catalog((built_in_root(),)).backbone("inception_v3_7a_5c")
    head = study_head(STRIDES["8s"])
    with (
        torch.device("meta"),
        pytest.raises(CardError, match=r"batch norm is folded into the kern"),
    ):
        build_segmenter(card, head, STUDY, CLASSES)
    with torch.device("meta"):
        build_segmenter(card, head, STUDY.revised(batch_norm="keep"), CLASSES)


def test_sides_that_do_not_fit_are_refused_with_the_next_that_do(narrow):
    segmenter = build_segmenter(narrow, narrow_head(STRIDES["8s"]), STUDY, CLASSES).eval()
    sentence = r"300x500 pixels does not fit .* the next sides that do are 288, 320, 480, 512: "
    with pytest.raises(DataError, match=sentence):
        segmenter(torch.rand(1, 3, 300, 500))
    assert [segmenter.fitting_side(side) for side in (1, 96, 97, 224, 225)] == [
        96,
        96,
        128,
        224,
        256,
    ]


def test_scoring_pads_images_of_any_size_to_the_next_that_fits(narrow):
    segmenter = randomised(build_segmenter(narrow, narrow_head(STRIDES["8s"]), STUDY, CLASSES))
    image = torch.randint(0, 256, (3, 100, 131), dtype=torch.uint8)
    padded = F.pad(image, (0, 160 - 131, 0, 128 - 100))
    with torch.inference_mode():
        expected = segmenter(padded[None].float() / 255)[0, :, :100, :131].argmax(0)
    assert torch.equal(predict(segmenter, image, Protocol()), expected)


def test_only_every_nth_pixel_is_scored_where_that_is_asked(narrow):
    segmenter = randomised(build_segmenter(narrow, narrow_head(STRIDES["16s"]), STUDY, CLASSES))
    with torch.no_grad():
        maps = segmenter.feature_maps(torch.rand(1, 3, 96, 128))
        whole = segmenter.score_map(maps, (96, 128))
        thin = segmenter.head.upsample_to(segmenter.head(maps), (96, 128), every=4)
        assert torch.equal(thin, whole[..., ::4, ::4])


@pytest.mark.parametrize("geometry", ["aligned", "caffe"])
def test_a_chain_that_meets_the_stages_nowhere_is_refused(narrow, geometry):
    model = STUDY.revised(geometry=geometry)
    with torch.device("meta"), pytest.raises(CardError, match=r"at no side of an image"):
        build_segmenter(narrow, narrow_head(STRIDES["8s"]), model, CLASSES)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fuse": "scores"}, r"they add feature maps: say `fuse: features`"),
        ({"upsampling": "learned"}, r"they are the upsampling: leave upsampling"),
        (
            {"strides": (16, 8)},
            r"strides \[2, 2, 8\] multiply to 32, but the head begins at stride 16",
        ),
        ({"strides": (32, 4)}, r"no layer ends at stride 4, whose stage is to be added"),
        (
            {"deconvolutions": ({"kernel": 64, "stride": 32, "channels": 2},)},
            r"needs `channels`, but",
        ),
        (
            {"deconvolutions": ({"kernel": 16, "stride": 32},)},
            r"a kernel of 16 leaves gaps at stride",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused_when_it_is_read(changes, sentence):
    fields = study_head(STRIDES["8s"]).model_dump()
    with pytest.raises(ValidationError, match=sentence):
        Head.model_validate({**fields, **changes})


def test_a_chain_must_make_the_channels_of_the_stage_that_it_adds():
    head = study_head((32, 16), (512, 288))
    with pytest.raises(
        CardError, match=r"makes 512 channels at stride 16, where .* has 768 to add"
    ):
        build_segmenter(study_card(), head, STUDY, CLASSES)


TRAINED = """
question: Does a chain train?
heads:
  chain:
    strides: [16, 8]
    fuse: features
    deconvolutions: [{kernel: 3, stride: 2, channels: 256}, {kernel: 16, stride: 8}]
sweep: {backbone: [squeezenet1_1], head: [chain], dataset: [shapes_4], seeds: 1}
model: {weights: none, input: {mean: [0, 0, 0], std: [1, 1, 1], range: 255}}
train:
  images: {squash: [64, 80]}
  batch_size: 2
  max_images: 4
  loss_stride: 2
  stages: [{name: head, steps: 2, frozen: [backbone], optimizer: {name: adam, lr: 0.01}}]
evaluate: {squashed: {size: [64, 80], max_images: 2}, whole: {max_images: 2, short_side: 50}}
"""


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_chain_trains_and_is_scored(write, tmp_path, cached):
    flags = Flags(
        settings=(f"train.cache_features={cached}",),
        cache=tmp_path / "cache",
        device="cpu",
        results=tmp_path / "results",
    )
    prepared = prepare_run(write("chain.yaml", TRAINED), flags)
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    done = run_trial(trial, workdir, machine=prepared.machine, protocols=protocols)
    assert done == "done", trial_files.load_result(workdir)
    found = [trial_files.load_evaluation(workdir, protocol) for protocol in protocols]
    assert [evaluation and evaluation.num_images for evaluation in found] == [2, 2]


def test_an_exported_trunk_is_fed_and_built_as_it_was_trained(write, tmp_path):
    settings = ("model.batch_norm=removed",)
    prepared = prepare_run(write("chain.yaml", TRAINED), Flags(settings=settings, results=tmp_path))
    (trial,) = prepared.asked.trials.values()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    trained = trunk_card(trial, weights).weights["trained"]
    assert trained.input == RAW
    assert trained.notes.endswith("fits `model.batch_norm: removed` alone")
