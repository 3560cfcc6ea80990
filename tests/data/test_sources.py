"""Every kind of source keeps one contract, and a user's own is trained on like any other."""

import json
import sys
from typing import get_args

import numpy as np
import pytest
from command_line import segbench
from PIL import Image

from segbench.code import own as own_code
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.data.photographs import digest_of_pixels
from segbench.data.prepare import preflight
from segbench.data.prepared import contents_here, open_prepared, prepared_folder
from segbench.data.sources import SOURCE_KINDS, source_of
from segbench.data.sources.base import CheckedPair
from segbench.errors import DataError, ExperimentError
from segbench.files import digest
from segbench.runs import trial_files
from segbench.schema.cards import DatasetCard, SourceKind
from segbench.schema.catalog import Catalog
from segbench.schema.machine import Machine
from segbench.work.trial import run_trial

MODULE = "owndata_of_a_test"
READ = """
import numpy as np

def squares(split, folders, *, side=32, number=4):
    assert folders and split in {"train", "val"}
    for index in range(number):
        image = np.full((side, side, 3), 40 + 10 * index + 100 * (split == "val"), np.uint8)
        label = np.zeros((side, side), int)
        image[8:24, 8:24, 0], label[8:24, 8:24], label[0] = 250, 1, 255
        yield f"{split}_{index}", image, label
"""
CARD = f"""
name: squares
title: squares of the user's
reader: {{function: "{MODULE}:squares", arguments: {{number: 3}}}}
classes: [background, square]
palette: [[0, 0, 0], [255, 0, 0]]
background: 0
licence: CC0
source: {{paper: none}}
"""
FILES_CARD = """
name: street
title: files
splits:
  train: {images: "photos/train/{name}", labels: "labels/train/{name}.png"}
  val: {images: "photos/val/{name}", labels: "labels/val/{name}.png"}
classes: [road, car]
palette: [[0, 0, 0], [255, 0, 0]]
licence: CC0
source: {paper: none}
"""
NAMES = {"files": "street", "drawn": "toyshapes", "own": "squares"}


@pytest.fixture
def project(toy_project, monkeypatch):
    """The toy project with a card of each kind, and files and code for them."""
    (toy_project / "datasets" / "squares.yaml").write_text(CARD)
    (toy_project / "datasets" / f"{MODULE}.py").write_text(READ)
    (toy_project / "datasets" / "street.yaml").write_text(FILES_CARD)
    for split in ("train", "val"):
        for folder in ("photos", "labels"):
            path = toy_project / "data" / "street" / folder / split / "a.png"
            path.parent.mkdir(parents=True)
            size = (6, 4, 3) if folder == "photos" else (6, 4)
            Image.fromarray(np.full(size, len(folder) - 6, np.uint8)).save(path)
    monkeypatch.setenv("SEGBENCH_TRUSTED", MODULE)
    monkeypatch.setenv("SEGBENCH_CARDS", str(toy_project))
    monkeypatch.setattr(sys, "path", [*sys.path, str(toy_project / "datasets")])
    yield toy_project
    forget()


def forget() -> None:
    """Let the next import read the files, as another process does."""
    sys.modules.pop(MODULE, None)
    own_code._loaded.clear()


def card(project, kind: str = "own") -> DatasetCard:
    return Catalog.on_path((project,)).dataset(NAMES[kind])


def machine_of(project) -> Machine:
    return Machine(cache=str(project / "fresh_cache"), data=(str(project / "data"),))


def test_the_table_has_the_kinds_of_the_schema():
    assert tuple(SOURCE_KINDS) == get_args(SourceKind) == tuple(NAMES)


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_a_source_gives_the_same_checked_rows_each_time(project, kind):
    asked, machine = card(project, kind), machine_of(project)
    assert asked.source_kind == kind
    for split in asked.split_names:
        source = source_of(asked, split, machine)
        assert source.is_here()
        source.check()
        json.dumps(source.key())
        rows = list(source.rows())
        again = list(source_of(asked, split, machine).rows())
        assert rows
        for row, other in zip(rows, again, strict=True):
            assert isinstance(row, CheckedPair)
            assert (row.name, row.image, row.image_digest) == other[:2] + other[3:]
            assert (row.label == other.label).all()
            assert row.label.dtype == np.uint8
            assert set(np.unique(row.label)) <= {*range(len(asked.classes)), 255}
        prepared = open_prepared(asked, split, machine)
        assert prepared.contents.names == tuple(row.name for row in rows)
        assert contents_here(asked, split, machine) is not None
        assert source.stamp() == source_of(asked, split, machine).stamp()


def test_split_folders_are_called_as_before(project):
    machine = machine_of(project)
    folder = prepared_folder(card(project, "drawn"), "val", machine)
    assert folder.name.endswith(f"-{digest(None, length=8)}")
    folder = prepared_folder(card(project, "files"), "val", machine)
    key = digest([f"{project}/data/street", "a"], length=8)
    assert folder.name.endswith(f"-{key}")


def planned(project):
    settings = ("sweep.dataset=[squares]", "sweep.head=[fcn32s]", "train.stages.all.steps=1")
    flags = Flags(settings=settings, seeds=1, device="cpu", results=project / "results")
    return prepare_run(project / "experiments" / "toy.yaml", flags)


def test_a_model_is_trained_on_a_source_of_the_users_whose_code_is_part_of_the_trial(project):
    run = planned(project)
    record_run(run, "segbench run")
    ((trial_id, trial),) = run.asked.trials.items()
    assert list(trial.code) == [MODULE]
    needed = [(trial.dataset, split) for split in trial.dataset.split_names]
    assert preflight(needed, run.machine) == []
    workdir = trial_files.trial_folder(run.run_folder, trial_id)
    protocols = tuple(run.asked.experiment.evaluate.values())
    assert run_trial(trial, workdir, machine=run.machine, protocols=protocols) == "done"
    before = prepared_folder(trial.dataset, "train", run.machine)
    (project / "datasets" / f"{MODULE}.py").write_text(READ.replace("250", "249"))
    forget()
    ((other_id, other),) = planned(project).asked.trials.items()
    assert other_id != trial_id
    assert prepared_folder(other.dataset, "train", run.machine) != before


def test_the_pixels_are_those_that_the_function_gave(project):
    row = next(source_of(card(project), "val", machine_of(project)).rows())
    image = np.full((32, 32, 3), 140, np.uint8)
    image[8:24, 8:24, 0] = 250
    assert row.image_digest == digest_of_pixels(Image.fromarray(image))
    assert (row.label[0] == 255).all()


GOOD = "image, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int)"
WRONG = {
    "yield 'a', image": "expected (name, image, label), but image 0 is <class 'tuple'>",
    "yield 3, image, label": "the name of image 0 is 3, not a text",
    "yield 'a', image / 255, label": "the image of a is float64 of shape (4, 4, 3); expected uint8",
    "yield 'a', image, label[1:]": "the label of a is int64 of shape (3, 4); expected whole numbers",
    "yield 'a', image, label + 2": "the label of a has the value 2, which is no index of the card's 2",
    "yield from [('a', image, label)] * 2": "names twice: a",
    "return; yield": "gives no images",
    "yield open('/nowhere/x.h5')": "fails after 0 images: FileNotFoundError",
    "yield 'a', image, label; raise ValueError('torn')": "fails after 1 image: ValueError: torn",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_a_function_does_wrong_is_one_sentence(project, body):
    text = f"import numpy as np\ndef squares(split, folders, number):\n    {GOOD}\n    {body}\n"
    (project / "datasets" / f"{MODULE}.py").write_text(text)
    forget()
    with pytest.raises(DataError) as told:
        open_prepared(card(project), "train", machine_of(project))
    assert str(told.value).startswith(f"squares train: {MODULE}:squares")
    assert WRONG[body] in str(told.value)


def test_wrong_code_is_told_before_anything_starts(project, monkeypatch):
    (project / "datasets" / f"{MODULE}.py").write_text("def squares(split): return []\n")
    forget()
    (told,) = preflight([(card(project), "train")], machine_of(project))
    assert "squares train: owndata_of_a_test:squares: fails after 0 images: TypeError" in told
    monkeypatch.delenv("SEGBENCH_TRUSTED")
    (told,) = preflight([(card(project), "train")], machine_of(project))
    assert "which is not trusted" in told
    with pytest.raises(ExperimentError, match=r"squares: reader .* which is not trusted"):
        planned(project)


def test_commands_know_the_card(project):
    path = project / "datasets" / "squares.yaml"
    assert segbench("check", path)[0] == 0
    assert f"# code of {MODULE}: " in segbench("show", "squares")[1]
    assert "squares" in segbench("list", "datasets")[1]
    assert "train 3 images, val 3 images" in segbench("prepare", "squares")[1]
    path.write_text(f"{CARD}exif: apply\n")
    assert "leave exif out" in segbench("check", path)[1]
    path.write_text(f"{CARD}drawn: {{train: 1, val: 1, height: 32, width: 32}}\n")
    assert "give one of `splits` (files), `drawn`" in segbench("check", path)[1]


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_predictions_of_its_images_are_scored_by_a_card_that_lies_elsewhere(
    project, tmp_path, monkeypatch, command
):
    monkeypatch.delenv("SEGBENCH_CARDS")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(project))])
    for index in range(3):
        for folder in ("a", "b"):
            path = tmp_path / folder / f"val_{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    words = {
        "evaluate": ("evaluate", "--predictions", tmp_path / "a", "--results", tmp_path / "r"),
        "compare": ("compare", tmp_path / "a", tmp_path / "b"),
    }[command]
    place = ("--dataset", "squares", "--cards", project, "--cache", tmp_path / "cache")
    status, said = segbench(*words, *place)
    assert status == 0, said
    assert "3 images" in said
