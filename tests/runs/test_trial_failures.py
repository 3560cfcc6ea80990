"""What a trial can die of is a failed result with its kind and one sentence; a user's own data runs."""

import numpy as np
import pytest
import torch
from command_line import segbench
from PIL import Image

from segbench.commands.run import Flags, prepare_run
from segbench.errors import DataError
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.schema.catalog import Catalog
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.trial import run_trial


@pytest.fixture
def outcome_of(toy_project, tmp_path):
    """Return a function that runs the toy sweep's first trial under settings: (outcome, result)."""

    def run(*settings: str, **machine):
        path = toy_project / "experiments" / "toy.yaml"
        plan = prepare_run(path, Flags(settings=settings)).asked
        trial = next(iter(plan.trials.values()))
        given = {"cache": str(tmp_path / "cache"), "device": "cpu", "threads": 1, **machine}
        workdir = tmp_path / "trial"
        outcome = run_trial(trial, workdir, machine=Machine(**given), protocols=(Protocol(),))
        return outcome, trial_files.load_result(workdir), workdir

    return run


def test_a_loss_that_is_not_finite_is_called_diverged(outcome_of):
    outcome, result, workdir = outcome_of("train.stages.0.optimizer.lr=1e30")
    assert outcome == "failed"
    assert result.kind == "diverged"
    assert "lower train.stages.*.optimizer.lr" in result.message
    assert "Traceback" in (workdir / "traceback.txt").read_text()
    assert not (workdir / "model.safetensors").exists()


def test_an_image_too_small_for_batch_norm_is_told_in_our_words(outcome_of):
    whole = ("train.images={flip: true}", "train.batch_size=1", "sweep.head=fcn32s")
    outcome, result, _ = outcome_of(*whole)
    assert (outcome, result.kind) == ("failed", "error")
    assert result.message.startswith(
        "an image of the batch for step 1 gives batch norm one value per channel (Expected more than"
    )
    assert result.message.endswith(
        "take train.images.crop, a train.batch_size above 1, or frozen: [batch_norm]"
    )


def test_an_empty_split_is_told_before_the_first_step(outcome_of):
    outcome, result, _ = outcome_of(
        "sweep.settings={dataset.view.thin: [{background: 0.0}]}", "sweep.head=fcn32s"
    )
    assert (outcome, result.kind) == ("failed", "data")
    assert "has no images to train on" in result.message


def test_a_split_of_nothing_but_void_is_told(outcome_of, toy_project, tmp_path):
    photographs, masks = tmp_path / "void" / "photographs", tmp_path / "void" / "masks"
    for folder in (photographs, masks):
        folder.mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 255, dtype=np.uint8)).save(folder / "a.png")
    (toy_project / "datasets" / "void.yaml").write_text(VOID)
    here = ("sweep.dataset=void", "sweep.head=fcn32s", "train.batch_size=1")
    outcome, result, _ = outcome_of(*here, data=(str(tmp_path),))
    assert (outcome, result.kind) == ("failed", "data")
    assert result.message == "void train: every pixel is void: nothing to learn"
    dataset = Catalog.on_path((toy_project,)).dataset("void")
    none = np.zeros((1, 2), dtype=np.int64)
    counted = Counted(("a",), none, none, none, np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(DataError, match="void val: every pixel is void: nothing to score"):
        trial_files.evaluation_of(
            counted, trial_id="0", protocol=Protocol(), dataset=dataset, split_fingerprint=""
        )


VOID = """
name: void
title: one image without a label
splits:
  train: {images: "photographs/{name}.png", labels: "masks/{name}.png"}
  val: {images: "photographs/{name}.png", labels: "masks/{name}.png"}
classes: [background, circle]
palette: [[0, 0, 0], [255, 0, 0]]
encoding: {ignore: [255]}
licence: CC0
source: {paper: none}
"""


def test_a_device_that_is_too_small_is_told_with_the_way_out(outcome_of, monkeypatch):
    """A mock: no device with too little memory can be had for real here."""

    def too_small(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("segbench.engine.train.upsampled_losses", too_small)
    outcome, result, _ = outcome_of()
    assert (outcome, result.kind) == ("failed", "out_of_memory")
    assert "lower train.batch_size and raise train.accumulate" in result.message
    assert "batch norm, where it trains, sees the smaller batches" in result.message


def test_a_broken_photograph_fails_its_trial_with_the_files_name(toy_project, outcome_of, tmp_path):
    street(toy_project)
    (tmp_path / "data" / "street" / "photos" / "train" / "2.png").write_bytes(b"\x89PNG broken")
    outcome, result, _ = outcome_of("sweep.dataset=street", data=(str(tmp_path / "data"),))
    assert (outcome, result.kind) == ("failed", "data")
    assert "photos/train/2.png: is none of JPEG" in result.message


def test_a_broken_photograph_or_label_ends_the_command_before_any_trial_starts(
    toy_project, tmp_path
):
    street(toy_project)
    root = tmp_path / "data" / "street"
    (root / "photos" / "train" / "2.png").write_bytes(b"\x89PNG broken")
    Image.fromarray(np.full((33, 45), 7, np.uint8)).save(root / "masks" / "val" / "1.png")
    code, said = segbench(
        "run", toy_project / "experiments" / "toy.yaml", "--data", tmp_path / "data",
        "--cache", tmp_path / "cache", "--results", tmp_path / "results",
        "--set", "sweep.dataset=[street]",
    )  # fmt: skip
    assert code == 2
    assert "photos/train/2.png: is none of JPEG" in said
    assert "masks/val/1.png" in said
    assert not list((tmp_path / "results").rglob("trial.json"))


def test_a_users_folder_of_images_and_masks_trains_with_one_card_and_no_code(
    toy_project, outcome_of, tmp_path
):
    street(toy_project)
    outcome, _, workdir = outcome_of("sweep.dataset=street", data=(str(tmp_path / "data"),))
    assert outcome == "done"
    evaluation = trial_files.load_evaluation(workdir, Protocol())
    assert evaluation is not None
    assert evaluation.class_names == ("road", "car")
    assert evaluation.num_images == 2


def street(project) -> None:
    """Write a card, and 4 + 2 pairs of a photograph and a mask, beside the project."""
    (project / "datasets" / "street.yaml").write_text(
        "name: street\ntitle: street\nsplits:\n"
        '  train: {images: "photos/train/{name}", labels: "masks/train/{name}.png"}\n'
        '  val: {images: "photos/val/{name}", labels: "masks/val/{name}.png"}\n'
        "classes: [road, car]\npalette: [[0, 0, 0], [255, 0, 0]]\nencoding: {ignore: [255]}\n"
        "licence: ours\nsource: {paper: none}\n"
    )
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for index in range(number):
            for kind, shape, high in (("photos", (33, 45, 3), 255), ("masks", (33, 45), 2)):
                folder = project.parent / "data" / "street" / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, high, shape).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
