"""The Markdown tables say no more than is decided, and say how they are to be read."""

from dataclasses import replace

import pytest
from drawn_run import made_run

from segbench.report.tables import render_leaderboard, render_per_class
from segbench.report.write import read_run
from segbench.statistics.inference import MIN_SEEDS


def tables_of(run_folder) -> tuple[str, str]:
    found = read_run(run_folder)
    one = [board for board in found.boards if board.dataset == "few"]
    return (
        render_leaderboard(found.record, found.rows, found.boards),
        render_per_class(found.record, found.rows, one),
    )


def lines_of(text: str, section: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its two head lines."""
    lines = text.partition(section)[2].partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    run_folder = made_run(
        tmp_path_factory.mktemp("made"), datasets={"few": ("background", "cat", "dog")}
    )
    return tables_of(run_folder)


def test_models_that_differ_have_places_and_letters_of_their_own(tables):
    rows = lines_of(tables[0], "## Protocol `native`")
    assert [row[:4] for row in rows] == [
        ["1", "a", "resnet18", "fcn32s"],
        ["2", "b", "resnet18", "fcn8s"],
        ["3", "c", "googlenet", "fcn32s"],
        ["4", "d", "googlenet", "fcn8s"],
    ]
    assert "models that share a letter do not differ significantly." in tables[0]
    assert "rank " not in tables[0].splitlines()[8]


def test_models_that_are_not_told_apart_share_place_and_letter(tmp_path):
    alike = made_run(tmp_path, datasets={"few": ("background", "cat")}, heads=("fcn8s",), gap=0)
    rows = lines_of(tables_of(alike)[0], "## Protocol `native`")
    assert [row[:2] for row in rows] == [["1\u20132", "a"]] * 2


def test_with_too_few_seeds_no_order_is_printed(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=MIN_SEEDS - 1)
    text, _ = tables_of(run_folder)
    assert [row[:2] for row in lines_of(text, "## Protocol `native`")] == [["1\u20134", "-"]] * 4
    assert f"No difference is tested: that takes {MIN_SEEDS} seeds for each model." in text


def test_the_interval_stands_beside_the_mean(tables):
    for row in lines_of(tables[0], "## Protocol `native`"):
        low, high = (float(end) for end in row[5].strip("[]").split(","))
        assert low < float(row[4].strip("*").split()[0]) < high


def test_each_class_has_a_line_and_the_mean_the_last(tables):
    rows = lines_of(tables[1], "## Protocol `native`")
    assert [row[0] for row in rows] == ["background", "cat", "dog", "**mean**"]
    assert rows[-1][1] == lines_of(tables[0], "## Protocol `native`")[0][4]


def test_a_split_that_is_not_the_default_is_named_once(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")}, timed=False)
    found = read_run(run_folder)
    protocol = found.boards[0].protocol.revised(split="train", size=(64, 48))
    assert protocol.description() == "split train; size 64x48"
    boards = [replace(found.boards[0], protocol=protocol)]
    text = render_leaderboard(found.record, found.rows, boards)
    assert "\nSplit `train`; size 64x48.\n" in text
    assert "split train" not in text
