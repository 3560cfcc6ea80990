"""Searches: drawn samples, judged on held-out images; the reported split is never opened."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from launch_faults import Toy, results_so_far, wait_until
from typer.testing import CliRunner

from segbench.cli.app import app
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.engine.checkpoint import load_checkpoint
from segbench.errors import ExperimentError
from segbench.files import write_json
from segbench.launch.ray.rung import read_score, rung_path
from segbench.leases import claim
from segbench.metrics.counts import Counted
from segbench.report.page import render_page
from segbench.report.tables import render_leaderboard
from segbench.runs.record import CellRecord, load_rows, load_run, record_of, write_run
from segbench.runs.trial_files import (
    Evaluation,
    Result,
    load_result,
    write_evaluation,
    write_result,
)
from segbench.runs.tuning import best_samples
from segbench.schema.experiment import read_experiment
from segbench.schema.search import Distribution, Search
from segbench.schema.searched import brackets, settings_of
from segbench.work.phases import Stops
from segbench.work.scoring import score_checkpoint
from segbench.work.trial import run_trial

SEARCH = """
search:
  samples: 4
  holdout: 0.4
  parameters:
    train.stages.0.optimizer.lr: {log_uniform: [1e-4, 1e-1]}
    train.batch_size: {choice: [2, 4]}
"""


@pytest.fixture
def searching(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    path.write_text(path.read_text() + SEARCH)
    return toy_project


def test_the_same_file_gives_the_same_samples_within_their_ranges():
    search = Search(
        parameters={
            "a": Distribution(log_uniform=(1e-4, 1e-1)),
            "b": Distribution(integer=(1, 3)),
            "c": Distribution(log_integer=(1, 64)),
            "d": Distribution(uniform=(-1.0, 1.0)),
            "e": Distribution(choice=("x", "y")),
        },
        samples=200,
    )
    samples = search.drawn_samples()
    assert samples == search.drawn_samples()
    assert samples != search.revised(seed=1).drawn_samples()
    assert all(1e-4 <= sample["a"] <= 1e-1 for sample in samples)
    below = sum(sample["a"] < 10**-2.5 for sample in samples)
    assert 70 <= below <= 130  # half of a log-uniform range lies below its geometric middle
    assert {sample["b"] for sample in samples} == {1, 2, 3}
    assert {1, 64} <= {sample["c"] for sample in samples} <= set(range(1, 65))
    assert {sample["e"] for sample in samples} == {"x", "y"}


def test_a_grid_is_every_combination_once():
    parameters = {"a": Distribution(choice=(1, 2)), "b": Distribution(choice=("x", "y", "z"))}
    samples = Search(method="grid", parameters=parameters).drawn_samples()
    assert len(samples) == 6
    assert {"a": 2, "b": "z"} in samples


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("search.parameters={train.batch_size: {choice: [2], uniform: [1, 2]}}", "exactly one of"),
        ("search.parameters={train.batch_size: {log_uniform: [0, 2]}}", r"\[low, high\] above 0"),
        ("search.method=grid", "a grid needs `choice`"),
        ("search.method=asha", "needs grace_steps"),
        ("search.parameters={train.batchsize: {choice: [2]}}", "batchsize"),
    ],
)
def test_a_search_that_cannot_be_is_an_error_before_anything_runs(searching, setting, sentence):
    path = searching / "experiments" / "toy.yaml"
    with pytest.raises(ExperimentError, match=sentence):
        prepare_run(path, Flags(settings=(setting,), search=True))


def test_a_search_trains_and_scores_on_parts_of_train_alone(searching):
    prepared = prepare_run(searching / "experiments" / "toy.yaml", Flags(search=True))
    assert prepared.run_folder.name == "toy-search"
    protocols = prepared.asked.experiment.evaluate
    assert {protocol.split for protocol in protocols.values()} == {"holdout"}
    assert len(prepared.asked.trials) == 2 * 4
    for trial in prepared.asked.trials.values():
        assert (trial.train.split, trial.dataset.view.holdout) == ("train", 0.4)


def _record_search(project, scores: dict[str, float | None]) -> None:
    """Write results of a search by hand: a sample's score in every cell, None = failed."""
    _record_scores(project, lambda cell: scores.get(cell.axes["variant"], "no result"))


def _record_scores(project, score_of: Callable[[CellRecord], Any], **flagged: Any) -> None:
    """Write results of a search by hand: each cell's score, None = failed, "no result" = none."""
    flags = Flags(search=True, results=project / "results", **flagged)
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    folder = prepared.run_folder
    write_run(folder, record_of(prepared.asked, "x"), prepared.whole)
    record = load_run(folder)
    protocol = record.experiment.evaluate["search"]
    for cell in record.cells:
        score = score_of(cell)
        if score == "no result":
            continue
        workdir = folder / "trials" / cell.trial_id
        status = "failed" if score is None else "done"
        write_result(workdir, Result(trial_id=cell.trial_id, status=status))
        if score is not None:
            evaluation = Evaluation(
                trial_id=cell.trial_id, protocol=protocol, split_fingerprint="", num_images=0,
                class_names=(), background=None, figures={"mean_iou": score}, per_class_iou=(),
            )  # fmt: skip
            write_evaluation(workdir, evaluation, _no_counts())


def _no_counts() -> Counted:
    import numpy as np

    empty = np.zeros((0, 3), dtype=np.int64)
    return Counted((), empty, empty, empty, np.zeros((3, 4), dtype=np.int64))


def test_a_search_may_hold_out_whole_groups(searching):
    dataset = searching / "datasets" / "toyshapes.yaml"
    dataset.write_text(f'{dataset.read_text()}groups: {{pattern: "(?P<parity>[0-9])$"}}\n')
    file = searching / "experiments" / "toy.yaml"
    by_image = prepare_run(file, Flags(search=True))
    by_group = prepare_run(file, Flags(search=True, settings=("search.holdout_by=group",)))
    views = {trial.dataset.view.holdout_by for trial in by_group.asked.trials.values()}
    assert views == {"group"}
    assert not by_image.asked.trials.keys() & by_group.asked.trials.keys()
    variant = next(iter(by_group.asked.experiment.variants))
    assert not [key for key in settings_of(by_group.asked.experiment, variant) if "holdout" in key]


def test_the_best_sample_is_taken_by_the_next_run_and_failed_ones_cannot_be_best(searching):
    path = searching / "experiments" / "toy.yaml"
    results = searching / "results"
    _record_search(searching, {"sample0": 0.2, "sample1": 0.4, "sample2": None, "sample3": 0.3})
    experiment, _ = read_experiment(path)
    (best,) = best_samples(experiment, results, [{}])
    assert (best.sample, best.score, best.done) == ("sample1", pytest.approx(0.4), 3)
    prepared = prepare_run(path, Flags(best=True, results=results))
    for trial in prepared.asked.trials.values():
        assert trial.train.batch_size == best.settings["train.batch_size"]
        rate = trial.train.stages[0].optimizer.lr
        assert rate == best.settings["train.stages.0.optimizer.lr"]
        assert trial.dataset.view.holdout == 0  # the final training has all images again


def test_an_unfinished_search_or_another_one_has_no_best_sample(searching):
    path = searching / "experiments" / "toy.yaml"
    experiment, _ = read_experiment(path)
    with pytest.raises(ExperimentError, match="no search was run here"):
        best_samples(experiment, searching / "results", [{}])
    _record_search(searching, {"sample0": 0.2})
    with pytest.raises(ExperimentError, match="6 trials of the search are not done"):
        best_samples(experiment, searching / "results", [{}])
    assert experiment.search is not None
    other = experiment.revised(search=experiment.search.revised(seed=7))
    with pytest.raises(ExperimentError, match="is of another `search:`"):
        best_samples(other, searching / "results", [{}])


def test_samples_that_are_lists_are_known_again(searching):
    """JSON has lists where the file's values are tuples."""
    path = searching / "experiments" / "toy.yaml"
    sizes = "search.parameters={train.images.squash: {choice: [[32, 32], [64, 64]]}}"
    method = "search.method=grid"
    _record_scores(
        searching, lambda cell: int(cell.axes["variant"][-1]) / 10, settings=(sizes, method)
    )
    flags = Flags(best=True, results=searching / "results", settings=(sizes, method))
    prepared = prepare_run(path, flags)
    assert {t.train.images.squash for t in prepared.asked.trials.values()} == {(64, 64)}


PER_HEAD = ("search.per=[head]",)
SCORES = {  # of each head the best sample is another, and their mean has a third one on top
    "fcn32s": {"sample0": 0.5, "sample1": 0.1, "sample2": 0.45, "sample3": None},
    "fcn8s": {"sample0": 0.1, "sample1": 0.6, "sample2": 0.55, "sample3": 0.6},
}


def _by_head(cell: CellRecord) -> float | None:
    return SCORES[cell.axes["head"]][cell.axes["variant"]]


def test_each_value_of_per_gets_its_own_best_sample(searching):
    path = searching / "experiments" / "toy.yaml"
    results = searching / "results"
    _record_scores(searching, _by_head, settings=PER_HEAD)
    samples = read_experiment(path)[0].search.drawn_samples()
    prepared = prepare_run(path, Flags(best=True, results=results, settings=PER_HEAD))
    expected = {"fcn32s": 0, "fcn8s": 1}  # of equal ones (sample1, sample3) the first
    for cell in prepared.asked.cells:
        sample = samples[expected[cell.axes["head"]]]
        assert cell.trial.train.stages[0].optimizer.lr == sample["train.stages.0.optimizer.lr"]
        assert cell.trial.train.batch_size == sample["train.batch_size"]
        assert cell.trial.dataset.view.holdout == 0
        assert cell.trial_id == cell.trial.id()
    assert [(t.where, t.sample, t.tried, t.done, t.cells) for t in prepared.tuned] == [
        ({"head": "fcn32s"}, "sample0", 4, 3, 1),
        ({"head": "fcn8s"}, "sample1", 4, 4, 1),
    ]
    together = prepare_run(path, Flags(best=True, results=results))
    (one,) = together.tuned
    assert (one.sample, one.score) == ("sample2", pytest.approx(0.5))


@pytest.mark.parametrize(
    ("setting", "differs"),
    [
        ("train.stages.0.steps=9", "train.stages.0.steps 6, now 9"),
        ("model.geometry=aligned", "model.geometry native, now aligned"),
        ("evaluate.native.flip=true", "evaluate.search.flip False, now True"),
        ("", "cards or code"),
        ("sweep.seeds=3", ""),
        ("sweep.head=[fcn8s]", ""),
        ("evaluate.native.max_images=2", "evaluate.search.max_images None, now 2"),
    ],
)
def test_a_search_that_was_run_with_another_recipe_is_told(searching, setting, differs):
    path = searching / "experiments" / "toy.yaml"
    _record_scores(searching, _by_head)
    if not setting:
        card = searching / "datasets" / "toyshapes.yaml"
        card.write_text(card.read_text().replace("train: 8", "train: 12"))
    flags = Flags(best=True, results=searching / "results", settings=(setting,) * bool(setting))
    prepared = prepare_run(path, flags)
    assert [one.differs for one in prepared.tuned] == [differs]
    record_run(prepared, "segbench run toy.yaml --best")
    best_record = load_run(prepared.run_folder)
    told = render_leaderboard(best_record, list(load_rows(prepared.run_folder, best_record)), [])
    said = (
        f"toy-search was run with another recipe ({differs}): what was best there need not be best"
    )
    assert (said in told) == bool(differs)
    plan = ["run", str(path), "--best", "--dry-run", "--results", str(searching / "results")]
    done = CliRunner().invoke(app, [*plan, *(["--set", setting] if setting else [])])
    assert done.exit_code == 0, done.output
    assert (said in " ".join(done.output.split())) == bool(differs)


def test_a_search_leaves_the_plain_run_alone(searching):
    path = searching / "experiments" / "toy.yaml"
    plain = prepare_run(path, Flags(results=searching / "results")).asked.trials
    _record_scores(searching, _by_head, settings=PER_HEAD)
    assert (
        prepare_run(path, Flags(results=searching / "results", settings=PER_HEAD)).asked.trials
        == plain
    )


def test_the_samples_of_all_values_are_the_same(searching):
    path = searching / "experiments" / "toy.yaml"
    prepared = prepare_run(path, Flags(search=True, settings=PER_HEAD))
    apart = prepare_run(path, Flags(search=True))
    assert prepared.asked.trials == apart.asked.trials  # `per` changes what is chosen, not tried


def test_a_value_without_a_finished_sample_is_told_before_anything_starts(searching):
    path = searching / "experiments" / "toy.yaml"
    flags = Flags(best=True, results=searching / "results", settings=PER_HEAD)
    _record_scores(searching, lambda c: None if c.axes["head"] == "fcn8s" else 0.5)
    with pytest.raises(ExperimentError, match=r"no sample of the search is done for head=fcn8s; "):
        prepare_run(path, flags)
    alone = Flags(
        best=True, results=searching / "results", settings=(*PER_HEAD, "sweep.head=[fcn32s]")
    )
    assert len(prepare_run(path, alone).tuned) == 1  # what the sweep does not hold is not asked for


def test_a_value_that_was_not_searched_or_with_other_samples_is_told(searching):
    path = searching / "experiments" / "toy.yaml"
    flags = Flags(best=True, results=searching / "results", settings=PER_HEAD)
    _record_scores(searching, _by_head, settings=PER_HEAD, only=("head=fcn32s",))
    with pytest.raises(ExperimentError, match="no sample of the search is done for head=fcn8s"):
        prepare_run(path, flags)
    _record_scores(searching, _by_head, settings=PER_HEAD, only=("head=fcn8s", "variant=sample0"))
    with pytest.raises(
        ExperimentError, match=r"same samples: head=fcn32s with 4, head=fcn8s with 1"
    ):
        prepare_run(path, flags)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("search.per=[heads]",), "no axis 'heads' .*did you mean 'head'"),
        (("search.per=[variant]",), "no axis 'variant'"),
        (("search.per=[head, head]",), "an axis stands twice"),
        (
            ("search.per=[head]", "start_from=[{where: {head: fcn8s}, take: {head: fcn32s}}]"),
            "cells start from those of another head",
        ),
    ],
)
def test_axes_that_a_search_cannot_be_split_by_are_an_error(searching, settings, sentence):
    with pytest.raises(ExperimentError, match=sentence):
        prepare_run(searching / "experiments" / "toy.yaml", Flags(settings=settings))


def test_pages_show_what_was_tried_and_what_each_row_got(searching):
    path = searching / "experiments" / "toy.yaml"
    _record_scores(searching, _by_head, settings=PER_HEAD)
    folder = searching / "results" / "toy-search"
    search_record = load_run(folder)
    rows = list(load_rows(folder, search_record))
    told = render_leaderboard(search_record, rows, [])
    assert "Each of the 2 values of head was tried with the same 4 samples" in told
    samples = read_experiment(path)[0].search.drawn_samples()
    rate = f"{samples[1]['train.stages.0.optimizer.lr']:.4g}"
    table = [[text.strip() for text in line.split("|")[1:-1]] for line in told.splitlines()]
    batch = str(samples[1]["train.batch_size"])
    assert ["fcn8s", "sample1", batch, rate, "60.00", "1 of 1", "taken"] in table
    assert ["fcn32s", "sample1", batch, rate, "10.00", "1 of 1", ""] in table
    failed = next(line for line in table if line[:2] == ["fcn32s", "sample3"])
    assert failed[4:] == ["failed", "0 of 1", ""]
    assert len([line for line in table if line[-1:] == ["taken"]]) == 2
    page = render_page(folder, search_record, rows, [])
    assert f"<td>fcn8s</td><td>sample1</td><td>{batch}</td><td>{rate}</td>" in page
    prepared = prepare_run(path, Flags(best=True, results=searching / "results", settings=PER_HEAD))
    record_run(prepared, "segbench run toy.yaml --best")
    best_record = load_run(prepared.run_folder)
    assert best_record.tuned == prepared.tuned
    told = render_leaderboard(best_record, list(load_rows(prepared.run_folder, best_record)), [])
    assert "found by the run toy-search" in told
    assert "4 samples were tried for each row" in told
    table = [[text.strip() for text in line.split("|")[1:-1]] for line in told.splitlines()]
    assert ["head=fcn8s", batch, rate, "sample1", "60.00", "1", "4"] in table
    assert next(line for line in table if line[:1] == ["head=fcn32s"])[-1] == "4, 3 done"


def test_asha_compares_the_samples_of_each_value_among_themselves(searching):
    path = searching / "experiments" / "toy.yaml"
    asha = ("search.method=asha", "search.grace_steps=2", "launch.launcher=ray")
    with pytest.raises(ExperimentError, match=r"samples of one cell .* there are 2 cells"):
        prepare_run(path, Flags(search=True, settings=asha))
    prepared = prepare_run(path, Flags(search=True, settings=(*asha, *PER_HEAD)))
    groups = brackets(prepared.search, prepared.asked.cells)
    assert [len(group) for group in groups] == [4, 4]
    heads = [{prepared.asked.trials[trial].head.name for trial in group} for group in groups]
    assert heads == [{"fcn32s"}, {"fcn8s"}]


@pytest.mark.slow
def test_a_search_runs_like_any_grid_and_its_best_sample_is_used(searching):
    toy = Toy(searching, "sweep.head=[fcn8s]", "launch.workers=2")
    done = toy.run("results", "--search")
    assert "best of 4 samples: sample" in done.stdout
    folder = searching / "results" / "toy-search"
    before = results_so_far(folder)
    assert "4 ended, 0 to run" in toy.run("results", "--search").stdout
    assert results_so_far(folder) == before
    assert "# Leaderboard: toy" in toy.run("results", "--best").stdout
    page = (searching / "results" / "toy" / "report.html").read_text()
    assert "found by the run toy-search" in page
    assert "experiments/toy.yaml --best" in page


def test_asha_without_ray_is_refused_before_anything_is_written(searching):
    settings = ("search.method=asha", "search.grace_steps=2", "launch.launcher=slurm")
    results = searching / "results-of-none"
    flags = Flags(search=True, settings=settings, results=results)
    with pytest.raises(ExperimentError, match="only --launcher ray can stop samples early"):
        prepare_run(searching / "experiments" / "toy.yaml", flags)
    assert not results.exists()


@pytest.mark.slow
def test_asha_on_ray_trains_on_only_what_is_among_the_best(searching):
    asha = ("search.method=asha", "search.grace_steps=2", "search.reduction=2")
    toy = Toy(searching, *asha, "sweep.head=[fcn8s]", "launch.workers=1")
    flags = Flags(search=True, settings=(*asha, "sweep.head=[fcn8s]", "launch.launcher=ray"))
    prepared = prepare_run(searching / "experiments" / "toy.yaml", flags)
    folder = searching / "results" / "toy-search"
    first, *others = prepared.asked.trials
    for index, trial_id in enumerate(
        prepared.asked.trials
    ):  # rungs that an earlier run has climbed
        write_json(
            rung_path(folder / "trials" / trial_id, 2), {"score": 0.9 - index / 10, "step": 2}
        )
    done = toy.run("results", "--search", "--launcher", "ray")
    assert "best of 1 samples (4 tried): sample0" in done.stdout
    assert done.stdout.count("stopped early") == len(others)
    assert list(results_so_far(folder)) == [first]
    assert read_score(folder / "trials" / first, 6) is not None
    assert not [t for t in others if (folder / "trials" / t / "leases").exists()]


@pytest.mark.slow
def test_asha_on_ray_goes_on_with_the_best_of_each_value(searching):
    asha = ("search.method=asha", "search.grace_steps=2", "search.reduction=2", *PER_HEAD)
    toy = Toy(searching, *asha, "launch.workers=1")
    flags = Flags(search=True, settings=(*asha, "launch.launcher=ray"))
    prepared = prepare_run(searching / "experiments" / "toy.yaml", flags)
    folder = searching / "results" / "toy-search"
    groups = brackets(prepared.search, prepared.asked.cells)
    for index, trial_id in enumerate(prepared.asked.trials):  # every fcn32s above every fcn8s
        score = {"score": 0.9 - index / 10, "step": 2}
        write_json(rung_path(folder / "trials" / trial_id, 2), score)
    done = toy.run("results", "--search", "--launcher", "ray")
    assert "head=fcn32s: best of 1 samples (4 tried): sample0" in done.stdout
    assert "head=fcn8s: best of 1 samples (4 tried): sample0" in done.stdout
    assert sorted(results_so_far(folder)) == sorted(group[0] for group in groups)


@pytest.mark.slow
def test_asha_waits_for_a_sample_that_another_command_trains(searching):
    asha = ("search.method=asha", "search.grace_steps=2", "search.reduction=2")
    narrow = (
        *asha,
        "sweep.head=[fcn8s]",
        "launch.max_attempts=1",
        "launch.launcher=ray",
        "launch.workers=2",
    )
    toy = Toy(searching, *narrow)
    flags = Flags(search=True, settings=narrow)
    trials = prepare_run(searching / "experiments" / "toy.yaml", flags).asked.trials
    held, *others = (searching / "results" / "toy-search" / "trials" / t for t in trials)
    held.mkdir(parents=True)
    lease = claim(held)
    assert lease is not None
    with lease:
        process = toy.start("results", "--search")
        wait_until(lambda: any(read_score(workdir, 2) is not None for workdir in others))
        time.sleep(3)
        assert process.poll() is None
        assert read_score(held, 2) is None
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "best of" in out
    assert "failed" not in out
    assert read_score(held, 2) is not None


def test_a_rung_is_scored_as_the_paused_training_stands_and_the_rest_goes_on_from_it(searching):
    flags = Flags(search=True, results=searching / "results")
    prepared = prepare_run(searching / "experiments" / "toy.yaml", flags)
    trial_id, trial = next(iter(prepared.asked.trials.items()))
    protocol = prepared.asked.experiment.evaluate["search"]
    machine = prepared.machine.revised(device="cpu")
    folder = prepared.run_folder / "trials" / trial_id
    outcome = run_trial(
        trial, folder, machine=machine, protocols=(protocol,), stops=Stops(pause_at_step=3)
    )
    assert outcome == "interrupted"
    saved = load_checkpoint(folder, torch.device("cpu"))
    assert saved is not None
    assert saved["step"] == 3
    scored = score_checkpoint(trial, folder, machine, protocol)
    assert scored.protocol.split == "holdout"
    assert load_result(folder) is None
    assert run_trial(trial, folder, machine=machine, protocols=(protocol,)) == "done"
    straight = searching / "straight"
    run_trial(trial, straight, machine=machine, protocols=(protocol,))
    assert (folder / "model.safetensors").read_bytes() == (
        straight / "model.safetensors"
    ).read_bytes()
