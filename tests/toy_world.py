"""The toy project: a backbone and a data set of its own, and a grid of four trials of 6 steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # who imports this may not have set the number of torch's threads yet
    from segbench.commands.run import PreparedRun

TOY = """
question: Does the toy sweep run?
sweep:
  backbone: [toynet]
  head: [fcn32s, fcn8s]
  dataset: [toyshapes]
  seeds: 2
model: {weights: none}
train:
  images: {squash: [32, 32], flip: true}
  batch_size: 4
  stages:
    - name: all
      steps: 6
      optimizer: {name: sgd, lr: 0.05}
evaluate:
  native: {}
monitor: {log_every_steps: 2, checkpoint_every_steps: 2, validate_images: 2}
launch: {workers: 1}
"""

TOY_DATASET = """
name: toyshapes
title: 8 drawn images
drawn: {train: 8, val: 4, height: 32, width: 32}
classes: [background, circle, square]
palette: [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
background: 0
licence: CC0
source: {paper: none}
"""

ONE_STEP = (
    "train.stages=[{name: all, steps: 1, optimizer: {lr: 0.1}}]"  # of a run that is no matter
)

# The same in files, of which no label is void.
TOY_FILES = """
name: toyshapes
title: images in files
splits:
  train: {images: "train/{name}", labels: "train_labels/{name}.png"}
  val: {images: "val/{name}", labels: "val_labels/{name}.png"}
classes: [background, circle]
palette: [[0, 0, 0], [255, 0, 0]]
background: 0
licence: CC0
source: {paper: none}
"""

TOY_BACKBONE = """
name: toynet
title: a small trunk that no built-in card has
builder: torchvision.models:mobilenet_v3_small
stages:
  - {name: s8, module: features.3, stride: 8, channels: 24}
  - {name: s16, module: features.8, stride: 16, channels: 48}
  - {name: s32, module: features.12, stride: 32, channels: 576}
has_batch_norm: true
input: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
licence: Apache-2.0
source: {paper: none}
"""


def new_project(folder: Path) -> Path:
    """Write the project into a folder and return it."""
    for name, text in (
        ("backbones/toynet.yaml", TOY_BACKBONE),
        ("datasets/toyshapes.yaml", TOY_DATASET),
        ("experiments/toy.yaml", TOY),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def with_files(project: Path, labels: Mapping[str, list[np.ndarray]], more: str = "") -> Path:
    """Let the project's data set lie in files; return their folder, to be named with --data.

    labels: of each split, (H, W) uint8 of 0 and 1; where it is 1 the image is light. more: further
    lines of the card.
    """
    (project / "datasets" / "toyshapes.yaml").write_text(TOY_FILES + more)
    data = project / "data"
    for split, of_split in labels.items():
        for kind, factor in ((split, 200), (f"{split}_labels", 1)):
            (data / kind).mkdir(parents=True)
            for index, label in enumerate(of_split):
                Image.fromarray(label * np.uint8(factor)).save(data / kind / f"{index}.png")
    return data


def train_all(prepared: PreparedRun, command: str = "segbench run") -> list[Path]:
    """Record the run and do its trials in this process; return their folders."""
    from segbench.commands.run import record_run
    from segbench.runs.trial_files import trial_folder
    from segbench.work.trial import run_trial

    record_run(prepared, command)
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    workdirs = []
    for trial_id, trial in prepared.asked.trials.items():
        workdirs.append(trial_folder(prepared.run_folder, trial_id))
        done = run_trial(trial, workdirs[-1], machine=prepared.machine, protocols=protocols)
        assert done == "done"
    return workdirs
