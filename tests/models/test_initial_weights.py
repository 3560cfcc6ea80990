"""What models started from: a warning before a run, and a column and caveats where it differs."""

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
from command_line import invoked
from drawn_run import made_run

from segbench.commands import compare, listing
from segbench.commands.run import Flags, prepare_run
from segbench.report.boards import boards
from segbench.report.claims_page import render_claims
from segbench.report.exports import leaderboard_csv, leaderboard_latex
from segbench.report.page import render_page
from segbench.report.tables import render_leaderboard
from segbench.report.write import read_run
from segbench.runs import trial_files
from segbench.runs.record import load_rows, load_run
from segbench.runs.starts import starts_of
from segbench.schema.initial_weights import random_by_default
from segbench.schema.machine import Machine

DATASETS = {"few": ("background", "cat", "dog")}
TRAINED = "overrides: [{where: {backbone: googlenet}, set: {model.weights: imagenet}}]\n"
CLAIM = (
    "claims: [{kind: compare, says: more, left: {backbone: resnet18}, right: {backbone: googlenet}"
)
BOTH = ("sweep.backbone=[toynet, resnet18]",)
WARNING = (
    "toynet starts from random weights, resnet18 from imagenet: the comparison is of weights, not of "
    "backbones; say `model.weights: none`, or give the card weights (such as `weights: "
    "torchvision:DEFAULT`)"
)
ALONE = (
    "toynet starts from random weights, since no others stand on the card as `default_weights`; say "
    "`model.weights: none` if that is meant, or give the card weights (such as `weights: "
    "torchvision:DEFAULT`)"
)


def _warning(project: Path, *lines: str, settings: tuple[str, ...] = BOTH) -> str:
    path = project / "experiments" / "toy.yaml"
    kept = path.read_text().replace("model: {weights: none}\n", "")
    other = path.with_name("other.yaml")
    other.write_text("\n".join((kept, *lines, "")))
    flags = Flags(settings=settings, results=project / "results")
    return random_by_default(prepare_run(other, flags).asked)


def test_a_backbone_without_weights_beside_a_pretrained_one_is_warned_of(toy_project):
    assert _warning(toy_project) == WARNING
    assert _warning(toy_project, settings=("sweep.backbone=[toynet]",)) == ALONE
    assert _warning(toy_project, settings=("sweep.backbone=[resnet18, googlenet]",)) == ""
    three = _warning(toy_project, settings=("sweep.backbone=[googlenet, toynet, resnet18]",))
    assert three.startswith(
        "toynet starts from random weights, googlenet from imagenet, resnet18 from imagenet: "
    )


@pytest.mark.parametrize(
    "lines",
    [
        "model: {weights: none}",
        "variants: {random: {model.weights: none}}",
        "overrides: [{where: {backbone: toynet}, set: {model.weights: none}}]",
        "sweep: {settings: {model.weights: [none]}}",
    ],
)
def test_random_weights_that_the_file_asks_for_are_meant(toy_project, lines):
    settings = BOTH
    if lines.startswith("sweep"):
        settings, lines = (*BOTH, "sweep.settings={model.weights: [none]}"), ""
    assert _warning(toy_project, lines, settings=settings) == ""


@pytest.mark.parametrize(
    "lines",
    [
        "variants: {own: {}, random: {model.weights: none}}",
        "variants: {own: {model.weights: default}}",
        "overrides: [{where: {backbone: resnet18}, set: {model.weights: imagenet}}]",
    ],
)
def test_what_is_said_of_other_cells_leaves_the_warning(toy_project, lines):
    assert _warning(toy_project, lines) == WARNING


def test_a_backbone_that_meets_no_pretrained_one_is_said_to_be_random(toy_project):
    apart = ("sweep.exclude=[{backbone: toynet, head: fcn8s}, {backbone: resnet18, head: fcn32s}]",)
    assert _warning(toy_project, settings=(*BOTH, *apart)) == ALONE


def test_check_plan_and_run_say_it_in_one_line(toy_project, monkeypatch):
    monkeypatch.chdir(toy_project)
    assert _warning(toy_project) == WARNING
    file = toy_project / "experiments" / "other.yaml"
    file.write_text(file.read_text().replace("[toynet]", "[toynet, resnet18]"))
    found = listing.checked(file, ())
    assert found.problems == []
    assert f"{file}: {WARNING}" in found.warnings
    for words in (["check"], ["plan"], ["run", "--dry-run"]):
        done = invoked(words[0], file, *words[1:])
        assert done.exit_code == 0, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "weights" in line]
        assert line.removeprefix(f"{file}: ") == WARNING


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run whose googlenet started from ImageNet and whose resnet18 did not; claims on both."""
    extra = TRAINED + CLAIM + "}, {kind: compare, says: sizes, metric: parameters, " + (
        "left: {backbone: resnet18}, right: {backbone: googlenet}}, "
        "{kind: order, says: heads, rising: [{head: fcn32s}, {head: fcn8s}]}]\n"
    )  # fmt: skip
    return made_run(tmp_path_factory.mktemp("mixed"), datasets=DATASETS, extra=extra)


def _column(table: str, name: str) -> list[str]:
    lines = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in table.splitlines()
        if "|" in line
    ]
    header = next(line for line in lines if "mean IoU" in line)
    place = header.index(name)
    return [line[place] for line in lines[lines.index(header) + 2 :] if len(line) == len(header)]


def test_a_column_names_the_weights_where_rows_differ(mixed):
    found = read_run(mixed, judged=False)
    board = found.boards[0]
    expected = ["random" if m.axes["backbone"] == "resnet18" else "imagenet" for m in board.models]
    text = render_leaderboard(found.record, found.rows, found.boards[:1])
    assert _column(text, "weights") == expected
    source = "googlenet imagenet (torchvision GoogLeNet_Weights.IMAGENET1K_V1, sha256 1378be20)"
    assert f"Initial weights: {source}." in text
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(found.record, found.boards[:1]))))
    assert [row["weights"] for row in rows] == expected
    latex = leaderboard_latex(board).splitlines()
    header = next(line for line in latex if "backbone" in line).split(" & ")
    body = [line.split(" & ") for line in latex if "fcn" in line]
    assert [line[header.index("weights")] for line in body] == expected
    page = render_page(mixed, found.record, found.rows, found.boards)
    assert re.findall(r'<td data-value="\w+">(random|imagenet)</td>', page)[:4] == expected
    assert f"Initial weights: {source}." in page
    assert "(initial weights differ: resnet18 random, googlenet imagenet)" in page
    assert "<p>Initial weights differ: random against imagenet.</p>" in page


def test_where_all_start_alike_no_column_stands(tmp_path):
    run_folder = made_run(tmp_path, datasets=DATASETS, seeds=1)
    found = read_run(run_folder)
    assert "weights |" not in render_leaderboard(found.record, found.rows, found.boards)
    assert "weights" not in leaderboard_csv(found.record, found.boards).splitlines()[0]
    page = render_page(run_folder, found.record, found.rows, found.boards)
    assert "initial weights" not in page.lower()


def test_claims_that_mix_weights_say_so(mixed):
    found = read_run(mixed)
    text = render_claims(found.verdicts)
    lines = {line.split(" | ")[1].strip(): line for line in text.splitlines() if "](#claim" in line}
    assert (
        "initial weights differ: random against imagenet, so weights are compared as much as backbones"
        in lines["more"]
    )
    assert "weights" not in lines["sizes"]  # a count of parameters is the same from any start
    assert "weights" not in lines["heads"]  # backbone by backbone: the same start on both sides
    assert "| random against imagenet |" in text
    page = render_page(mixed, found.record, found.rows, found.boards, verdicts=found.verdicts)
    assert "initial weights differ: random against imagenet, so weights" in page


def test_weights_that_are_compared_on_purpose_are_stated_plainly(tmp_path):
    extra = (
        "variants: {pretrained: {model.weights: imagenet}, random: {}}\n"
        "claims: [{kind: compare, says: more, left: {variant: pretrained}, right: {variant: random}}]\n"
    )
    run_folder = made_run(
        tmp_path, datasets=DATASETS, backbones=("resnet18",), heads=("fcn32s",), extra=extra
    )
    text = render_claims(read_run(run_folder).verdicts)
    assert "; initial weights differ: imagenet against random)" in text


def test_a_trial_that_starts_from_another_is_named_by_what_that_was(tmp_path):
    extra = "start_from: [{where: {head: fcn8s}, take: {head: fcn32s}}]\n"
    run_folder = made_run(tmp_path, datasets=DATASETS, seeds=2, extra=extra)
    found = read_run(run_folder)
    names = {model.axes["head"]: model.initial_weights for model in found.boards[0].models}
    assert names == {"fcn32s": "random", "fcn8s": "trained fcn32s"}
    record = load_run(run_folder)
    start = record.cells[0]
    kept = record.model_copy(update={"cells": tuple(c for c in record.cells if c != start)})
    rows = list(load_rows(run_folder, kept))
    assert f"trial {start.trial_id}" in {each.name for each in starts_of(run_folder, rows).values()}


def test_the_sha256_of_the_file_that_was_read_stands_on_the_row(mixed, tmp_path):
    run_folder = shutil.copytree(mixed, tmp_path / "made")
    for row in load_rows(run_folder, load_run(run_folder)):
        assert row.provenance is not None
        workdir = trial_files.trial_folder(run_folder, row.cell.trial_id)
        trial_files.write_provenance(
            workdir, row.provenance.revised(weights_sha256="1378be20" + "a" * 56)
        )
    found = read_run(run_folder, judged=False)
    text = render_page(run_folder, found.record, found.rows, found.boards)
    whole = f"imagenet (torchvision GoogLeNet_Weights.IMAGENET1K_V1, sha256 1378be20{'a' * 56})"
    assert f'"starts":["{whole}"]' in text
    assert '"starts":["random"]' in text


def test_a_folder_without_the_trials_own_files_is_shown_without_weights(mixed, tmp_path):
    run_folder = shutil.copytree(mixed, tmp_path / "made")
    for path in run_folder.glob("trials/*/trial.json"):
        path.unlink()
    record = load_run(run_folder)
    found = list(boards(run_folder, record, list(load_rows(run_folder, record))))
    assert {model.initial_weights for model in found[0].models} == {""}
    assert "weights |" not in render_leaderboard(record, [], found)


def test_compare_says_what_its_sides_started_from(mixed):
    def told(left: str, right: str) -> list[str]:
        asked = compare.CompareFlags(protocol_name="native")
        sides = (f"{mixed}:backbone={left}", f"{mixed}:backbone={right}")
        machine = Machine(cache=str(mixed / "cache"))
        found = compare.compare_results(*sides, asked, machine, lambda *_: None)
        return [note for note in found.notes if "weights differ" in note]

    expected = ["Initial weights differ: random against imagenet."]
    assert told("resnet18,head=fcn32s", "googlenet,head=fcn32s") == expected
    assert told("resnet18,head=fcn32s", "resnet18,head=fcn8s") == []
