"""How long a plan takes, from the step times that earlier trials of the same run have measured.

Cells of the same axes differ in their seeds alone, so one done trial speaks for its whole cell.
What has not been measured is not guessed. Knows nothing of engines.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segbench.runs import trial_files
from segbench.schema.sweep import Cell

_SPEAKERS = 3  # done trials that are read for each cell: times hardly differ between seeds


class CostEstimate(NamedTuple):
    """What is left of a plan. hours: of the measured trials, one after another, on `devices`."""

    trials: int
    measured: int
    hours: float
    devices: tuple[str, ...]


def estimated(cells: Iterable[Cell], left: Iterable[str], run_folder: Path) -> CostEstimate:
    """Return how long the trials `left` (ids) of the cells take, as far as that was measured."""
    trial_ids = set(left)
    ended = {path.parent.name for path in run_folder.glob("trials/*/provenance.json")}
    seconds: dict[tuple[str, ...], list[float]] = {}
    devices: set[str] = set()
    waiting: dict[tuple[str, ...], int] = {}
    for cell in cells:
        key = tuple(cell.axes.values())
        if cell.trial_id in trial_ids:
            waiting[key] = waiting.get(key, 0) + 1
        elif cell.trial_id in ended and cell.trial and len(seconds.get(key, [])) < _SPEAKERS:
            found = trial_files.load_provenance(trial_files.trial_folder(run_folder, cell.trial_id))
            if found is not None and found.step_seconds is not None:
                steps = cell.trial.train.steps
                total = found.step_seconds * steps + found.evaluate_seconds
                seconds.setdefault(key, []).append(total)
                devices.add(found.device)
    means = {key: sum(times) / len(times) for key, times in seconds.items()}
    return CostEstimate(
        trials=sum(waiting.values()),
        measured=sum(number for key, number in waiting.items() if key in means),
        hours=sum(number * means[key] for key, number in waiting.items() if key in means) / 3600,
        devices=tuple(sorted(devices)),
    )
