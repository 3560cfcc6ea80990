"""The toy project: a backbone and a data set of its own, and a grid of four trials of 6 steps."""

from pathlib import Path

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
