"""Heads of others, held to their originals: parameter counts and what they compute."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from segbench.commands.run import Flags, prepare_run
from segbench.models.geometry import Coordinates
from segbench.models.heads import build_head
from segbench.models.heads.base import HeadModule, StageShape
from segbench.models.segmenter import build_segmenter
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import HEADS, Head, Model, why_unsupported

SWIN_T, MIT_B0 = (768, 384, 192, 96), (256, 160, 64, 32)  # channels, coarse to fine
STRIDES = (32, 16, 8, 4)
CLASSES = 150  # ADE20K


def _head(decoder: str, reads: tuple[int, ...], **fields) -> HeadModule:
    strides = STRIDES[: len(reads)]
    head = Head(name=decoder, strides=strides, decoder=decoder, alignment="stretch", **fields)
    # patch grids: stretched and by coordinates are the same there
    stages = [
        StageShape(c, Coordinates(stride, (stride - 1) / 2))
        for c, stride in zip(reads, strides, strict=True)
    ]
    return build_head(head, stages, CLASSES, clamps=True)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _maps(channels: tuple[int, ...], side: int = 64) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return tuple(
        torch.randn(2, c, side // stride, side // stride)
        for c, stride in zip(channels, STRIDES, strict=False)
    )


def _with_equal_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy ours, perturbed, into theirs in the order in which parameters are registered."""
    state = list(ours.named_parameters())
    with torch.no_grad():
        for (_, here), there in zip(state, theirs.parameters(), strict=True):
            here.add_(0.02 * torch.randn_like(here))
            there.copy_(here.reshape(there.shape))
    for module in (ours, theirs):
        module.eval()


def _resized(feature_map: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(feature_map, like.shape[-2:], mode="bilinear", align_corners=False)


class Block(nn.Module):
    """mmsegmentation's ConvModule: convolution without bias, batch norm, ReLU."""

    def __init__(self, reads: int, makes: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(reads, makes, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(makes)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Uper(nn.Module):
    """UPerHead as the paper has it, fine to coarse inside."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.ppm = nn.ModuleList(Block(channels[0], width) for _ in range(4))
        self.after_ppm = Block(channels[0] + 4 * width, width, 3)
        self.side = nn.ModuleList(Block(c, width) for c in channels[1:])
        self.out = nn.ModuleList(Block(width, width, 3) for _ in channels[1:])
        self.fuse = Block(len(channels) * width, width, 3)
        self.cls = nn.Conv2d(width, CLASSES, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        top = maps[0]
        pooled = [top]
        for scale, layer in zip((1, 2, 3, 6), self.ppm, strict=True):
            pooled.append(_resized(layer(nn.AdaptiveAvgPool2d(scale)(top)), top))
        laterals = [self.after_ppm(torch.cat(pooled, 1))]
        for layer, feature_map in zip(self.side, maps[1:], strict=True):
            side = layer(feature_map)
            laterals.append(side + _resized(laterals[-1], side))
        outs = [laterals[0], *(f(x) for f, x in zip(self.out, laterals[1:], strict=True))]
        return self.cls(self.fuse(torch.cat([_resized(o, outs[-1]) for o in outs], 1)))


class Segform(nn.Module):
    """SegFormer's decoder with linear layers over tokens."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.fuse = Block(len(channels) * width, width)
        self.cls = nn.Conv2d(width, CLASSES, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        seen = []
        for mlp, feature_map in zip(self.mlps, maps, strict=True):
            tokens = mlp(feature_map.flatten(2).mT)
            seen.append(_resized(tokens.mT.unflatten(2, feature_map.shape[-2:]), maps[-1]))
        return self.cls(self.fuse(torch.cat(seen, 1)))


class Probe(nn.Module):
    """DINOv2's BNHead over several maps."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(sum(channels))
        self.cls = nn.Conv2d(sum(channels), CLASSES, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.cls(self.bn(torch.cat([_resized(m, maps[-1]) for m in maps], 1)))


OTHERS = {
    "linear": ((48, 24), {}, Probe),
    "upernet": ((48, 24, 12, 8), {"channels": 16}, lambda c: Uper(c, 16)),
    "segformer": ((48, 24, 12, 8), {"channels": 16}, lambda c: Segform(c, 16)),
}


@pytest.mark.parametrize("decoder", OTHERS)
def test_a_head_computes_what_another_implementation_does(decoder):
    channels, fields, build = OTHERS[decoder]
    ours, theirs = _head(decoder, channels, **fields), build(channels)
    _with_equal_weights(ours, theirs)
    maps = _maps(channels, side=192)
    torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-4, atol=1e-4)


def test_aspp_is_torchvision_s_deeplab_head():
    ours, theirs = _head("aspp", (2048,)), DeepLabHead(2048, CLASSES)
    assert _count(ours) == _count(theirs) == 16_163_990
    _with_equal_weights(ours, theirs)
    maps = _maps((2048,), side=512)
    torch.testing.assert_close(ours(maps), theirs(maps[0]), rtol=1e-4, atol=1e-4)
    other = _head("aspp", (64,), channels=16, rates=(3, 6))
    assert _count(other) < _count(_head("aspp", (64,), channels=16))


def test_upernet_on_swin_t_has_the_published_parameters():
    """Swin (Liu et al., ICCV 2021, Table 3): 60 M with the trunk and an auxiliary FCN head."""
    head = _count(_head("upernet", SWIN_T))
    assert head == _count(Uper(SWIN_T, 512))
    auxiliary = 384 * 256 * 9 + 2 * 256 + 256 * CLASSES + CLASSES
    trunk = (
        27_519_354  # torchvision's swin_t without its last norm and classifier, and the norms of
    )
    norms = 2 * sum(SWIN_T)  # all four stages
    assert round((trunk + norms + head + auxiliary) / 1e6) == 60


def test_segformer_on_mit_b0_has_the_published_parameters():
    """SegFormer (Xie et al., NeurIPS 2021, Table 1 a): the decoder of B0 has 0.4 M."""
    head = _head("segformer", MIT_B0)
    assert _count(head) == _count(Segform(MIT_B0, 256)) == 433_302


def test_a_linear_probe_is_batch_norm_and_one_layer():
    assert _count(_head("linear", (384,))) == 2 * 384 + 384 * CLASSES + CLASSES


@pytest.mark.parametrize("decoder", OTHERS)
def test_on_patch_grids_coordinates_and_stretching_agree(decoder):
    channels, fields, _ = OTHERS[decoder]
    strides = STRIDES[: len(channels)]
    stages = [
        StageShape(c, Coordinates(stride, (stride - 1) / 2))
        for c, stride in zip(channels, strides, strict=True)
    ]
    found = []
    for alignment in ("coordinates", "stretch"):
        head = Head(name="h", strides=strides, decoder=decoder, alignment=alignment, **fields)
        torch.manual_seed(3)
        module = build_head(head, stages, CLASSES, clamps=True).eval()
        found.append(module.upsample_to(module(_maps(channels)), (64, 64)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def resnet18() -> BackboneCard:
    return Catalog((built_in_root(),)).backbone("resnet18")


@pytest.mark.parametrize("name", ["linear", "linear4", "aspp", "upernet", "segformer"])
def test_built_in_heads_read_the_deepest_stages(resnet18, name):
    head = HEADS[name].reading(resnet18)
    assert head.strides == (32, 16, 8, 4)[: HEADS[name].deepest]
    with torch.device("meta"):
        segmenter = build_segmenter(resnet18, head, Model(), 5)
    assert segmenter(torch.empty(2, 3, 64, 96, device="meta")).shape == (2, 5, 64, 96)


def test_trials_hold_the_strides_that_deepest_stands_for(toy_project):
    flags = Flags(settings=("sweep.head=[linear]",), seeds=2, results=toy_project / "results")
    plan = prepare_run(toy_project / "experiments" / "toy.yaml", flags).asked
    assert len(plan.trials) == 2
    for trial in plan.trials.values():
        assert (trial.head.strides, trial.head.deepest) == ((32,), None)


def test_too_few_stages_are_a_reason(resnet18):
    one = resnet18.revised(stages=resnet18.stages[-1:])
    head = HEADS["upernet"].reading(one)
    assert why_unsupported(one, head, Model()) == "upernet reads 4 stages, but resnet18 has 1"
    told = why_unsupported(resnet18, HEADS["linear"].reading(resnet18), Model(geometry="caffe"))
    assert told == "linear needs maps of the image alone, but geometry caffe pads it by 100 px"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"strides": (32,), "deepest": 1}, "give one of `strides` and `deepest`"),
        ({}, "give one of `strides` and `deepest`"),
        ({"strides": (16, 16)}, "strides must fall"),
        ({"deepest": 2, "decoder": "aspp"}, "aspp reads one stage"),
        ({"deepest": 1, "decoder": "linear", "fuse": "features"}, "leave fuse out, they are fcn's"),
        ({"deepest": 1, "decoder": "upernet", "rates": (3,)}, "rates: are those of decoder aspp"),
        ({"deepest": 1, "dropout": 0.1}, "dropout: say of which `decoder`"),
    ],
)
def test_fields_of_other_decoders_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Head(name="h", **fields)
