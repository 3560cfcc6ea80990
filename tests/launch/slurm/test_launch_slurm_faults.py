"""What a real Slurm does to jobs, and what is killed under it: nothing is lost."""

import os
import signal
from pathlib import Path

import pytest
from launch_faults import (
    assert_same,
    harm_at_random,
    live_workers,
    result_bytes,
    results_so_far,
    wait_until,
)  # fmt: skip
from slurm_cluster import SlurmCluster
from slurm_grid import attempts_in, jobs_in_queue, until_done

pytestmark = pytest.mark.slow
# A trial whose job never begins its work, and that Slurm may not start again.
HANGS = (
    *("--only", "head=fcn8s", "--seeds", "1", "--set", "launch.setup=[sleep 1000]"),
    *("--set", "launch.sbatch={no-requeue: true}"),
)


def test_preempted_trials_save_are_requeued_and_go_on_and_one_that_cannot_is_told(
    toy, cluster, undisturbed, tmp_path
):
    toy.run("hangs", *HANGS)
    toy.run("results", "--set", "launch.trials_per_job=2")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/bash\nsleep 4\n")
    cluster.ask("sbatch", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", str(script))
    wait_until(
        lambda: (
            "BeginTime" in cluster.ask("squeue", "-h", "-o", "%r") or not live_workers(run_folder)
        )
    )
    until_done(toy)
    assert "preempted: job " in toy.do("status", "hangs/toy").stdout
    assert_same(run_folder, undisturbed)
    assert attempts_in(run_folder) > 6  # somebody was interrupted


def test_killed_and_signalled_workers_lose_nothing(toy, undisturbed):
    toy.run("results", "--set", "launch.trials_per_job=3")
    run_folder = toy.folder("results")
    sent = harm_at_random(
        run_folder, times=8, until=lambda: len(results_so_far(run_folder)) == 6,
        signals=(signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2),
    )  # fmt: skip
    assert sent.total() >= 4
    until_done(toy)
    assert_same(run_folder, undisturbed)
    assert attempts_in(run_folder) > 6


def test_a_job_whose_processes_are_all_killed_is_requeued(toy, cluster, undisturbed):
    toy.run("results", "--only", "head=fcn8s", "--seeds", "1")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    job = jobs_in_queue(cluster)[0]
    for pid in _processes_of_job(job):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job", job), seconds=200)
    until_done(toy, 1)
    ours = {
        name: data for name, data in result_bytes(run_folder).items() if name.startswith("trials")
    }
    assert ours.items() <= result_bytes(undisturbed).items()


def test_at_its_time_limit_a_trial_saves_and_goes_on_and_one_that_cannot_is_told(
    toy, cluster, undisturbed
):
    narrow = ("--only", "head=fcn8s", "--seeds", "1", "--set", "launch.time_minutes=1")
    toy.run("hangs", *narrow, "--set", "launch.setup=[sleep 1000]")
    toy.run("results", *narrow)
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    for worker in live_workers(run_folder):
        os.kill(worker.pid, signal.SIGSTOP)  # else it is done before; Slurm's signals wake it
    (log,) = run_folder.glob("jobs/submitit/*_0_log.err")
    job = log.name.removesuffix("_0_log.err")
    wait_until(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job", job), seconds=200)
    assert "signal 12: the trials save their state" in log.read_text()
    wait_until(lambda: "timeout: job " in toy.do("status", "hangs/toy").stdout, seconds=200)
    assert results_so_far(toy.folder("hangs")) == {}
    toy.run("hangs", *narrow, "--wait")
    until_done(toy, 1)
    expected = result_bytes(undisturbed)
    for results in ("results", "hangs"):
        ours = result_bytes(toy.folder(results))
        trials = {name: data for name, data in ours.items() if name.startswith("trials")}
        assert trials
        assert trials.items() <= expected.items()


def _processes_of_job(job: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes()
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if (
            f"SLURM_JOB_ID={job}\0".encode() in variables
            and b"SLURM_STEP_ID" in variables
            and b"python" in name
        ):
            found.append(int(process.name))
    return found


def test_a_dead_node_is_survived_and_told_where_no_requeue_is_allowed(toy, cluster, undisturbed):
    toy.run("hangs", *HANGS)
    (hangs,) = jobs_in_queue(cluster)
    toy.run("results", "--set", "launch.trials_per_job=2")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    (node,) = cluster.ask("squeue", "-h", "-j", hangs, "-o", "%N").split()
    cluster.kill_node(node)
    wait_until(lambda: "DOWN" in cluster.ask("scontrol", "show", "node", node), seconds=200)
    cluster.start_node(node)
    until_done(toy)
    assert f"node_fail: job {hangs} ended on {node}" in toy.do("status", "hangs/toy").stdout
    assert_same(run_folder, undisturbed)
    assert attempts_in(run_folder) > 6  # somebody was on the node


def test_a_drained_node_ends_its_job_and_gets_no_other(toy, cluster, undisturbed):
    toy.run("results")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    node = cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%N").split()[0]
    cluster.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        wait_until(lambda: set(_on(node, cluster)) <= _have_been_on(node, cluster))
        before = _have_been_on(node, cluster)
        until_done(toy)
        assert "drain" in cluster.ask("sinfo", "-h", "-N", "-n", node, "-o", "%T")
        assert _have_been_on(node, cluster) == before
    finally:
        cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")
    assert_same(run_folder, undisturbed)


def _on(node: str, cluster: SlurmCluster) -> list[str]:
    running = ("-t", "RUNNING", "-w", node, "-o", "%i")
    return cluster.ask("squeue", "-h", "-r", *running).split()


def _have_been_on(node: str, cluster: SlurmCluster) -> set[str]:
    chosen = ("-S", "now-1days", "-N", node, "-o", "JobID")
    return set(cluster.ask("sacct", "-X", "-n", "-P", *chosen).split())
