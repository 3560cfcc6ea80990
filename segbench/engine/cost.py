"""What a model costs to use: the arithmetic of one forward pass, counted, and its time, measured.

Knows nothing of training and of where results are kept.
"""

import copy
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from segbench.data.split import SegmentationSplit
from segbench.engine.predict import score_map
from segbench.models.segmenter import Segmenter
from segbench.spec.protocol import Protocol

FLOPS_SIDE = 500  # px; the FCN paper times its models on 500 x 500 (section 4.1)
_TIMED_IMAGES = 10


def forward_flops(segmenter: Segmenter) -> int:
    """Return the floating-point operations of one 500 x 500 image, or the next that the model takes.

    A multiplication and an addition count as two, as torch counts them; convolutions and
    matrix products alone are counted. Nothing is computed, and no weights are copied.
    """
    hollow = {
        id(tensor): kind(torch.empty_like(tensor, device="meta"))
        for kind, tensors in (
            (torch.nn.Parameter, segmenter.parameters()),
            (torch.Tensor, segmenter.buffers()),
        )
        for tensor in tensors
    }
    shadow = copy.deepcopy(segmenter, hollow).eval()
    side = segmenter.fitting_side(FLOPS_SIDE)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        shadow(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


@torch.inference_mode()
def forward_ms(
    segmenter: Segmenter, split: SegmentationSplit, protocol: Protocol, device: torch.device
) -> float | None:
    """Return the median milliseconds from an image to its score map, or None without images.

    Measured on the first images of the split at the sizes that the protocol asks for; decoding is
    left out, and so is the first pass, which allocates.
    """
    segmenter.eval()
    images = [
        split.sample(index).image.to(device) for index in range(min(_TIMED_IMAGES, len(split)))
    ]
    if not images:
        return None
    seconds = [_seconds(segmenter, image, protocol) for image in (images[0], *images)][1:]
    return 1000 * statistics.median(seconds)


def _seconds(segmenter: Segmenter, image: torch.Tensor, protocol: Protocol) -> float:
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    started = time.perf_counter()
    score_map(segmenter, image, protocol)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - started
