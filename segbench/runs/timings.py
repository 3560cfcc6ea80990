"""What `segbench time` measured of a run's cells, one after another: `timings.json`. No torch here.

Times that trials measure beside others are no costs: they say how busy the machine was. Knows
nothing of how a time is measured.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import Field

from segbench.runs import trial_files
from segbench.schema.base import Spec
from segbench.schema.trial import TrialId

FILE = "timings.json"
TIMES = ("forward_ms", "step_ms", "training_s")  # the facts that are times, in the order of columns
Milliseconds = Annotated[float, Field(gt=0)]


class Conditions(Spec):
    """What times must have in common to be compared. size: height and width of the image, pixels."""

    device: str
    threads: int
    size: tuple[int, int]
    torch: str


class Timing(Spec):
    """The times of one cell, a value for each round of measuring, in milliseconds.

    trial_id: whose model was timed; a cell that has no such trial any more was not timed.
    forward_ms: from an image to its score map, the median of a round's passes; quartiles_ms: of all
    passes. step_ms: one optimizer step, the mean over the recipe's stages; empty where it was not
    measured. weights: a time does not depend on them.
    """

    axes: dict[str, str]
    trial_id: TrialId
    weights: Literal["trained", "random"]
    forward_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=1)]
    quartiles_ms: tuple[Milliseconds, Milliseconds]
    step_ms: tuple[Milliseconds, ...] = ()
    training_steps: int = 0

    def of_round(self, number: int) -> dict[str, float]:
        """Return the facts that one round measured; a seed of the cell is given one of its own."""
        found = {}
        if number < len(self.forward_ms):
            found["forward_ms"] = self.forward_ms[number]
        if number < len(self.step_ms):
            found |= self._training(self.step_ms[number])
        return found

    def medians(self) -> dict[str, float]:
        """Return the facts as the median over all rounds."""
        training = self._training(median(self.step_ms)) if self.step_ms else {}
        return {"forward_ms": median(self.forward_ms), **training}

    def _training(self, step_ms: float) -> dict[str, float]:
        return {"step_ms": step_ms, "training_s": step_ms * self.training_steps / 1000}


class Timings(Spec):
    """All that was timed of a run under one set of conditions.

    load: processes that wanted a CPU before the first measurement, the mean over a minute.
    """

    conditions: Conditions
    rounds: int
    passes: int
    load: float
    code_version: str
    cells: tuple[Timing, ...]

    def joined(self, before: "Timings | None") -> "Timings":
        """Return these times and those of other cells that were measured under equal conditions."""
        if before is None or before.conditions != self.conditions:
            return self
        mine = {cell.trial_id for cell in self.cells}
        kept = tuple(cell for cell in before.cells if cell.trial_id not in mine)
        return self.model_copy(update={"cells": (*kept, *self.cells)})

    def described(self) -> str:
        """Return under what conditions the times were measured, in words."""
        height, width = self.conditions.size
        threads = self.conditions.threads
        on = (
            f"{threads} thread{'s' * (threads != 1)} of a "
            if self.conditions.device == "cpu"
            else ""
        )
        return (
            f"one model after another by `segbench time`, on {on}{self.conditions.device}, an image of "
            f"{height} x {width} pixels, {self.rounds} rounds"
        )


def load_timings(run_folder: Path) -> Timings | None:
    """Return what was timed of the run; None where nothing was.

    Raises:
        ResultError: the file is damaged.
    """
    return trial_files.load_record(run_folder / FILE, Timings)


def timing_of(timings: Timings | None, trial_ids: Iterable[str]) -> Timing | None:
    """Return the times of the cell that has these trials; None where it was not timed."""
    known = set(trial_ids)
    cells = () if timings is None else timings.cells
    return next((cell for cell in cells if cell.trial_id in known), None)
