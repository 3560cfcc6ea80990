"""A training that did not learn is marked wherever its figures stand."""

import itertools
import json

import numpy as np
import pytest
from command_line import invoked
from drawn_run import made_run

from segbench.metrics.blank import why_blank
from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.report.boards import boards
from segbench.report.write import write_report
from segbench.runs import trial_files
from segbench.runs.record import load_rows, load_run
from segbench.runs.trial_files import Result, why_not_learnt


def sums(confusion: list[list[int]]) -> Sums:
    """Rows are labels, columns predictions."""
    matrix = np.array(confusion)
    return Sums(matrix.diagonal(), matrix.sum(1), matrix.sum(0))


@pytest.mark.parametrize(
    ("confusion", "blank"),
    [
        ([[6, 0, 0], [3, 0, 0], [1, 0, 0]], "one_class"),
        ([[0, 6, 0], [0, 3, 0], [0, 1, 0]], "one_class"),
        ([[0, 0, 0], [0, 0, 0], [6, 3, 1]], ""),  # one class is labelled: it tells nothing
        ([[59, 1, 0], [30, 0, 0], [10, 0, 0]], "no_better"),  # 59/100 against 60/100
        ([[55, 5, 0], [20, 10, 0], [10, 0, 0]], ""),
        ([[6, 0, 0], [0, 3, 0], [0, 0, 1]], ""),
    ],
)
def test_predictions_of_a_model_that_did_not_learn_as_worked_by_hand(confusion, blank):
    assert why_blank(sums(confusion)) == blank


def test_a_model_as_good_as_some_constant_is_never_taken_for_trained():
    """By every constant, not the largest class alone."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix = rng.integers(0, 50, (4, 4))
        best = max(
            mean_iou(sums([[row.sum() * (c == k) for c in range(4)] for row in matrix]))
            for k in range(4)
        )
        if mean_iou(sums(matrix.tolist())) <= best:
            assert why_blank(sums(matrix.tolist())) == "no_better"


def result(first: float | None, last: float | None) -> Result:
    return Result(trial_id="a" * 12, status="done", first_loss=first, final_loss=last)


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        (1.0, 1.0625, "its loss ended at 1.06, above its start at 1"),
        (1.0, 1.0, ""),
        (1.0, 0.5, ""),
        (None, 2.0, ""),  # a record of an earlier version, or a training that goes on
        (2.0, None, ""),
    ],
)
def test_a_training_whose_loss_ended_above_its_start_did_not_learn(first, last, why):
    assert why_not_learnt(result(first, last), None) == why
    assert why_not_learnt(result(first, last), "one_class") == (
        why or "it predicts one class alone"
    )


def test_the_first_logged_loss_is_on_file_and_equal_after_a_stop(toy_run):
    for workdir in trial_files.trial_folders(toy_run):
        lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        found = trial_files.load_result(workdir)
        assert found is not None
        assert (found.first_loss, found.final_loss) == (
            round(losses[0], 9),
            round(losses[-1], 9),
        )


def test_it_is_marked_in_leaderboard_page_claims_and_status(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")}, seeds=2)
    record = load_run(run_folder)
    rows = list(load_rows(run_folder, record))
    name = rows[0].cell.axes["backbone"]
    for row in (r for r in rows if r.cell.axes == rows[0].cell.axes):
        assert row.result is not None
        spoilt = row.result.revised(first_loss=1.0, final_loss=1.5)
        trial_files.write_result(trial_files.trial_folder(run_folder, row.cell.trial_id), spoilt)
    models = itertools.chain.from_iterable(
        board.models for board in boards(run_folder, record, list(load_rows(run_folder, record)))
    )
    assert {m.axes["backbone"] for m in models if any(m.not_learnt)} == {name}
    write_report(run_folder)
    why = "2 of 2: its loss ended at 1.5, above its start at 1"
    leaderboard = (run_folder / "leaderboard.md").read_text()
    assert why in leaderboard
    assert "| 2, did not learn |" in leaderboard
    page = (run_folder / "report.html").read_text()
    assert why in page
    assert "2, did not learn</td>" in page
    done = invoked("status", run_folder)
    assert "did not learn: its loss ended at 1.5" in " ".join(done.output.split())
