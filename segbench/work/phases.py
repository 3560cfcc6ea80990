"""What the phases of one trial share: its records, its folder, its machine, its model before a step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segbench.code.own import code_in_use, difference
from segbench.data.split import SegmentationSplit, open_split
from segbench.data.staging import staged
from segbench.errors import CardError
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.trial import Trial


class Stops(NamedTuple):
    """When a worker leaves a trial before its end, its state saved.

    should_stop: asked after every optimizer step and image. pause_at_step: a step of the training.
    """

    should_stop: Callable[[], bool] = lambda: False
    pause_at_step: int | None = None


NEVER = Stops()


class TrialContext(NamedTuple):
    """What the phases of one trial share. report: tells others how far it is."""

    trial: Trial
    workdir: Path
    machine: Machine
    device: torch.device
    report: Callable[..., None]
    stops: Stops


def open_part(
    work: TrialContext, card: DatasetCard, split: str, **chosen: Any
) -> SegmentationSplit:
    """Return a split, from the node's own disk where the machine names one."""
    machine = staged(card, split, work.machine)
    return open_split(card, split, machine, if_changed="pass_over", **chosen)


def check_code(trial: Trial, workdir: Path, *, instead: str = "") -> None:
    """Compare the user's code as it is here with what the trial was planned or trained with.

    instead: how else the command that asks can go on, for the sentence.

    Raises:
        CardError: it has changed, or is not found.
    """
    changed = difference(trial.code, code_in_use(trial.functions))
    if changed:
        raise CardError(
            f"{workdir}: was made from other code than is here: {changed}; put that code back, or "
            f"start segbench run, which trains what has changed as a new trial{instead}"
        )


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
