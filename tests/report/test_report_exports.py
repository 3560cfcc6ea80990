"""Tables for papers and notebooks hold the numbers of the result files."""

import csv
import io
import json
import subprocess
import sys

import pandas as pd
import pytest
from drawn_run import made_run

import segbench
from segbench.errors import ResultError
from segbench.report.exports import leaderboard_latex, per_class_latex
from segbench.report.table import latex_escaped
from segbench.report.write import read_run, write_report
from segbench.runs import trial_files
from segbench.runs.record import load_run

CLASSES = ("background", "50% & more_$", "x\\y{z}~^#<>|")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run_folder = made_run(tmp_path_factory.mktemp("made"), datasets={"few": CLASSES}, seeds=2)
    write_report(run_folder)
    return run_folder


def test_load_results_gives_every_number_of_the_files(made):
    table = segbench.load_results(made)
    assert list(table.columns) == [
        *("run", "trial_id", "backbone", "dataset", "head", "seed", "status", "protocol"),
        *("protocol_digest", "figure", "class_name", "value"),
    ]
    for path in made.glob("trials/*/evaluations/*.json"):
        evaluation = json.loads(path.read_text())
        own = table[
            (table.trial_id == evaluation["trial_id"]) & (table.protocol_digest == path.stem)
        ]
        figures = own[own.figure != "class_iou"].set_index("figure").value
        assert figures.dropna().to_dict() == {
            k: v for k, v in evaluation["figures"].items() if v is not None
        }
        ious = own[own.figure == "class_iou"]
        assert list(ious.class_name) == list(CLASSES)
        assert list(ious.value) == evaluation["per_class_iou"]
    parameters = table[table.figure == "parameters"]
    assert len(parameters) == 8
    assert set(parameters.protocol) == {""}


def test_a_trial_without_numbers_is_a_row_all_the_same(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": CLASSES}, seeds=1)
    gone = load_run(run_folder).cells[0].trial_id
    for path in trial_files.trial_folder(run_folder, gone).rglob("*.json"):
        path.unlink()
    table = segbench.load_results(str(run_folder))
    row = table[table.trial_id == gone]
    assert list(row.status) == ["unfinished"]
    assert list(row.figure) == [""]
    assert row.value.isna().all()


def test_several_runs_make_one_table(made):
    assert len(segbench.load_results(made, made)) == 2 * len(segbench.load_results(made))


def test_a_folder_that_holds_no_run_is_named(tmp_path):
    with pytest.raises(ResultError, match=r"holds no run\.json"):
        segbench.load_results(tmp_path)


def test_parquet_holds_what_load_results_returns(made):
    stored = pd.read_parquet(made / "exports" / "results.parquet")
    pd.testing.assert_frame_equal(stored, segbench.load_results(made), check_dtype=False)


def test_importing_segbench_loads_neither_torch_nor_pandas():
    heavy = ("torch", "pandas", "numpy", "pydantic")
    code = f"import sys, segbench; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = segbench.nothing


def test_the_csv_has_the_means_and_deviations_in_per_cent(made):
    table = segbench.load_results(made)
    lines = list(csv.DictReader(io.StringIO((made / "exports" / "leaderboard.csv").read_text())))
    assert len(lines) == 8
    for line in lines:
        own = table[table.figure == "mean_iou"]
        for axis in ("protocol", "backbone", "head"):
            own = own[own[axis] == line[axis]]
        assert float(line["mean_iou"]) == pytest.approx(100 * own.value.mean(), abs=1e-4)
        assert float(line["mean_iou_sd"]) == pytest.approx(100 * own.value.std(), abs=1e-4)
        assert float(line["mean_iou_low"]) < float(line["mean_iou"]) < float(line["mean_iou_high"])


def test_the_csv_of_classes_has_a_line_for_each(made):
    lines = list(
        csv.reader(io.StringIO((made / "exports" / "per_class_native_few.csv").read_text()))
    )
    assert [line[0] for line in lines[1:]] == list(CLASSES)
    assert {len(line) for line in lines} == {9}


def test_latex_escapes_what_it_would_take_for_its_own():
    assert latex_escaped("50% & a_$#{}") == r"50\% \& a\_\$\#\{\}"
    assert latex_escaped("\\~^<>|") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )


def test_latex_tables_have_one_width_and_say_what_plus_or_minus_is(made):
    for board in read_run(made).boards:
        for text in (leaderboard_latex(board), per_class_latex(board)):
            rows = [line for line in text.splitlines() if line.endswith(r"\\")]
            assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
            legend = text.splitlines()[-1]
            assert r"mean $\pm$ standard deviation (SD, n - 1; no standard error)" in legend
            assert "over 2 training seeds" in legend


def test_latex_marks_only_what_is_significantly_above_all_others(tmp_path):
    for name, gap, seeds, marked in (("far", 0.12, 4, 1), ("alike", 0, 4, 0), ("few", 0.12, 2, 0)):
        run_folder = made_run(
            tmp_path / name, datasets={"few": CLASSES}, heads=("fcn8s",), gap=gap, seeds=seeds
        )
        board = read_run(run_folder).boards[0]
        text = leaderboard_latex(board)
        assert text.count(r"\textbf{") == marked
        assert ("Bold: " in text) == bool(marked)
        assert r"\textbf{" not in per_class_latex(board)
        if marked:
            assert r"\textbf{" in next(line for line in text.splitlines() if "resnet18 &" in line)


def test_latex_of_one_seed_says_that_its_interval_knows_of_images_alone(tmp_path):
    board = read_run(made_run(tmp_path, datasets={"few": CLASSES}, seeds=1)).boards[0]
    text = leaderboard_latex(board)
    assert r"\pm" not in text
    assert "confidence interval of mean IoU over new images alone." in text
