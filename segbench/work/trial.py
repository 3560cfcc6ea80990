"""`run_trial`: the one function that a worker calls. The same call again continues, or returns at once.

Brings trial, data, model and engine together and writes the trial's folder. Knows nothing of who
called it.
"""

import bdb
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
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segbench.code.version import code_version
from segbench.engine import ranks
from segbench.engine.checkpoint import load_into, load_weights, remove_checkpoints, save_weights
from segbench.engine.cost import forward_flops, forward_ms
from segbench.engine.device import (
    chosen_device,
    device_name,
    make_repeatable,
    peak_memory_mib,
    reset_peak_memory,
)
from segbench.engine.train import AGAINST_DIVERGING, Interrupted
from segbench.errors import (
    DataError,
    DivergedError,
    ResultError,
    SegbenchError,
    TrialError,
    listed,
)
from segbench.files import read_json_lines, remove_leftovers, write_text
from segbench.leases import attempts
from segbench.models.segmenter import Segmenter
from segbench.models.trunk_weights import not_finite
from segbench.models.weights import backbone_weights
from segbench.runs import trial_files
from segbench.runs.attempts import claim_trial
from segbench.runs.trial_files import Provenance, Result
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial
from segbench.work.phases import NEVER, Stops, TrialContext, check_code, new_segmenter, open_part
from segbench.work.scoring import evaluate_trial
from segbench.work.training import train_trial

LOG = logging.getLogger(__name__)
Outcome = Literal["done", "failed", "held", "interrupted", "lost"]
_OF_THE_TRAINING = (
    *("train_seconds", "step_seconds", "peak_memory_mib"),
    *("train_split_fingerprint", "weights_sha256"),
)
_REPORTED_PACKAGES = ("torch", "torchvision", "numpy", "datasets", "pydensecrf2")


def run_trial(
    trial: Trial,
    workdir: Path,
    *,
    machine: Machine,
    protocols: tuple[Protocol, ...],
    stops: Stops = NEVER,
    submitted_code_version: str | None = None,
) -> Outcome:
    """Train the trial and score it under every protocol; do only what is missing.

    In several ranks (`segbench.engine.ranks`) all make the same call; the first claims the trial and
    writes its files, the others write none, but for the failure of their own.

    A failure of the trial (diverged, out of memory, bad data, a bug) becomes a failed Result with
    its traceback on file. `held`: another worker has the trial. `interrupted`: `stops` said so; the
    state is saved. `lost`: another rank is gone.

    Raises:
        ResultError: the folder cannot be written to.
    """

    def attempt(report: Callable[..., None]) -> Outcome:
        def work() -> None:
            device = chosen_device(machine)
            shared = TrialContext(trial, workdir, machine, device, report, stops)
            _run(shared, protocols, submitted_code_version)

        return _outcome(work, trial, workdir)

    if not ranks.is_first():
        return ranks.agreed(None) or attempt(lambda **_: None)
    return _as_holder(trial, workdir, protocols, attempt)


def _as_holder(
    trial: Trial,
    workdir: Path,
    protocols: tuple[Protocol, ...],
    attempt: Callable[[Callable[..., None]], Outcome],
) -> Outcome:
    """Claim the trial and do it, unless it is done or somebody else has it; tell the other ranks."""
    trial_files.write_trial(workdir, trial)
    if trial_files.is_done(workdir, protocols):
        return ranks.agreed("done")
    lease = claim_trial(workdir)
    if lease is None:
        return ranks.agreed("held")
    # The large files are the holder's alone; claims and trial.json others may be writing just now.
    remove_leftovers(workdir, "last.ckpt", trial_files.WEIGHTS)
    with lease, _warnings_told(lease.report):
        if trial_files.is_done(workdir, protocols):  # the holder before us finished meanwhile
            return ranks.agreed("done")
        ranks.agreed(None)
        return attempt(lease.report)


def _outcome(work: Callable[[], None], trial: Trial, workdir: Path) -> Outcome:
    """Do the work; return how it ended, a failure written down."""
    try:
        work()
    except Interrupted:
        return "interrupted"
    except (ResultError, bdb.BdbQuit):
        raise  # the folder takes no files, or somebody looked at the trial and left
    except Exception as error:  # the sweep goes on: whatever a trial dies of is a row
        if ranks.count() > 1 and ranks.is_loss_of_a_rank(error):
            LOG.warning("another rank is gone: %s", error)
            return "lost"
        _write_failure(workdir, trial, error)
        return "failed"
    return "done"


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


class _Training(NamedTuple):
    """How the training went. steps_done: in this attempt; 0 where the weights were there already."""

    loss: float | None
    steps_done: int
    seconds: float
    split_fingerprint: str


def _run(work: TrialContext, protocols: tuple[Protocol, ...], submitted: str | None) -> None:
    started = datetime.now(UTC)
    make_repeatable(work.machine, work.trial.seed)
    reset_peak_memory(work.device)
    check_code(work.trial, work.workdir)
    trunk = backbone_weights(work.trial.backbone, work.trial.model, work.machine)
    segmenter = new_segmenter(work.trial, trunk and trunk.path).to(work.device)
    before = trial_files.load_result(work.workdir)
    training = _bring_to_its_end(work, segmenter, protocols, before)
    evaluate_seconds = _evaluate(work, segmenter, protocols)
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
        train_seconds=round(training.seconds, 3),
        evaluate_seconds=round(evaluate_seconds, 3),
        step_seconds=(
            round(training.seconds / training.steps_done, 6) if training.steps_done else None
        ),
        forward_ms=_forward_ms(work, segmenter, protocols),
        peak_memory_mib=round(peak_memory_mib(work.device), 1),
        train_split_fingerprint=training.split_fingerprint,
        weights_sha256=trunk.sha256 if trunk else "",
        submitted_code_version=submitted,
    )
    trained_before = trial_files.load_provenance(work.workdir)
    if trained_before is not None and not training.steps_done:  # what training cost stays
        provenance = provenance.revised(
            **{name: getattr(trained_before, name) for name in _OF_THE_TRAINING}
        )
    trial_files.write_provenance(work.workdir, provenance)
    (work.workdir / "traceback.txt").unlink(missing_ok=True)
    trial_files.write_result(work.workdir, _result(work, segmenter, training.loss, before))
    remove_checkpoints(work.workdir)


def _evaluate(work: TrialContext, segmenter: Segmenter, protocols: tuple[Protocol, ...]) -> float:
    """Score the model under every protocol that has no figures yet; return the seconds it took."""
    clock = time.perf_counter()
    # those that keep every prediction first: the others copy their counts
    ordered = sorted(protocols, key=lambda protocol: protocol.false_positives != "everywhere")
    for index, protocol in enumerate(ordered):
        if ranks.agreed(trial_files.load_evaluation(work.workdir, protocol) is None):
            evaluate_trial(work, segmenter, protocol, of=f"{index + 1}/{len(protocols)}")
    return time.perf_counter() - clock


def _bring_to_its_end(
    work: TrialContext, segmenter: Segmenter, protocols: tuple[Protocol, ...], before: Result | None
) -> _Training:
    """Give the model its last weights, from their file or by what is left of the training."""
    clock = time.perf_counter()
    weights_path = work.workdir / trial_files.WEIGHTS
    loss, steps_done, fingerprint = (before.final_loss if before else None), 0, ""
    # a shared disk may show a file late to another node, so the first rank alone looks
    weights = ranks.agreed(_sound_weights(weights_path) if ranks.is_first() else None)
    if weights is not None:
        load_into(segmenter, weights, weights_path)
        if before is None:  # killed between the training's end and its record
            loss = next(reversed(_logged_losses(work.workdir)), None)
    else:
        loss, steps_done, fingerprint = train_trial(work, segmenter, protocols)
        if wrong := not_finite(segmenter.state_dict()):  # the last step's loss was still finite
            raise DivergedError(
                f"the trained weights hold NaN or infinity in {listed(wrong, 3)}; {AGAINST_DIVERGING}"
            )
        if ranks.is_first():
            save_weights(weights_path, segmenter.state_dict())
    return _Training(loss, steps_done, time.perf_counter() - clock, fingerprint)


def _result(
    work: TrialContext, segmenter: Segmenter, loss: float | None, before: Result | None
) -> Result:
    training_pixels, training_images = _training_counts(work, before)
    return Result(
        trial_id=work.trial.id(),
        status="done",
        facts=_facts(work.trial, segmenter),
        digests=work.trial.card_digests(),
        first_loss=_first_loss(work, before),
        final_loss=loss if loss is None else round(loss, 9),
        training_pixels=training_pixels,
        training_images=training_images,
    )


def _sound_weights(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a training that has ended; None where there are none, or torn ones."""
    if not path.exists():
        return None
    try:
        return load_weights(path)
    except DataError as error:
        LOG.warning("%s; the training goes on from its last checkpoint, or starts again", error)
        return None


def _training_counts(
    work: TrialContext, before: Result | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many pixels and images of each class were there to train on.

    A trial that was done keeps what it has: who scores it again need not have its training images.
    """
    if before is not None and before.status == "done":
        return before.training_pixels, before.training_images
    trial = work.trial
    split = open_part(work, trial.dataset, trial.train.split, max_images=trial.train.max_images)
    return tuple(split.class_pixels().tolist()), tuple(split.class_images().tolist())


def _logged_losses(workdir: Path) -> list[float]:
    lines = read_json_lines(workdir / "log.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


def _first_loss(work: TrialContext, before: Result | None) -> float | None:
    """Return the first logged loss; none of a training that goes on from another's end."""
    if work.trial.start_from is not None:
        return None
    known = before and before.first_loss
    losses = [known] if known else _logged_losses(work.workdir)
    return round(losses[0], 9) if losses else None


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


def _forward_ms(
    work: TrialContext, segmenter: Segmenter, protocols: tuple[Protocol, ...]
) -> float | None:
    if not protocols:
        return None
    split = open_part(work, protocols[0].scored_card(work.trial.dataset), protocols[0].split)
    measured = forward_ms(segmenter, split, protocols[0], work.device)
    return None if measured is None else round(measured, 3)


def _write_failure(workdir: Path, trial: Trial, error: Exception) -> None:
    LOG.warning("trial %s failed: %s", trial.id(), error)
    write_text(workdir / "traceback.txt", traceback.format_exc())
    is_ours = isinstance(error, SegbenchError)
    trial_files.write_failure(
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
