"""What `list`, `show`, `check` and `prepare` say, and what `prepare` looks for."""

from pathlib import Path

import pytest
from command_line import segbench

from segbench.commands.listing import prepare_all
from segbench.models import weights as weights_module
from segbench.schema.cards import BackboneCard
from segbench.schema.machine import Machine

ROOT = Path(__file__).parents[2]


def test_prepare_asks_for_the_weights_and_data_that_the_cells_of_a_file_resolve_to(
    monkeypatch, toy_project
):
    path = toy_project / "experiments" / "toy.yaml"
    text = path.read_text().replace("[toynet]", "[squeezenet1_1, vgg16]")
    text = text.replace("model: {weights: none}", "")
    text = text.replace("[fcn32s, fcn8s]", "[fcn4s_from16]")
    path.write_text(
        f"{text}overrides:\n"
        "  - {where: {backbone: squeezenet1_1}, set: {model.weights: imagenet_caffe}}\n"
        "  - {where: {backbone: vgg16}, set: {model.weights: none}}\n"
    )
    asked = []

    def fetched(card: BackboneCard, _: Machine, **chosen: object) -> None:
        asked.append((card.name, chosen["name"]))

    monkeypatch.setattr(weights_module, "fetch_weights", fetched)
    made = prepare_all([str(path)], Machine.from_environment(), download=False)
    assert [name for name, _ in made] == ["toyshapes", "squeezenet1_1"]
    assert asked == [("squeezenet1_1", "imagenet_caffe")]


def test_prepare_finds_weights_in_a_folder_that_is_named(tmp_path, shared_weights):
    code, said = segbench(
        "prepare", ROOT / "experiments" / "voc_transfer.yaml", "--offline",
        "--cache", tmp_path, "--weights", shared_weights,
    )  # fmt: skip
    assert code == 2  # the photographs are not here
    assert "squeezenet1_1: ready:" in said
    assert "inception_v3_7a: ready:" in said
    assert "voc2012_2007 train: no files here" in said


def test_prepare_offline_downloads_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("segbench.fetch.download.download", pytest.fail)
    code, said = segbench("prepare", "vgg16", "alexnet", "--offline", "--cache", tmp_path)
    assert code == 2
    for name in ("vgg16", "alexnet"):  # what one lacks does not hide what the other lacks
        assert f"{name}: the file {name}-" in said
        assert f"run `segbench prepare {name}` on a machine with a network" in said


def test_check_tells_broken_fields_and_unknown_names_together(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    code, said = segbench("check", path)
    assert (code, said[-20:]) == (0, "the file is in order")
    text = path.read_text().replace("steps: 6", "steps: 0")
    path.write_text(text.replace("toynet", "toynt").replace("toyshapes", "toyshape"))
    code, said = segbench("check", path)
    assert code == 2
    assert "train.stages[0].steps: should be greater than or equal to 1" in said
    assert "sweep.backbone: no backbone 'toynt'; did you mean 'toynet'?" in said
    assert "sweep.dataset: no data set 'toyshape'; did you mean 'toyshapes'?" in said


def test_cards_beside_the_experiments_are_listed_shown_and_prepared(toy_project, monkeypatch):
    assert "toyshapes" not in segbench("list", "datasets")[1]
    monkeypatch.chdir(toy_project)
    for words in (
        ("list", "datasets"), ("show", "toyshapes"), ("prepare", "toyshapes"),
        ("list", "experiments"),
    ):  # fmt: skip
        code, said = segbench(*words)
        assert code == 0, said
        assert "toy" in said


def test_two_stages_of_one_name_are_refused(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    stage = "    - {name: all, steps: 1, optimizer: {lr: 0.1}}\n"
    path.write_text(path.read_text().replace("  stages:\n", f"  stages:\n{stage}"))
    code, said = segbench("check", path)
    assert code == 2
    assert "stages: a name stands twice in ['all', 'all']" in said


def test_a_device_that_does_not_exist_anywhere_is_refused_when_read(toy_project):
    code, said = segbench(
        "run", toy_project / "experiments" / "toy.yaml", "--device", "tpu", "--dry-run"
    )
    assert code == 2
    assert said == "--device tpu: expected auto, cpu, cuda or cuda:N"


def test_a_wrong_card_is_told_behind_those_that_are_right(toy_project):
    (toy_project / "datasets" / "half.yaml").write_text("name: half\n")
    code, said = segbench("list", "datasets", "--cards", toy_project)
    assert code == 2
    assert "8 drawn images" in said
    assert "half.yaml:1: title: is missing" in said


def test_a_card_with_an_ending_that_is_not_looked_for_is_told(toy_project):
    card = toy_project / "datasets" / "toyshapes.yaml"
    code, said = segbench("check", card.rename(card.with_suffix(".yml")))
    assert code == 2
    assert "a card is found by the ending .yaml; rename the file" in said


def test_a_folder_that_a_variable_names_is_there(toy_run, monkeypatch):
    monkeypatch.chdir(toy_run.parents[1])
    monkeypatch.setenv("SEGBENCH_DATA", "/nowhere")
    code, said = segbench("run", "experiments/toy.yaml", "--dry-run")
    assert code == 2
    assert "$SEGBENCH_DATA /nowhere: there is no such folder" in said


def test_a_dry_run_names_the_trials_and_says_which_are_done(toy_run, monkeypatch):
    project = toy_run.parents[1]
    monkeypatch.chdir(project)
    code, said = segbench("run", "experiments/toy.yaml", "--dry-run")
    assert code == 0
    for head, state in (("fcn32s", "done"), ("fcn8s", "to run")):
        for seed in (0, 1):
            assert f"toynet {head} toyshapes seed {seed}: {state}" in said


def test_results_that_were_made_from_other_files_are_not_mixed_with_new_ones(toy_run, monkeypatch):
    project = toy_run.parents[1]
    monkeypatch.chdir(project)
    for about in (toy_run.parents[2] / "cache" / "arrow").glob("toyshapes-val-*/about.json"):
        text = about.read_text()
        about.write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))  # as other pixels
    code, said = segbench("run", "experiments/toy.yaml", "--dry-run")
    assert code == 2
    assert "holds 2 trials from other files of toyshapes val than are here now (trials/" in said
    assert "begin another --results folder" in said
    for about in (toy_run.parents[2] / "cache" / "arrow").glob("*/about.json"):
        about.unlink()  # not converted here: nothing is known
    assert segbench("run", "experiments/toy.yaml", "--dry-run")[0] == 0


@pytest.mark.parametrize("flag", ["--data", "--weights"])
def test_a_folder_that_does_not_exist_is_no_place_to_look_in(toy_project, flag):
    path = toy_project / "experiments" / "toy.yaml"
    code, said = segbench("run", path, flag, "nosuchfolder", "--dry-run")
    assert (code, said) == (2, f"{flag} nosuchfolder: there is no such folder")


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("mobilenet_v3_small", "mobilenet_v3_smal", "no model 'mobilenet_v3_smal'; did you mean"),
        ("features.12", "features.99", "the network has no module features.99 to cut a stage at"),
        (
            "channels: 576",
            "channels: 577",
            "with stride 32 and 577 channels, but has stride 32 and",
        ),
    ],
)
def test_a_card_that_its_network_does_not_keep_is_found_by_check_and_before_a_run(
    toy_project, right, wrong, sentence, tmp_path
):
    path = toy_project / "backbones" / "toynet.yaml"
    assert segbench("check", path) == (0, "the file is in order")
    path.write_text(path.read_text().replace(right, wrong))
    for words in (("check", path), ("run", toy_project / "experiments" / "toy.yaml")):
        code, said = segbench(*words, *(("--results", tmp_path / "r") if words[0] == "run" else ()))
        assert code == 2
        assert sentence in said
    assert not (tmp_path / "r" / "toy" / "trials").exists()


def test_an_experiment_is_shown_by_its_name(toy_project, monkeypatch):
    monkeypatch.chdir(toy_project)
    code, said = segbench("show", "toy")
    assert code == 0
    assert said.startswith("# 4 trials name: toy question: Does the toy sweep run?")
    assert "did you mean 'toy'?" in segbench("show", "toyy")[1]


def test_a_cache_that_cannot_be_written_is_refused_before_any_trial(toy_project, tmp_path):
    path = toy_project / "experiments" / "toy.yaml"
    results = tmp_path / "results"
    code, said = segbench("run", path, "--cache", path / "cache", "--results", results)
    assert code == 2
    assert "cannot be written (Not a directory); choose another folder with --cache" in said
    assert not results.exists()
