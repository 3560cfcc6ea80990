"""Figures for papers: every kind in every format, the same bytes each time."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_run import made_run
from PIL import Image

from segbench.errors import ResultError
from segbench.report.charts import front_of
from segbench.report.figures import FORMATS, KINDS, chosen_board, write_figure
from segbench.report.write import read_run
from segbench.runs.panels import PARTS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(
        tmp_path_factory.mktemp("made"), datasets={"few": ("background", "$a_b$", "<c>")}, seeds=2
    )


@pytest.fixture(scope="module")
def board(made):
    return chosen_board(read_run(made).boards, "native", None)


@pytest.fixture(scope="module")
def pictured(made, board):
    """The run with drawn pictures of its best trial."""
    trial_id = board.models[0].rows[0].cell.trial_id
    folder = made / "panels" / trial_id
    folder.mkdir(parents=True)
    rng, panels = np.random.default_rng(0), []
    for place, kind in enumerate(("best", "typical", "worst")):
        files = {}
        for part in PARTS:
            files[part] = f"{kind}_1_{part}.png"
            pixels = rng.integers(0, 255, (20 + 10 * place, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / files[part])
        one = {"kind": kind, "name": kind, "iou": 0.9 - 0.2 * place, "files": files}
        panels.append({**one, "class_indices": [0, 1]})
    record = {
        "trial_id": trial_id, "protocol": "native", "rule": "r", "panels": panels,
        "class_names": board.class_names, "colours": [[0, 0, 0], [9, 9, 9], [90, 0, 0]],
    }  # fmt: skip
    (folder / "panels.json").write_text(json.dumps(record))
    return made


def test_without_pictures_on_file_the_figure_says_how_to_draw_them(tmp_path, board):
    with pytest.raises(ResultError, match="segbench report RUN --panels TRIAL draws them"):
        write_figure(tmp_path / "x.png", "images", board, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_with_the_same_bytes_each_time(tmp_path, pictured, board, kind):
    for suffix in FORMATS:
        paths = [tmp_path / f"{number}.{suffix}" for number in (1, 2)]
        for path in paths:
            write_figure(path, kind, board, pictured, cost="step_ms")
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
        ResultError,
        match=r"--kind pie: no such figure; kinds: heatmap, difference, confusion, images",
    ):
        write_figure(tmp_path / "x.png", "pie", board, made)
    with pytest.raises(ResultError, match=r"x\.gif: figures end in \.png, \.svg, \.pdf"):
        write_figure(tmp_path / "x.gif", "heatmap", board, made)
    with pytest.raises(ResultError, match="--cost money: no such cost; costs: parameters"):
        write_figure(tmp_path / "x.png", "pareto", board, made, cost="money")
    free = replace(board, models=tuple(replace(model, costs={}) for model in board.models))
    with pytest.raises(ResultError, match="--cost forward_ms: was measured for no model of few"):
        write_figure(tmp_path / "x.png", "pareto", free, made, cost="forward_ms")
    alone = replace(board, models=board.models[:1])
    with pytest.raises(ResultError, match="holds one model; a difference takes two"):
        write_figure(tmp_path / "x.png", "difference", alone, made)
    assert not list(tmp_path.iterdir())


def test_a_figure_shows_one_ranking(made):
    found = read_run(made).boards
    with pytest.raises(
        ResultError,
        match="2 rankings match; a figure shows one of: --protocol native --dataset few",
    ):
        chosen_board(found, None, "few")
    with pytest.raises(ResultError, match="no complete results match"):
        chosen_board(found, None, "many")
