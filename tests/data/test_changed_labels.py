"""Labels that were changed since they were converted: every reader says so, and reads nothing."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from command_line import segbench
from PIL import Image
from toy_world import ONE_STEP, new_project, train_all, with_files

from segbench.commands.run import Flags, prepare_run
from segbench.data.prepare import prepare_dataset
from segbench.data.split import open_split
from segbench.errors import DataError
from segbench.runs import trial_files
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.crf_search import search_crf
from segbench.work.panels import write_panels
from segbench.work.predictions import score_trial

TOLD = "files under .* were changed since they were converted; `segbench prepare toyshapes` with"


class World(NamedTuple):
    run_folder: Path
    workdir: Path
    card: DatasetCard
    machine: Machine


@pytest.fixture(scope="module")
def run_once(tmp_path_factory, toy_cache):
    """A project whose data set lies in files, and a run of one trial that is done."""
    folder = tmp_path_factory.mktemp("changed")
    rng = np.random.default_rng(0)
    labels = {
        split: [(rng.random((32, 32)) < 0.3).astype(np.uint8) for _ in range(4)]
        for split in ("train", "val")
    }
    data = with_files(new_project(folder), labels, "view: {holdout: 0.5}\n")
    flags = Flags(
        only=("head=fcn32s",), settings=(ONE_STEP,), seeds=1, cache=toy_cache, data=(data,),
        device="cpu", results=folder / "results",
    )  # fmt: skip
    prepared = prepare_run(folder / "experiments" / "toy.yaml", flags)
    (workdir,) = train_all(prepared)
    return prepared, workdir, trial_files.load_trial(workdir).dataset


@pytest.fixture
def changed(run_once, tmp_path, monkeypatch):
    """The run, its data and cache in folders of one's own; the labels of both splits are inverted."""
    prepared, workdir, card = run_once
    machine = prepared.machine.revised(cache=str(tmp_path / "cache"))
    monkeypatch.setenv("SEGBENCH_CACHE", machine.cache)
    monkeypatch.setenv("SEGBENCH_CARDS", str(prepared.run_folder.parents[1]))
    prepare_dataset(card, machine)
    paths = sorted((prepared.run_folder.parents[1] / "data").glob("*_labels/*.png"))
    before = {path: path.read_bytes() for path in paths}
    for path in paths:
        Image.fromarray(1 - np.asarray(Image.open(path))).save(path)
    yield World(prepared.run_folder, workdir, card, machine)
    for path, content in before.items():
        path.write_bytes(content)


READERS = {
    "a split": lambda world: open_split(world.card, "train", world.machine),
    "known figures": lambda world: score_trial(world.workdir, Protocol(), world.machine),
    "another protocol": lambda world: score_trial(
        world.workdir, Protocol(name="flipped", flip=True), world.machine
    ),
    "pictures": lambda world: write_panels(world.run_folder, world.workdir.name, world.machine),
    "crf": lambda world: search_crf(world.workdir, Protocol(), world.machine, samples=1),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_refuses_labels_that_were_changed(changed, reader, monkeypatch):
    monkeypatch.setattr("segbench.work.crf_search.require_crf", lambda: None)
    with pytest.raises(DataError, match=TOLD):
        reader(changed)


def test_evaluate_and_compare_refuse_them_with_exit_code_2(changed, tmp_path):
    run_folder, _, card, _ = changed
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / name / f"{index}.png")
    data = "--data", run_folder.parents[1] / "data"
    of_folders = "--dataset", card.name, *data
    for words in (
        ("evaluate", "--predictions", tmp_path / "one", *of_folders),
        ("compare", tmp_path / "one", tmp_path / "two", *of_folders),
        ("evaluate", run_folder, *data),
    ):
        code, said = segbench(*words)
        assert code == 2, said
        assert "val: files under" in said
        assert "were changed since they were converted" in said


def test_figures_of_labels_that_were_converted_again_are_not_given_as_todays(changed):
    _, workdir, card, machine = changed
    prepare_dataset(card, machine)
    with pytest.raises(DataError, match="was scored on other files of toyshapes val than are here"):
        score_trial(workdir, Protocol(), machine)
    gone = Machine(data=(), cache=str(workdir / "no_cache"))
    assert score_trial(workdir, Protocol(), gone).num_images == 4  # nothing here to compare with


def test_a_trial_of_a_run_reads_what_the_others_read(changed):
    _, _, card, machine = changed
    assert len(open_split(card, "val", machine, if_changed="pass_over")) == 4
