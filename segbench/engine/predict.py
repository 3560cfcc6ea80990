"""One image, one model, one protocol: a prediction at the size that is scored.

Letters: C classes, H W image size, h w the size the model sees. Knows nothing of labels or files.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.data.resize import resized_image
from segbench.engine.crf import Unrefined, refine
from segbench.engine.upsampled_prediction import upsampled_prediction
from segbench.errors import DataError, DivergedError
from segbench.models.segmenter import Segmenter
from segbench.models.upsampling import Bilinear
from segbench.schema.protocol import Protocol, Sliding


@torch.inference_mode()
def predict(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """Return the (H, W) int64 prediction for a (3, H, W) uint8 RGB image.

    H and W are the image's, or the protocol's `size` where it scores at the input's size.
    """
    if protocol.crf is not None:
        refined = refine(*unrefined(segmenter, image, protocol), protocol.crf)
        return torch.from_numpy(refined.argmax(0))
    if len(protocol.scales) > 1 or protocol.flip:
        return _best(probability_map(segmenter, image, protocol))
    version, _ = next(_versions(image, protocol))
    if protocol.sliding or tuple(version.shape[-2:]) != _scored_size(image, protocol):
        return _best(score_map(segmenter, image, protocol))
    return _direct_prediction(segmenter, version)


@torch.inference_mode()
def unrefined(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> Unrefined:
    """Return what the CRF is given: the image at the scored size, and its probability map."""
    seen = resized_image(image, _scored_size(image, protocol), resize=protocol.resize)
    probabilities = probability_map(segmenter, image, protocol)
    return seen.permute(1, 2, 0).cpu().numpy(), probabilities.cpu().numpy()


def _best(scores: Tensor) -> Tensor:
    """Return the argmax (H, W) of (C, H, W); that function is slow along an outer axis."""
    return scores.max(0).indices


def _direct_prediction(segmenter: Segmenter, image: Tensor) -> Tensor:
    """Return the (H, W) prediction of a (3, H, W) uint8 image at its own size."""
    height, width = image.shape[-2:]
    scores, upsampling = segmenter.coarse_score_map(_batch(segmenter, image))
    scores = _finite(scores[0].float())
    if upsampling is None:
        return _best(scores[:, :height, :width])
    return upsampled_prediction(
        scores, Bilinear(upsampling.rows[:height], upsampling.columns[:width])
    )


def score_map(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """Return the (C, H, W) score map of the first of the protocol's versions of the image."""
    version, _ = next(_versions(image, protocol))
    return _resized(_score_map(segmenter, version, protocol), _scored_size(image, protocol))


@torch.inference_mode()
def probability_map(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """Return the (C, H, W) float32 probabilities, averaged over the protocol's scales and flips."""
    size = _scored_size(image, protocol)
    versions = list(_versions(image, protocol))
    total: Tensor | None = None
    for version, flipped in versions:
        scores = _score_map(segmenter, version, protocol)  # (C, h, w)
        if flipped:
            scores = scores.flip(-1)
        probabilities = _resized(scores, size).softmax(0)  # (C, H, W)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / len(versions)


def _scored_size(image: Tensor, protocol: Protocol) -> tuple[int, int]:
    if protocol.score_at == "input" and protocol.size != "native":
        return protocol.size
    return int(image.shape[-2]), int(image.shape[-1])


def _versions(image: Tensor, protocol: Protocol) -> Iterator[tuple[Tensor, bool]]:
    """Yield the image at each scale, and mirrored, as the model is to see it."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    if protocol.size != "native":
        height, width = protocol.size
    elif protocol.short_side is not None:
        factor = protocol.short_side / min(height, width)
        height, width = round(height * factor), round(width * factor)
    for scale in protocol.scales:
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        resized = resized_image(image, size, resize=protocol.resize)
        yield resized, False
        if protocol.flip:
            yield resized.flip(-1), True


def _score_map(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """Return the (C, h, w) float32 score map of a (3, h, w) uint8 image.

    Raises:
        DivergedError: it holds NaN or infinity. DataError: windows leave gaps.
    """
    batch, (height, width) = _batch(segmenter, image), image.shape[-2:]
    scores = _slid(segmenter, batch, protocol.sliding) if protocol.sliding else segmenter(batch)
    return _finite(scores[0, :, :height, :width].float())


def _batch(segmenter: Segmenter, image: Tensor) -> Tensor:
    """Return a (3, h, w) uint8 image as the model takes it, (1, 3, H, W), padded where it must be."""
    batch = image.unsqueeze(0).float() / 255  # (1, 3, h, w)
    short = [segmenter.fitting_side(side) - side for side in image.shape[-2:]]
    return F.pad(batch, (0, short[1], 0, short[0])) if any(short) else batch


def _finite(scores: Tensor) -> Tensor:
    if not torch.stack(torch.aminmax(scores)).isfinite().all():  # NaN wins a minimum and a maximum
        raise DivergedError(
            "the model's score map holds NaN or infinity, so that it predicts nothing: its training "
            "diverged, or its weights are damaged"
        )
    return scores


def _slid(segmenter: Segmenter, image: Tensor, sliding: Sliding) -> Tensor:
    """Return the mean of the score maps of windows that cover the image; (1, C, h, w)."""
    if sliding.gap:
        raise DataError(f"sliding: {sliding.gap}")
    height, width = image.shape[-2:]
    window = min(sliding.window[0], height), min(sliding.window[1], width)
    total = torch.zeros(1, 1, height, width, device=image.device)  # grows to C at the first window
    times = torch.zeros_like(total)
    for top in _starts(height, window[0], sliding.stride[0]):
        for left in _starts(width, window[1], sliding.stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            scores = segmenter(image[..., rows, columns]).float()
            if total.shape[1] != scores.shape[1]:
                total = scores.new_zeros(1, scores.shape[1], height, width)
            total[..., rows, columns] += scores
            times[..., rows, columns] += 1
    return total / times


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows begin; the last one ends at the border."""
    return [*range(0, side - window, stride), side - window]


def _resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
