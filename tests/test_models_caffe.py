"""Caffe geometry against an FCN written independently, layer by layer, as the paper's net files."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.spec.cards import BackboneCard
from segbench.spec.catalog import built_in_root, read_card
from segbench.spec.heads import HEADS, Model

CLASSES = 5
SIZES = [(63, 91), (101, 77), (129, 161), (33, 223), (157, 65)]  # (H, W)
HEAD_NAMES = ["fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce"]


class SmallVgg(nn.Module):
    """VGG16's layers under VGG16's names, with few channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, repeats in ((4, 2), (6, 2), (8, 3), (10, 3), (12, 3)):
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(12 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU()
        )

    def forward(self, image: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(self.features(image), 7)
        return self.classifier(pooled.flatten(1))


def small_card() -> BackboneCard:
    card = read_card(built_in_root() / "backbones" / "vgg16.yaml", BackboneCard)
    channels = {"pool2": 6, "pool3": 8, "pool4": 10, "fc7": 16}
    assert card.classifier is not None
    return card.revised(
        name="small_vgg",
        builder=f"{__name__}:SmallVgg",
        stages=tuple(stage.revised(channels=channels[stage.name]) for stage in card.stages),
        classifier=card.classifier.revised(channels=12),
        weights={},
        default_weights=None,
    )


@pytest.fixture
def small_vgg(monkeypatch) -> BackboneCard:
    monkeypatch.setenv("SEGBENCH_TRUSTED", __name__)
    return small_card()


def bilinear_filter(size: int) -> Tensor:
    """Return the (size, size) kernel of the paper's `surgery.py`, written from its definition."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    return line[:, None] * line[None, :]


def deconvolution(scores: Tensor, size: int, stride: int) -> Tensor:
    channels = scores.shape[1]
    weight = torch.zeros(channels, channels, size, size)
    weight[range(channels), range(channels)] = bilinear_filter(size)
    return F.conv_transpose2d(scores, weight, stride=stride)


def crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    cropped = x[..., offset : offset + height, offset : offset + width]
    assert cropped.shape[-2:] == like.shape[-2:]
    return cropped


def reference(image: Tensor, weights: dict[str, Tensor], head: str) -> Tensor:
    """Return FCN-VGG16's score map with the crops that the paper's net files state."""

    def convolution(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    x, index, pools = image, 0, []
    for repeats in (2, 2, 3, 3, 3):
        for _ in range(repeats):
            padding = 100 if index == 0 else 1
            x = F.relu(convolution(x, f"trunk.features.{index}", padding))
            index += 2
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        index += 1
        pools.append(x)
    x = F.relu(convolution(x, "trunk.classifier.0"))
    x = F.relu(convolution(x, "trunk.classifier.3"))
    scores = convolution(x, "head.score.32")
    if head == "fcn32s":
        return crop(deconvolution(scores, 64, 32), 19, image)
    scale4, scale3 = (0.01, 0.0001) if head == "fcn8s_atonce" else (1, 1)
    scores = deconvolution(scores, 4, 2)
    scores = scores + crop(convolution(pools[3] * scale4, "head.score.16"), 5, scores)
    if head == "fcn16s":
        return crop(deconvolution(scores, 32, 16), 27, image)
    scores = deconvolution(scores, 4, 2)
    scores = scores + crop(convolution(pools[2] * scale3, "head.score.8"), 9, scores)
    return crop(deconvolution(scores, 16, 8), 31, image)


def randomised(segmenter: Segmenter) -> Segmenter:
    torch.manual_seed(1)
    for name, parameter in segmenter.named_parameters():
        if name.startswith(("trunk.", "head.score.")):
            if parameter.dim() == 4:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.normal_(parameter, std=0.3)
    return segmenter.eval()


def compare(segmenter: Segmenter, head: str, sizes: list[tuple[int, int]]) -> None:
    weights = {name: p.detach() for name, p in segmenter.named_parameters()}
    for size in sizes:
        image = torch.rand(1, 3, *size)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normalised = (image - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            ours, theirs = segmenter(image), reference(normalised, weights, head)
        assert ours.shape[-2:] == size
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_caffe_geometry_is_the_paper_s_net_to_the_last_pixel(small_vgg, head, upsampling):
    spec = HEADS[head].revised(upsampling=upsampling, final_upsampling=upsampling)
    segmenter = build_segmenter(small_vgg, spec, Model(geometry="caffe"), CLASSES)
    compare(randomised(segmenter), head, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcn32s", "fcn8s"])
def test_the_whole_vgg16_is_the_paper_s_net(head):
    card = read_card(built_in_root() / "backbones" / "vgg16.yaml", BackboneCard)
    segmenter = build_segmenter(card, HEADS[head], Model(geometry="caffe"), CLASSES)
    compare(randomised(segmenter), head, [(67, 95)])


def test_alexnet_s_scores_are_cropped_by_18_behind_a_kernel_of_63():
    card = read_card(built_in_root() / "backbones" / "alexnet.yaml", BackboneCard)
    with torch.device("meta"):
        segmenter = build_segmenter(card, HEADS["fcn32s"], Model(geometry="caffe"), CLASSES)
    step = segmenter.head.final.step
    assert (step.taps, -step.first) == (63, 18)


def test_fully_connected_weights_compute_the_same_as_convolutions(small_vgg):
    torch.manual_seed(0)
    whole = SmallVgg().eval()
    segmenter = build_segmenter(small_vgg, HEADS["fcn32s"], Model(geometry="caffe"), CLASSES)
    own = segmenter.trunk.state_dict()
    segmenter.trunk.load_state_dict(
        {name: tensor.view_as(own[name]) for name, tensor in whole.state_dict().items()}
    )
    image = torch.rand(2, 3, 224, 224)
    normalised = image * segmenter._scale + segmenter._shift
    first: Any = segmenter.trunk.get_submodule("features.0")
    first.padding = (1, 1)  # without the border fc6 sees the image once
    with torch.no_grad():
        (feature_map,) = segmenter.eval().feature_maps(image)
        torch.testing.assert_close(feature_map[:, :, 0, 0], whole(normalised))
