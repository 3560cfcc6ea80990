"""Harm done to runs on Ray: the same bytes afterwards, nothing done twice."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_faults import (
    Toy,
    harm_at_random,
    is_alive,
    kill_group,
    live_workers,
    parent_of,
    part_of,
    results_so_far,
    undisturbed_run,
    wait_until,
)  # fmt: skip

from segbench.commands.run import Flags, prepare_run
from segbench.launch.ranks import free_port
from segbench.leases import claim

pytestmark = pytest.mark.slow

GRID = ("sweep.seeds=3", "train.stages.0.steps=20", "launch.workers=2", "launch.max_attempts=1000")
LONG = ("sweep.seeds=1", "train.stages.0.steps=100", "launch.workers=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Path:
    """6 trials on this machine that nobody disturbed."""
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"), toy_cache, *GRID)


@pytest.fixture
def toy(toy_project: Path) -> Toy:
    return Toy(toy_project, *GRID)


def test_a_killed_driver_of_ray_goes_on_with_the_same_command(toy, undisturbed):
    run = ("--seeds", "2", "--launcher", "ray")
    process = toy.start("results", *run)
    run_folder = toy.folder("results")
    wait_until(lambda: results_so_far(run_folder) and live_workers(run_folder))
    kill_group(process)
    before = results_so_far(run_folder)
    assert 0 < len(before) < 4
    toy.run("results", *run)
    part_of(undisturbed, run_folder)
    after = results_so_far(run_folder)
    assert len(after) == 4
    assert before.items() <= after.items()  # what was done was left alone


def test_a_trial_on_ray_whose_process_is_killed_goes_on(toy, undisturbed):
    process = toy.start("results", "--seeds", "1", "--launcher", "ray")
    run_folder = toy.folder("results")
    harm_at_random(
        run_folder, times=4, until=lambda: process.poll() is not None,
        signals=(signal.SIGKILL,), pause=(0.5, 2.0),
    )  # fmt: skip
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    part_of(undisturbed, run_folder)


def test_a_trial_that_another_command_has_is_left_to_it_by_ray(toy_project, undisturbed):
    toy = Toy(toy_project, *GRID)
    one = ("--seeds", "1", "--launcher", "ray")
    flags = Flags(settings=GRID, results=toy_project / "results")
    planned = prepare_run(toy_project / "experiments" / "toy.yaml", flags).asked.trials
    folder = toy.folder("results") / "trials" / next(iter(planned))
    folder.mkdir(parents=True)
    lease = claim(folder)
    assert lease is not None
    with lease:
        left = toy.run("results", *one)
    assert left.stdout.count("waiting: ") == 1
    assert "another worker has it" in left.stdout
    assert "failed" not in left.stdout + left.stderr
    assert len(results_so_far(toy.folder("results"))) == 1
    assert toy.run("results", *one).stdout.count("done: ") == 1
    part_of(undisturbed, toy.folder("results"))


@pytest.mark.parametrize("saves", [True, False])
def test_on_ray_only_attempts_without_headway_count(toy_project, undisturbed, saves):
    every = () if saves else ("monitor.checkpoint_every_steps=1000",)
    toy = Toy(toy_project, *GRID, "launch.max_attempts=1", *every)
    process = toy.start("results", "--only", "head=fcn8s", "--seeds", "1", "--launcher", "ray")
    run_folder = toy.folder("results")
    marks: set[int] = set()
    for _ in range(2 if saves else 1):
        wait_until(lambda: live_workers(run_folder))
        if saves:
            wait_until(lambda: _saved_when(run_folder) - marks)  # noqa: B023 - called at once
        (worker,) = live_workers(run_folder)
        between = parent_of(parent_of(worker.pid))  # Ray's task and it
        if not saves:
            os.kill(worker.pid, signal.SIGSTOP)  # else it saves its state when it is left alone
        os.kill(between, signal.SIGKILL)
        if not saves:
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: not live_workers(run_folder), seconds=10)
        marks |= _saved_when(run_folder)
    out, err = process.communicate(timeout=300)
    if saves:
        assert process.returncode == 0, out + err
        assert out.count("again: ") == 2
        part_of(undisturbed, run_folder)
    else:
        assert process.returncode == 2, out + err
        assert "1 trials ended without a record" in err


def _saved_when(run_folder: Path) -> set[int]:
    return {path.stat().st_mtime_ns for path in run_folder.glob("trials/*/last.ckpt")}


def test_ctrl_c_on_ray_ends_the_command_and_the_workers(toy_project):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell in front has it
    toy = Toy(toy_project, *LONG)
    process = toy.start("results", "--launcher", "ray")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    workers = live_workers(run_folder)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "the same command goes on from there" in err
    wait_until(lambda: not any(is_alive(worker.pid) for worker in workers), seconds=20)
    assert results_so_far(run_folder) == {}


def test_a_run_joins_a_ray_that_is_there_with_the_users_token_and_leaves_it_running(
    toy, undisturbed, tmp_path
):
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    options = [
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        toy.environment.pop(name, None)
    toy.environment["HOME"] = str(tmp_path)
    (tmp_path / ".ray").mkdir()  # as any Ray that was started here before has left it
    (tmp_path / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    join = ("--seeds", "1", "--address", f"127.0.0.1:{port}")
    with (tmp_path / "ray.out").open("wb") as out:
        there = subprocess.Popen([*command, *options], env=toy.environment, stdout=out, stderr=out)
    try:
        wait_until(lambda: "runtime started" in (tmp_path / "ray.out").read_text())
        assert "Token authentication is enabled" in (tmp_path / "ray.out").read_text()
        stranger = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_NUM_REDIS_GET_RETRIES": "1"}
        mine, toy.environment = toy.environment, {**toy.environment, **stranger}
        refused = toy.run("results", *join, ok=False)
        assert refused.returncode == 2
        assert "this Ray asks for a token, and yours is another or none" in refused.stderr
        toy.environment = mine
        toy.run("results", *join)
        assert there.poll() is None
    finally:
        there.terminate()  # ends what it has started; `ray stop` would end every Ray of this machine
        there.wait(120)
    part_of(undisturbed, toy.folder("results"))
    nobody = toy.run("other", *join, ok=False)
    assert nobody.returncode == 2
    assert "no Ray answers there ([Errno 111] Connection refused)" in nobody.stderr
