"""Where features lie: computed coordinates against gradients, shifts and the paper's Table 1."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from segbench.errors import CardError
from segbench.models.geometry import AxisKernel, pad_aligned, stage_coordinates
from segbench.models.segmenter import build_segmenter
from segbench.models.trunk import Trunk, build_trunk
from segbench.schema.cards import BackboneCard, Stage
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import HEADS, Geometry, Model

_CATALOG = Catalog((built_in_root(),))
NAMES = _CATALOG.names("backbones")
CARDS = [name for name in NAMES if not _CATALOG.backbone(name).is_declared]
SLOW = {
    "vgg16",
    "vgg16_caffe",
    "inception_v3_5c",
    "inception_v3_7a_5c",
}  # large, or the layers of another card
QUICK_CARDS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CARDS]


def _card(name: str) -> BackboneCard:
    return Catalog((built_in_root(),)).backbone(name)


@functools.cache
def _trunk(name: str, padding: Geometry) -> Trunk:
    card = _card(name)
    trunk = build_trunk(card, card.strides, padding=padding, dropout=0.5)
    _make_linear(trunk.network)
    return trunk


def _make_linear(network: nn.Module) -> None:
    """Make every output the plain mean of its inputs, so that gradients show what it sees."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.MaxPool2d):
            average = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, average)
    network.eval().requires_grad_(False)


def _check_places(trunk: Trunk, image: torch.Tensor, axis: int) -> None:
    """Compare each stage's coordinates with the pixels that its middle feature depends on."""
    feature_maps = trunk.network(image.requires_grad_())
    for stage, here in trunk.coordinates.items():
        feature_map = feature_maps[stage].sum(1)  # (1, h, w)
        index, across = feature_map.shape[1 + axis] // 2, feature_map.shape[2 - axis] // 2
        feature = feature_map[0, index, across] if axis == 0 else feature_map[0, across, index]
        (gradient,) = torch.autograd.grad(feature, image, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1, 3 - axis)).nonzero().flatten()
        first, last = int(seen[0]), int(seen[-1])
        assert first > 0, "the image is too small to show the whole receptive field"
        assert last < image.shape[2 + axis] - 1
        assert last - first + 1 == here.receptive_field
        assert (first + last) / 2 == here.stride * index + here.offset


class Pools(nn.Module):
    """A pool as a module, then one as a function; both pad."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.AvgPool2d(3, 1, 1)
        self.last = nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(F.avg_pool2d(self.first(image), 3, stride=1, padding=1))


def pools() -> nn.Module:
    return Pools()


@pytest.mark.parametrize("padding", ["native", "aligned"])
@pytest.mark.parametrize(
    ("counted", "corner"),
    [
        # of [[0, 36], [72, 108]]: the mean of all four pixels, and again
        ("exclude_padding", 54),
        # 216 / 9 everywhere, then 4 * 24 / 9
        ("include_padding", 4 * 24 / 9),
        (None, 4 * 24 / 9),
    ],
)
def test_average_pools_divide_by_what_the_card_says(monkeypatch, counted, corner, padding):
    monkeypatch.setenv("SEGBENCH_TRUSTED", __name__)
    stages = (Stage(name="last", module="last", stride=1, channels=3),)
    card = _card("resnet18").revised(
        builder=f"{__name__}:pools", stages=stages, average_pools=counted
    )
    network = build_trunk(card, (1,), padding=padding, dropout=0.5).network
    image = torch.tensor([[0.0, 36.0], [72.0, 108.0]]).expand(1, 3, 2, 2)
    torch.testing.assert_close(network(image)["last"], torch.full((1, 3, 2, 2), float(corner)))


@pytest.mark.parametrize("padding", ["native", "aligned", "caffe"])
@pytest.mark.parametrize("name", ["inception_v3", "inception_v3_7a"])
def test_inceptions_pools_leave_the_padding_out_as_its_weights_were_trained(name, padding):
    card = _card(name)
    with torch.device("meta"):
        trunk = build_trunk(card, card.strides, padding=padding, dropout=0.5)
    found = [m for m in trunk.network.modules() if isinstance(m, nn.AvgPool2d)]
    assert len(found) == (7 if name == "inception_v3_7a" else 9)
    assert not any(pool.count_include_pad for pool in found)


def test_a_card_that_says_nothing_on_pools_keeps_its_identity():
    card = _card("inception_v3").revised(average_pools=None)
    assert "average_pools" not in card.identity()
    assert card.identity_digest() != _card("inception_v3").identity_digest()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", QUICK_CARDS)
def test_gradients_find_each_stage_where_it_was_computed(name, axis):
    trunk = _trunk(name, "aligned")
    # One pixel wide: the padding makes up the other axis, and the largest trunk stays cheap.
    reach = max(c.receptive_field for c in trunk.coordinates.values())
    shape = [1, 3, 1, 1]
    shape[2 + axis] = reach + 131
    _check_places(trunk, torch.ones(shape), axis)


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet"])
def test_gradients_find_each_stage_in_caffe_geometry(name):
    trunk = _trunk(name, "caffe")
    _check_places(trunk, torch.ones(1, 3, 460, 1), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3_7a", "resnet18", "vgg16"])
def test_gradients_find_each_stage_of_larger_trunks_in_caffe_geometry(name):
    trunk = _trunk(name, "caffe")
    reach = max(c.receptive_field for c in trunk.coordinates.values())
    _check_places(trunk, torch.ones(1, 3, reach + 131, 1), 0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "inception_v3"])
def test_gradients_find_each_stage_of_a_trunk_as_it_was_trained(name, axis):
    trunk = _trunk(name, "native")
    reach = max(here.receptive_field for here in trunk.coordinates.values())
    shape = [1, 3, trunk.smallest_side, trunk.smallest_side]
    shape[2 + axis] = 2 * reach + 131
    _check_places(trunk, torch.ones(shape), axis)


def test_a_trunk_as_it_was_trained_lies_elsewhere_than_a_padded_one():
    assert [c.offset for c in _trunk("squeezenet1_1", "native").coordinates.values()] == [3, 7, 15]
    padded = _trunk("squeezenet1_1", "aligned").coordinates.values()
    assert [c.offset for c in padded] == [0, 0, 0]


@pytest.mark.parametrize("padding", ["aligned", "native", "caffe"])
@pytest.mark.parametrize("name", QUICK_CARDS)
def test_the_smallest_side_is_the_smallest_that_the_network_takes(name, padding):
    trunk = _trunk(name, padding)
    side = trunk.smallest_side
    with torch.no_grad():
        maps = trunk.network(torch.ones(1, 3, side, side))
        assert min(min(feature_map.shape[2:]) for feature_map in maps.values()) >= 1
        if side > 1:
            with pytest.raises(RuntimeError):
                trunk.network(torch.ones(1, 3, side - 1, side - 1))
    if (name, padding) == ("inception_v3", "native"):
        assert side == 75  # as torchvision's and Keras' documentation say


@pytest.mark.parametrize("size", [1, 31, 32, 33, 97])
@pytest.mark.parametrize("name", QUICK_CARDS)
def test_aligned_stages_have_one_feature_for_each_started_stride(name, size):
    trunk = _trunk(name, "aligned")
    with torch.no_grad():
        maps = trunk.network(torch.ones(1, 3, size, 1))
    for stage, feature_map in maps.items():
        stride = trunk.coordinates[stage].stride
        assert feature_map.shape[2:] == (-(-size // stride), 1)


@pytest.mark.parametrize(("name", "pixels"), [("vgg16", 404), ("alexnet", 355)])
@pytest.mark.parametrize("padding", ["aligned", "caffe"])
def test_receptive_fields_are_those_of_the_paper_s_table_1(name, pixels, padding):
    card = _card(name)
    with torch.device("meta"):
        trunk = build_trunk(card, (32,), padding=padding, dropout=0.5)
    assert trunk.coordinates["fc7"].receptive_field == pixels
    assert trunk.coordinates["fc7"].stride == 32


def test_the_original_googlenet_has_the_receptive_field_of_table_1():
    network: Any = get_model("googlenet", weights=None, init_weights=False)
    for name, block in network.named_modules():
        if name.startswith("inception") and name.count(".") == 0:
            block.branch3[1].conv.kernel_size = (5, 5)
            block.branch3[1].conv.padding = (2, 2)
    network.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    extractor: Any = create_feature_extractor(
        network, {"inception5b": "last"}, suppress_diff_warning=True
    )
    last = stage_coordinates(fx.GraphModule(extractor, extractor.eval_graph))["last"]
    after_pooling = last.after(AxisKernel(kernel=7, stride=1, padding=0, dilation=1))
    assert after_pooling.receptive_field == 907


@pytest.mark.parametrize(("name", "millions"), [("vgg16", 134), ("alexnet", 57), ("googlenet", 6)])
def test_parameter_counts_are_those_of_the_paper_s_table_1(name, millions):
    with torch.device("meta"):
        segmenter = build_segmenter(_card(name), HEADS["fcn32s"], Model(geometry="caffe"), 21)
    assert round(sum(p.numel() for p in segmenter.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "head", "geometry"),
    [
        ("squeezenet1_1", "fcn4s_from16", "aligned"),
        ("squeezenet1_1", "fcn4s_from16", "native"),
        ("squeezenet1_1", "fcn4s_from16", "caffe"),
        ("alexnet", "fcn8s", "caffe"),
        pytest.param("alexnet", "fcn8s", "aligned", marks=pytest.mark.slow),
    ],
)
def test_a_shifted_image_gives_an_equally_shifted_score_map(name, head, geometry):
    torch.manual_seed(0)
    segmenter = build_segmenter(_card(name), HEADS[head], Model(geometry=geometry), 3).eval()
    for layer in segmenter.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0, 0, 0]))
    # On the mean colour features are zero, so that the border of the image cannot be told from more
    # of it: what is left is the shift.
    image = (-segmenter._shift / segmenter._scale).expand(1, 3, 704, 32).clone()
    patch = torch.rand(1, 3, 24, 32)
    shift = 3 * max(HEADS[head].strides)
    score_maps = []
    with torch.no_grad():
        for top in (288, 288 + shift):
            shown = image.clone()
            shown[:, :, top : top + 24] = patch
            score_maps.append(segmenter(shown))
    expected = score_maps[0][:, :, : 704 - shift]
    found = score_maps[1][:, :, shift:]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    inside = expected.abs().sum(dim=(0, 1, 3)).nonzero()
    assert inside[0] > 0
    assert inside[-1] < 703 - shift


class _TwoBranches(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool, self.conv = pool, nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x):
        return torch.cat([self.pool(x), self.conv(x)], 1)


def _traced(network: nn.Module) -> fx.GraphModule:
    graph = fx.Tracer().trace(network)
    output = graph.output_node()
    output.update_arg(0, {"last": output.args[0]})
    return fx.GraphModule(network, graph)


def test_branches_that_do_not_lie_alike_are_refused():
    with pytest.raises(CardError, match="branches that meet at cat do not lie alike"):
        stage_coordinates(_traced(_TwoBranches(nn.MaxPool2d(2, 2))))


def test_a_layer_of_unknown_geometry_is_refused_by_name():
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.PixelShuffle(1))
    with pytest.raises(CardError, match=r"layer 1 \(PixelShuffle\) moves features"):
        stage_coordinates(_traced(network))


def test_strided_layers_of_even_size_are_padded_to_keep_their_input_s_size():
    network = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 6))
    trunk = _traced(network)
    pad_aligned(trunk)
    trunk.recompile()
    here = stage_coordinates(trunk)["last"]
    assert (here.stride, here.offset) == (4, 1.5 + 4 * 0.5)
    for size in (1, 4, 5, 9, 16):
        assert trunk(torch.ones(1, 3, size, size))["last"].shape[2:] == (-(-size // 4),) * 2


def test_a_pool_that_cannot_be_centred_is_refused():
    with pytest.raises(CardError, match="cannot keep its input's size"):
        pad_aligned(_traced(nn.Sequential(nn.MaxPool2d(2, 1))))
