"""Time and memory of what a training step does after the trunk, in its plain and its fast form.

python benchmarks/loss.py [--threads 1] [--steps 5] [loss optimizers formats]

`loss`: upsampling with cross-entropy, forward and backward, for a coarse map of stride 8. `optimizers`:
one step over a trunk's parameters. `formats`: forward and backward of whole models with images and
kernels as (N, C, H, W) or channels last. Each row runs in a process of its own, so that its peak
memory is its own; CPU ms is the median of the steps' CPU time, over all threads.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from segbench.engine.loss import image_losses
from segbench.engine.upsampled_loss import upsampled_losses
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.upsampling import Bilinear, UpsamplingStep
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import built_in_root, read_card
from segbench.schema.heads import HEADS, Model

LOSSES = {
    f"{images}x{side} C{classes} {form}": (images, side, classes, form)
    for images, side, classes in ((4, 64, 21), (8, 128, 21), (4, 480, 21), (2, 512, 150))
    for form in ("plain", "blocked")
}
OPTIMIZERS = {
    f"{trunk} {name} {form}": (trunk, name, form)
    for trunk in ("resnet18", "googlenet")
    for name in ("SGD", "Adam", "AdamW")
    for form in ("loop", "foreach", "fused")
}
FORMATS = {
    f"{trunk} {side} px {form}": (trunk, side, form)
    for trunk, side in (
        ("googlenet", 96), ("inception_v3_7a", 107), ("squeezenet1_1", 96), ("resnet50", 96),
        ("resnet18", 64), ("resnet18", 128), ("vgg16", 64),
    )
    for form in ("contiguous", "channels_last")
}  # fmt: skip


def main() -> None:
    """Measure all rows of the parts that are named, or one row."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("parts", nargs="*", default=["loss", "optimizers", "formats"])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=5)
    arguments.add_argument("--row", help="measure this one row in this process")
    asked = arguments.parse_args()
    parts = {
        "loss": (_loss, LOSSES),
        "optimizers": (_optimizer, OPTIMIZERS),
        "formats": (_format, FORMATS),
    }
    for part in asked.parts:
        work, rows = parts[part]
        if asked.row is not None:
            torch.set_num_threads(asked.threads)
            torch.manual_seed(0)
            _measure(asked.row, work(*rows[asked.row]), asked.steps)
            continue
        print(f"{part:32} {'CPU ms':>9} {'extra MiB':>10}")
        options = ["--threads", str(asked.threads), "--steps", str(asked.steps)]
        for row in rows:
            subprocess.run([sys.executable, __file__, part, *options, "--row", row], check=True)


def _measure(name: str, step: Callable[[], None], steps: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(steps + 1):
        started = time.process_time()  # of all threads: not disturbed by others on the machine
        step()
        seconds.append(time.process_time() - started)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    print(f"{name:32} {1000 * statistics.median(seconds[1:]):9.1f} {extra:10.0f}", flush=True)


def _loss(images: int, side: int, classes: int, form: str) -> Callable[[], None]:
    coarse = torch.randn(images, classes, side // 8, side // 8, requires_grad=True)
    label = torch.randint(0, classes, (images, side, side))
    shares = UpsamplingStep(8, 3.5, clamps=True).shares(side // 8, range(side))
    upsampling = Bilinear(shares, shares)

    def step() -> None:
        losses = (
            image_losses(upsampling.of(coarse), label)
            if form == "plain"
            else upsampled_losses(coarse, upsampling, label)
        )
        losses.sum().backward()

    return step


def _optimizer(trunk: str, name: str, form: str) -> Callable[[], None]:
    parameters = list(_segmenter(trunk).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    extra = {"momentum": 0.9} if name == "SGD" else {}
    kind = getattr(torch.optim, name)
    return kind(parameters, lr=1e-3, foreach=form == "foreach", fused=form == "fused", **extra).step


def _format(trunk: str, side: int, form: str) -> Callable[[], None]:
    memory_format = getattr(torch, f"{form}_format" if form == "contiguous" else form)
    segmenter = _segmenter(trunk)
    segmenter.trunk.to(memory_format=memory_format)
    image = torch.rand(4, 3, side, side).contiguous(memory_format=memory_format)
    label = torch.randint(0, 21, (4, side, side))

    def step() -> None:
        maps = sorted(segmenter.trunk(image).values(), key=lambda m: m.shape[-1])  # coarse to fine
        coarse: Tensor = segmenter.head(tuple(maps))
        bilinear = segmenter.head.bilinear_to(coarse, (side, side))
        assert bilinear is not None
        upsampled_losses(coarse, bilinear, label).sum().backward()

    return step


def _segmenter(trunk: str) -> Segmenter:
    card = read_card(built_in_root() / "backbones" / f"{trunk}.yaml", BackboneCard)
    head = HEADS["fcn8s" if 32 in card.strides else "fcn4s_from16"]
    return build_segmenter(card, head, Model(weights="none"), 21)


if __name__ == "__main__":
    main()
