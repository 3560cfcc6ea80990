"""Trunks whose card says where features lie: the maps, what is kept, and the check by gradients."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model
from typer.testing import CliRunner

from segbench.cli import app
from segbench.errors import CardError, DataError
from segbench.models.declared import TOLERANCE_PX, DeclaredTrunk, declared_trunk, deviations
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk import build_trunk, verify_card
from segbench.models.trunk_weights import fitting_weights
from segbench.schema.cards import BackboneCard, Input, Source, Stage
from segbench.schema.heads import HEADS, Head, Model, why_unsupported

P, D = 8, 6  # pixels of a patch, channels


class Patches(nn.Module):
    """A small vision transformer with a class token, two registers and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, D, P, P)
        self.extra = nn.Parameter(torch.randn(1, 3, D))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(D, 2, 12, dropout=0.0, batch_first=True) for _ in range(3)
        )
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] % P:
            raise ValueError("patches do not fit")
        tokens = self.patch(image).flatten(2).mT
        tokens = torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Pyramid(nn.Module):
    """Returns two maps, channels last, in a mapping; negates, and looks at numbers of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, D, 4, 4), nn.Conv2d(D, 2 * D, 2, 2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = -self.first(image)
        if fine.mean() > 1e9:  # no tracer follows this
            fine = fine * 2
        return {"fine": fine.permute(0, 2, 3, 1), "coarse": self.last(fine).permute(0, 2, 3, 1)}


def _patches() -> nn.Module:
    return Patches()


def _pyramid() -> nn.Module:
    return Pyramid()


def _card(builder: str, *stages: dict, **more) -> BackboneCard:
    return BackboneCard(
        name="own", title="own", builder=builder, licence="ours", source=Source(paper="none"),
        stages=tuple(Stage(**{"name": f"s{i}", **stage}) for i, stage in enumerate(stages)),
        input=Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), **more,
    )  # fmt: skip


TOKENS = {"stride": P, "channels": D, "offset": (P - 1) / 2, "layout": "tokens"}
VIT = _card(
    f"{__name__}:_patches",
    {"module": "blocks.0", "through": "norm", **TOKENS},
    {"module": "blocks.1", **TOKENS},
)
MAPS = _card(
    f"{__name__}:_pyramid",
    {"module": ".", "item": "fine", "stride": 4, "channels": D, "offset": 1.5, "layout": "NHWC"},
    {"module": ".", "item": "coarse", "stride": 8, "channels": 2 * D, "offset": 3.5,
     "layout": "NHWC"},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    monkeypatch.setenv("SEGBENCH_TRUSTED", __name__)


def _trunk(card: BackboneCard) -> DeclaredTrunk:
    trunk = build_trunk(card, card.strides, padding="native", dropout=0.0).network
    assert isinstance(trunk, DeclaredTrunk)
    return trunk.eval()


def _changed(card: BackboneCard, index: int, **fields) -> BackboneCard:
    stages = list(card.stages)
    stages[index] = stages[index].revised(**fields)
    return card.revised(stages=tuple(stages))


def test_tokens_become_a_map_without_the_class_and_the_registers():
    trunk = _trunk(VIT)
    image = torch.randn(2, 3, 3 * P, 4 * P)
    whole = trunk.network
    tokens = torch.cat(
        [whole.extra.expand(2, -1, -1), whole.patch(image).flatten(2).mT], 1
    )  # fmt: skip
    first = whole.blocks[0](tokens)
    maps = trunk(image)
    expected = whole.norm(first)[:, 3:].mT.reshape(2, D, 3, 4)
    torch.testing.assert_close(maps["s0"], expected)
    expected = whole.blocks[1](first)[:, 3:].mT.reshape(2, D, 3, 4)
    torch.testing.assert_close(maps["s1"], expected)


def test_maps_come_from_a_mapping_with_channels_last():
    trunk = _trunk(MAPS)
    image = torch.randn(1, 3, 16, 24)
    fine = -trunk.network.first(image)
    maps = trunk(image)
    torch.testing.assert_close(maps["s0"], fine)
    torch.testing.assert_close(maps["s1"], trunk.network.last(fine))


def test_images_are_padded_to_whole_patches_and_maps_cover_them():
    trunk = _trunk(VIT)
    image = torch.randn(1, 3, 2 * P + 3, P + 1)
    padded = torch.zeros(1, 3, 3 * P, 2 * P)
    padded[:, :, : 2 * P + 3, : P + 1] = image
    maps = trunk(image)
    assert maps["s1"].shape == (1, D, 3, 2)
    torch.testing.assert_close(maps["s1"], trunk(padded)["s1"])
    assert trunk.sizes(2 * P + 3) == {"s0": 3, "s1": 3}


def test_fine_maps_of_padded_images_end_with_the_image():
    maps = _trunk(MAPS)(torch.randn(1, 3, 9, 12))
    assert (maps["s0"].shape[2:], maps["s1"].shape[2:]) == ((3, 3), (2, 2))


def test_what_the_stages_do_not_need_is_taken_out():
    names = {name.partition(".")[0] for name, _ in _trunk(VIT).network.named_parameters()}
    assert names == {"patch", "extra", "blocks", "norm"}
    blocks = {n.split(".")[1] for n, _ in _trunk(VIT).network.blocks.named_parameters(prefix="b")}
    assert blocks == {"0", "1"}


def test_every_parameter_that_stays_moves_a_map():
    trunk = _trunk(VIT)
    sum(
        feature_map.square().sum() for feature_map in trunk(torch.randn(1, 3, 16, 16)).values()
    ).backward()
    assert all(p.grad is not None for p in trunk.parameters())


def test_weights_of_the_whole_network_and_of_a_trained_segmenter_fit(tmp_path):
    trunk = build_trunk(VIT, VIT.strides, padding="native", dropout=0.0)
    torch.manual_seed(7)
    others = Patches().state_dict()
    save_file(others, tmp_path / "net.safetensors")
    fitting = fitting_weights(trunk, tmp_path / "net.safetensors")
    assert not trunk.network.load_state_dict(fitting, strict=True).missing_keys
    torch.testing.assert_close(
        trunk.network.state_dict()["network.blocks.1.norm1.weight"], others["blocks.1.norm1.weight"]
    )
    segmenter = build_segmenter(VIT, Head(name="one", strides=(P,)), Model(), 3)
    save_file(segmenter.state_dict(), tmp_path / "trained.safetensors")
    one = build_trunk(VIT, (P,), padding="native", dropout=0.0)
    assert (
        fitting_weights(one, tmp_path / "trained.safetensors").keys()
        == one.network.state_dict().keys()
    )


def test_a_head_reads_the_deepest_stage_of_a_stride_and_scores_the_whole_image():
    segmenter = build_segmenter(VIT, Head(name="one", strides=(P,)), Model(), 3)
    assert isinstance(segmenter, Segmenter)
    (read,) = segmenter.feature_maps(torch.rand(1, 3, 20, 17))
    assert read.shape == (1, D, 3, 3)
    assert segmenter(torch.rand(1, 3, 20, 17)).shape == (1, 3, 20, 17)


def test_a_score_map_lies_where_the_patches_are():
    """A patch that is white alone scores highest in its own pixels: the upsampling is centred."""
    segmenter = build_segmenter(MAPS, Head(name="one", strides=(8,)), Model(), 2).eval()
    trunk, score = segmenter.trunk, segmenter.head.score["8"]
    nn.init.constant_(trunk.network.first.weight, -1.0)
    nn.init.constant_(trunk.network.last.weight, 1.0)
    nn.init.constant_(score.weight, 1.0)
    image = torch.full((1, 3, 40, 40), 0.5)
    image[:, :, 16:24, 16:24] = 1.0
    with torch.no_grad():
        found = segmenter(image)[0, 0] - segmenter(torch.full_like(image, 0.5))[0, 0]
    rows = (found.sum(1) * torch.arange(40)).sum() / found.sum()
    assert float(rows) == pytest.approx(19.5, abs=1e-3)
    assert found.argmax().item() // 40 in {19, 20}


@pytest.mark.parametrize("card", [VIT, MAPS], ids=["vit", "maps"])
def test_random_weights_put_features_where_they_are_declared(card):
    verify_card(card)
    for down, across in deviations(_trunk(card), card).values():
        assert max(abs(down), abs(across)) <= TOLERANCE_PX


@pytest.mark.parametrize("wrong", [0.0, 2.5, 4.5, 8.0])
def test_a_wrong_offset_is_told_with_the_right_one(wrong):
    with pytest.raises(
        CardError, match=r"own: stage s1 is declared with offset .*offset 3\.5 would"
    ):
        verify_card(_changed(VIT, 1, offset=wrong))


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (_changed(VIT, 1, channels=7), r"s1 \(blocks.1\) gives 1x52x6 for an image of 56x56 pixels.*"
         "stride 8, 7 channels and layout tokens ask for Nx49 or more tokens x7"),
        (_changed(VIT, 1, layout="NCHW"), "layout NCHW ask for Nx6x7x7"),
        (_changed(VIT, 1, module="blocks.7"), r"no module blocks.7 .*blocks\.\d"),
        (_changed(MAPS, 1, item="low"), "has no item 'low'"),
        (_changed(MAPS, 1, item=None), "gives a mapping with 'fine', 'coarse': name the map with"),
        (_changed(MAPS, 0, stride=8).revised(multiple_of=8), "stride 8, 6 channels and layout NHWC"),
    ],
)  # fmt: skip
def test_a_map_that_is_not_what_the_card_says_is_told(card, told):
    with pytest.raises(CardError, match=told):
        verify_card(card)


def test_a_network_of_one_size_says_so():
    card = VIT.revised(fixed_side=4 * P)
    verify_card(card)
    with pytest.raises(DataError, match="own takes images of 32x32 pixels alone, not 40x32"):
        _trunk(card)(torch.randn(1, 3, 40, 32))


def test_a_declared_network_is_not_changed_inside():
    told = why_unsupported(VIT, Head(name="one", strides=(P,)), Model(geometry="aligned"))
    assert told is not None
    assert "geometry aligned cannot be done" in told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layout": "tokens"}, "layout: goes with declared geometry"),
        ({"module": "."}, "module `.`: goes with declared geometry"),
        ({"offset": 1.5, "smallest_side": 9}, "smallest_side: a declared stage has"),
    ],
)
def test_fields_of_declared_stages_go_together(fields, told):
    with pytest.raises(ValueError, match=told):
        Stage(**{"name": "s", "module": "m", "stride": 8, "channels": 3, **fields})


def test_rules_between_the_stages_of_a_card():
    with pytest.raises(ValueError, match="give `offset` for all stages, or for none"):
        _card("a:b", {"module": "x", **TOKENS}, {"module": "y", "stride": 16, "channels": 3})
    with pytest.raises(ValueError, match="multiple_of: goes with stages that give an `offset`"):
        _card("a:b", {"module": "y", "stride": 16, "channels": 3}, multiple_of=16)
    with pytest.raises(ValueError, match="multiple_of 12 is no multiple of stride 8"):
        VIT.revised(multiple_of=12)


def test_a_card_without_these_fields_is_what_it_was():
    stage = Stage(name="s8", module="layer2", stride=8, channels=3)
    assert stage.identity() == {"name": "s8", "module": "layer2", "stride": 8, "channels": 3}


CONVNEXT = """
name: convnext_tiny
title: ConvNeXt-T
builder: torchvision.models:convnext_tiny
stages:
  - {{name: s4, module: features.1, stride: 4, channels: 96{0}}}
  - {{name: s8, module: features.3, stride: 8, channels: 192{1}}}
input: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
licence: BSD-3-Clause
source: {{paper: "Liu et al., A ConvNet for the 2020s, CVPR 2022"}}
"""


def test_check_says_how_to_declare_what_it_cannot_follow(write):
    path = write("backbones/convnext_tiny.yaml", CONVNEXT.format("", ""))
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 2
    words = " ".join(checked.output.split())
    assert "permute moves features in a way that is not known here; say where they lie" in words
    assert "give each stage an `offset`" in words
    path.write_text(CONVNEXT.format(", offset: 1.5", ", offset: 3.5"))
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 0, checked.output


def test_a_declared_trunk_computes_what_the_network_does():
    torch.manual_seed(0)
    whole = get_model("convnext_tiny").eval()
    stages = (Stage(name="s8", module="features.3", stride=8, channels=192, offset=3.5),)
    card = _card("torchvision.models:convnext_tiny", stages[0].model_dump())
    image = torch.randn(1, 3, 64, 64)
    expected = whole.features[:4](image)
    trunk = declared_trunk(card, stages, whole).network
    torch.testing.assert_close(trunk(image)["s8"], expected)
    assert not [n for n, _ in trunk.named_parameters() if n.startswith("network.features.4")]


def test_fcn_heads_read_declared_stages():
    card = _card(
        "torchvision.models:convnext_tiny",
        {"module": "features.3", "stride": 8, "channels": 192, "offset": 3.5},
        {"module": "features.5", "stride": 16, "channels": 384, "offset": 7.5},
    )
    segmenter = build_segmenter(card, HEADS["fcn16s"].revised(strides=(16, 8)), Model(), 3)
    assert segmenter(torch.rand(1, 3, 50, 70)).shape == (1, 3, 50, 70)
