"""Slurm itself, two nodes of it here: submit and leave, survive anything, do nothing twice."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_faults import (
    Toy,
    assert_same,
    harm_at_random,
    live_workers,
    new_project,
    result_bytes,
    results_so_far,
    wait_until,
)  # fmt: skip
from slurm_cluster import SlurmCluster, missing_programs

pytestmark = pytest.mark.slow

GRID = ("sweep.seeds=3", "train.stages.0.steps=80", "monitor.checkpoint_every_steps=5")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"needs a real Slurm; not here: {', '.join(missing)}")
    with come_up(SlurmCluster(tmp_path_factory.mktemp("slurm"), max_array_size=5)) as running:
        yield running


@contextlib.contextmanager
def come_up(cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Bring a cluster up; skip where the machine forbids it (devices, users, ports)."""
    try:
        cluster.__enter__()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"a Slurm does not come up on this machine: {error}")
    with contextlib.closing(cluster):
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid's results from one machine: what every other way must give, byte for byte."""
    project = new_project(tmp_path_factory.mktemp("undisturbed"))
    toy = Toy(project, *GRID, "launch.workers=2")
    toy.run("results")
    return toy.folder("results")


@pytest.fixture
def toy(toy_project: Path, cluster: SlurmCluster) -> Iterator[Toy]:
    yield Toy(toy_project, *GRID, "launch.launcher=slurm", environment=cluster.environment)
    cluster.cancel_all()


def jobs_in_queue(cluster: SlurmCluster) -> list[str]:
    return cluster.ask("squeue", "-h", "-r", "-o", "%i").split()


def attempts_in(run_folder: Path) -> int:
    return len(list(run_folder.glob("trials/*/claims/*.json")))


def until_done(toy: Toy, number: int = 6, *, results: str = "results") -> None:
    wait_until(lambda: len(results_so_far(toy.folder(results))) == number, seconds=600)
    toy.do("report", f"{results}/toy")


@pytest.mark.timeout(1800)
def test_three_launchers_give_the_same_bytes(toy, cluster):
    toy = Toy(toy.project, "sweep.seeds=6", environment=cluster.environment)  # 12 trials
    toy.run("local", "--launcher", "local", "--set", "launch.workers=2")
    toy.run("slurm", "--launcher", "slurm", "--set", "launch.trials_per_job=3")
    toy.run("ray", "--launcher", "ray")
    until_done(toy, 12, results="slurm")
    assert len(result_bytes(toy.folder("local"))) >= 12 * 5
    assert_same(toy.folder("slurm"), toy.folder("local"))
    assert_same(toy.folder("ray"), toy.folder("local"))


def test_slurm_gives_the_bytes_of_one_machine_from_split_and_shared_arrays(
    toy, cluster, undisturbed
):
    done = toy.run("results", "--set", "launch.throttle=3")
    assert "submitted" in done.stdout
    assert len(jobs_in_queue(cluster)) == 6
    shares = cluster.ask("squeue", "-h", "-o", "%i %j").splitlines()
    assert len({line.split()[1] for line in shares}) == 2  # 6 trials, arrays of at most 5
    again = toy.run("results", "--set", "launch.throttle=3")
    assert again.stdout.count("waiting: ") == 6
    assert len(jobs_in_queue(cluster)) <= 6
    most = 0
    while jobs_in_queue(cluster):
        running = cluster.ask("squeue", "-h", "-r", "-t", "RUNNING,COMPLETING", "-o", "%i").split()
        most = max(most, len(running))
        time.sleep(0.5)
    assert 2 <= most <= 3
    until_done(toy)
    assert_same(toy.folder("results"), undisturbed)
    before = results_so_far(toy.folder("results"))
    assert "0 to run" in toy.run("results").stdout
    assert results_so_far(toy.folder("results")) == before


def test_preempted_trials_save_are_requeued_and_go_on(toy, cluster, undisturbed, tmp_path):
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
    wait_until(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job"), seconds=200)
    (log,) = run_folder.glob("jobs/submitit/*_0_log.err")
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


def test_a_dead_node_is_survived(toy, cluster, undisturbed):
    toy.run("results", "--set", "launch.trials_per_job=2")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    node = cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%N").split()[0]
    cluster.kill_node(node)
    wait_until(
        lambda: "down" in cluster.ask("sinfo", "-h", "-N", "-n", node, "-o", "%T"), seconds=200
    )
    cluster.start_node(node)
    until_done(toy)
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


def test_two_ranks_of_a_trial_are_two_tasks_of_a_job_with_a_gpu_each(toy, cluster):
    ranks = ("launch.ranks_per_trial=2", "sweep.head=[fcn8s]", "sweep.seeds=1")
    toy = Toy(toy.project, *ranks, environment=cluster.environment)
    toy.run("slurm", "--launcher", "slurm")
    shown = cluster.ask("scontrol", "show", "job")
    assert "NumTasks=2" in shown
    assert re.search(r"(gres/gpu|gpu)[:=]2", shown)
    until_done(toy, 1, results="slurm")
    toy.run("local", "--launcher", "local")
    assert_same(toy.folder("slurm"), toy.folder("local"))


def test_cancelled_trials_are_told_and_the_same_command_goes_on(toy, cluster, undisturbed):
    toy.run("results", "--set", "launch.trials_per_job=3")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    assert "cancelled: " in toy.do("cancel", "results/toy").stdout
    wait_until(lambda: not jobs_in_queue(cluster), seconds=200)
    time.sleep(2)
    done = len(results_so_far(run_folder))
    status = toy.do("status", "results/toy").stdout
    assert f"{6 - done} failed" in status
    assert "cancelled: job " in status
    toy.run("results", "--wait")
    assert_same(run_folder, undisturbed)


def test_the_same_command_twice_at_once_submits_once(toy, cluster, undisturbed):
    both = [toy.start("results", "--set", "launch.trials_per_job=2") for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in both]
    assert 0 in {process.returncode for process in both}
    told = "".join(out + err for out, err in outputs)
    assert "is submitting it just now" in told or told.count("waiting: ") == 6
    assert len(jobs_in_queue(cluster)) <= 3
    until_done(toy)
    assert_same(toy.folder("results"), undisturbed)


def test_a_refusal_names_what_was_and_was_not_submitted(toy):
    refused = toy.run("results", "--set", "launch.partition=nowhere", ok=False)
    assert refused.returncode == 2
    assert "invalid partition specified: nowhere" in refused.stderr
    assert "Submitted: 0 of 6 trials" in refused.stderr
    assert "when that is mended, the same command submits the rest" in refused.stderr


@pytest.mark.parametrize(
    ("whose", "limit", "word"),
    [
        (("user", "root"), "maxsubmitjobs", "AssocMaxSubmitJobLimit"),
        (("account", "root"), "grpsubmitjobs", "AssocGrpSubmitJobsLimit"),
        (("qos", "normal"), "maxsubmitjobsperuser", "QOSMaxSubmitJobPerUserLimit"),
    ],
)
def test_of_a_limit_on_submitted_jobs_what_fits_is_submitted_and_later_the_rest(
    toy, cluster, whose, limit, word
):
    later = ("--set", "launch.sbatch={begin: now+1hour}")  # none ends while we look
    modify = ("sacctmgr", "-i", "modify", *whose, "set")
    cluster.ask(*modify, f"{limit}=4")
    try:
        refused = toy.run("results", *later, ok=False)
        assert refused.returncode == 2
        assert f"Slurm takes no more jobs of yours now ({word})" in refused.stderr
        assert "Submitted: 4 of 6 trials, in 2 arrays; not submitted: 2" in refused.stderr
        assert "when jobs have ended, the same command submits the rest" in refused.stderr
        assert len(jobs_in_queue(cluster)) == 4
    finally:
        cluster.ask(*modify, f"{limit}=-1")
    rest = toy.run("results", *later).stdout
    assert rest.count("waiting: ") == 4
    assert "(2 trials)" in rest
    assert len(jobs_in_queue(cluster)) == 6


def test_a_trial_that_starts_from_another_waits_for_its_job(toy, cluster):
    path = toy.project / "experiments" / "toy.yaml"
    path.write_text(
        path.read_text() + "start_from:\n  - {where: {head: fcn8s}, take: {head: fcn32s}}\n"
    )
    toy.run("results", "--seeds", "1", "--set", "sweep.seeds=1")
    assert "Dependency" in cluster.ask("squeue", "-h", "-o", "%r")
    until_done(toy, 2)
    toy.run("other", "--seeds", "1", "--set", "sweep.seeds=1", "--launcher", "local")
    assert_same(toy.folder("results"), toy.folder("other"))


def test_without_accounting_all_is_the_same(toy_project, tmp_path, undisturbed):
    if missing := missing_programs(accounting=False):
        pytest.skip(f"needs a real Slurm; not here: {', '.join(missing)}")
    with come_up(SlurmCluster(tmp_path / "plain", accounting=False)) as cluster:
        toy = Toy(toy_project, *GRID, "launch.launcher=slurm", environment=cluster.environment)
        toy.run("results", "--set", "launch.trials_per_job=3")
        run_folder = toy.folder("results")
        wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
        job = jobs_in_queue(cluster)[0]
        cluster.ask("scancel", job)
        wait_until(lambda: not live_workers(run_folder) or len(jobs_in_queue(cluster)) < 2)
        time.sleep(1)
        assert "cancelled: job " in toy.do("status", "results/toy").stdout
        toy.run("results", "--wait")
        assert_same(run_folder, undisturbed)


def test_the_page_on_clusters_can_be_followed_word_by_word(toy_project, cluster):
    page = (Path(__file__).parents[1] / "docs" / "on-a-cluster.md").read_text()
    walk = page.split("```console\n")[1].split("```")[0].replace("quickstart", "toy").splitlines()
    assert [line.split()[1] for line in walk].count("run") == 2
    toy = Toy(toy_project, environment=cluster.environment)
    said = {line: toy.do(*line.split()[1:]).stdout for line in walk}
    assert (
        "one after another, as measured on"
        in said["segbench plan experiments/toy.yaml --launcher slurm"]
    )
    assert "# Leaderboard: toy" in said["segbench report results/toy"]
    assert "Incomplete" not in said["segbench report results/toy"]
