"""Searches: drawn samples, judged on held-out images; the reported split is never opened."""

import time

import pytest
import torch
from launch_faults import Toy, results_so_far, wait_until

from segbench.counts import Counted
from segbench.drive import Flags, prepare_run
from segbench.engine.checkpoint import load_checkpoint
from segbench.errors import ExperimentError
from segbench.files import write_json
from segbench.launch.best_sample import best_sample
from segbench.launch.rung import read_score, rung_path
from segbench.lease import claim
from segbench.results import (
    Evaluation,
    Result,
    load_result,
    write_evaluation,
    write_result,
)
from segbench.run import load_run, record_of, write_run
from segbench.spec.experiment import read_experiment
from segbench.spec.search import Distribution, Search
from segbench.trial import run_trial
from segbench.trial_score import score_checkpoint

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
    flags = Flags(search=True, results=project / "results")
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    folder = prepared.run_folder
    write_run(folder, record_of(prepared.asked, "x"), prepared.whole)
    record = load_run(folder)
    protocol = record.experiment.evaluate["search"]
    for cell in record.cells:
        if cell.axes["variant"] not in scores:
            continue
        score = scores[cell.axes["variant"]]
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


def test_the_best_sample_is_taken_by_the_next_run_and_failed_ones_cannot_be_best(searching):
    path = searching / "experiments" / "toy.yaml"
    results = searching / "results"
    _record_search(searching, {"sample0": 0.2, "sample1": 0.4, "sample2": None, "sample3": 0.3})
    experiment, _ = read_experiment(path)
    best = best_sample(experiment, results)
    assert (best.name, best.score, best.of) == ("sample1", pytest.approx(0.4), 3)
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
        best_sample(experiment, searching / "results")
    _record_search(searching, {"sample0": 0.2})
    with pytest.raises(ExperimentError, match="6 trials of the search are not done"):
        best_sample(experiment, searching / "results")
    assert experiment.search is not None
    other = experiment.revised(search=experiment.search.revised(seed=7))
    with pytest.raises(ExperimentError, match="is of another `search:`"):
        best_sample(other, searching / "results")


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
    assert "best of 1 samples: sample0" in done.stdout
    assert done.stdout.count("stopped early") == len(others)
    assert list(results_so_far(folder)) == [first]
    assert read_score(folder / "trials" / first, 6) is not None
    assert not [t for t in others if (folder / "trials" / t / "claims").exists()]


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
    outcome = run_trial(trial, folder, machine=machine, protocols=(protocol,), pause_at_step=3)
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
