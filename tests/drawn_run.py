"""A run's folder with made-up results of real trials, for tests of what is built from files.

Each model has a quality; its predictions confuse a class with the next one. No torch, no training.
"""

import json
from pathlib import Path

import numpy as np

from segbench.commands.run import Flags, PreparedRun, prepare_run
from segbench.metrics.counts import Counted
from segbench.report.write import read_run
from segbench.runs import trial_files
from segbench.runs.external import ExternalMethod, write_external
from segbench.runs.record import load_run, record_of, write_run
from segbench.runs.timings import FILE, Conditions, Timing, Timings
from segbench.runs.trial_files import Provenance, Result
from segbench.schema.trial import Trial

DATASET = """
name: {name}
title: made up
splits:
  train: {{images: "images/train/{{name}}", labels: "labels/train/{{name}}.png"}}
  val: {{images: "images/val/{{name}}", labels: "labels/val/{{name}}.png"}}
classes: [{classes}]
palette: [{palette}]
background: 0
licence: CC0
source: {{paper: none}}
"""
EXPERIMENT = """
question: Which <b>model</b> is better & by how much?
sweep:
  backbone: [{backbones}]
  head: [{heads}]
  dataset: [{datasets}]
  seeds: {seeds}
model: {{weights: none}}
train:
  images: {{squash: [32, 32]}}
  batch_size: 4
  stages:
    - name: all
      steps: 60
      optimizer: {{name: sgd, lr: 0.05}}
evaluate:
  native: {{}}
  flipped: {{flip: true}}
published:
  - {{where: {{backbone: resnet18}}, percent: 61.5, source: A paper, protocol: native}}
  - where: {{backbone: resnet18}}
    metric: pixel_accuracy
    percent: 91.25
    source: A paper
    protocol: native
  - {{where: {{backbone: googlenet}}, percent: 50, source: Another, differs: images squashed}}
{more}
"""


def made_run(
    folder: Path,
    *,
    backbones: tuple[str, ...] = ("resnet18", "googlenet"),
    heads: tuple[str, ...] = ("fcn32s", "fcn8s"),
    datasets: dict[str, tuple[str, ...]] | None = None,
    seeds: int = 4,
    variants: int = 0,
    images: int = 30,
    log_lines: int = 12,
    gap: float = 0.12,
    extra: str = "",
    timed: bool = True,
) -> Path:
    """Write a project and a run in it; return the run's folder.

    gap: how much better (in the share of right pixels) each backbone is than the next. extra: more
    lines of the experiment. timed: whether `segbench time` has measured its cells.
    """
    datasets = datasets or {"few": ("background", "cat", "dog"), "more": tuple("abcdefg")}
    (folder / "datasets").mkdir(parents=True)
    (folder / "experiments").mkdir()
    for name, classes in datasets.items():
        quoted = ", ".join(json.dumps(each) for each in classes)
        palette = ", ".join(
            f"[{i * 7 % 256}, {i * 31 % 256}, {i * 67 % 256}]" for i in range(len(classes))
        )
        (folder / "datasets" / f"{name}.yaml").write_text(
            DATASET.format(name=name, classes=quoted, palette=palette)
        )
    more = (
        "variants:\n" + "".join(f"  v{i}: {{train.batch_size: {i + 1}}}\n" for i in range(variants))
        if variants
        else ""
    )
    path = folder / "experiments" / "made.yaml"
    path.write_text(
        EXPERIMENT.format(
            backbones=", ".join(backbones), heads=", ".join(heads), datasets=", ".join(datasets),
            seeds=seeds, more=more + extra,
        )
    )  # fmt: skip
    prepared = prepare_run(path, Flags(results=folder / "results"))
    record_run(prepared)
    for trial_id, trial in prepared.asked.trials.items():
        quality = (
            0.9 - gap * backbones.index(trial.backbone.name) - 0.05 * heads.index(trial.head.name)
        )
        write_done(prepared, trial_id, trial, quality=quality, images=images, log_lines=log_lines)
    if timed:
        made_timings(prepared).write_to(prepared.run_folder / FILE)
    return prepared.run_folder


def made_timings(prepared: PreparedRun) -> Timings:
    """Return times of every cell that grow with the length of the backbone's name; 5 equal rounds."""
    cells = {
        tuple(cell.axes.values()): Timing(
            axes=cell.axes,
            trial_id=cell.trial_id,
            weights="trained",
            forward_ms=(2.0 * len(cell.axes["backbone"]),) * 5,
            quartiles_ms=(1.0, 99.0),
            step_ms=(100.0 + 50 * len(cell.axes["backbone"]),) * 5,
            training_steps=60,
        )
        for cell in reversed(prepared.asked.cells)
    }
    conditions = Conditions(device="made-up device", threads=1, size=(500, 500), torch="2")
    return Timings(
        conditions=conditions, rounds=5, passes=10, load=0, code_version="0.1.0",
        cells=tuple(cells.values()),
    )  # fmt: skip


def record_run(prepared: PreparedRun) -> None:
    command = "segbench run experiments/made.yaml"
    write_run(prepared.run_folder, record_of(prepared.asked, command), prepared.whole)


def write_done(
    prepared: PreparedRun,
    trial_id: str,
    trial: Trial,
    *,
    quality: float,
    images: int,
    log_lines: int,
) -> None:
    """Write all files of a trial that is done. The trial's id is the seed of its chance."""
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    rng = np.random.default_rng(int(trial_id, 16))
    trial_files.write_trial(workdir, trial)
    for protocol in prepared.asked.experiment.evaluate.values():
        counts = drawn_counts(rng, trial.dataset.num_classes, images, quality + rng.normal(0, 0.01))
        evaluation = trial_files.evaluation_of(
            counts, trial_id=trial_id, protocol=protocol, dataset=trial.dataset,
            split_fingerprint=f"{trial.dataset.name} val",
        )  # fmt: skip
        trial_files.write_evaluation(workdir, evaluation, counts)
    steps = np.linspace(1, 60, log_lines).astype(int)
    lines = [
        {"step": int(s), "stage": "all", "loss": float(2 * np.exp(-s / 30) + rng.random() / 9)}
        for s in steps
    ]
    lines.append({"step": 60, "stage": "all", "validation_loss": 0.4})
    (workdir / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trial_files.write_provenance(
        workdir,
        Provenance(
            code_version="0.1.0", packages={}, device="made-up device", host="h", started="",
            finished="", attempts=1, train_seconds=9.0, evaluate_seconds=1.0,
            step_seconds=0.1 + 0.05 * len(trial.backbone.name), peak_memory_mib=500.0,
            forward_ms=2.0 * len(trial.backbone.name),
        ),
    )  # fmt: skip
    facts = {
        "parameters": 1e6 * len(trial.backbone.name),
        "flops": 1e9 * len(trial.backbone.name),
        "num_classes": trial.dataset.num_classes,
        "training_steps": 60,
    }
    classes = range(trial.dataset.num_classes)
    seen = {
        "training_pixels": tuple(1000 * 2**index for index in classes),
        "training_images": tuple(1 + index for index in classes),
    }
    trial_files.write_result(workdir, Result(trial_id=trial_id, status="done", facts=facts, **seen))


def drawn_counts(rng: np.random.Generator, classes: int, images: int, quality: float) -> Counted:
    """Return counts of predictions that are right with this chance, else the next class.

    Labels are the same for equal numbers of images and classes.
    """
    label = np.random.default_rng([images, classes]).integers(1, 400, (images, classes))
    label = label * (np.arange(classes, 0, -1) ** 2)  # frequent to rare
    tp = rng.binomial(label, np.clip(quality - 0.2 * np.arange(classes) / classes, 0, 1))
    wrong = label - tp
    confusion = np.zeros((classes, classes + 1), dtype=np.int64)
    confusion[np.arange(classes), np.arange(classes)] = tp.sum(0)
    confusion[np.arange(classes), (np.arange(classes) + 1) % classes] += wrong.sum(0)
    names = tuple(f"image {index:03d}" for index in range(images))
    return Counted(names, tp, label, tp + np.roll(wrong, 1, axis=1), confusion)


def boards_of(run_folder):
    return read_run(run_folder, judged=False).boards


def external_in(run_folder, *, quality=0.99, name="theirs"):
    """Write the scores of predictions of somebody else, on the run's images."""
    record = load_run(run_folder)
    protocol = record.protocols["native"]
    trial = trial_files.load_trial(next(trial_files.trial_folders(run_folder)))
    counts = drawn_counts(np.random.default_rng(5), trial.dataset.num_classes, 30, quality)
    evaluation = trial_files.evaluation_of(
        counts, trial_id="", protocol=protocol, dataset=trial.dataset,
        split_fingerprint=f"{trial.dataset.name} val",
    )  # fmt: skip
    method = ExternalMethod(name=name, dataset=trial.dataset.name, predictions_digest="0" * 64)
    write_external(run_folder, method, evaluation, counts)
    return evaluation
