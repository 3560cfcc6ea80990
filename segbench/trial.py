"""`run_trial`: the one function that a worker calls. The same call again continues, or returns at once.

Brings trial, data, model and engine together and writes the trial's folder. Knows nothing of who
called it.
"""

import contextlib
import logging
import platform
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segbench import results
from segbench.code_version import code_version
from segbench.counts import Counted
from segbench.data.batches import training_batches, training_positions
from segbench.data.split import SegmentationSplit, open_scored, open_split
from segbench.data.staging import staged
from segbench.engine import ranks
from segbench.engine.checkpoint import (
    load_checkpoint,
    load_weights,
    remove_checkpoints,
    save_weights,
)
from segbench.engine.cost import forward_flops, forward_ms
from segbench.engine.device import chosen_device, device_name, make_repeatable, peak_memory_mib
from segbench.engine.evaluate import evaluate, merged, scored_label
from segbench.engine.features import CachedFeatures, cached_features
from segbench.engine.predict import score_map
from segbench.engine.train import (
    Batch,
    BatchSource,
    Hooks,
    Interrupted,
    segmentation_loss,
    train,
)
from segbench.errors import DataError, ResultError, SegbenchError, TrialError
from segbench.files import digest, read_json_lines, remove_leftovers, write_text
from segbench.lease import attempts, claim
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.weights import backbone_weights_path
from segbench.results import Evaluation, Provenance, Result
from segbench.spec.machine import Machine
from segbench.spec.protocol import Protocol
from segbench.spec.trial import IDENTITY_VERSION, Trial

LOG = logging.getLogger(__name__)
Outcome = Literal["done", "failed", "held", "interrupted", "lost"]
_OF_THE_TRAINING = ("train_seconds", "step_seconds", "peak_memory_mib", "train_split_fingerprint")
_REPORTED_PACKAGES = ("torch", "torchvision", "numpy", "datasets", "pydensecrf2")


class _Work(NamedTuple):
    """What the phases of one trial share. report: tells others how far it is."""

    trial: Trial
    workdir: Path
    machine: Machine
    device: torch.device
    report: Callable[..., None]
    should_stop: Callable[[], bool]
    pause_at_step: int | None


def run_trial(
    trial: Trial,
    workdir: Path,
    *,
    machine: Machine,
    protocols: tuple[Protocol, ...],
    should_stop: Callable[[], bool] = lambda: False,
    pause_at_step: int | None = None,
    submitted_code_version: str | None = None,
) -> Outcome:
    """Train the trial and score it under every protocol; do only what is missing.

    In several ranks (`segbench.engine.ranks`) all make the same call; the first claims the trial and
    writes its files, the others write none, but for the failure of their own.

    A failure of the trial (diverged, out of memory, bad data, a bug) becomes a failed Result with
    its traceback on file. `held`: another worker has the trial. `interrupted`: `should_stop` said
    so, or the training came to `pause_at_step` before its end; the state is saved. `lost`: another
    rank is gone.

    Raises:
        ResultError: the folder cannot be written to.
    """

    def attempt(report: Callable[..., None]) -> Outcome:
        try:
            device = chosen_device(machine)
            work = _Work(trial, workdir, machine, device, report, should_stop, pause_at_step)
            _run(work, protocols, submitted_code_version)
        except Interrupted:
            return "interrupted"
        except ResultError:
            raise  # nothing can be recorded in a folder that takes no files
        except Exception as error:  # the sweep goes on: whatever a trial dies of is a row
            if ranks.count() > 1 and ranks.is_loss_of_a_rank(error):
                LOG.warning("another rank is gone: %s", error)
                return "lost"
            _write_failure(workdir, trial, error)
            return "failed"
        return "done"

    if not ranks.is_first():
        return ranks.agreed(None) or attempt(lambda **_: None)
    results.write_trial(workdir, trial)
    if results.is_done(workdir, protocols):
        return ranks.agreed("done")
    lease = claim(workdir)
    if lease is None:
        return ranks.agreed("held")
    # The large files are the holder's alone; claims and trial.json others may be writing just now.
    remove_leftovers(workdir, "last.ckpt", results.WEIGHTS)
    with lease, _warnings_told(lease.report):
        if results.is_done(workdir, protocols):  # the holder before us finished meanwhile
            return ranks.agreed("done")
        ranks.agreed(None)
        return attempt(lease.report)


@contextlib.contextmanager
def _warnings_told(report: Callable[..., None]) -> Iterator[None]:
    """Put what segbench warns of into the heartbeat: a log is read by nobody who saw no failure."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: report(note=record.getMessage())
    logger = logging.getLogger("segbench")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _run(work: _Work, protocols: tuple[Protocol, ...], submitted: str | None) -> None:
    started = datetime.now(UTC)
    make_repeatable(work.machine, work.trial.seed)
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(work.device)
    trunk_path = backbone_weights_path(work.trial.backbone, work.trial.model, work.machine)
    segmenter = new_segmenter(work.trial, trunk_path).to(work.device)
    clock = time.perf_counter()
    weights_path = work.workdir / results.WEIGHTS
    before = results.load_result(work.workdir)
    loss, steps_done, fingerprint = (before.final_loss if before else None), 0, ""
    # a shared disk may show a file late to another node, so the first rank alone looks
    weights = ranks.agreed(_sound_weights(weights_path) if ranks.is_first() else None)
    if weights is not None:
        segmenter.load_state_dict(weights)
        if before is None:  # killed between the training's end and its record
            loss = _last_logged_loss(work.workdir)
    else:
        loss, steps_done, fingerprint = _train(work, segmenter, protocols)
        if ranks.is_first():
            save_weights(weights_path, segmenter.state_dict())
    train_seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    for index, protocol in enumerate(protocols):
        if ranks.agreed(results.load_evaluation(work.workdir, protocol) is None):
            _evaluate(work, segmenter, protocol, of=f"{index + 1}/{len(protocols)}")
    evaluate_seconds = time.perf_counter() - clock
    if not ranks.is_first():
        return
    provenance = Provenance(
        code_version=code_version(),
        packages=_package_versions(),
        device=device_name(work.device),
        host=socket.gethostname(),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        attempts=attempts(work.workdir),
        train_seconds=round(train_seconds, 3),
        evaluate_seconds=round(evaluate_seconds, 3),
        step_seconds=round(train_seconds / steps_done, 6) if steps_done else None,
        forward_ms=_forward_ms(work, segmenter, protocols),
        peak_memory_mib=round(peak_memory_mib(work.device), 1),
        train_split_fingerprint=fingerprint,
        submitted_code_version=submitted,
    )
    trained_before = results.load_provenance(work.workdir)
    if trained_before is not None and not steps_done:  # scored again: what training cost stays
        provenance = provenance.revised(
            **{name: getattr(trained_before, name) for name in _OF_THE_TRAINING}
        )
    results.write_provenance(work.workdir, provenance)
    (work.workdir / "traceback.txt").unlink(missing_ok=True)
    training_pixels, training_images = _training_counts(work, before)
    results.write_result(
        work.workdir,
        Result(
            trial_id=work.trial.id(),
            status="done",
            facts=_facts(work.trial, segmenter),
            digests=work.trial.card_digests(),
            final_loss=loss if loss is None else round(loss, 9),
            training_pixels=training_pixels,
            training_images=training_images,
        ),
    )
    remove_checkpoints(work.workdir)


def _sound_weights(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a training that has ended; None where there are none, or torn ones."""
    if not path.exists():
        return None
    try:
        return load_weights(path)
    except DataError as error:
        LOG.warning("%s; the training goes on from its last checkpoint, or starts again", error)
        return None


def _training_counts(work: _Work, before: Result | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many pixels and images of each class were there to train on.

    A trial that was done keeps what it has: who scores it again need not have its training images.
    """
    if before is not None and before.status == "done":
        return before.training_pixels, before.training_images
    trial = work.trial
    split = _open(work, trial.train.split, max_images=trial.train.max_images)
    return tuple(split.class_pixels().tolist()), tuple(split.class_images().tolist())


def _open(work: _Work, split: str, **chosen: Any) -> SegmentationSplit:
    """Return a split, from the node's own disk where the machine names one."""
    card = work.trial.dataset
    return open_split(card, split, staged(card, split, work.machine), **chosen)


def _last_logged_loss(workdir: Path) -> float | None:
    lines = read_json_lines(workdir / "log.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    return losses[-1] if losses else None


def new_segmenter(trial: Trial, weights_path: Path | None = None) -> Segmenter:
    """Return the trial's model before its first step, drawn from torch's global generator.

    weights_path: the file of the trunk's weights; None where they are loaded afterwards, or drawn.
    """
    return build_segmenter(
        trial.backbone,
        trial.head,
        trial.model,
        trial.dataset.num_classes,
        weights_path=weights_path,
    )


def load_segmenter(workdir: Path, machine: Machine) -> tuple[Trial, Segmenter]:
    """Return a trial that is done and its trained model, in evaluation mode."""
    trial = results.load_trial(workdir)
    segmenter = new_segmenter(trial)
    segmenter.load_state_dict(load_weights(workdir / results.WEIGHTS))
    return trial, segmenter.to(chosen_device(machine)).eval()


def _train(
    work: _Work, segmenter: Segmenter, protocols: tuple[Protocol, ...]
) -> tuple[float, int, str]:
    """Train; return the last loss, the optimizer steps of this attempt, the data's fingerprint."""
    trial, recipe = work.trial, work.trial.train
    if trial.start_from is not None:
        _start_from(segmenter, work.workdir.parent / trial.start_from / results.WEIGHTS)
    with ranks.first_before_others():  # one converts what nobody has converted yet
        split = _open(work, recipe.split, max_images=recipe.max_images)
    if len(split) == 0:
        raise DataError(f"{trial.dataset.name} {recipe.split}: has no images to train on")
    if not split.class_pixels().any():
        raise DataError(
            f"{trial.dataset.name} {recipe.split}: every pixel is void: nothing to learn"
        )
    source = (
        _feature_source(work, segmenter, split)
        if recipe.cache_features
        else (_image_source(work, split))
    )
    steps_done = reached = 0

    def on_step(step: int, loss: float | None) -> None:
        nonlocal steps_done, reached
        steps_done, reached = steps_done + 1, step
        work.report(step=step, **({} if loss is None else {"loss": loss}))

    def should_stop() -> bool:
        return work.should_stop() or (
            work.pause_at_step is not None and reached >= work.pause_at_step
        )

    work.report(phase="train", step=0, steps=recipe.steps)
    loss = train(
        segmenter,
        recipe,
        source,
        folder=work.workdir,
        monitor=work.machine.monitor,
        device=work.device,
        hooks=Hooks(on_step, should_stop, _validation_loss(work, segmenter, protocols)),
        class_weights=_class_weights(work, split),
    )
    return loss, steps_done, split.fingerprint


def _start_from(segmenter: Segmenter, path: Path) -> None:
    """Copy what has the same name and shape; the layers that are new keep their initial values."""
    own = segmenter.state_dict()
    found = {
        name: tensor
        for name, tensor in load_weights(path).items()
        if name in own and own[name].shape == tensor.shape
    }
    segmenter.load_state_dict(found, strict=False)


def _image_source(work: _Work, split: SegmentationSplit) -> BatchSource:
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
        ):
            yield Batch(batch.image.to(work.device, non_blocking=True).float() / 255, batch.label)

    return batches


def _feature_source(work: _Work, segmenter: Segmenter, split: SegmentationSplit) -> BatchSource:
    """Return batches of feature maps; the random draws are those of the images' batches."""
    trial, recipe = work.trial, work.trial.train
    squash = recipe.images.squash
    assert squash is not None  # Recipe checks it
    work.report(phase="features", step=0, steps=len(split))
    parts = {name: part.identity_digest() for name, part in trial.parts().items()}
    key = {name: parts.get(name) for name in ("backbone", "model", "weights")}
    # A trunk that is drawn, or that another trial trained, is this trial's own.
    own = () if "weights" in parts and trial.start_from is None else (trial.id(),)

    def on_image(done: int) -> None:
        work.report(step=done)
        if done < len(split) and work.should_stop():  # there is no state to save yet
            raise Interrupted

    name = digest([IDENTITY_VERSION, key, split.fingerprint, squash, *own], length=16)
    with ranks.first_before_others():
        features: CachedFeatures = cached_features(
            segmenter,
            split,
            squash,
            strides=trial.head.strides,
            folder=Path(work.machine.cache) / "features" / name,
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


def _class_weights(work: _Work, split: SegmentationSplit) -> Tensor | None:
    """Return the loss weight of each class: total / (classes x pixels of the class)."""
    if work.trial.train.class_weights == "none":
        return None
    pixels = np.asarray(split.class_pixels(), dtype=np.float64)
    weights = np.where(pixels > 0, pixels.sum() / (len(pixels) * np.maximum(pixels, 1)), 0.0)
    return torch.from_numpy(weights).float().to(work.device)


def _validation_loss(
    work: _Work, segmenter: Segmenter, protocols: tuple[Protocol, ...]
) -> Callable[[], float] | None:
    """Return a function that measures the loss on the first images of the reported split.

    It is drawn in the learning curves and decides nothing. None where there is nothing to report.
    """
    if not protocols or not ranks.is_first():
        return None
    split = _open(work, protocols[0].split, max_images=work.machine.monitor.validate_images)

    @torch.inference_mode()
    def measure() -> float:
        segmenter.eval()
        total = 0.0
        for index in range(len(split)):
            sample = split.sample(index)
            scores = score_map(segmenter, sample.image.to(work.device), protocols[0])
            label = scored_label(sample.label, protocols[0]).to(work.device)
            total += float(segmentation_loss(scores[None], label[None].long()))
        return total / max(len(split), 1)

    return measure


def _evaluate(work: _Work, segmenter: Segmenter, protocol: Protocol, *, of: str) -> None:
    trial = work.trial
    with ranks.first_before_others():
        machine = staged(trial.dataset, protocol.split, work.machine)
        split = open_scored(trial.dataset, protocol, machine)
    share = split.share(ranks.rank(), ranks.count())
    work.report(phase=f"evaluate {of}", step=0, steps=len(share))

    def on_image(done: int) -> None:
        work.report(step=done)
        if work.should_stop():
            raise Interrupted

    counted: Counted | None = None
    with contextlib.suppress(Interrupted):
        counted = evaluate(
            segmenter,
            share,
            protocol,
            num_classes=trial.dataset.num_classes,
            device=work.device,
            on_image=on_image,
        )
    if ranks.any_of(counted is None):
        raise Interrupted
    counted = merged([part for part in ranks.gathered(counted) if part is not None])
    if not ranks.is_first():
        return
    evaluation = results.evaluation_of(
        counted,
        trial_id=trial.id(),
        protocol=protocol,
        dataset=trial.dataset,
        split_fingerprint=split.fingerprint,
    )
    results.write_evaluation(work.workdir, evaluation, counted)


def score_checkpoint(
    trial: Trial, workdir: Path, machine: Machine, protocol: Protocol
) -> Evaluation:
    """Return the figures of a training that is under way, from its newest checkpoint.

    Raises:
        DataError: there is no sound checkpoint.
    """
    device = chosen_device(machine)
    make_repeatable(machine, trial.seed)
    saved = load_checkpoint(workdir, device)
    if saved is None:
        raise DataError(f"{workdir}: holds no sound checkpoint to score")
    segmenter = new_segmenter(trial)
    segmenter.load_state_dict(saved["model"])
    evaluation, _ = scored_on(segmenter.to(device), trial, protocol, machine)
    return evaluation


def scored_on(
    segmenter: Segmenter,
    trial: Trial,
    protocol: Protocol,
    machine: Machine,
    on_image: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Evaluation, Counted]:
    """Return the figures of a trial's model on all that the protocol scores, and their counts.

    segmenter: on the machine's device. on_image(done, of): called after each image.

    Raises:
        DataError: the split's files are not here.
    """
    split = open_scored(trial.dataset, protocol, machine)
    counted = evaluate(
        segmenter,
        split,
        protocol,
        num_classes=trial.dataset.num_classes,
        device=chosen_device(machine),
        on_image=lambda done: on_image(done, len(split)),
    )
    evaluation = results.evaluation_of(
        counted,
        trial_id=trial.id(),
        protocol=protocol,
        dataset=trial.dataset,
        split_fingerprint=split.fingerprint,
    )
    return evaluation, counted


def _facts(trial: Trial, segmenter: Segmenter) -> dict[str, float]:
    parameters = {name: p.numel() for name, p in segmenter.named_parameters()}
    kinds = segmenter.parameter_kinds()
    return {
        "num_classes": trial.dataset.num_classes,
        "parameters": sum(parameters.values()),
        "backbone_parameters": sum(
            n for name, n in parameters.items() if kinds[name] == "backbone"
        ),
        "flops": forward_flops(segmenter),
        "training_steps": trial.train.steps,
    }


def _forward_ms(work: _Work, segmenter: Segmenter, protocols: tuple[Protocol, ...]) -> float | None:
    if not protocols:
        return None
    split = _open(work, protocols[0].split)
    measured = forward_ms(segmenter, split, protocols[0], work.device)
    return None if measured is None else round(measured, 3)


def _write_failure(workdir: Path, trial: Trial, error: Exception) -> None:
    LOG.warning("trial %s failed: %s", trial.id(), error)
    write_text(workdir / "traceback.txt", traceback.format_exc())
    is_ours = isinstance(error, SegbenchError)
    results.write_failure(
        workdir,
        trial.id(),
        kind=_kind(error),
        message=f"{error}" if is_ours else f"{type(error).__name__}: {error}",
        digests=trial.card_digests(),
    )


def _kind(error: Exception) -> str:
    if isinstance(error, TrialError):
        return error.kind
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    return "data" if isinstance(error, DataError) else "error"


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _REPORTED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
