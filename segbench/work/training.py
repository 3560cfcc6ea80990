"""The training of one trial: where its batches come from, what weighs its classes, what it starts from.

The loop itself is engine/train.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segbench.data.batches import training_batches, training_positions
from segbench.data.split import SegmentationSplit
from segbench.engine import ranks
from segbench.engine.checkpoint import load_weights
from segbench.engine.evaluate import naming, reindexed, scored_label
from segbench.engine.features import CachedFeatures, Squash, cached_features
from segbench.engine.loss import labelled_pixels, loss_weights
from segbench.engine.loss_kinds import losses_of
from segbench.engine.predict import score_map
from segbench.engine.train import (
    Batch,
    BatchSource,
    Hooks,
    Interrupted,
    train,
)
from segbench.errors import DataError
from segbench.files import digest
from segbench.models.segmenter import Segmenter
from segbench.models.trunk import check_not_random
from segbench.runs import trial_files
from segbench.schema.matched import matched_classes
from segbench.schema.protocol import Protocol
from segbench.schema.trial import IDENTITY_VERSION, Trial
from segbench.work.phases import TrialContext, open_part


def train_trial(
    work: TrialContext, segmenter: Segmenter, protocols: tuple[Protocol, ...]
) -> tuple[float, int, str]:
    """Train; return the last loss, the optimizer steps of this attempt, the data's fingerprint.

    Raises:
        DataError: there is nothing to learn from.
        Interrupted: `work.stops` said so; the state is saved.
    """
    trial, recipe = work.trial, work.trial.train
    if trial.start_from is not None:
        _start_from(segmenter, work.workdir.parent / trial.start_from / trial_files.WEIGHTS)
    split = _training_split(work)
    caches = recipe.cache_features
    source = _feature_source(work, segmenter, split) if caches else _image_source(work, split)
    steps_done = reached = 0

    def on_step(step: int, loss: float | None) -> None:
        nonlocal steps_done, reached
        steps_done, reached = steps_done + 1, step
        work.report(step=step, **({} if loss is None else {"loss": loss}))

    def should_stop() -> bool:
        pause = work.stops.pause_at_step
        return work.stops.should_stop() or (pause is not None and reached >= pause)

    class_weights = _class_weights(work, split)
    work.report(phase="train", step=0, steps=recipe.steps)
    validation_loss = _validation_loss(work, segmenter, protocols, class_weights)
    loss = train(
        segmenter,
        recipe,
        source,
        folder=work.workdir,
        monitor=work.machine.monitor,
        device=work.device,
        hooks=Hooks(on_step, should_stop, validation_loss),
        class_weights=class_weights,
    )
    return loss, steps_done, split.fingerprint


def _training_split(work: TrialContext) -> SegmentationSplit:
    card, recipe = work.trial.dataset, work.trial.train
    with ranks.first_before_others():  # one converts what nobody has converted yet
        split = open_part(work, card, recipe.split, max_images=recipe.max_images)
    if len(split) == 0:
        raise DataError(
            f"{card.name} {recipe.split}: has no images to train on; look at the card's list and "
            "patterns, and at what its view leaves out"
        )
    if not split.class_pixels().any():
        raise DataError(f"{card.name} {recipe.split}: every pixel is void: nothing to learn")
    return split


def _start_from(segmenter: Segmenter, path: Path) -> None:
    """Copy what has the same name and shape; the layers that are new keep their initial values."""
    own = segmenter.state_dict()
    found = {
        name: tensor
        for name, tensor in load_weights(path).items()
        if name in own and own[name].shape == tensor.shape
    }
    segmenter.load_state_dict(found, strict=False)


def _image_source(work: TrialContext, split: SegmentationSplit) -> BatchSource:
    def batches(first: int, last: int) -> Iterator[Batch]:
        recipe = work.trial.train
        for batch in training_batches(
            split,
            recipe.images,
            seed=work.trial.seed,
            batch_size=recipe.batch_size,
            first_step=first,
            last_step=last,
            loader_workers=work.machine.loader_workers,
            rank=ranks.rank(),
            ranks=ranks.count(),
            pinned=work.device.type == "cuda",
        ):
            yield Batch(batch.image, batch.label)

    return batches


def _feature_source(
    work: TrialContext, segmenter: Segmenter, split: SegmentationSplit
) -> BatchSource:
    """Return batches of feature maps; the random draws are those of the images' batches."""
    trial, recipe = work.trial, work.trial.train
    assert recipe.images.squash is not None  # Recipe checks it
    squash = Squash(recipe.images.squash, recipe.images.resize)
    check_not_random(trial.backbone, segmenter.trunk)
    work.report(phase="features", step=0, steps=len(split))

    def on_image(done: int) -> None:
        work.report(step=done)
        if done < len(split) and work.stops.should_stop():  # there is no state to save yet
            raise Interrupted

    with ranks.first_before_others():
        features: CachedFeatures = cached_features(
            segmenter,
            split,
            squash,
            strides=trial.head.strides,
            folder=Path(work.machine.cache) / "features" / _features_name(trial, split, squash),
            device=work.device,
            on_image=on_image,
        )
    mine = slice(ranks.rank(), None, ranks.count())

    def batches(first: int, last: int) -> Iterator[Batch]:
        for step in range(first, last):
            indices, flipped = training_positions(
                len(split), recipe.images, seed=trial.seed, batch_size=recipe.batch_size, step=step
            )
            yield Batch(*features.batch(indices[mine], flipped[mine]))

    return batches


def _features_name(trial: Trial, split: SegmentationSplit, squash: Squash) -> str:
    """Return a digest of all that cached features depend on."""
    parts = {name: part.identity_digest() for name, part in trial.parts().items()}
    key = {name: parts.get(name) for name in ("backbone", "model", "weights")}
    # A trunk that is drawn, or that another trial trained, is this trial's own.
    own = () if "weights" in parts and trial.start_from is None else (trial.id(),)
    made_of = (trial.code,) if trial.code else ()
    return digest([IDENTITY_VERSION, key, *made_of, split.fingerprint, squash, *own], length=16)


def _class_weights(work: TrialContext, split: SegmentationSplit) -> Tensor | None:
    """Return the loss weight of each class: total / (classes x pixels of the class)."""
    if work.trial.train.class_weights == "none":
        return None
    pixels = np.asarray(split.class_pixels(), dtype=np.float64)
    weights = np.where(pixels > 0, pixels.sum() / (len(pixels) * np.maximum(pixels, 1)), 0.0)
    return torch.from_numpy(weights).float()


def _validation_loss(
    work: TrialContext,
    segmenter: Segmenter,
    protocols: tuple[Protocol, ...],
    class_weights: Tensor | None,
) -> Callable[[], float] | None:
    """Return a function that measures the loss on the first images of the reported split.

    It is the training's loss, of one batch of all these images; `sum` is brought to the images of a
    step. It is drawn in the learning curves and decides nothing. None where there is nothing to report.
    """
    if not protocols or not ranks.is_first():
        return None
    recipe, trained = work.trial.train, work.trial.dataset
    scored, number = protocols[0].scored_card(trained), work.machine.monitor.validate_images
    split = open_part(work, scored, protocols[0].split, max_images=number)
    classes = matched_classes(scored, trained)
    on_device = None if class_weights is None else class_weights.to(work.device)

    @torch.inference_mode()
    def measure() -> float:
        segmenter.eval()
        losses, labelled = torch.zeros(2, len(split), dtype=torch.float64)
        for index in range(len(split)):
            sample = split.sample(index)
            with naming(sample.name):
                scores = score_map(segmenter, sample.image.to(work.device), protocols[0])
            label = reindexed(scored_label(sample.label, protocols[0]), classes)[None].long()
            at_hand = scores[None], label.to(work.device), on_device
            losses[index] = losses_of(recipe.loss, *at_hand)[0]
            labelled[index] = labelled_pixels(label, class_weights)[0]
        total = float((losses * loss_weights(labelled, recipe.loss_reduction)).sum())
        if recipe.loss_reduction == "sum":
            return total / max(len(split), 1) * recipe.batch_size * recipe.accumulate
        return total

    return measure
