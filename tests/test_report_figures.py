"""Figures for papers: every kind in every format, the same bytes each time."""

import itertools

import pytest
from drawn_run import made_run
from PIL import Image

from segbench.errors import ResultError
from segbench.report.figures import FORMATS, KINDS, chosen_board, front_of, write_figure
from segbench.report.write import read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(
        tmp_path_factory.mktemp("made"), datasets={"few": ("background", "$a_b$", "<c>")}, seeds=2
    )


@pytest.fixture(scope="module")
def board(made):
    return chosen_board(read_run(made).boards, "native", None)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_with_the_same_bytes_each_time(tmp_path, made, board, kind):
    for suffix in FORMATS:
        paths = [tmp_path / f"{number}.{suffix}" for number in (1, 2)]
        for path in paths:
            write_figure(path, kind, board, made, cost="step_ms")
        one, two = (path.read_bytes() for path in paths)
        assert one == two
        assert one.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    with Image.open(tmp_path / "1.png") as image:
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10  # not an empty sheet


def test_the_front_holds_what_nothing_beats_at_its_cost():
    points = [(x, (x * 7 + y * 3) % 11) for x, y in itertools.product(range(1, 6), range(3))]
    expected = {
        (x, y) for x, y in points
        if not any((a <= x and b >= y and (a, b) != (x, y)) for a, b in points)
    }  # fmt: skip
    assert set(front_of(points)) == expected


def test_a_wrong_kind_format_or_cost_is_named_with_the_choices(tmp_path, made, board):
    with pytest.raises(
        ResultError, match=r"--kind pie: no such figure; kinds: heatmap, curves, pareto"
    ):
        write_figure(tmp_path / "x.png", "pie", board, made)
    with pytest.raises(ResultError, match=r"x\.gif: figures end in \.png, \.svg, \.pdf"):
        write_figure(tmp_path / "x.gif", "heatmap", board, made)
    with pytest.raises(ResultError, match="--cost money: no such cost; costs: parameters"):
        write_figure(tmp_path / "x.png", "pareto", board, made, cost="money")
    with pytest.raises(ResultError, match="--cost forward_ms: was measured for no model of few"):
        write_figure(tmp_path / "x.png", "pareto", board, made, cost="forward_ms")
    assert not list(tmp_path.iterdir())


def test_a_figure_shows_one_ranking(made):
    found = read_run(made).boards
    with pytest.raises(
        ResultError,
        match="2 rankings match; a figure shows one of: --protocol flipped --dataset few",
    ):
        chosen_board(found, None, "few")
    with pytest.raises(ResultError, match="no complete results match"):
        chosen_board(found, None, "many")
