"""What is made of Slurm's answers, torn ones and lies included, and how a grid becomes arrays."""

import json
import stat
from functools import partial
from pathlib import Path

import pytest
from command_line import invoked

from segbench.cli.flags import GridOptions
from segbench.cli.watching import code_versions
from segbench.code.version import package_digest
from segbench.commands.estimate import estimated
from segbench.commands.listing import prepare_all
from segbench.commands.run import Flags, prepare_run
from segbench.errors import ExperimentError, LaunchError
from segbench.launch.base import Work
from segbench.launch.slurm import queue as slurm_queue
from segbench.launch.slurm.launcher import arrays_of, sbatch_options, with_gpus
from segbench.launch.slurm.queue import cancel_slurm_jobs
from segbench.leases import claim
from segbench.runs.attempts import claim_trial, fruitless_attempts
from segbench.runs.record import load_run, record_of, write_run
from segbench.runs.status import ClusterJob, TrialStatus, statuses
from segbench.runs.trial_files import Provenance, trial_folder, write_provenance
from segbench.schema.job import Job
from segbench.schema.launching import Launch
from segbench.schema.machine import Machine


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Return a function that makes a Slurm command print a text and end with a code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(command: str, text: str, code: int = 0) -> None:
        path = folder / command
        lines = f"cat <<'END'\n{text}\nEND\n" if text else ""
        path.write_text(f"#!/bin/sh\n{lines}exit {code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    answer("squeue", "")
    answer("sacct", "slurm accounting storage is disabled", 1)
    answer("scontrol", "", 1)
    return answer


@pytest.fixture
def work(toy_project):
    """Return a function that makes work of the toy grid under a `launch`."""

    def make(*settings: str, **launch) -> Work:
        flags = Flags(settings=settings, results=toy_project / "results")
        prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
        job = Job(
            run_folder=str(prepared.run_folder), machine=Machine(cache="/none"), protocols=(),
            code_version="test",
        )  # fmt: skip
        return Work(job, dict(prepared.asked.trials), Launch(launcher="slurm", **launch))

    return make


def made_by(version: str) -> Provenance:
    return Provenance(
        code_version=version, packages={}, device="cpu", host="", started="", finished="",
        attempts=1, train_seconds=1, evaluate_seconds=30, step_seconds=100, peak_memory_mib=0,
    )  # fmt: skip


def submitted(run_folder: Path, *elements: tuple[str, ...], job_id: str | None = "7"):
    submission = slurm_queue.new_submission(run_folder, elements).revised(job_id=job_id)
    slurm_queue.write_submission(run_folder, submission)
    return submission


@pytest.mark.parametrize("word", ["TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "FAILED"])
def test_the_ends_of_jobs_are_told_apart(tmp_path, answers, word):
    submitted(tmp_path, ("a",), ("b",))
    answers("squeue", "7|0|RUNNING|None|x|n1")
    answers("sacct", f"7_1|{word}|0:15|n2\n7_1.batch|COMPLETED|0:0|n2")
    jobs = slurm_queue.slurm_jobs_of(tmp_path)
    assert jobs["a"][:3] == ("7_0", "running", "job 7_0 running (on n1)")
    assert jobs["b"].state == word.lower()
    assert jobs["b"].message == f"job 7_1 ended on n2 as {word}, exit 0:15"


def test_without_accounting_the_controller_is_asked_and_what_it_forgot_is_lost(tmp_path, answers):
    submitted(tmp_path, ("a",), ("b",))
    answers(
        "scontrol",
        "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=x JobState=NODE_FAIL ExitCode=1:0 NodeList=n1",
    )
    jobs = slurm_queue.slurm_jobs_of(tmp_path)
    assert (jobs["a"].state, jobs["b"].state) == ("node_fail", "lost")


def test_a_job_whose_step_was_out_of_memory_is_called_so_though_slurm_says_failed(
    tmp_path, answers
):
    submitted(tmp_path, ("a",), ("b",))
    answers("sacct", "7_0|FAILED|1:0|n1\n7_0.batch|FAILED|1:0|n1\n7_0.0|OUT_OF_MEMORY|0:125|n1")
    jobs = slurm_queue.slurm_jobs_of(tmp_path)
    assert jobs["a"].message == "job 7_0 ended on n1 as OUT_OF_MEMORY, exit 0:125"
    assert (jobs["a"].state, jobs["b"].state) == ("out_of_memory", "lost")
    answers("sacct", "", 1)
    shown = "JobId=8 ArrayJobId=7 ArrayTaskId=1 JobState=FAILED ExitCode=1:0 DerivedExitCode=0:125"
    answers("scontrol", f"{shown} NodeList=n2")
    assert slurm_queue.slurm_jobs_of(tmp_path)["b"].state == "out_of_memory"


def test_what_the_accounts_lack_the_controller_is_asked_for(tmp_path, answers):
    submitted(tmp_path, ("a",), ("b",))
    answers("sacct", "7_0|TIMEOUT|0:0|n1")
    answers("scontrol", "JobId=9 ArrayJobId=7 ArrayTaskId=1 JobState=PREEMPTED NodeList=n1")
    jobs = slurm_queue.slurm_jobs_of(tmp_path)
    assert (jobs["a"].state, jobs["b"].state) == ("timeout", "preempted")


def test_what_was_cancelled_before_it_began_is_remembered_though_slurm_forgets_it(
    tmp_path, answers
):
    submitted(tmp_path, ("a",), ("b",), job_id="9")
    answers("squeue", "9|0|PENDING|Priority|x|\n9|1|PENDING|Priority|x|")
    answers("scancel", "")
    assert cancel_slurm_jobs(tmp_path, {"a"}) == ["9_0"]
    answers("squeue", "")
    jobs = slurm_queue.slurm_jobs_of(tmp_path)
    assert (jobs["a"].state, jobs["b"].state) == ("cancelled", "lost")
    assert jobs["a"].message == "job 9_0 ended as CANCELLED, exit 0:0"


def test_a_job_of_which_nothing_is_known_has_not_failed(toy_project):
    lost = status_with(toy_project, ClusterJob("7", "lost", "job 7 left the queue"))
    assert lost.state == "waiting"
    assert lost.message == "job 7 left the queue; the same run command goes on from there"


def test_a_queue_that_cannot_be_asked_is_an_error_and_no_guess(tmp_path, answers):
    submitted(tmp_path, ("a",))
    answers("squeue", "", 1)
    with pytest.raises(LaunchError, match="squeue"):
        slurm_queue.slurm_jobs_of(tmp_path)


def test_a_submission_whose_answer_was_lost_is_found_by_its_name(tmp_path, answers):
    lost = submitted(tmp_path, ("a",), ("b",), job_id=None)
    answers("squeue", f"12|1|PENDING|Resources|{lost.job_name}|")
    assert slurm_queue.slurm_jobs_of(tmp_path)["b"].job_id == "12_1"
    assert slurm_queue.submissions(tmp_path)[0].job_id == "12"


@pytest.mark.parametrize("when", ["2000-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"])
def test_of_several_submissions_the_latest_number_counts_and_refused_ones_do_not(
    tmp_path, answers, when
):
    old = submitted(tmp_path, ("a",), job_id="9")
    slurm_queue.write_submission(tmp_path, old.revised(submitted=when))  # a clock that jumped
    submitted(tmp_path, ("a",), job_id="10")
    answers("sacct", "9|FAILED|1:0|n1\n10|TIMEOUT|0:0|n1")
    assert slurm_queue.slurm_jobs_of(tmp_path)["a"].job_id == "10"
    refused = slurm_queue.new_submission(tmp_path, [("a",)])
    slurm_queue.write_submission(tmp_path, refused.revised(refused="no"))
    answers("squeue", "9|N/A|PENDING|Priority|x|")
    assert slurm_queue.slurm_jobs_of(tmp_path)["a"].job_id == "9", "what is in the queue wins"


def test_all_jobs_of_a_trial_are_cancelled(tmp_path, answers):
    submitted(tmp_path, ("a",), ("b",), job_id="9")
    submitted(tmp_path, ("a",), job_id="10")
    answers("squeue", "9|0|RUNNING|None|x|n1\n9|1|PENDING|None|x|\n10|N/A|PENDING|Priority|x|")
    answers("scancel", "")
    assert cancel_slurm_jobs(tmp_path, {"a"}) == ["10", "9_0"]
    assert cancel_slurm_jobs(tmp_path) == ["10", "9_0", "9_1"]


def test_a_torn_record_is_named(tmp_path, answers):
    submission = submitted(tmp_path, ("a",))
    path = tmp_path / "jobs" / f"slurm-{submission.key}.json"
    path.write_text(path.read_text()[:30])
    with pytest.raises(LaunchError, match=f"{path.name}: is damaged"):
        slurm_queue.slurm_jobs_of(tmp_path)


def status_with(toy_project, job: ClusterJob) -> TrialStatus:
    flags = Flags(results=toy_project / "results")
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    write_run(prepared.run_folder, record_of(prepared.asked, "x"), prepared.whole)
    first = next(iter(prepared.asked.trials))
    return statuses(prepared.run_folder, load_run(prepared.run_folder), {first: job})[0]


def test_status_says_queued_or_why_a_job_ended_without_a_result(toy_project):
    queued = status_with(toy_project, ClusterJob("7", "pending", "job 7 pending (Priority)"))
    assert (queued.state, queued.message) == ("queued", "job 7 pending (Priority)")
    ended = status_with(toy_project, ClusterJob("7", "out_of_memory", "job 7 ended"))
    assert (ended.state, ended.kind) == ("failed", "out_of_memory")
    assert "the same run command goes on" in ended.message
    assert status_with(toy_project, ClusterJob("7", "completed", "job 7 ended")).state == "waiting"


def test_a_job_that_runs_but_has_not_claimed_its_trial_is_starting(toy_project):
    assert status_with(toy_project, ClusterJob("7", "running", "job 7 runs")).state == "starting"


def test_an_ended_job_is_told_with_the_last_line_it_printed_and_its_log(toy_project):
    logs = toy_project / "results" / "toy" / "jobs" / "submitit"
    logs.mkdir(parents=True)
    (logs / "7_0_log.err").write_text(
        "Traceback\nImportError: libcudnn.so.9 is not there\nsrun: error: n1: task 0\n"
    )
    (logs / "7_1_log.err").write_text("second rank\n")
    (logs / "7_0_log.out").write_text("first rank says\n")
    (logs / "77_0_log.err").write_text("another job\n")
    find = partial(slurm_queue.job_logs, toy_project / "results" / "toy", "7")
    job = ClusterJob("7", "failed", "job 7 ended", logs=find, farewells=("srun: ",))
    ended = status_with(toy_project, job)
    assert ended.log_path == str(logs / "7_0_log.err")
    assert "job 7 ended; ImportError: libcudnn.so.9 is not there; the same" in ended.message
    names = [path.name for path in find()]
    assert names == ["7_0_log.err", "7_1_log.err", "7_0_log.out"]


def test_a_queue_that_cannot_be_asked_leaves_what_the_files_say(toy_project, answers, capsys):
    status_with(toy_project, ClusterJob("7", "pending", ""))
    run_folder = toy_project / "results" / "toy"
    trial_id = next(cell.trial_id for cell in load_run(run_folder).cells)
    submitted(run_folder, (trial_id,))
    answers("squeue", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    seen = invoked("status", run_folder)
    assert seen.exit_code == 0, seen.output
    assert "what follows is known from files alone" in " ".join(seen.stderr.split())
    assert "waiting" in seen.stdout


def test_status_tells_trials_done_by_different_code(toy_project, answers):
    status_with(toy_project, ClusterJob("7", "pending", ""))
    run_folder = toy_project / "results" / "toy"
    (first, second, *_) = load_run(run_folder).cells
    for cell, version in ((first, "0.1.0+g1"), (second, "0.1.0+g2")):
        workdir = trial_folder(run_folder, cell.trial_id)
        workdir.mkdir(parents=True, exist_ok=True)
        write_provenance(workdir, made_by(version))
    found = [TrialStatus(cell.trial_id, "", "done") for cell in (first, second)]
    assert code_versions(run_folder, found) == {"0.1.0+g1": 1, "0.1.0+g2": 1}
    assert code_versions(run_folder, [found[0], found[1]._replace(state="failed")]).total() == 1


def test_a_change_of_any_source_file_is_another_version(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "sub" / "b.py").write_text("y = 1\n")
    before = package_digest(tmp_path)
    assert len(before) == 12
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-312.pyc").write_bytes(b"1")
    assert package_digest(tmp_path) == before
    (tmp_path / "sub" / "b.py").rename(tmp_path / "b.py")
    moved = package_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert len({before, moved, package_digest(tmp_path)}) == 3


def test_a_beating_heart_outweighs_a_queue_that_has_lost_the_job(toy_project):
    flags = Flags(results=toy_project / "results")
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    workdir = prepared.run_folder / "trials" / next(iter(prepared.asked.trials))
    lease = claim(workdir)
    assert lease is not None
    with lease:
        assert status_with(toy_project, ClusterJob("7", "failed", "job 7 ended")).state == "running"
    assert status_with(toy_project, ClusterJob("7", "failed", "job 7 ended")).state == "failed"


def test_arrays_are_even_hold_to_the_limit_and_share_the_throttle(work):
    grid = work("sweep.seeds=10", trials_per_job=2, throttle=5)  # 20 trials, 10 elements
    arrays = list(arrays_of(grid, list(grid.trials), max_array_size=4))
    assert [len(array.elements) for array in arrays] == [4, 4, 2]
    assert sum(array.throttle for array in arrays) == 5
    assert [t for array in arrays for e in array.elements for t in e] == list(grid.trials)


def test_more_arrays_than_the_throttle_allows_stand_in_lanes(work):
    grid = work("sweep.seeds=6", throttle=2)
    arrays = list(arrays_of(grid, list(grid.trials), max_array_size=3))
    assert [array.lane for array in arrays] == [0, 1, 0, 1]
    assert [array.throttle for array in arrays] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("array", "use launch.throttle"),
        ("ntasks_per_node", "use launch.ranks_per_trial"),
        ("--output", "leave it out: status and logs rest on it"),
        ("t", "use launch.time_minutes"),
    ],
)
def test_options_that_segbench_sets_itself_are_no_further_options(option, advice):
    with pytest.raises(ValueError, match=f"sbatch.{option}: is set by segbench itself; {advice}"):
        Launch(sbatch={option: "1"})
    assert sbatch_options(Launch(sbatch={"no-requeue": True}))["additional_parameters"] == {
        "no-requeue": True
    }


def test_trials_of_other_resources_or_of_a_later_level_get_arrays_of_their_own(work):
    grid = work("sweep.seeds=2")
    first, second, third, fourth = grid.trials
    trials = {**grid.trials, fourth: grid.trials[fourth].revised(start_from=first)}
    big = grid.launch.revised(memory_gib=64.0)
    grid = grid._replace(trials=trials, shapes={second: big})
    arrays = list(arrays_of(grid, list(trials), max_array_size=100))
    assert [array.elements for array in arrays] == [
        ((first,), (third,)),
        ((second,),),
        ((fourth,),),
    ]
    assert [array.launch.memory_gib for array in arrays] == [None, 64.0, None]
    assert [array.level for array in arrays] == [0, 0, 1]


def test_cells_may_ask_for_other_resources_and_the_last_match_counts():
    launch = Launch.model_validate_json(
        """{"memory_gib": 8, "time_minutes": 60, "cells": [
            {"where": {"head": "fcn8s"}, "memory_gib": 16, "time_minutes": 90},
            {"where": {"head": "fcn8s", "backbone": "vgg16"}, "memory_gib": 32}]}"""
    )
    alexnet = launch.of_cell({"head": "fcn32s", "backbone": "alexnet"})
    assert (alexnet.memory_gib, alexnet.cells) == (8, ())
    vgg16 = launch.of_cell({"head": "fcn8s", "backbone": "vgg16"})
    assert (vgg16.memory_gib, vgg16.time_minutes) == (32, 90)


def test_resources_for_cells_that_do_not_exist_are_an_error(toy_project):
    setting = "launch.cells=[{where: {head: fcn8}, memory_gib: 32}]"
    with pytest.raises(
        ExperimentError, match=r"launch.cells\[0\].where: head: fcn8 .*did you mean 'fcn8s'"
    ):
        prepare_run(toy_project / "experiments" / "toy.yaml", Flags(settings=(setting,)))


def test_trials_that_share_a_gpu_ask_for_the_memory_and_cores_of_all():
    launch = Launch(gpus_per_trial=0.5, trials_per_job=4, cpus_per_trial=3, memory_gib=1.5)
    options = sbatch_options(launch)
    assert options["gpus_per_node"] == 1
    assert (options["cpus_per_task"], options["mem"]) == (6, "3072M")
    assert sbatch_options(Launch())["gpus_per_node"] is None


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({}, 1),
        ({"partition": "cpu"}, None),
        ({"partition": "gpu"}, 1),
        ({"gpus_per_trial": 0}, None),
        ({"gpus_per_trial": 3}, 3),
        ({"ranks_per_trial": 4}, 4),
        ({"sbatch": {"gres": "gpu:a100:1"}}, None),
    ],
)
def test_a_trial_gets_a_gpu_where_there_are_any_unless_told(work, answers, launch, expected):
    nodes = {"cpu": "cpu|(null)", "gpu": "gpu|gpu:a100:4(S:0-1)"}
    answers("sinfo", nodes.get(launch.get("partition"), "cpu|(null)\nmain*|lustre,gpu:2"))
    asked = with_gpus(work(**launch)).launch
    assert sbatch_options(asked)["gpus_per_node"] == expected


def test_a_run_for_the_cpu_asks_for_no_gpu(work, answers):
    answers("sinfo", "main*|gpu:2")
    grid = work()
    job = grid.job.revised(machine=grid.job.machine.revised(device="cpu"))
    assert with_gpus(grid._replace(job=job)).launch.gpus_per_trial is None


def test_preparing_an_experiment_finds_the_cards_of_its_own_project(toy_project, tmp_path):
    made = prepare_all(
        [str(toy_project / "experiments" / "toy.yaml")],
        Machine.from_environment(cache=tmp_path), download=False,
    )  # fmt: skip
    assert list(made) == [("toyshapes", "ready: train 8 images, val 4 images")]


def test_the_address_of_a_ray_chooses_it():
    assert GridOptions(address="head:6379").flags().settings == (
        "launch.launcher=ray",
        "launch.address=head:6379",
    )


def test_attempts_that_save_something_are_not_fruitless(tmp_path):
    def attempt() -> None:
        lease = claim_trial(tmp_path)
        assert lease is not None
        with lease:
            pass

    attempt()
    attempt()
    assert fruitless_attempts(tmp_path) == 2
    (tmp_path / "last.ckpt").write_bytes(b"1")
    assert fruitless_attempts(tmp_path) == 0
    attempt()
    assert fruitless_attempts(tmp_path) == 1


def test_a_plan_counts_hours_only_where_a_seed_was_measured(toy_project):
    flags = Flags(settings=("sweep.seeds=3",), results=toy_project / "results")
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    cells = prepared.asked.cells
    done = next(cell for cell in cells if cell.axes["head"] == "fcn8s")
    write_provenance(
        prepared.run_folder / "trials" / done.trial_id,
        made_by("0.1.0"),
    )
    left = [cell.trial_id for cell in cells if cell is not done]
    found = estimated(cells, left, prepared.run_folder)
    assert (found.trials, found.measured, found.devices) == (5, 2, ("cpu",))
    assert found.hours == pytest.approx(2 * (6 * 100 + 30) / 3600)


def test_records_travel_as_plain_json(tmp_path):
    submission = submitted(tmp_path, ("a", "b"))
    fields = json.loads((tmp_path / "jobs" / f"slurm-{submission.key}.json").read_text())
    assert fields["elements"] == [["a", "b"]]
    assert fields["job_id"] == "7"
