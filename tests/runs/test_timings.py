"""`segbench time`: models measured one after another, and what becomes of their times."""

import pytest
from command_line import segbench
from drawn_run import made_run, made_timings, record_run

from segbench.cli.planning import times_to_measure
from segbench.commands.run import Flags, prepare_run
from segbench.errors import ResultError
from segbench.report.write import read_run, write_report
from segbench.runs import trial_files
from segbench.runs.observed import facts_of
from segbench.runs.record import load_rows, load_run
from segbench.runs.table import tidy_rows
from segbench.runs.timings import FILE, Timing, load_timings
from segbench.schema.claims import Compare, Trend

FAST = ("--size", "32x40", "--passes", "2", "--device", "cpu")
CLAIM = """
claims:
  - kind: compare
    says: the small one is faster
    left: {backbone: resnet18}
    relation: below
    right: {backbone: googlenet}
    metric: forward_ms
"""


def timing(**fields) -> Timing:
    given = {
        "axes": {"backbone": "a"},
        "trial_id": "0" * 12,
        "weights": "trained",
        "forward_ms": (2.0, 4.0, 3.0),
        "quartiles_ms": (2.0, 4.0),
        **fields,
    }
    return Timing.model_validate(given)


def test_each_seed_has_a_round_of_its_own_and_a_model_the_median_of_all():
    found = timing(step_ms=(10.0, 20.0, 60.0), training_steps=100)
    assert found.of_round(1) == {"forward_ms": 4.0, "step_ms": 20.0, "training_s": 2.0}
    assert found.of_round(3) == {}
    assert found.medians() == {"forward_ms": 3.0, "step_ms": 20.0, "training_s": 2.0}
    assert timing().of_round(0) == {"forward_ms": 2.0}


def test_a_run_is_timed_and_its_page_says_how(toy_run):
    exit_code, said = segbench("time", toy_run, *FAST, "--training")
    assert exit_code == 0, said
    timings = load_timings(toy_run)
    assert timings is not None
    assert (timings.conditions.device, timings.conditions.size) == ("cpu", (32, 40))
    (cell,) = timings.cells
    assert (len(cell.forward_ms), len(cell.step_ms), cell.weights) == (5, 5, "trained")
    assert cell.quartiles_ms[0] <= cell.quartiles_ms[1]
    assert cell.training_steps == 6
    first, second = load_rows(toy_run, load_run(toy_run))
    assert [facts_of(row)["forward_ms"] for row in (first, second)] == list(cell.forward_ms[:2])
    page = (toy_run / "report.html").read_text()
    assert (
        "Times were measured one model after another by `segbench time`, on 1 thread of a cpu"
        in page
    )
    assert "Times that trials measured beside each other" not in page
    rows = [row for row in tidy_rows(toy_run) if row["figure"] == "forward_ms"]
    assert [row["value"] for row in rows] == list(cell.forward_ms[:2])


def test_models_without_weights_are_timed_with_random_ones_and_this_is_said(toy_run):
    for workdir in trial_files.trial_folders(toy_run):
        (workdir / trial_files.WEIGHTS).unlink()
    exit_code, said = segbench("time", toy_run, *FAST)
    assert exit_code == 0
    assert "1 models have no trained weights here and were timed with random ones" in said
    timings = load_timings(toy_run)
    assert timings is not None
    assert (timings.cells[0].weights, timings.cells[0].step_ms) == ("random", ())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "500"), "--size 500: expected height and width in pixels, such as 500x500"),
        (("--only", "backbone=vgg61"), "--only backbone=vgg61: no backbone 'vgg61' in the run"),
    ],
)
def test_wrong_flags_are_one_sentence(toy_run, words, message):
    exit_code, said = segbench("time", toy_run, *words)
    assert (exit_code, message in said) == (2, True)
    assert not (toy_run / FILE).exists()


def test_times_under_other_conditions_replace_those_of_before_and_equal_ones_join(tmp_path):
    made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    path = tmp_path / "experiments" / "made.yaml"
    whole = made_timings(prepare_run(path, Flags(results=tmp_path / "results")))
    part = whole.model_copy(update={"cells": (whole.cells[0].revised(forward_ms=(7.0,)),)})
    joined = part.joined(whole)
    assert len(joined.cells) == len(whole.cells)
    assert part.cells[0] in joined.cells
    assert whole.cells[0] not in joined.cells
    elsewhere = whole.conditions.revised(device="another")
    assert part.model_copy(update={"conditions": elsewhere}).joined(whole).cells == part.cells


def test_times_of_a_trial_that_the_run_no_longer_has_count_for_nothing(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    timings = load_timings(run_folder)
    assert timings is not None
    stale = tuple(cell.revised(trial_id="f" * 12) for cell in timings.cells)
    timings.model_copy(update={"cells": stale}).write_to(run_folder / FILE)
    assert all(row.timing is None for row in load_rows(run_folder, load_run(run_folder)))


def with_claim(folder, *, timed):
    run_folder = made_run(
        folder, datasets={"few": ("background", "cat")}, heads=("fcn8s",), timed=timed
    )
    text = (folder / "experiments" / "made.yaml").read_text()
    (folder / "experiments" / "made.yaml").write_text(text + CLAIM)
    prepared = prepare_run(folder / "experiments" / "made.yaml", Flags(results=folder / "results"))
    record_run(prepared)
    return run_folder, prepared


def test_a_claim_on_time_is_undecided_until_the_models_were_timed(tmp_path):
    run_folder, _ = with_claim(tmp_path / "shared", timed=False)
    (verdict,) = read_run(run_folder).verdicts
    assert verdict.outcome == "undecided"
    write_report(run_folder)
    assert "(`segbench time RUN` measures it)" in (run_folder / "claims.md").read_text()
    assert (
        "Times that trials measured beside each other are no costs"
        in (run_folder / "report.html").read_text()
    )
    run_folder, _ = with_claim(tmp_path / "alone", timed=True)
    (verdict,) = read_run(run_folder).verdicts
    assert verdict.outcome == "holds"


def test_plan_says_beforehand_which_claims_need_times():
    faster = Compare(says="f", left={"backbone": "a"}, right={"backbone": "b"}, metric="forward_ms")
    cheaper = faster.revised(says="c", metric="training_s")
    along = Trend(says="t", along="forward_ms", direction="rises")
    one, two = times_to_measure([faster, cheaper, along, faster.revised(metric="mean_iou")])
    assert one.startswith("'f', 't': undecided until `segbench time RUN` has measured")
    assert two.startswith("'c': undecided until `segbench time RUN --training` has measured")


def test_a_damaged_file_of_times_is_named(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    (run_folder / FILE).write_text("{}")
    with pytest.raises(ResultError, match=r"timings\.json"):
        list(load_rows(run_folder, load_run(run_folder)))


def test_times_travel_in_a_bundle_and_into_a_joined_run(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    assert segbench("bundle", run_folder, "-o", tmp_path / "run.zip")[0] == 0
    assert segbench("import", tmp_path / "run.zip", "--results", tmp_path / "there")[0] == 0
    there = tmp_path / "there" / "made"
    assert (there / FILE).read_bytes() == (run_folder / FILE).read_bytes()
    assert segbench("report", "--merge", run_folder, there, "-o", tmp_path / "both")[0] == 0
    assert load_timings(tmp_path / "both") == load_timings(run_folder)
