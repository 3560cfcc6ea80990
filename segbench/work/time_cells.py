"""Measure how long a run's models take, one after another: `segbench time RUN`. Prints nothing."""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from segbench.code.own import look_in
from segbench.code.version import code_version
from segbench.engine.checkpoint import load_into, load_weights
from segbench.engine.cost import FLOPS_SIDE, passes_ms, steps_ms
from segbench.engine.device import chosen_device, device_name, make_repeatable
from segbench.errors import ResultError
from segbench.models.segmenter import Segmenter
from segbench.runs import trial_files
from segbench.runs.record import CellRecord, RunRecord, axes_key, load_run
from segbench.runs.timings import FILE, Conditions, Timing, Timings, load_timings
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.schema.sweep import chosen_values
from segbench.schema.trial import Trial
from segbench.work.phases import check_code, new_segmenter

MIN_ROUNDS = 5
_STEPS = 3  # of each stage that are timed in a round


@dataclass(frozen=True)
class TimeFlags:
    """What the flags of `segbench time` say. size: height and width of the image, pixels."""

    only: tuple[str, ...] = ()
    rounds: int = MIN_ROUNDS
    passes: int = 10
    size: tuple[int, int] = (FLOPS_SIDE, FLOPS_SIDE)
    with_training: bool = False


class _Model(NamedTuple):
    """A cell and the trial of it that is timed."""

    axes: dict[str, str]
    trial: Trial
    workdir: Path

    @property
    def weights(self) -> Literal["trained", "random"]:
        return "trained" if (self.workdir / trial_files.WEIGHTS).is_file() else "random"


class _Times(NamedTuple):
    """What was measured of a model so far: every pass of every round, and a step of each round."""

    passes: list[list[float]]
    steps: list[float]


class Timed(NamedTuple):
    """What was measured, and sentences on what a reader must know of it."""

    timings: Timings
    notes: tuple[str, ...]


def time_run(
    run_folder: Path, asked: TimeFlags, machine: Machine, progress: Callable[[int, int], None]
) -> Timed:
    """Measure the run's cells, one seed of each, and write `timings.json`.

    Every round goes over all cells, so that a machine that slows down does so for all of them. There
    are at least as many rounds as a cell has seeds, since each seed is given one of its own.

    Raises:
        CardError: the user's code has changed since the training.
        ExperimentError: a selector names no axis, or no value of it.
        ResultError: the run holds no trial.
    """
    record = load_run(run_folder)
    device = chosen_device(machine)
    models, without = _models(run_folder, record, asked)
    rounds = max(asked.rounds, record.most_seeds)
    look_in(machine.code_folders)
    for model in models:
        check_code(model.trial, model.workdir)
    make_repeatable(machine, 0)
    conditions = Conditions(
        device=device_name(device), threads=torch.get_num_threads(), size=asked.size,
        torch=torch.__version__,
    )  # fmt: skip
    load = round(os.getloadavg()[0], 2)
    measured = [_Times([], []) for _ in models]
    for number in range(rounds):
        for index, model in enumerate(models):
            _measure(model, asked, device, measured[index])
            progress(number * len(models) + index + 1, rounds * len(models))
    timings = Timings(
        conditions=conditions, rounds=rounds, passes=asked.passes, load=load,
        code_version=code_version(), cells=tuple(map(_timing, models, measured)),
    )  # fmt: skip
    before = load_timings(run_folder)
    joined = timings.joined(before)
    joined.write_to(run_folder / FILE)
    return Timed(joined, (*_notes(timings, before), *without))


def _models(
    run_folder: Path, record: RunRecord, asked: TimeFlags
) -> tuple[list[_Model], list[str]]:
    """Return the chosen cells that have a trial, and a sentence on those that have none."""
    axes = {axis: sorted({cell.axes[axis] for cell in record.cells}) for axis in record.axis_names}
    wanted = [chosen_values(text, axes, prefix="--only ", where="run") for text in asked.only]
    cells: dict[tuple[tuple[str, str], ...], list[CellRecord]] = {}
    for cell in record.cells:
        if cell.trial_id and all(cell.axes[axis] in values for axis, values in wanted):
            cells.setdefault(axes_key(cell.axes), []).append(cell)
    found = [_model(run_folder, seeds) for seeds in cells.values()]
    models = [model for model in found if model is not None]
    if not models:
        raise ResultError(f"{run_folder}: holds no trial to time; start it with segbench run")
    lacking = len(found) - len(models)
    return models, [f"{lacking} cells have no trial yet and were not timed"] if lacking else []


def _model(run_folder: Path, seeds: Sequence[CellRecord]) -> _Model | None:
    """Return the cell with its first trained trial, else the first that was written at all."""
    folders = [trial_files.trial_folder(run_folder, cell.trial_id) for cell in seeds]
    there = [folder for folder in folders if (folder / "trial.json").is_file()]
    there.sort(key=lambda folder: not (folder / trial_files.WEIGHTS).is_file())
    return _Model(seeds[0].axes, trial_files.load_trial(there[0]), there[0]) if there else None


def _measure(model: _Model, asked: TimeFlags, device: torch.device, times: _Times) -> None:
    segmenter = _built(model).to(device)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *asked.size), dtype=torch.uint8, generator=generator)
    images = [image.to(device)] * asked.passes
    times.passes.append(passes_ms(segmenter, images, Protocol()))
    recipe = model.trial.train
    if asked.with_training and not recipe.cache_features:
        size = recipe.images.crop or recipe.images.squash or asked.size
        times.steps.append(steps_ms(segmenter, model.trial, size, device, steps=_STEPS))


def _built(model: _Model) -> Segmenter:
    """Return the model, with random weights where it has no others: its time is the same."""
    segmenter = new_segmenter(model.trial)
    if model.weights == "trained":
        path = model.workdir / trial_files.WEIGHTS
        load_into(segmenter, load_weights(path), path)
    return segmenter


def _timing(model: _Model, times: _Times) -> Timing:
    every = np.concatenate(times.passes)
    low, high = (round(float(q), 4) for q in np.quantile(every, (0.25, 0.75)))
    return Timing(
        axes=model.axes,
        trial_id=model.workdir.name,
        weights=model.weights,
        forward_ms=tuple(round(statistics.median(passes), 4) for passes in times.passes),
        quartiles_ms=(low, high),
        step_ms=tuple(round(step, 4) for step in times.steps),
        training_steps=model.trial.train.steps,
    )


def _notes(timings: Timings, before: Timings | None) -> list[str]:
    """Return what a reader must know: a busy machine, random weights, older times that are gone."""
    notes = []
    if timings.load > 0.5:
        notes.append(
            f"other processes were busy on this machine before the first measurement (load "
            f"{timings.load:g}): measure again when it is idle"
        )
    random = sum(cell.weights == "random" for cell in timings.cells)
    if random:
        notes.append(
            f"{random} models have no trained weights here and were timed with random ones"
        )
    if before is not None and before.conditions != timings.conditions:
        notes.append(
            f"replaced: times of {len(before.cells)} cells that were measured {before.described()}"
        )
    return notes
