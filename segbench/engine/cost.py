"""What a model costs to use: the arithmetic of one forward pass, counted, and its time, measured.

Knows nothing of where results are kept.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from segbench.data.split import SegmentationSplit
from segbench.engine.predict import score_map
from segbench.engine.train import Batch, BatchSource, Hooks, train
from segbench.models.hollow import hollow
from segbench.models.segmenter import Segmenter
from segbench.schema.machine import Monitor
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial

FLOPS_SIDE = 500  # px; the FCN paper times its models on 500 x 500 (section 4.1)
_TIMED_IMAGES = 10
_QUIET = Monitor(log_every_steps=10**9, checkpoint_every_steps=10**9)


def forward_flops(segmenter: Segmenter) -> int:
    """Return the floating-point operations of one 500 x 500 image, or the next that the model takes.

    A multiplication and an addition count as two, as torch counts them; convolutions and
    matrix products alone are counted. Nothing is computed, and no weights are copied.
    """
    shadow = hollow(segmenter).eval()
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
    images = [
        split.sample(index).image.to(device) for index in range(min(_TIMED_IMAGES, len(split)))
    ]
    return statistics.median(passes_ms(segmenter, images, protocol)) if images else None


@torch.inference_mode()
def passes_ms(
    segmenter: Segmenter, images: Sequence[torch.Tensor], protocol: Protocol
) -> list[float]:
    """Return the milliseconds from each image to its score map, after a pass that is not timed.

    images: (3, H, W) uint8, at least one, on the model's device. The first pass allocates.
    """
    segmenter.eval()
    return [1000 * _seconds(segmenter, image, protocol) for image in (images[0], *images)][1:]


def steps_ms(
    segmenter: Segmenter, trial: Trial, size: tuple[int, int], device: torch.device, *, steps: int
) -> float:
    """Return the milliseconds of one optimizer step, the mean over the steps of the trial's recipe.

    Of each stage so many steps are timed on drawn images of `size` (H, W), after one that is not;
    reading and resizing images is left out. The model is trained meanwhile.

    Raises:
        OutOfMemoryError: the device is too small for a batch.
    """
    recipe, total = trial.train, 0.0
    for stage in recipe.stages:
        short = recipe.model_copy(
            update={"stages": (stage.model_copy(update={"steps": steps + 1}),)}
        )
        ends: list[float] = []

        def on_step(*_: object, ends: list[float] = ends) -> None:
            ends.append(_now(device))

        with tempfile.TemporaryDirectory() as folder:
            train(
                segmenter, short, _drawn_batches(trial, size),
                folder=Path(folder), monitor=_QUIET, device=device,
                hooks=Hooks(on_step, lambda: False),
            )  # fmt: skip
        total += stage.steps * 1000 * (ends[-1] - ends[0]) / steps
    return total / recipe.steps


def _drawn_batches(trial: Trial, size: tuple[int, int]) -> BatchSource:
    def batches(first: int, last: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        number, classes = trial.train.batch_size, trial.dataset.num_classes
        images = torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8, generator=generator)
        label = torch.randint(0, classes, (number, *size), generator=generator)
        yield from (Batch(images, label) for _ in range(first, last))

    return batches


def _seconds(segmenter: Segmenter, image: torch.Tensor, protocol: Protocol) -> float:
    started = _now(image.device)
    score_map(segmenter, image, protocol)
    return _now(image.device) - started


def _now(device: torch.device) -> float:
    """Return the clock once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
