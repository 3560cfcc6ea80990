"""One trial in several processes: the same counts, each image counted once, one writer."""

import os
import signal

import numpy as np
import pytest
from command_line import invoked
from launch_faults import Toy, result_bytes, wait_until
from pydantic import ValidationError
from safetensors.numpy import load_file

from segbench.commands.run import Flags, prepare_run
from segbench.engine.evaluate import merged
from segbench.errors import ExperimentError, LaunchError
from segbench.launch.local import slots
from segbench.launch.ranks import start_all, wait_for_all
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.trial_files import counts_path, load_counts, load_result
from segbench.schema.job import Job
from segbench.schema.launching import Launch
from segbench.work.trial import run_trial

PROTOCOLS = (
    "evaluate={native: {}, edges: {boundary: 0.05}, one: {max_images: 1, boundary: 0.05}}",
)
# Few small steps: what sums in another order change grows with each step.
STEPS = ("train.stages.0.steps=2", "train.stages.0.optimizer.lr=0.001", "train.accumulate=2")


@pytest.fixture
def a_job(toy_project):
    """Return a function that writes a job of the toy's first trial: (job, its file, its folder)."""
    card = toy_project / "datasets" / "toyshapes.yaml"
    card.write_text(card.read_text().replace("val: 4", "val: 5"))  # no two ranks share it evenly

    def make(name: str, *settings: str):
        flags = Flags(settings=settings, results=toy_project / name, device="cpu")
        prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
        trial_id, trial = next(iter(prepared.asked.trials.items()))
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        trial_files.write_trial(workdir, trial)
        job = Job(
            run_folder=str(prepared.run_folder), machine=prepared.machine, code_version="test",
            protocols=tuple(prepared.asked.experiment.evaluate.values()),
        )  # fmt: skip
        return job, job.write(), workdir

    return make


def test_counts_of_shares_make_those_of_the_whole_in_its_order():
    rng = np.random.default_rng(0)
    names = tuple(f"image {index}" for index in range(5))
    tp, label, pred = rng.integers(0, 99, (3, 5, 4))
    boundary = rng.integers(0, 99, (3, 5, 4))

    def share(rank: int, ranks: int) -> Counted:
        mine = slice(rank, None, ranks)
        edges = boundary[:, mine] if names[mine] else None
        confusion = np.full((4, 5), len(names[mine]))
        return Counted(names[mine], tp[mine], label[mine], pred[mine], confusion, edges)

    for ranks in (1, 2, 4, 7):
        whole = merged([share(rank, ranks) for rank in range(ranks)])
        assert whole.names == names
        assert whole.boundary is not None
        for found, expected in zip(whole[1:4], (tp, label, pred), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(whole.boundary, boundary)
        assert (whole.confusion == 5).all()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"ranks_per_trial": 2, "trials_per_job": 2}, "a job has one such trial"),
        ({"ranks_per_trial": 2, "gpus_per_trial": 1}, "gpus_per_trial is 2, or 0 without GPUs"),
    ],
)
def test_ranks_that_cannot_be_are_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Launch(**fields)


def test_a_batch_that_cannot_be_shared_out_is_told_before_anything_runs(toy_project):
    flags = Flags(settings=("launch.ranks_per_trial=3",), results=toy_project / "results")
    with pytest.raises(ExperimentError, match=r"cannot share out train\.batch_size 4 evenly"):
        prepare_run(toy_project / "experiments" / "toy.yaml", flags)


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({"gpus_per_trial": 2}, ["0,1"]),
        ({"ranks_per_trial": 3}, ["0,1,2"]),
        ({"gpus_per_trial": 0.5, "workers": 5}, ["0", "1", "2", "0", "1"]),
    ],
)
def test_room_is_whole_gpus_or_shares_of_them(monkeypatch, fields, room):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert [slot.gpus for slot in slots(Launch(**fields))] == room


@pytest.mark.parametrize("fields", [{"gpus_per_trial": 4}, {"ranks_per_trial": 4}])
def test_more_gpus_than_there_are_is_one_sentence(toy_project, monkeypatch, fields):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    sentence = r"a trial asks for 4 GPUs .* shows 3 \(0,1,2\); ask for 3 at most"
    with pytest.raises(LaunchError, match=sentence):
        slots(Launch(**fields))
    sets = [part for key, value in fields.items() for part in ("--set", f"launch.{key}={value}")]
    monkeypatch.chdir(toy_project)
    done = invoked("run", "experiments/toy.yaml", *sets)
    assert done.exit_code == 2
    assert "a trial asks for 4 GPUs" in done.stderr


@pytest.mark.slow
def test_one_two_and_four_ranks_give_the_same_counts_and_the_whole_batchs_gradients(a_job):
    job, _, alone = a_job("alone", *PROTOCOLS, *STEPS)
    trial = trial_files.load_trial(alone)
    assert run_trial(trial, alone, machine=job.machine, protocols=job.protocols) == "done"
    for ranks in (2, 4):
        job, path, together = a_job(f"ranks{ranks}", *PROTOCOLS, *STEPS)
        processes = start_all(path, together.name, Launch(ranks_per_trial=ranks))
        assert wait_for_all(processes) == 0, (together / "worker.log").read_text()
        weights = load_file(together / "model.safetensors")
        for name, expected in load_file(alone / "model.safetensors").items():
            np.testing.assert_allclose(weights[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)
        one, other = load_result(together), load_result(alone)
        assert one is not None
        assert other is not None
        assert one.final_loss == pytest.approx(other.final_loss, rel=1e-4)
        assert one.revised(final_loss=other.final_loss) == other
        for protocol in job.protocols:
            ours, whole = (load_counts(counts_path(w, protocol)) for w in (together, alone))
            assert ours.names == whole.names
            for found, expected in zip(ours[1:], whole[1:], strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_killed_rank_takes_the_others_along_and_all_go_on_from_the_checkpoint(a_job):
    many = ("train.stages.0.steps=16", "model.dropout=0.5")
    launch = Launch(ranks_per_trial=2)
    _, path, straight = a_job("straight", *many)
    assert wait_for_all(start_all(path, straight.name, launch)) == 0
    _, path, broken = a_job("broken", *many)
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        processes = start_all(path, broken.name, launch)
        marks = {p.stat().st_mtime_ns for p in broken.glob("last.ckpt")}
        wait_until(
            lambda marks=marks: {p.stat().st_mtime_ns for p in broken.glob("last.ckpt")} - marks
        )
        os.kill(processes[1].pid, number)
        assert wait_for_all(processes) in {76, code}
        assert load_result(broken) is None
    assert wait_for_all(start_all(path, broken.name, launch)) == 0
    assert result_bytes(straight.parents[1]) == result_bytes(broken.parents[1])


@pytest.mark.slow
def test_a_failure_on_any_rank_is_the_trials_failure(a_job):
    _, path, workdir = a_job("diverging", "train.stages.0.optimizer.lr=1e30")
    assert wait_for_all(start_all(path, workdir.name, Launch(ranks_per_trial=2))) == 1
    result = load_result(workdir)
    assert result is not None
    assert (result.status, result.kind) == ("failed", "diverged")


@pytest.mark.slow
def test_on_this_machine_and_on_ray_two_ranks_give_the_same_bytes(toy_project):
    toy = Toy(toy_project, "sweep.head=[fcn8s]", "sweep.seeds=1", "launch.ranks_per_trial=2")
    toy.run("local")
    toy.run("ray", "--launcher", "ray")
    assert len(result_bytes(toy.folder("local"))) >= 5
    assert result_bytes(toy.folder("local")) == result_bytes(toy.folder("ray"))
