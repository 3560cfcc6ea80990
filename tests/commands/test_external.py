"""`segbench evaluate`: trained trials by other protocols, and predictions of anybody."""

import re

import numpy as np
import pytest
from command_line import segbench
from PIL import Image

from segbench.cli import scoring
from segbench.cli.pages import show_report
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.data.split import open_split
from segbench.report.boards import boards
from segbench.report.tables import write_tables
from segbench.report.write import origin_in_words
from segbench.runs import trial_files
from segbench.runs.external import load_externals
from segbench.runs.record import load_rows, load_run
from segbench.schema.catalog import Catalog
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol


@pytest.fixture(autouse=True)
def _tables_alone(monkeypatch):
    """Write the tables that these tests read, not the page and its figures."""

    def write(run_folder):
        record = load_run(run_folder)
        rows = list(load_rows(run_folder, record))
        write_tables(run_folder, record, rows, list(boards(run_folder, record, rows)))

    monkeypatch.setattr(scoring, "show_report", write)


@pytest.fixture
def labels(toy_run):
    """The toy data set's validation labels by image name, as class indices, 255 = void."""
    split = open_split(Catalog.on_path().dataset("toyshapes"), "val", Machine.from_environment())
    return {name: split.label(index).numpy() for index, name in enumerate(split.names)}


@pytest.fixture
def predictions(labels, tmp_path):
    """A folder that predicts the labels, but circles as squares and every void pixel as background."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, label in labels.items():
        pixels = np.where(label == 1, 2, np.where(label == 255, 0, label)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def score(folder, *words):
    return segbench(
        "evaluate", "--predictions", folder, "--dataset", "toyshapes", "--split", "val", *words
    )


def test_a_trial_is_scored_by_another_protocol_without_training_it_again(toy_run):
    trial = trial_files.trial_folders(toy_run)
    workdir = next(iter(trial))
    weights = (workdir / "model.safetensors").stat().st_mtime_ns
    code, said = segbench(
        "evaluate", toy_run, workdir.name[:6], "--set", "flip=true", "--name", "mirrored"
    )
    assert code == 0, said
    record = load_run(toy_run)
    assert record.protocols["mirrored"] == Protocol(name="mirrored", flip=True)
    assert trial_files.load_evaluation(workdir, record.protocols["mirrored"]) is not None
    assert (workdir / "model.safetensors").stat().st_mtime_ns == weights
    board = (toy_run / "leaderboard.md").read_text()
    assert f"## Protocol `native` ({Protocol().digest()})" in board
    assert "1 of 2" in board  # one of two seeds: it stands under what is incomplete
    segbench("evaluate", toy_run, "--set", "flip=true", "--name", "mirrored")
    board = (toy_run / "leaderboard.md").read_text()
    section = board.split("## Protocol `mirrored`")[1]
    assert "flip True" in section
    assert "| 2, did not learn " in section
    assert "Incomplete" not in section


def test_the_same_run_command_again_keeps_added_protocols(toy_run):
    segbench("evaluate", toy_run, "--set", "flip=true", "--name", "mirrored")
    flags = Flags(only=("head=fcn32s",), results=toy_run.parent)
    prepared = prepare_run(toy_run.parents[1] / "experiments" / "toy.yaml", flags)
    record_run(prepared, "again")
    assert "mirrored" in load_run(toy_run).protocols


def test_claims_say_which_protocols_were_planned_and_which_were_added(toy_run):
    native = (
        "Scored by `native`, split val: whole images at native size, single scale, void ignored."
    )
    assert origin_in_words(load_run(toy_run))[1:] == [native]
    segbench("evaluate", toy_run, "--set", "flip=true", "--name", "mirrored")
    added = "Added by `segbench evaluate`, and part of no claim: `mirrored`, split val: flip True."
    assert origin_in_words(load_run(toy_run))[1:] == [native, added]


def test_an_added_protocol_is_not_lost_where_the_file_takes_its_name(toy_run):
    segbench("evaluate", toy_run, "--set", "flip=true", "--name", "mirrored")
    flags = Flags(settings=("evaluate.mirrored={scales: [2.0]}",), results=toy_run.parent)
    prepared = prepare_run(toy_run.parents[1] / "experiments" / "toy.yaml", flags)
    record_run(prepared, "again")
    record, mirrored = load_run(toy_run), Protocol(flip=True)
    assert list(record.protocols) == ["native", "mirrored", f"mirrored-{mirrored.digest()}"]
    rows = [row for row in load_rows(toy_run, record) if row.is_done]
    assert all(f"mirrored-{mirrored.digest()}" in row.evaluations for row in rows)


def test_a_name_stands_for_one_protocol(toy_run):
    segbench("evaluate", toy_run, "--set", "flip=true", "--name", "other")
    code, said = segbench("evaluate", toy_run, "--set", "scales=[1.0, 2.0]", "--name", "other")
    assert (code, "'other' is the name of another protocol" in said) == (2, True)


def test_predictions_are_scored_by_hand_worked_figures_and_join_the_leaderboard(
    toy_run, predictions, labels
):
    code, said = score(predictions, "--name", "theirs", "--run", toy_run)
    assert code == 0, said
    (external,) = load_externals(toy_run)
    (found,) = external.evaluations
    flat = np.concatenate([label.ravel() for label in labels.values()])
    background, circle, square = ((flat == c).sum() for c in range(3))
    expected = {
        "mean_iou": (1 + 0 + square / (square + circle)) / 3,
        "pixel_accuracy": (background + square) / (background + circle + square),
    }
    for name, value in expected.items():
        assert found.figures[name] == pytest.approx(value, abs=1e-12)
    board = (toy_run / "leaderboard.md").read_text()
    ranking = board.split("## Protocol `native`")[1].split("## ")[1]
    assert "theirs" in ranking
    assert "external" in ranking
    assert "toynet" in ranking
    assert "theirs" in (toy_run / "per_class" / "toyshapes.md").read_text()
    trial = next(trial_files.trial_folders(toy_run))
    assert (
        trial_files.load_evaluation(trial, Protocol()).split_fingerprint == found.split_fingerprint
    )  # pyright: ignore[reportOptionalMemberAccess]


def test_protocols_are_named_by_their_settings_or_as_is_asked(toy_run):
    crf = "crf={iterations: 1, bilateral_width: 60, bilateral_colour: 5, bilateral_weight: 4}"
    code, said = segbench("evaluate", toy_run, "--set", crf)
    assert code == 0, said
    (name,) = load_run(toy_run).added
    assert len(name) <= 64
    assert name.startswith("native-crf--iterations--1")
    code, said = segbench("evaluate", toy_run, "--set", "flip=true", "--name", "Two Scales")
    assert code == 2
    assert "--name 'Two Scales': a name has lower-case letters" in said


def test_a_run_without_models_is_told_from_one_that_can_be_scored_again(toy_run):
    first, second = (trial.name for trial in trial_files.trial_folders(toy_run))
    (toy_run / "trials" / first / "model.safetensors").unlink()
    code, said = segbench("evaluate", toy_run, first, second, "--set", "flip=true")
    assert code == 2
    assert f"no model.safetensors in {first}: a trial has it from the end of its training" in said
    code, said = segbench("evaluate", toy_run, "--set", "flip=true")
    assert code == 0, said
    (toy_run / "trials" / second / "model.safetensors").unlink()
    code, said = segbench("evaluate", toy_run, "--set", "scales=[1.0, 2.0]")
    assert code == 2
    assert "no model.safetensors in any trial" in said


def test_two_protocols_of_one_folder_are_two_rows_that_are_ranked_apart(toy_run, predictions):
    score(predictions, "--name", "theirs", "--run", toy_run)
    score(predictions, "--name", "theirs", "--run", toy_run, "--set", "with_background=false")
    (external,) = load_externals(toy_run)
    assert len(external.evaluations) == 2
    board = (toy_run / "leaderboard.md").read_text()
    sections = [part for part in board.split("## Protocol ")[1:] if "theirs" in part]
    assert len(sections) == 2
    assert "with_background False" in sections[1]
    assert "toynet" not in sections[1]


def test_a_mapping_reads_another_encoding_and_palette_files_read_as_indices(
    toy_run, labels, tmp_path
):
    raw = np.array([7, 30, 12], dtype=np.uint8)
    folder = tmp_path / "mapped"
    folder.mkdir()
    for name, label in labels.items():
        picture = Image.fromarray(raw[np.where(label == 255, 0, label)])
        picture.putpalette([value for index in range(256) for value in (0, index, 0)])
        picture.save(folder / f"{name}.png")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("7: background\n30: circle\n12: square\n")
    code, said = score(folder, "--mapping", mapping, "--run", toy_run)
    assert code == 0, said
    assert "mean iou 100.00" in said
    code, said = score(folder, "--run", toy_run, "--name", "unmapped")
    assert code == 2
    assert "is not encoded as the labels of toyshapes" in said


def test_a_mapping_with_unknown_names_says_them_all(toy_run, predictions, tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("0: backgroud\nx: circle\n2: square\n")
    code, said = score(predictions, "--mapping", mapping)
    assert code == 2
    assert (
        "mapping.yaml:1: 0: no class 'backgroud' in toyshapes; did you mean 'background'?" in said
    )
    assert "mapping.yaml:2: x: a raw value must lie in 0..65535, but is 'x'" in said


def test_missing_surplus_unreadable_and_wrongly_sized_files_are_all_listed_at_once(
    toy_run, predictions
):
    first, second, third, _ = sorted(predictions.glob("*.png"))
    first.unlink()
    Image.new("L", (31, 32)).save(second)
    Image.new("RGB", (32, 32)).save(third)
    Image.new("L", (32, 32)).save(predictions / "nobody.png")
    code, said = score(predictions, "--run", toy_run)
    assert code == 2
    assert f"{first.name}: is missing" in said
    assert "nobody.png: is surplus: the split has no such image" in said
    assert f"wrong size: {second}: 31x32 pixels, the label 32x32" in said
    assert f"{third.name}: holds colours (RGB)" in said
    assert load_externals(toy_run) == []


def test_one_name_never_stands_for_two_folders(toy_run, predictions):
    score(predictions, "--name", "theirs", "--run", toy_run)
    Image.new("L", (32, 32)).save(next(predictions.glob("*.png")))
    code, said = score(predictions, "--name", "theirs", "--run", toy_run)
    assert code == 2
    assert "holds the scores of other predictions under the name 'theirs'" in said


def test_one_name_never_stands_for_two_readings_of_a_folder(toy_run, predictions):
    score(predictions, "--name", "theirs", "--run", toy_run)
    words = ("--name", "theirs", "--run", toy_run, "--encoding", "index")
    code, said = score(predictions, *words)
    assert code == 2
    assert (
        "holds the scores of these predictions, read another way, under the name 'theirs'" in said
    )


def test_without_a_run_the_scores_go_to_the_results_folder(toy_run, predictions, tmp_path):
    code, said = score(predictions, "--name", "theirs", "--results", tmp_path / "r")
    assert code == 0, said
    assert load_externals(tmp_path / "r")[0].method.name == "theirs"


def test_what_is_missing_on_the_command_line_is_said(toy_run, predictions):
    assert "name a RUN" in segbench("evaluate")[1]
    assert "needs --dataset NAME" in segbench("evaluate", "--predictions", predictions)[1]
    assert "no data set 'toyshape'; did you mean" in " ".join(
        segbench("evaluate", "--predictions", predictions, "--dataset", "toyshape")[1].split()
    )
    code, said = segbench("evaluate", toy_run, "--set", "flips=true")
    assert (code, "flips: unknown key; did you mean 'flip'?" in said) == (2, True)


def test_what_the_crf_gives_each_class_is_reported(toy_run):
    pytest.importorskip("pydensecrf.densecrf")
    code, said = segbench("evaluate", toy_run, "--set", "crf={iterations: 2}", "--name", "crf")
    assert code == 0, said
    page = (toy_run / "per_class" / "toyshapes.md").read_text()
    gain = page.split("## Gain of the CRF: `crf` over `native`")[1]
    assert gain.count("\n| ") == 5  # header, three classes, mean
    assert "+" in gain or "-0." in gain


def test_scores_on_other_images_are_ranked_apart_under_the_same_protocol(toy_run, predictions):
    score(predictions, "--name", "theirs", "--run", toy_run)
    (path,) = (toy_run / "external" / "theirs" / "evaluations").glob("*.json")
    text = path.read_text().replace('"split_fingerprint": "', '"split_fingerprint": "other')
    path.write_text(text)
    show_report(toy_run)
    section = (toy_run / "leaderboard.md").read_text().split("## Protocol `native`")[1]
    assert section.count("### toyshapes") == 2
    assert len(re.findall(r"^\| *1 +\|", section, re.MULTILINE)) == 2
