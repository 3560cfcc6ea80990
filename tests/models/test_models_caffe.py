"""Caffe geometry against an FCN written independently, layer by layer, as the paper's net files."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.errors import CardError
from segbench.models.caffenet import caffenet
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, built_in_root, read_card
from segbench.schema.heads import HEADS, Model

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


def naive_normalisation(x: Tensor) -> Tensor:
    """Return Caffe's response normalisation over 5 channels, from its formula."""
    squares = F.pad(x**2, (0, 0, 0, 0, 2, 2))
    total = torch.stack([squares[:, shift : shift + x.shape[1]] for shift in range(5)]).sum(0)
    return x / (1 + 1e-4 / 5 * total) ** 0.75


def alexnet_reference(image: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Return the score map of voc-fcn-alexnet/net.py; image: BGR, 0 to 255, mean subtracted."""

    def convolution(
        x: Tensor, name: str, padding: int = 0, groups: int = 1, stride: int = 1
    ) -> Tensor:
        weight, bias = weights[f"trunk.{name}.weight"], weights[f"trunk.{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding, groups=groups))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = naive_normalisation(pool(convolution(image, "conv1", 100, stride=4)))
    x = naive_normalisation(pool(convolution(x, "conv2", 2, groups=2)))
    x = convolution(convolution(x, "conv3", 1), "conv4", 1, groups=2)
    x = pool(convolution(x, "conv5", 1, groups=2))
    x = convolution(convolution(x, "fc6"), "fc7")
    scores = F.conv2d(x, weights["head.score.32.weight"], weights["head.score.32.bias"])
    return crop(deconvolution(scores, 63, 32), 18, image)


def test_caffenet_is_the_paper_s_alexnet():
    card = Catalog((built_in_root(),)).backbone("caffenet")
    segmenter = build_segmenter(card, HEADS["fcn32s"], Model(geometry="caffe"), 21)
    assert sum(p.numel() for p in segmenter.parameters()) == 56_954_261
    weights = {name: p.detach() for name, p in randomised(segmenter).named_parameters()}
    image = torch.rand(1, 3, 67, 95)
    mean = torch.tensor([104.00699, 116.66877, 122.67892])
    bgr = 255 * image[:, [2, 1, 0]] - mean[:, None, None]
    with torch.no_grad():
        ours, theirs = segmenter(image), alexnet_reference(bgr, weights)
    assert theirs.std() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_weights_under_caffe_s_layer_names_fit_caffenet(tmp_path):
    card = Catalog((built_in_root(),)).backbone("caffenet")
    whole = caffenet()
    path = tmp_path / "caffenet.pth"
    torch.save(whole.state_dict(), path)
    segmenter = build_segmenter(card, HEADS["fcn32s"], Model(), 2, weights_path=path)
    fc6 = segmenter.trunk.get_parameter("fc6.weight")
    assert torch.equal(fc6.flatten(1), whole.get_parameter("fc6.weight"))


def test_a_builder_that_segbench_does_not_have_is_refused():
    card = Catalog((built_in_root(),)).backbone("caffenet").revised(builder="segbench:cafenet")
    with pytest.raises(CardError, match=r"no builder 'cafenet'; did you mean 'caffenet'\?"):
        build_segmenter(card, HEADS["fcn32s"], Model(), 2)


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
