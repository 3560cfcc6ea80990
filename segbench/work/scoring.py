"""The scoring of one trial's model: while it is trained, at its end, and ever after."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from segbench.code.own import look_in
from segbench.data.shared import scored_part, shared_images, trained_part
from segbench.data.split import SegmentationSplit, open_scored
from segbench.data.staging import staged
from segbench.engine import ranks
from segbench.engine.checkpoint import load_checkpoint, load_into, load_weights
from segbench.engine.device import chosen_device, make_repeatable
from segbench.engine.evaluate import evaluate, merged
from segbench.engine.train import Interrupted
from segbench.errors import DataError
from segbench.metrics.counts import Counted
from segbench.models.segmenter import Segmenter
from segbench.runs import trial_files
from segbench.runs.trial_files import Evaluation
from segbench.schema.machine import Machine
from segbench.schema.matched import ClassIndices, check_classes, matched_classes
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial
from segbench.work.phases import TrialContext, check_code, new_segmenter


def load_segmenter(
    workdir: Path, machine: Machine, *, with_other_code: bool | None = None
) -> tuple[Trial, Segmenter]:
    """Return a trial that is done and its trained model, in evaluation mode.

    with_other_code: whether the user's code may have changed since the training; None where the
    command has no such flag, so that no sentence names it.

    Raises:
        CardError: it may not, and has; or it is not found.
        DataError: the weights are damaged, or another network's.
    """
    look_in((*machine.code_folders, workdir / "backbones", workdir))
    trial = trial_files.load_trial(workdir)
    if not with_other_code:
        flag = "; --other-code goes on, for a change that alters no prediction"
        check_code(trial, workdir, instead=flag * (with_other_code is not None))
    segmenter = new_segmenter(trial)
    path = workdir / trial_files.WEIGHTS
    load_into(segmenter, load_weights(path), path)
    return trial, segmenter.to(chosen_device(machine)).eval()


def evaluate_trial(
    work: TrialContext, segmenter: Segmenter, protocol: Protocol, *, of: str
) -> None:
    """Score the model under a protocol and write its figures; each rank scores its share.

    of: which of how many protocols this is, for the progress display.

    Raises:
        Interrupted: `work.stops.should_stop` said so; nothing was written.
    """
    trial = work.trial
    with ranks.first_before_others():
        machine = staged(protocol.scored_card(trial.dataset), protocol.split, work.machine)
        split = open_scored(trial.dataset, protocol, machine, if_changed="pass_over")
    source = trial_files.counted_alike(work.workdir, protocol)
    if ranks.agreed(source is not None and source.split_fingerprint == split.fingerprint):
        if source is not None and ranks.is_first():
            trial_files.copy_evaluation(work.workdir, source, protocol, trial.dataset)
        return
    counted = _counted(work, segmenter, protocol, split, of)
    if not ranks.is_first():
        return
    evaluation = _evaluation(counted, trial, protocol, split, work.machine)
    trial_files.write_evaluation(work.workdir, evaluation, counted)


def _counted(
    work: TrialContext, segmenter: Segmenter, protocol: Protocol, split: SegmentationSplit, of: str
) -> Counted:
    """Return the counts of the whole split, each rank's share of it predicted there.

    Raises:
        Interrupted: a rank was told to stop.
    """
    share = split.share(ranks.rank(), ranks.count())
    work.report(phase=f"evaluate {of}", step=0, steps=len(share))

    def on_image(done: int) -> None:
        work.report(step=done)
        if work.stops.should_stop():
            raise Interrupted

    counted: Counted | None = None
    with contextlib.suppress(Interrupted):
        counted = evaluate(
            segmenter,
            share,
            protocol,
            classes=_classes(work.trial, protocol),
            device=work.device,
            on_image=on_image,
        )
    if ranks.any_of(counted is None):
        raise Interrupted
    return merged([part for part in ranks.gathered(counted) if part is not None])


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
    load_into(segmenter, saved["model"], workdir)
    split = open_scored(trial.dataset, protocol, machine, if_changed="pass_over")
    evaluation, _ = scored_on(split, segmenter.to(device), trial, protocol, machine)
    return evaluation


def scored_on(
    split: SegmentationSplit,
    segmenter: Segmenter,
    trial: Trial,
    protocol: Protocol,
    machine: Machine,
    on_image: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Evaluation, Counted]:
    """Return the figures of a trial's model on all that the protocol scores, and their counts.

    split: what `open_scored` gives. segmenter: on the machine's device. on_image(done, of): called
    after each image.
    """
    counted = evaluate(
        segmenter,
        split,
        protocol,
        classes=_classes(trial, protocol),
        device=chosen_device(machine),
        on_image=lambda done: on_image(done, len(split)),
    )
    return _evaluation(counted, trial, protocol, split, machine), counted


def _evaluation(
    counted: Counted,
    trial: Trial,
    protocol: Protocol,
    split: SegmentationSplit,
    machine: Machine,
) -> Evaluation:
    shared = shared_images(trained_part(trial), scored_part(trial, protocol), machine)
    return trial_files.evaluation_of(
        counted,
        trial_id=trial.id(),
        protocol=protocol,
        dataset=trial.dataset,
        split_fingerprint=split.fingerprint,
    ).revised(num_trained_on=None if shared is None else shared.number)


def _classes(trial: Trial, protocol: Protocol) -> ClassIndices:
    """Return the scored index of each of the model's classes.

    Raises:
        CardError: a scored class is none of the model's.
    """
    scored = protocol.scored_card(trial.dataset)
    check_classes(trial.dataset, scored)
    return matched_classes(trial.dataset, scored)
