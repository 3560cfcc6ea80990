"""Predictions by blocks of rows: equal to the argmax of the whole score map, pixel by pixel."""

import pytest
import torch
from torch import Tensor

from segbench.engine import upsampled_prediction as module
from segbench.engine.predict import predict, score_map
from segbench.engine.upsampled_prediction import upsampled_prediction
from segbench.models.segmenter import build_segmenter
from segbench.models.upsampling import Bilinear, StretchedUpsampling, UpsamplingStep
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import built_in_root, read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.protocol import Protocol

STEPS = {
    "clamped": UpsamplingStep(8, 3.5, clamps=True),
    "fading": UpsamplingStep(8, -11.0, clamps=False),  # rows and columns that no feature reaches
    "stretched": None,
}


def _upsampling(kind: str, size: tuple[int, int], fine: tuple[int, int]) -> Bilinear:
    step = STEPS[kind]
    if step is None:
        return StretchedUpsampling().bilinear(size, fine)
    return Bilinear(*(step.shares(s, range(f)) for s, f in zip(size, fine, strict=True)))


def _scores(kind: str, shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(shape, generator=generator)
    return {
        "random": drawn,
        "tied": drawn.round(),
        "zero": torch.zeros(shape),
        "all but one class low": torch.where(torch.arange(shape[0]) == 1, 1.0, -1e30)[
            :, None, None
        ].expand(shape),
    }[kind].contiguous()


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("scores", ["random", "tied", "zero", "all but one class low"])
@pytest.mark.parametrize("classes", [2, 21, 171])
@pytest.mark.parametrize(("block", "strip"), [(1, 1), (2**12, 24), (2**16, 10**9), (2**19, 128)])
def test_blocks_of_any_size_give_the_argmax_of_the_whole_map(
    monkeypatch, kind, scores, classes, block, strip
):
    monkeypatch.setitem(module._BLOCK, "cpu", block)
    monkeypatch.setattr(module, "_STRIP", strip)
    coarse = _scores(scores, (classes, 8, 10))
    upsampling = _upsampling(kind, (8, 10), (61, 77))
    found = upsampled_prediction(coarse, upsampling)
    assert found.dtype == torch.int64
    assert torch.equal(found, upsampling.of(coarse[None])[0].argmax(0))


@pytest.mark.parametrize("classes", [21, 171])
def test_the_scores_of_a_whole_image_are_never_held(classes):
    coarse = torch.randn(classes, 128, 128)
    upsampling = _upsampling("clamped", (128, 128), (1024, 1024))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.is_floating_point():
                largest = max(largest, found.untyped_storage().nbytes() // 4)
            return found

    with Watch():
        upsampled_prediction(coarse, upsampling)
    strip = classes * (128 // 8 + 2) * 1024  # the coarse rows of 128 fine ones, at every column
    assert largest <= max(strip, module._BLOCK["cpu"])
    assert largest < classes * 1024 * 1024 / 25


@pytest.mark.parametrize("side", [(97, 130), (5, 30)])  # the second is padded and cropped back
def test_a_model_predicts_the_argmax_of_its_score_map(side):
    torch.manual_seed(0)
    card = read_card(built_in_root() / "backbones" / "squeezenet1_1.yaml", BackboneCard)
    head = HEADS["fcn4s_from16"]
    segmenter = build_segmenter(card, head, Model(weights="none"), 21).eval()
    for layer in segmenter.head.score.values():
        torch.nn.init.normal_(layer.weight)
    image = torch.randint(0, 256, (3, *side), dtype=torch.uint8)
    with torch.inference_mode():
        expected = score_map(segmenter, image, Protocol()).argmax(0)
    assert expected.unique().numel() > 1
    assert torch.equal(predict(segmenter, image, Protocol()), expected)
