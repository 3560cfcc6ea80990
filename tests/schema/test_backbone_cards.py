"""The backbone cards that come with segbench: complete, true, and their local weights real."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, resize

from segbench.models.declared import DeclaredTrunk
from segbench.models.geometry import stage_sizes
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk import build_trunk, verify_card
from segbench.models.weights import backbone_weights_path
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import HEADS, Head, Model, least_side, stated_sizes
from segbench.schema.machine import Machine

PATHS = sorted((built_in_root() / "backbones").glob("*.yaml"))
SHARED = Path(__file__).parents[3] / "shared"
LOCAL = {"inception_v3_7a": "imagenet", "squeezenet1_1": "imagenet_caffe"}
# what the authors' layers leave a feature of: torchvision refuses smaller images likewise
SMALLEST = {"alexnet": 63, "caffenet": 39, "squeezenet1_1": 17} | dict.fromkeys(
    ("inception_v3", "inception_v3_5c", "inception_v3_7a", "inception_v3_7a_5c"), 75
)
BROUGHT = {"caffenet", "vgg16_caffe"}  # their weights are for the user to bring
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="the pretrained trunks are not on this machine"
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def card(request) -> BackboneCard:
    return Catalog((built_in_root(),)).backbone(request.param.stem)


def test_the_backbones_of_the_literature_are_here():
    names = Catalog((built_in_root(),)).names("backbones")
    expected = {"alexnet", "vgg16", "googlenet", "inception_v3", "inception_v3_7a", "resnet50"}
    assert expected | {"resnet18", "squeezenet1_1"} <= set(names)


def test_a_card_names_its_source_its_licence_and_its_differences(card):
    assert card.source.url is not None
    assert card.source.url.startswith("https://arxiv.org/abs/")
    assert re.search(r"\b(19|20)\d\d$", card.source.paper)
    assert len(card.notes) > 20
    assert (card.default_weights is None) == (card.name in BROUGHT)
    for weights in card.weights.values():
        assert "ImageNet" in weights.trained_on
        if weights.url is not None:
            assert weights.url.endswith(f"-{weights.sha256}.pth")


def test_heads_of_the_paper_fit_every_card_that_reaches_stride_32(card):
    deepest = card.strides[-1]
    expected = {8: (4, 8), 16: (4, 8, 16), 32: (4, 8, 16, 32)}
    assert card.strides == expected[deepest]


def test_what_a_card_promises_is_what_the_trunk_has(card):
    head = Head(name="all", strides=tuple(reversed(card.strides)))
    with torch.device("meta"):  # building compares strides and channels with the card
        native = build_segmenter(card, head, Model(), 21)
        if card.is_declared:
            assert native.minimum_side == card.strides[-1]
            return
        aligned = build_segmenter(card, head, Model(geometry="aligned"), 21)
    assert aligned.minimum_side == card.strides[-1]
    assert native.minimum_side == SMALLEST.get(card.name, card.strides[-1])
    assert native.minimum_side == least_side(card, head, Model())
    assert aligned.minimum_side == least_side(card, head, Model(geometry="aligned"))


def test_the_least_side_that_a_card_states_is_the_trunk_s_for_every_head(card):
    for stride in card.strides[:-1]:  # the test before this one has them all
        head = Head(name="one", strides=(stride,))
        with torch.device("meta"):
            built = build_segmenter(card, head, Model(), 21)
        assert built.minimum_side == least_side(card, head, Model())


@pytest.mark.parametrize("geometry", ["native", "aligned"])
def test_the_sizes_that_a_card_states_are_the_trunk_s(card, geometry):
    if card.is_declared and geometry == "aligned":
        return  # refused
    head = Head(name="all", strides=tuple(reversed(card.strides)))
    model = Model(geometry=geometry)
    stated = stated_sizes(card, head, model)
    assert stated is not None
    with torch.device("meta"):
        trunk = build_trunk(card, card.strides, padding=geometry, dropout=0.5)
    strides = {stage.name: stage.stride for stage in card.stages}
    for side in (*range(trunk.smallest_side, 130), 224, 299, 321, 500):
        network = trunk.network
        is_declared = isinstance(network, DeclaredTrunk)
        sizes = network.sizes(side) if is_declared else stage_sizes(network, side)
        assert {strides[name]: size for name, size in sizes.items()} == stated(side)


DECLARED = [path for path in PATHS if "offset:" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("path", DECLARED, ids=lambda path: path.stem)
def test_random_weights_lie_where_a_card_declares_its_stages(path):
    verify_card(Catalog((built_in_root(),)).backbone(path.stem))


def test_torchvision_s_own_weights_are_fed_what_they_were_trained_on(card):
    is_googles = card.name.startswith(("googlenet", "inception_v3"))
    if card.name in BROUGHT:
        assert (card.input.range, card.input.order, card.input.std) == (255, "BGR", (1, 1, 1))
        assert card.input.mean == (104.00699, 116.66877, 122.67892)  # the FCN paper's code
        return
    assert card.input.mean[0] == (0.5 if is_googles else 0.485)
    assert card.input.std[0] == (0.5 if is_googles else 0.229)
    assert (card.input.range, card.input.order) == (1, "RGB")


def _pretrained(name: str) -> Segmenter:
    card = Catalog((built_in_root(),)).backbone(name)
    model = Model(weights=LOCAL[name])
    machine = Machine(cache="/nowhere", weights=(str(SHARED / "weights"),))
    path = backbone_weights_path(card, model, machine)
    assert path is not None
    head = HEADS["fcn8s"] if 32 in card.strides else HEADS["fcn4s_from16"]
    return build_segmenter(card, head, model, 21, weights_path=path).eval()


def _photographs() -> tuple[Tensor, list[int]]:
    """Return (N, 3, 160, 160) photographs and the class of each: the first of each of 4 kinds."""
    root = SHARED / "data" / "voc2012_2007" / "VOCdevkit" / "VOC2012"
    chosen: dict[int, list[Tensor]] = {1: [], 6: [], 8: [], 13: []}  # plane, bus, cat, horse
    for path in sorted((root / "SegmentationClass").glob("*.png")):
        classes = set(torch.unique(pil_to_tensor(Image.open(path))).tolist()) - {0, 255}
        if len(classes) == 1 and len(chosen.get(found := classes.pop(), [0] * 6)) < 6:
            image = pil_to_tensor(Image.open(root / "JPEGImages" / f"{path.stem}.jpg"))
            chosen[found].append(resize(image, [160, 160], antialias=True))
        if all(len(images) == 6 for images in chosen.values()):
            break
    kinds = [kind for kind, images in chosen.items() for _ in images]
    return torch.stack(
        [image for images in chosen.values() for image in images]
    ).float() / 255, kinds


@needs_shared
@pytest.mark.parametrize("name", list(LOCAL))
@torch.inference_mode()
def test_pretrained_trunks_see_what_is_in_a_photograph(name):
    images, kinds = _photographs()
    pooled = _pretrained(name).feature_maps(images)[0].mean(dim=(2, 3))  # (N, D)
    pooled = torch.nn.functional.normalize(pooled - pooled.mean(0), dim=1)
    likeness = (pooled @ pooled.T).fill_diagonal_(-1)
    nearest = likeness.argmax(1).tolist()
    right = sum(kinds[i] == kinds[j] for i, j in enumerate(nearest)) / len(kinds)
    assert right >= 0.7  # random trunks and wrongly scaled images reach at most 0.5


@needs_shared
def test_half_precision_on_disk_is_single_in_the_trunk():
    segmenter = _pretrained("inception_v3_7a")
    assert {p.dtype for p in segmenter.trunk.parameters()} == {torch.float32}
