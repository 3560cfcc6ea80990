"""A network of the user's own is part of its trial: changed code is another trial, and is noticed."""

import subprocess
import sys

import pytest
from command_line import segbench
from PIL import Image
from safetensors.torch import load_file, save_file
from toy_world import train_all

from segbench.code import own as own_code
from segbench.commands import preflight
from segbench.commands.run import Flags, prepare_run, unfinished
from segbench.errors import DataError, ExperimentError
from segbench.files import read_json
from segbench.runs import trial_files
from segbench.schema.machine import Machine
from segbench.work.scoring import load_segmenter
from segbench.work.trial import run_trial

MODULE = "ownnet_of_a_test"
NETWORK = f"""
from torch import nn
from {MODULE}_layers import CHANNELS

def build():
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, 2, 1), nn.ReLU(), nn.Conv2d(CHANNELS, 8, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 8, 1), nn.ReLU(),
    )
"""
CARD = f"""
name: own
title: a network of the user's
builder: "{MODULE}:build"
stages:
  - {{name: s4, module: "3", stride: 4, channels: 8}}
  - {{name: s32, module: "5", stride: 32, channels: 16}}
input: {{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}
licence: none
source: {{paper: none}}
"""
SETTINGS = ("sweep.backbone=[own]", "sweep.head=[fcn32s]")
RUN = ("run", "experiments/toy.yaml", "--seeds", "1", *(w for s in SETTINGS for w in ("--set", s)))


@pytest.fixture
def project(toy_project, monkeypatch):
    """The toy project with a network of the user's, its module beside the card."""
    (toy_project / "backbones" / "own.yaml").write_text(CARD)
    (toy_project / "backbones" / f"{MODULE}.py").write_text(NETWORK)
    (toy_project / "backbones" / f"{MODULE}_layers.py").write_text("CHANNELS = 4\n")
    monkeypatch.setenv("SEGBENCH_TRUSTED", MODULE)
    monkeypatch.setenv("SEGBENCH_CARDS", str(toy_project))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield toy_project
    forget()


def forget() -> None:
    """Let the next import read the files, as another process does."""
    for name in [name for name in sys.modules if name.startswith(MODULE)]:
        del sys.modules[name]
    own_code._loaded.clear()


def change(project, text="CHANNELS = 4  # other\n") -> None:
    """Write other code: Python's cache tells one second's files apart by their length alone."""
    (project / "backbones" / f"{MODULE}_layers.py").write_text(text)
    forget()


def prepared(project):
    flags = Flags(
        settings=SETTINGS, seeds=1, device="cpu", results=project / "results",
    )  # fmt: skip
    return prepare_run(project / "experiments" / "toy.yaml", flags)


def trained(project):
    """Return the folder of a trial of the network, done."""
    run = prepared(project)
    (workdir,) = train_all(run)
    return workdir


def test_changed_code_is_another_trial_and_the_old_one_is_named(project):
    workdir = trained(project)
    assert set(trial_files.load_trial(workdir).code) == {MODULE, f"{MODULE}_layers"}
    assert preflight.made_from_other_code(prepared(project)) == []
    change(project)
    now = prepared(project)
    assert workdir.name not in now.asked.trials
    assert len(unfinished(now, retry_failed=False)) == 1
    (sentence,) = preflight.made_from_other_code(now)
    assert "made from other code: 1 trial of" in sentence
    assert f"trials/{workdir.name}: {MODULE}_layers has changed" in sentence
    change(project, "CHANNELS = 4\n")
    assert unfinished(prepared(project), retry_failed=False) == {}


def test_evaluate_and_predict_refuse_a_trial_of_other_code_unless_told(project, tmp_path):
    workdir = trained(project)
    run_folder, image = workdir.parent.parent, tmp_path / "x.png"
    Image.new("RGB", (64, 48), "red").save(image)
    change(project)
    evaluate = ("evaluate", run_folder, workdir.name, "--set", "flip=true", "--device", "cpu")
    predict = ("predict", workdir, image, "-o", tmp_path / "out", "--device", "cpu")
    for words in (evaluate, predict):
        exit_code, said = segbench(*words)
        assert exit_code == 2
        assert f"was made from other code than is here: {MODULE}_layers has changed" in said
        assert "as a new trial; --other-code goes on" in said
        assert segbench(*words, "--other-code")[0] == 0
    for words in (("time", run_folder), ("report", run_folder, "--panels", workdir.name)):
        exit_code, said = segbench(*words)
        assert exit_code == 2
        assert said.endswith("start segbench run, which trains what has changed as a new trial")
    alike = (*evaluate, "--set", "absent_class=zero", "--name", "zero")  # its counts are copied
    assert segbench(*alike)[0] == 0
    evaluations = {e.protocol.name: e.other_code for e in trial_files.load_evaluations(workdir)}
    changed = f"{MODULE}_layers has changed"
    assert evaluations == {"native": "", "native-flip-true": changed, "zero": changed}
    assert "--other-code" in segbench("evaluate", "--help")[1]


@pytest.mark.parametrize("command", ["predict", "evaluate", "time", "panels"])
def test_every_command_finds_the_module_beside_the_card(project, tmp_path, monkeypatch, command):
    workdir = trained(project)
    run = workdir.parent.parent
    Image.new("RGB", (40, 50)).save(tmp_path / "a.png")
    words = {
        "predict": ("predict", workdir, tmp_path / "a.png", "-o", tmp_path / "out"),
        "evaluate": ("evaluate", run, "--set", "flip=true"),
        "time": ("time", run, "--rounds", 1, "--passes", 1, "--size", "64x64"),
        "panels": ("report", run, "--panels", workdir.name),
    }[command]
    monkeypatch.delenv("SEGBENCH_CARDS")
    elsewhere = [folder for folder in sys.path if not folder.startswith(str(project))]
    for place, flags, is_found in (
        (tmp_path, (), False),
        (project, (), True),
        (tmp_path, ("--cards", project), True),
    ):
        is_found = is_found or command == "panels"  # it looks in the project of the run too
        monkeypatch.setattr(sys, "path", list(elsewhere))
        monkeypatch.chdir(place)
        forget()
        status, said = segbench(*words, *flags)
        assert (status == 0) == is_found, said
        mend = "name the folder of its card with --cards or $SEGBENCH_CARDS"
        assert (mend in said) != is_found


def test_a_change_of_shapes_is_one_sentence(project, tmp_path):
    workdir = trained(project)
    change(project, "CHANNELS = 5  # other\n")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "x.png")
    exit_code, said = segbench(
        "predict", workdir, tmp_path / "x.png", "-o", tmp_path / "out", "--other-code"
    )
    assert exit_code == 2
    assert "model.safetensors: holds the weights of another network than its trial.json" in said
    assert "is 4x3x3x3 there and 5x3x3x3 here" in said
    assert "Traceback" not in said


def test_weights_with_other_names_are_named(project, tmp_path):
    workdir = trained(project)
    tensors = load_file(workdir / trial_files.WEIGHTS)
    name = next(iter(tensors))
    tensors["strange"] = tensors.pop(name)
    save_file(tensors, workdir / trial_files.WEIGHTS)
    with pytest.raises(DataError, match=f"{name} is missing, strange is too much"):
        load_segmenter(workdir, Machine.from_environment(device="cpu"))


def test_a_worker_that_finds_other_code_than_was_planned_fails_in_one_sentence(project):
    run = prepared(project)
    (trial,) = run.asked.trials.values()
    change(project)
    workdir = trial_files.trial_folder(run.run_folder, trial.id())
    assert run_trial(trial, workdir, machine=run.machine, protocols=()) == "failed"
    failure = trial_files.load_failure(workdir)
    assert failure is not None
    assert f"{MODULE}_layers has changed" in failure.message


def test_a_whole_run_is_scored_as_far_as_its_code_is_here(project):
    old = trained(project)
    change(project)
    new = trained(project)
    exit_code, said = segbench(
        "evaluate", new.parent.parent, "--set", "flip=true", "--device", "cpu"
    )
    assert exit_code == 0, said
    assert f"1 trial was made from other code than is here and left out (trials/{old.name}" in said
    assert f"{new.name}: mean iou" in said


def test_a_worker_of_any_launcher_is_told_where_the_code_lies_and_that_it_is_trusted(project):
    machine = prepared(project).machine
    assert machine.code_folders[0] == str(project / "backbones")
    assert machine.trusted == (MODULE,)


def test_a_module_that_is_not_trusted_is_told_before_anything_starts(project, monkeypatch):
    monkeypatch.delenv("SEGBENCH_TRUSTED")
    with pytest.raises(ExperimentError, match=r"own: builder .* which is not trusted"):
        prepared(project)


def test_show_names_the_code(project):
    said = segbench("show", "own")[1]
    assert f"# code of {MODULE}_layers: " in said


@pytest.mark.parametrize("place", ["backbones", "."])
@pytest.mark.parametrize("command", ["module", "script"])
def test_both_forms_of_the_command_find_a_module_beside_the_card_or_here(project, place, command):
    for path in (project / "backbones").glob("*.py"):
        path.rename(project / place / path.name)
    with (project / "backbones" / "own.yaml").open("a") as card:
        card.write("has_batch_norm: false\n")  # else torch is loaded to ask the network
    start = {
        "module": [sys.executable, "-m", "segbench"],
        "script": [sys.executable, "-P", "-c", "from segbench.cli import main; main()"],
    }[command]
    done = subprocess.run(
        [*start, *RUN, "--dry-run"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 trial; 0 ended, 1 to run" in done.stdout


def test_an_exported_model_says_which_code_it_needs_and_finds_it_in_its_folder(project, tmp_path):
    workdir, folder = trained(project), tmp_path / "model"
    assert segbench("export", workdir, "-o", folder)[0] == 0
    assert f"- {MODULE}_layers: " in (folder / "README.md").read_text()
    for path in (project / "backbones").glob("*.py"):
        path.rename(folder / path.name)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "x.png")
    forget()
    sys.path[:] = [place for place in sys.path if not place.startswith(str(project))]
    exit_code, said = segbench("predict", folder, tmp_path / "x.png", "-o", tmp_path / "out")
    assert exit_code == 0, said


@pytest.mark.slow
def test_a_run_trains_the_users_network_in_workers_of_their_own(project):
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from segbench.cli import main; main()", *RUN],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (project / "results" / "toy" / "trials").glob("*/result.json")
    assert "code" in read_json(result)["digests"]
