"""Slurm itself, two nodes of it here: submit and leave, do nothing twice, say what was refused."""

import re
import time
from pathlib import Path

import pytest
from launch_contract import check_launcher, contract_project, trials_without_a_launcher
from launch_faults import (
    Toy,
    assert_same,
    live_workers,
    result_bytes,
    results_so_far,
    wait_until,
)  # fmt: skip
from slurm_cluster import SlurmCluster, can_limit_memory, missing_programs
from slurm_grid import GRID, come_up, jobs_in_queue, until_done

pytestmark = pytest.mark.slow


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


def test_slurm_keeps_what_every_launcher_keeps(toy_project, cluster, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    project = contract_project(toy_project)
    check_launcher(project, "slurm", trials_without_a_launcher(project), monkeypatch)


def test_slurm_gives_the_bytes_of_one_machine_from_split_and_shared_arrays(
    toy, cluster, undisturbed
):
    done = toy.run("results", "--set", "launch.throttle=3")
    assert "submitted" in done.stdout
    assert len(jobs_in_queue(cluster)) == 6
    shares = cluster.ask("squeue", "-h", "-o", "%i %j").splitlines()
    assert len({line.split()[1] for line in shares}) == 2  # 6 trials, arrays of at most 5
    again = toy.run("results", "--set", "launch.throttle=3")
    assert again.stdout.count("waiting: ") + len(results_so_far(toy.folder("results"))) >= 6
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


def test_the_throttle_is_shared_with_what_an_earlier_command_has_queued(toy, cluster):
    later = ("--set", "launch.sbatch={begin: now+1hour}", "--set", "launch.throttle=1")
    toy.run("results", *later, "--seeds", "1")
    earlier = {job.split("_")[0] for job in jobs_in_queue(cluster)}
    toy.run("results", *later)
    waits = {}
    for line in cluster.ask("squeue", "-h", "-o", "%F %E").splitlines():
        job, dependency = line.split(maxsplit=1)
        waits[job] = re.findall(r"afterany:(\d+)", dependency)
    assert len(waits) > len(earlier)
    first = min(set(waits) - earlier, key=int)
    assert earlier <= {*waits[first]}


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
    assert refused.stderr.count("invalid partition specified: nowhere") == 1
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


def test_what_is_killed_for_want_of_memory_is_told_so(toy_project, tmp_path):
    if missing := missing_programs():
        pytest.skip(f"needs a real Slurm; not here: {', '.join(missing)}")
    if not can_limit_memory():
        pytest.skip("needs a control group of its own for memory (cgroup v1)")
    made = SlurmCluster(tmp_path / "strict", memory_limits=True)
    with come_up(made) as cluster:
        narrow = ("launch.launcher=slurm", "sweep.head=[fcn8s]", "sweep.seeds=1")
        toy = Toy(toy_project, *narrow, environment=cluster.environment)
        toy.run("tiny", "--set", "launch.memory_gib=0.03")  # not even Python starts
        large = ("--set", "train.images={crop: [4000, 4000]}", "--set", "launch.max_attempts=2")
        toy.run("large", *large, "--set", "launch.memory_gib=2")
        wait_until(lambda: not jobs_in_queue(cluster))
        wait_until(lambda: "out_of_memory: job " in toy.do("status", "tiny/toy").stdout)
        status = toy.do("status", "large/toy").stdout
        assert "out_of_memory: its process was killed for want of memory, 2 attempts" in status
        assert "launch.memory_gib" in status
        toy.run("tiny", "--set", "launch.memory_gib=2", "--wait")
        assert len(results_so_far(toy.folder("tiny"))) == 1


def test_the_page_on_clusters_can_be_followed_word_by_word(toy_project, cluster):
    page = (Path(__file__).parents[3] / "docs" / "on-a-cluster.md").read_text()
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
