"""The rows of `bench.py`: the same work done by a peer and by segbench.

Each row is a function that returns two works, the peer's and ours. Maps, photographs and weights are
drawn, so that nothing is needed but the packages. C classes.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segbench.data.batches import Draws, draws_of, transformed
from segbench.data.split import decoded_image
from segbench.engine.checkpoint import CheckpointWriter
from segbench.engine.counting import boundary_counts, confusion_matrix
from segbench.engine.crf import refine, refined_predictions
from segbench.engine.features import CachedFeatures
from segbench.engine.loss import image_losses
from segbench.engine.predict import predict
from segbench.engine.train import Batch, Hooks, train
from segbench.engine.upsampled_loss import upsampled_losses
from segbench.engine.upsampled_prediction import upsampled_prediction
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.upsampling import Bilinear, UpsamplingStep
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import built_in_root, read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.machine import Monitor
from segbench.schema.protocol import Crf, Protocol
from segbench.schema.recipe import Optimizer, Recipe, TrainImages, TrainStage

Work = Callable[[], object]  # may return what is to be done after it, which is not measured
QUIET = Monitor(log_every_steps=20, checkpoint_every_steps=10**9)


class Bar(NamedTuple):
    """What ours is to reach. `times`: the peer's time over ours, at least; `ms`, `ms more`: at most."""

    kind: Literal["times", "ms", "ms more"]
    value: float


class Row(NamedTuple):
    """works: makes the peer's and our work. per: how many units one call does. clock: what the bar is of."""

    peer: str
    works: Callable[[], tuple[Work, Work]]
    bar: Bar
    rounds: int = 9
    per: int = 1
    clock: Literal["cpu", "wall"] = "cpu"


def _maps(classes: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return an int64 prediction and a uint8 label of blobs, with void and predictions of no class."""
    generator = torch.Generator().manual_seed(0)
    *images, height, width = size
    small = torch.randint(
        0, classes, (*images, height // 16 + 1, width // 16 + 1), generator=generator
    )
    label = small.repeat_interleave(16, -2).repeat_interleave(16, -1)[..., :height, :width].clone()
    prediction = label.roll(3, -1)
    wrong = torch.rand(size, generator=generator) < 0.1
    prediction[wrong] = torch.randint(0, classes + 2, (int(wrong.sum()),), generator=generator)
    label[torch.rand(size, generator=generator) < 0.05] = 255
    return prediction, label.to(torch.uint8)


def _confusion(classes: int) -> tuple[Work, Work]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    prediction, label = _maps(classes, (8, 512, 512))
    known, true = prediction.clamp(max=classes), label.long()  # its own classes take one more

    def peer() -> Tensor:
        return multiclass_confusion_matrix(
            known, true, classes + 1, ignore_index=255, validate_args=False
        )

    assert torch.equal(peer()[:classes], confusion_matrix(prediction, label, classes))
    return peer, lambda: confusion_matrix(prediction, label, classes)


def _boundary() -> tuple[Work, Work]:
    prediction, label = _maps(21, (375, 500))
    return (
        lambda: confusion_matrix(prediction, label, 21),
        lambda: boundary_counts(prediction, label, 21, width_px=12),
    )


def _upsampling(side: int) -> Bilinear:
    shares = UpsamplingStep(8, 3.5, clamps=True).shares(side // 8, range(side))
    return Bilinear(shares, shares)


def _prediction(classes: int) -> tuple[Work, Work]:
    coarse, upsampling = torch.randn(classes, 60, 60), _upsampling(480)

    def peer() -> Tensor:
        return F.interpolate(coarse[None], (480, 480), mode="bilinear")[0].argmax(0)

    return peer, lambda: upsampled_prediction(coarse, upsampling)


def _loss(images: int, side: int, classes: int) -> tuple[Work, Work]:
    coarse = torch.randn(images, classes, side // 8, side // 8, requires_grad=True)
    label, upsampling = torch.randint(0, classes, (images, side, side)), _upsampling(side)
    return (
        lambda: image_losses(upsampling.of(coarse), label).sum().backward(),
        lambda: upsampled_losses(coarse, upsampling, label).sum().backward(),
    )


def _photograph(seed: int) -> tuple[bytes, bytes]:
    """Return a JPEG of 375x500 with the detail of a photograph, and a PNG label."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (s, s, 3), dtype=np.uint8)).resize((500, 375))
        )
        for s in (8, 64, 375)
    ]
    pixels = sum(
        w * layer.astype(np.float32) for w, layer in zip((0.7, 0.2, 0.1), layers, strict=True)
    )
    files = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(files[0], "JPEG", quality=90)
    Image.fromarray(_maps(21, (375, 500))[1].numpy()).save(files[1], "PNG", compress_level=3)
    return files[0].getvalue(), files[1].getvalue()


def _pair() -> tuple[Work, Work]:
    """The peer: RandomResize, RandomHorizontalFlip, RandomCrop and PILToTensor of torchvision's references."""
    pairs = [_photograph(seed) for seed in range(20)]
    images = TrainImages(scale=(0.5, 2.0), flip=True, crop=(480, 480))
    draws = [draws_of(images, 0, position) for position in range(len(pairs))]

    def ours() -> None:
        for (image, label), drawn in zip(pairs, draws, strict=True):
            with Image.open(io.BytesIO(label)) as opened:
                classes = torch.from_numpy(np.array(opened))
            transformed(decoded_image(image), classes, images, drawn)

    return lambda: [_as_references(*p, d) for p, d in zip(pairs, draws, strict=True)], ours


def _as_references(image: bytes, label: bytes, drawn: Draws) -> tuple[Tensor, Tensor]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as vision

    seen, target = Image.open(io.BytesIO(image)).convert("RGB"), Image.open(io.BytesIO(label))
    size = int(min(seen.size) * drawn.scale)
    seen = vision.resize(seen, [size], antialias=True)
    target = vision.resize(target, [size], interpolation=InterpolationMode.NEAREST)
    if drawn.is_flipped:
        seen, target = vision.hflip(seen), vision.hflip(target)
    padding = [0, 0, max(480 - seen.width, 0), max(480 - seen.height, 0)]
    seen, target = vision.pad(seen, padding, fill=0), vision.pad(target, padding, fill=255)
    top = int(drawn.crop_top * (seen.height - 479))
    left = int(drawn.crop_left * (seen.width - 479))
    part = top, left, 480, 480
    return (
        vision.pil_to_tensor(vision.crop(seen, *part)),
        torch.as_tensor(np.array(vision.crop(target, *part)), dtype=torch.int64),
    )


def _segmenter(trunk: str, classes: int = 21) -> Segmenter:
    card = read_card(built_in_root() / "backbones" / f"{trunk}.yaml", BackboneCard)
    return build_segmenter(card, HEADS["fcn8s"], Model(weights="none"), classes)


def _training(side: int, images: int, steps: int) -> tuple[Work, Work]:
    """So many steps of Adam on one batch in memory, by a bare loop and by `train`."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator),
        torch.randint(0, 21, (images, side, side), generator=generator),
    )
    recipe = Recipe(
        batch_size=images,
        images=TrainImages(crop=(side, side)),
        stages=(TrainStage(name="all", steps=steps, optimizer=Optimizer(name="adam", lr=1e-4)),),
    )
    bare, full = _segmenter("resnet18"), _segmenter("resnet18")
    optimizer = torch.optim.Adam(bare.parameters(), lr=1e-4, fused=True)

    def peer() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            assert isinstance(batch.inputs, Tensor)
            coarse, upsampling = bare.coarse_score_map(batch.inputs.float() / 255)
            assert upsampling is not None
            losses = upsampled_losses(coarse, upsampling, batch.label)
            (losses.sum() / (batch.label != 255).sum()).backward()
            optimizer.step()

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(
                full, recipe, lambda first, last: iter([batch] * (last - first)),
                folder=Path(folder), monitor=QUIET, device=torch.device("cpu"),
                hooks=Hooks(lambda *_: None, lambda: False),
            )  # fmt: skip

    return peer, ours


def _scoring() -> tuple[Work, Work]:
    model = _segmenter("resnet18", 150).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 480, 480), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 150, (5, 480, 480), dtype=torch.uint8, generator=generator)

    @torch.inference_mode()
    def peer() -> None:
        for image in images:
            model(image[None].float() / 255)[0].argmax(0)

    def ours() -> None:
        for image, label in zip(images, labels, strict=True):
            confusion_matrix(predict(model, image, Protocol()), label, 150)

    return peer, ours


def _imports() -> tuple[Work, Work]:
    def importing(module: str) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    return importing("torch"), importing("segbench.work.worker")


def _features() -> tuple[Work, Work]:
    """Sixteen images of 321 px; the peer indexes the arrays, which are in memory."""
    rng = np.random.default_rng(0)
    shapes = ((512, 20, 20), (256, 40, 40), (64, 80, 80))
    maps = tuple(
        rng.random((32, 2, *shape), dtype=np.float32).astype(np.float16) for shape in shapes
    )
    found = CachedFeatures(maps, rng.integers(0, 21, (32, 321, 321), dtype=np.uint8))
    indices, flipped = torch.arange(0, 32, 2), torch.arange(16) % 2 == 0
    rows, sides = indices.numpy(), flipped.numpy().astype(np.int64)
    return (
        lambda: [torch.from_numpy(array[rows, sides]).float() for array in maps],
        lambda: found.batch(indices, flipped),
    )


def _checkpoint() -> tuple[Work, Work]:
    """1 GiB: how long the training stands still. The peer is torch.save."""
    state = {str(index): torch.rand(2**24) for index in range(16)}
    folder = tempfile.TemporaryDirectory()  # removed with the works
    writer = CheckpointWriter(Path(folder.name))

    def ours() -> Work:
        writer.save(state)
        return writer.wait

    return lambda: torch.save(state, Path(folder.name) / "peer.ckpt"), ours


def _crf() -> tuple[Work, Work]:
    crf, rng = Crf(), np.random.default_rng(0)
    image = rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)
    probabilities = torch.randn(21, 375, 500).softmax(0).numpy()
    work = [((image, probabilities), crf)] * 8
    return (
        lambda: [refine(*maps, crf).argmax(0) for maps, crf in work],
        lambda: list(refined_predictions(work, processes=2)),
    )


_COUNTING = "torchmetrics"
_WHOLE = "interpolate + argmax"
ROWS: dict[str, Row] = {
    **{
        f"confusion matrix, 8 x 512x512, C {c}": Row(
            _COUNTING, lambda c=c: _confusion(c), Bar("times", 4)
        )
        for c in (21, 150, 171)
    },
    **{
        f"stride-8 map to prediction, 480x480, C {c}": Row(
            _WHOLE, lambda c=c: _prediction(c), Bar("ms", most)
        )
        for c, most in ((21, 20), (150, 85), (171, 100))
    },
    "boundary counts, 375x500, C 21": Row("confusion matrix", _boundary, Bar("ms", 4)),
    "loss and gradient, 8 x 512 px, C 150": Row(
        "whole map", lambda: _loss(8, 512, 150), Bar("ms", 900), rounds=3
    ),
    "loss and gradient, 8 x 480 px, C 21": Row(
        "whole map", lambda: _loss(8, 480, 21), Bar("times", 1), rounds=5
    ),
    "read, scale 0.5-2, flip, crop 480": Row("torchvision's references", _pair, Bar("ms", 3), per=20),
    "quickstart step, ResNet-18, 4 x 64 px, Adam": Row(
        "bare loop", lambda: _training(64, 4, 5), Bar("ms", 135), per=5
    ),
    "training step, ResNet-18, 8 x 128 px": Row(
        "bare loop", lambda: _training(128, 8, 5), Bar("times", 1 / 1.03), per=5
    ),
    "scoring, ResNet-18, 480x480, C 150": Row(
        "forward + argmax in memory", _scoring, Bar("times", 1 / 0.8), rounds=5, per=5
    ),
    "a worker's imports": Row("import torch", _imports, Bar("ms more", 800), rounds=5),
    "a batch of 16 cached features": Row("fancy indexing", _features, Bar("ms", 10)),
    "a checkpoint of 1 GiB: training stands still": Row(
        "torch.save", _checkpoint, Bar("ms", 300), rounds=3, clock="wall"
    ),
    "dense CRF, 8 images, two processes": Row(
        "one process", _crf, Bar("times", 1.8), rounds=3, per=8, clock="wall"
    ),
}  # fmt: skip
