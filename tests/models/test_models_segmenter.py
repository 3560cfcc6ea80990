"""Segmenter: the contract that training and evaluation build on, for every card."""

import copy
import functools
import pickle
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from segbench.errors import CardError, DataError
from segbench.models.geometry import Coordinates
from segbench.models.heads.base import StageShape
from segbench.models.heads.fcn import FusionHead
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk import verify_card
from segbench.schema.cards import BackboneCard, Input, Stage
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import HEADS, Geometry, Head, Model

CLASSES = 4
CARDS = sorted(path.stem for path in (built_in_root() / "backbones").glob("*.yaml"))
GEOMETRIES = get_args(Geometry)
QUICK = "squeezenet1_1"
ODD_SIZES = [(33, 35), (47, 33), (65, 39), (33, 129), (97, 49)]  # (H, W)


@functools.cache
def _card(name: str) -> BackboneCard:
    return Catalog((built_in_root(),)).backbone(name)


def _every_stage(card: BackboneCard) -> Head:
    return Head(name="all", strides=tuple(sorted(card.strides, reverse=True)))


def _built(
    head: Head | None = None,
    *,
    name: str = QUICK,
    geometry: Geometry = "aligned",
) -> Segmenter:
    head = head or HEADS["fcn4s_from16"]
    return build_segmenter(_card(name), head, Model(geometry=geometry), CLASSES)


def _with_random_scores(segmenter: Segmenter) -> Segmenter:
    torch.manual_seed(0)
    for layer in segmenter.head.score.values():
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return segmenter.eval()


def _cards(geometry: str) -> list:
    # Fully connected layers and the border of 100 px make these too slow for every run.
    slow = {
        "vgg16",
        "vgg16_caffe",
        "alexnet",
        "caffenet",
        "inception_v3_5c",
        "inception_v3_7a_5c",
        "resnet50_os8",
        "resnet101_os8",
    } | ({"inception_v3", "resnet50"} if geometry == "caffe" else set())
    return [
        pytest.param(name, geometry, marks=[pytest.mark.slow] * (name in slow))
        for name in CARDS
        if geometry == "native" or not _card(name).is_declared
    ]


@pytest.mark.parametrize(
    ("name", "geometry"), [c for geometry in GEOMETRIES for c in _cards(geometry)]
)
@torch.no_grad()
def test_every_card_gives_score_maps_of_the_image_s_size(name, geometry):
    card = _card(name)
    segmenter = _with_random_scores(_built(_every_stage(card), name=name, geometry=geometry))
    smallest = (segmenter.minimum_side, segmenter.minimum_side)
    others = [(64, 48), *(ODD_SIZES if geometry == "aligned" else ODD_SIZES[:2])]
    sizes = [smallest, *(size for size in others if min(size) >= segmenter.minimum_side)]
    for size in sizes:
        image = torch.rand(1, 3, *size)
        feature_maps = segmenter.feature_maps(image)
        channels = [feature_map.shape[1] for feature_map in feature_maps]
        assert channels == [stage.channels for stage in reversed(card.stages)]
        if geometry == "aligned":
            for stage, feature_map in zip(reversed(card.stages), feature_maps, strict=True):
                expected = tuple(-(-side // stage.stride) for side in size)
                assert feature_map.shape[2:] == expected
        score_map = segmenter.score_map(feature_maps, size)
        assert score_map.shape == (1, CLASSES, *size)
        assert score_map.isfinite().all()
        torch.testing.assert_close(segmenter(image), score_map)


@pytest.mark.parametrize(
    "head",
    [
        HEADS["fcn4s_from16"].revised(
            name=f"{fuse}-{up}-{final}-{norm}",
            fuse=fuse,
            upsampling=up,
            final_upsampling=final,
            feature_norm=norm,
        )
        for fuse in ("scores", "features")
        for up, final in (("fixed", "fixed"), ("learned", "fixed"), ("learned", "learned"))
        for norm in ("none", "batch")
    ],
    ids=lambda head: head.name,
)
def test_every_kind_of_head_is_trained_from_zero_scores(head):
    torch.manual_seed(0)
    geometry = "caffe" if head.feature_norm == "batch" else "aligned"
    segmenter = _built(head, geometry=geometry)
    image = torch.rand(2, 3, 33, 19)
    assert segmenter(image).abs().max() == 0
    optimizer = torch.optim.SGD(segmenter.head.parameters(), lr=1e-3)
    for _ in range(2):  # the first step moves the score layers off zero, the second all others
        optimizer.zero_grad()
        score_map = segmenter(image)
        (score_map * torch.randn_like(score_map)).sum().backward()
        optimizer.step()
    still = [n for n, p in segmenter.head.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert segmenter(image).abs().max() > 0


def test_a_head_that_stretches_its_maps_is_a_chain_of_torch_s_interpolations():
    """As torchvision's FCNs bring scores to the image's size; coordinates place them elsewhere."""
    torch.manual_seed(0)
    head = HEADS["fcn4s_from16"].revised(alignment="stretch")
    segmenter = _built(head).eval()
    for parameter in segmenter.head.parameters():
        torch.nn.init.normal_(parameter)
    image = torch.rand(2, 3, 75, 62)
    with torch.no_grad():
        maps = segmenter.feature_maps(image)
        strides = ("16", "8", "4")
        fused, *finer = (segmenter.head.score[s](m) for s, m in zip(strides, maps, strict=True))
        for fine in finer:
            fused = fine + F.interpolate(fused, fine.shape[-2:], mode="bilinear")
        expected = F.interpolate(fused, (75, 62), mode="bilinear")
        torch.testing.assert_close(segmenter(image), expected, atol=1e-4, rtol=1e-5)
        every = segmenter.head.upsample_to(segmenter.head(maps), (75, 62), every=4)
        torch.testing.assert_close(every, expected[..., ::4, ::4], atol=1e-4, rtol=1e-5)
    with pytest.raises(ValidationError, match="needs fixed upsampling"):
        head.revised(final_upsampling="learned")
    with pytest.raises(CardError, match="stretches its maps over the image, but those of geometry"):
        _built(head, geometry="caffe")


def test_parts_of_the_model_are_told_apart_by_kind():
    def kinds(**changes) -> dict[str, set[str]]:
        head = HEADS["fcn4s_from16"].revised(**changes)
        found: dict[str, set[str]] = {}
        for name, kind in _built(head).parameter_kinds().items():
            found.setdefault(kind, set()).add(name)
        return found

    scores = {f"head.score.{s}.{p}" for s in (16, 8, 4) for p in ("weight", "bias")}
    plain = kinds()
    assert plain["head"] == scores
    assert "upsampling" not in plain
    assert all(name.startswith("trunk.features.") for name in plain["backbone"])
    learned = kinds(upsampling="learned", final_upsampling="learned")
    assert learned["head"] == scores
    assert learned["upsampling"] == {
        "head.upsample.8.weight",
        "head.upsample.4.weight",
        "head.final.weight",
    }
    fused = kinds(fuse="features", upsampling="learned", final_upsampling="learned")
    assert "upsampling" not in fused
    assert "head.final.bias" in fused["head"]


def test_a_finer_head_starts_from_the_layers_of_a_coarser_one():
    coarse = _built(Head(name="a", strides=(16,))).state_dict()
    fine = _built(HEADS["fcn4s_from16"]).state_dict()
    assert set(coarse) - set(fine) == set()
    assert {"head.score.16.weight", "trunk.features.0.weight"} <= set(coarse)


def test_only_each_nth_pixel_is_computed_where_that_is_asked_for():
    for final in ("fixed", "learned"):
        head = HEADS["fcn4s_from16"].revised(final_upsampling=final)
        segmenter = _with_random_scores(_built(head))
        image = torch.rand(1, 3, 37, 42)
        whole = segmenter(image)
        coarse = segmenter.head(segmenter.feature_maps(image))
        thin = segmenter.head.upsample_to(coarse, (37, 42), every=4)
        torch.testing.assert_close(thin, whole[:, :, ::4, ::4])


def test_images_are_normalised_as_the_card_says(monkeypatch):
    card = _card(QUICK).revised(
        input=Input(mean=(104.0, 116.0, 122.0), std=(1.0, 2.0, 4.0), range=255, order="BGR")
    )
    model = Model(weights="none", geometry="aligned")
    segmenter = build_segmenter(card, HEADS["fcn4s_from16"], model, CLASSES)
    seen = []
    monkeypatch.setattr(
        segmenter.trunk,
        "forward",
        lambda x: seen.append(x) or dict.fromkeys((stage.name for stage in card.stages), x),
    )
    image = torch.rand(1, 3, 16, 16)
    segmenter.feature_maps(image)
    for channel, (source, mean, std) in enumerate(((2, 104, 1), (1, 116, 2), (0, 122, 4))):
        expected = (image[:, source] * 255 - mean) / std
        torch.testing.assert_close(seen[0][:, channel], expected, atol=1e-4, rtol=1e-5)


def test_weights_of_their_own_scale_bring_their_own_input_even_when_read_from_a_checkpoint():
    card = _card(QUICK)
    named = build_segmenter(
        card, HEADS["fcn4s_from16"], Model(weights="imagenet_caffe"), CLASSES, weights_path=None
    )
    torch.testing.assert_close(named._scale.flatten(), torch.tensor([255.0, 255.0, 255.0]))
    torch.testing.assert_close(named._shift.flatten(), -torch.tensor([123.68, 116.779, 103.939]))
    assert set(named.state_dict()) == set(_built().state_dict())


def test_features_are_standardised_and_scaled_before_they_are_scored():
    head = HEADS["fcn4s_from16"].revised(feature_norm="batch", skip_scale=(1.0, 0.5, 0.25))
    segmenter = _built(head)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen[name] = inputs[0]

    for name, layer in segmenter.head.score.items():
        layer.register_forward_pre_hook(functools.partial(keep, name))
    segmenter(torch.rand(2, 3, 64, 64))
    for name, scale in (("16", 1.0), ("8", 0.5), ("4", 0.25)):
        deviation = seen[name].std(dim=(0, 2, 3), correction=0)
        live = deviation[deviation > 0.9 * scale]
        assert len(live) > 10
        assert live.max() <= scale * 1.001
        assert seen[name].mean(dim=(0, 2, 3)).abs().max() < 1e-4


def test_too_small_an_image_is_refused_with_the_minimum():
    with pytest.raises(DataError, match=r"15x40 pixels is too small.*at least 16"):
        _built()(torch.rand(1, 3, 15, 40))


def test_a_head_that_the_trunk_cannot_serve_is_refused():
    with pytest.raises(CardError, match="fcn8s reads stride 32, which squeezenet1_1 does not"):
        _built(HEADS["fcn8s"])


def test_the_same_seed_draws_the_same_model():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(_built(HEADS["fcn4s_from16"].revised(fuse="features")).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_training_mode_switches_batch_norm_and_dropout_and_nothing_else():
    segmenter = _built(HEADS["fcn16s"], name="resnet18")
    assert segmenter.training
    image = torch.rand(2, 3, 64, 64)
    trunk: Any = segmenter.trunk
    before = trunk.bn1.running_mean.clone()
    segmenter.eval().feature_maps(image)
    assert torch.equal(before, trunk.bn1.running_mean)
    segmenter.train().feature_maps(image)
    assert not torch.equal(before, trunk.bn1.running_mean)


def test_dropout_behind_fc6_and_fc7_has_the_model_s_probability():
    with torch.device("meta"):
        segmenter = build_segmenter(_card("vgg16"), HEADS["fcn32s"], Model(dropout=0.3), CLASSES)
    drops = [layer.p for layer in segmenter.trunk.modules() if isinstance(layer, nn.Dropout)]
    assert drops == [0.3, 0.3]
    kinds = segmenter.parameter_kinds()
    assert kinds["trunk.classifier.0.weight"] == "backbone"


def test_segmenters_can_be_copied_and_pickled():
    segmenter = _with_random_scores(_built())
    image = torch.rand(1, 3, 32, 32)
    for twin in (copy.deepcopy(segmenter), pickle.loads(pickle.dumps(segmenter))):
        assert torch.equal(twin(image), segmenter(image))


def test_stages_are_not_overwritten_by_the_layer_that_reads_them():
    card = _card(QUICK)
    first = card.stages[0].revised(name="conv1", module="features.0", stride=2, channels=64)
    card = card.revised(stages=(first, *card.stages))
    head = Head(name="x", strides=(16, 8, 4, 2))
    segmenter = build_segmenter(card, head, Model(weights="none"), CLASSES)
    finest = segmenter.feature_maps(torch.rand(1, 3, 32, 32))[-1]
    assert finest.min() < 0  # the convolution's own output, not that of the ReLU behind it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 16}, "is declared with stride 16 and 256 channels, but has stride 8"),
        ({"channels": 99}, "99 channels, but has stride 8 and 256 channels"),
        ({"smallest_side": 5}, "smallest_side 5, but has a feature from 9 pixels a side on"),
        ({"stride": 8, "smallest_side": 10}, "smallest_side 10, but has a feature from 9 pixels"),
        ({"module": "features.99"}, "has no module features.99 to cut a stage at; did you mean"),
    ],
)
def test_a_card_that_promises_what_the_trunk_does_not_have_is_refused(changes, message):
    stage = _card(QUICK).stages[1].revised(**changes)
    card = _card(QUICK).revised(stages=(stage,))
    with pytest.raises(CardError, match=message):
        build_segmenter(card, Head(name="x", strides=(stage.stride,)), Model(), CLASSES)


def test_every_false_promise_of_a_card_is_told():
    card = _card(QUICK)
    stages = [stage.revised(channels=stage.channels + 1) for stage in card.stages]
    with pytest.raises(CardError) as caught:
        verify_card(card.revised(stages=tuple(stages)))
    assert len(str(caught.value).splitlines()) == len(stages)


def test_the_least_side_of_a_finer_stage_is_compared_too():
    card = _card(QUICK)
    first = card.stages[0].revised(smallest_side=7)
    with pytest.raises(CardError, match="smallest_side 7, but has a feature from 5 pixels"):
        verify_card(card.revised(stages=(first, *card.stages[1:])))
    bare = _card("resnet18")  # padded: one feature from one pixel on, but a stride is the least
    stages = [stage.revised(smallest_side=stage.stride) for stage in bare.stages]
    verify_card(bare.revised(stages=tuple(stages)))


def test_a_stage_behind_the_features_is_refused_by_the_name_of_the_layer():
    card = _card("resnet18")
    behind = card.stages[-1].revised(module="fc")
    with pytest.raises(CardError, match="resnet18: the trunk's layer flatten moves features"):
        verify_card(card.revised(stages=(behind,)))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("torchvision.models:resnet9", "has no model 'resnet9'"),
        ("torchvision.models:get_weight", "has no model 'get_weight'"),
        ("os:getcwd", "'os', which is not trusted"),
        ("torchvision.modelsx:resnet18", "not trusted"),
        ("segbench.models.trunk:importlib", "does not define 'importlib'"),
        ("segbench.models.nowhere:build", "cannot be found"),
    ],
)
def test_builders_run_only_where_they_are_trusted(builder, message):
    card = _card(QUICK).revised(builder=builder)
    with pytest.raises(CardError, match=message):
        build_segmenter(card, HEADS["fcn4s_from16"], Model(), CLASSES)


def test_arguments_that_a_builder_does_not_take_are_a_fault_of_the_card():
    card = _card(QUICK).revised(arguments={"depth": 3})
    with pytest.raises(CardError, match="does not take the arguments"):
        build_segmenter(card, HEADS["fcn4s_from16"], Model(), CLASSES)


def test_an_image_that_features_do_not_reach_is_refused_in_caffe_geometry():
    stage = StageShape(2, Coordinates(stride=8, offset=12.0, receptive_field=9))
    head = FusionHead(Head(name="x", strides=(8,)), [stage], CLASSES, clamps=False)
    with pytest.raises(DataError, match="32x40 pixels has pixels that no feature reaches"):
        head.upsample_to(torch.zeros(1, CLASSES, 4, 5), (32, 40))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_half_precision_gives_nearly_the_same_score_map(geometry):
    segmenter = _with_random_scores(_built(geometry=geometry))
    image = torch.rand(1, 3, 49, 35)
    with torch.no_grad():
        exact = segmenter(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = segmenter(image)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("builder", "modules"),
    [
        ("efficientnet_b0", {8: ("features.3", 40), 16: ("features.5", 112)}),
        ("mobilenet_v3_small", {8: ("features.3", 24), 16: ("features.8", 48)}),
        ("densenet121", {8: ("features.denseblock2", 512), 16: ("features.denseblock3", 1024)}),
    ],
)
def test_other_networks_of_torchvision_need_a_card_and_no_code(builder, modules):
    stages = tuple(
        Stage(name=f"stride{stride}", module=module, stride=stride, channels=channels)
        for stride, (module, channels) in modules.items()
    )
    card = _card("resnet18").revised(builder=f"torchvision.models:{builder}", stages=stages)
    head = Head(name="x", strides=(16, 8))
    segmenter = _with_random_scores(build_segmenter(card, head, Model(weights="none"), CLASSES))
    assert segmenter(torch.rand(1, 3, 37, 50)).shape == (1, CLASSES, 37, 50)


def test_blocks_are_dropped_at_random_in_training_alone():
    stage = Stage(name="last", module="features.5", stride=16, channels=112)
    card = _card("resnet18").revised(
        builder="torchvision.models:efficientnet_b0",
        arguments={"stochastic_depth_prob": 0.9},
        stages=(stage,),
    )
    segmenter = build_segmenter(card, Head(name="x", strides=(16,)), Model(weights="none"), 2)
    for layer in segmenter.trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # so that chance is all that is left of training
    image = torch.rand(1, 3, 32, 32)
    first, second = (segmenter.feature_maps(image)[0] for _ in range(2))
    assert not torch.equal(first, second)
    segmenter.eval()
    first, second = (segmenter.feature_maps(image)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "is_last"), [("squeezenet1_1", True), ("resnet18", False)])
def test_channels_are_last_in_memory_where_that_is_faster_and_change_no_state(name, is_last):
    torch.manual_seed(0)
    segmenter = _with_random_scores(_built(HEADS["fcn4s_from16"], name=name))
    layer = max(
        (m for m in segmenter.trunk.modules() if isinstance(m, nn.Conv2d)),
        key=lambda m: m.kernel_size[0] * m.out_channels,
    )
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) == is_last
    assert layer.weight.is_contiguous() != is_last
    image = torch.rand(2, 3, 65, 39)
    found = segmenter(image)
    segmenter.trunk.to(memory_format=torch.contiguous_format)
    segmenter._memory_format = torch.contiguous_format
    torch.testing.assert_close(segmenter(image), found, rtol=1e-4, atol=1e-4)
    for tensor in segmenter.state_dict().values():
        assert tensor.is_contiguous()


def test_old_weights_fill_a_trunk_of_either_layout():
    first, second = (_built(HEADS["fcn4s_from16"]) for _ in range(2))
    state = {name: tensor.contiguous() for name, tensor in first.state_dict().items()}
    second.load_state_dict(state)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, state[name]), name
