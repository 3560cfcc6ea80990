"""Harm done to runs on one machine: the same bytes afterwards, nothing done twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_faults import (
    ANOTHER_HOST,
    Clock,
    Toy,
    assert_same,
    is_alive,
    kill_all_over,
    live_workers,
    part_of,
    results_so_far,
    small_disk,
    undisturbed_run,
    wait_until,
)  # fmt: skip

from segbench.leases import attempts
from segbench.runs.trial_files import load_provenance

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SEGBENCH_TEST_KILLS", "50"))  # 200 in a nightly run
GRID = ("sweep.seeds=12", "train.stages.0.steps=20", "launch.workers=2", "launch.max_attempts=1000")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Path:
    """24 trials that nobody disturbed."""
    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"), toy_cache, *GRID)


@pytest.fixture
def toy(toy_project: Path) -> Toy:
    return Toy(toy_project, *GRID)


def test_workers_killed_at_random_moments_leave_the_bytes_of_an_undisturbed_run(toy, undisturbed):
    start = time.monotonic()
    process = toy.start("results")
    run_folder = toy.folder("results")
    sent = kill_all_over(
        run_folder, kills=KILLS, trials=24, until=lambda: process.poll() is not None
    )
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    assert sent[signal.SIGKILL] == KILLS
    begun = sum(attempts(workdir) for workdir in run_folder.glob("trials/*"))
    assert 24 + KILLS // 2 <= begun <= 24 + sent.total()  # only what was harmed began again
    assert out.count("done: ") == 24
    assert_same(run_folder, undisturbed)
    seconds = time.monotonic() - start
    print(f"{KILLS} kills, {sent[signal.SIGTERM]} SIGTERM: {begun} attempts in {seconds:.0f} s")  # noqa: T201


def test_the_same_command_twice_at_once_does_each_trial_once(toy, undisturbed):
    both = [toy.start("results", "--seeds", "3") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    run_folder = toy.folder("results")
    assert {len(list(f.glob("leases/*.json"))) for f in run_folder.glob("trials/*")} == {1}
    part_of(undisturbed, run_folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="another host's name needs root's rights")
def test_a_clock_that_jumps_takes_no_trial_from_another_host(toy, undisturbed, tmp_path):
    clock = Clock(tmp_path / "clock")
    true_time = dict(toy.environment)
    toy.environment |= clock.environment
    here = toy.start("results", "--seeds", "3")
    run_folder = toy.folder("results")
    wait_until(lambda: live_workers(run_folder))
    toy.environment = true_time
    elsewhere = toy.start("results", "--seeds", "3", under=ANOTHER_HOST)
    draw = random.Random(0)
    while here.poll() is None:
        clock.jump(draw.choice(["+3h", "-3h", "+3d", "-3d", "+5y", "-5y"]))
        assert " failed" not in toy.do("status", "results/toy").stdout
        time.sleep(1.0)
    for command in (here, elsewhere):
        out, err = command.communicate(timeout=600)
        assert command.returncode == 0, out + err
    beats = [json.loads(p.read_bytes()) for p in run_folder.glob("trials/*/heartbeat.json")]
    assert len({beat["host"] for beat in beats}) == 2
    assert max(abs(beat["time"] - time.time()) for beat in beats) > 600  # it did jump
    part_of(undisturbed, run_folder)
    assert {_attempt_that_finished(folder) for folder in run_folder.glob("trials/*")} == {1}


def _attempt_that_finished(workdir: Path) -> int | None:
    provenance = load_provenance(workdir)
    return provenance and provenance.attempts


LONG = ("sweep.seeds=1", "train.stages.0.steps=100", "launch.workers=2")


def test_a_killed_driver_takes_its_workers_along_and_the_same_command_goes_on(toy_project):
    toy = Toy(toy_project, *LONG)
    process = toy.start("results")
    run_folder = toy.folder("results")
    wait_until(lambda: len(list(run_folder.glob("trials/*/last.ckpt"))) == 2)
    workers = live_workers(run_folder)
    os.kill(process.pid, signal.SIGKILL)  # it alone
    wait_until(lambda: not any(is_alive(worker.pid) for worker in workers), seconds=10)
    process.communicate()
    assert len(workers) == 2
    assert results_so_far(run_folder) == {}  # they were stopped, not done
    assert toy.run("results").stdout.count("done: ") == 2
    assert [attempts(folder) for folder in run_folder.glob("trials/*")] == [2, 2]
    toy.run("straight")
    assert_same(run_folder, toy.folder("straight"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_signal_does_not_break_off_the_stop_and_who_cannot_save_is_ended(
    toy_project, ranks
):
    # a minute's limit: the workers have 8 s
    toy = Toy(toy_project, *LONG, "launch.time_minutes=1", f"launch.ranks_per_trial={ranks}")
    process = toy.start("results", "--only", "head=fcn8s")
    run_folder = toy.folder("results")
    wait_until(lambda: list(run_folder.glob("trials/*/last.ckpt")))
    (worker,) = live_workers(run_folder)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(1.0)
        out, err = process.communicate(timeout=40)
        assert ranks > 1 or not is_alive(worker.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)  # a rank that stands still sees nobody's end
        process.kill()
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert results_so_far(run_folder) == {}


def test_a_process_whose_parent_was_gone_before_it_could_look_ends(tmp_path):
    child = (
        "import time; from pathlib import Path; time.sleep(2);"
        "from segbench.launch.node import end_with_parent; end_with_parent(); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys; from segbench.launch.node import started_here;"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}], env=started_here()).pid)"
    )
    with (tmp_path / "pid").open("w") as out:  # no pipe: the child would hold it open
        subprocess.run([sys.executable, "-c", parent], stdout=out, check=True)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), seconds=30)


def test_torn_files_are_made_again_and_nothing_else(toy, undisturbed):
    toy.run("results", "--seeds", "2")
    run_folder = toy.folder("results")
    first, second, third, whole = sorted(run_folder.glob("trials/*"))
    before = results_so_far(run_folder)[whole.name]
    (first / "result.json").write_bytes((first / "result.json").read_bytes()[:40])
    next(second.glob("evaluations/*.json")).write_bytes(b"")
    next(third.glob("evaluations/*.npz")).unlink()
    assert "1 ended, 3 to run" in toy.run("results", "--seeds", "2").stdout
    part_of(undisturbed, run_folder)
    assert results_so_far(run_folder)[whole.name] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root's rights")
def test_a_full_disk_is_one_sentence_and_more_room_mends_it(toy, undisturbed):
    with small_disk(toy.project / "disk", mebibytes=12) as disk:
        full = toy.run("disk", "--seeds", "1", ok=False)
        assert full.returncode == 2
        assert "cannot be written" in full.stderr or "No space left" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=600m", str(disk)], check=True)
        toy.run("disk", "--seeds", "1")
        part_of(undisturbed, toy.folder("disk"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root's rights")
def test_a_folder_that_takes_no_files_is_one_sentence(toy):
    with small_disk(toy.project / "disk", mebibytes=50) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused = toy.run("disk", "--seeds", "1", ok=False)
        assert refused.returncode == 2
        assert "cannot be written (Read-only file system)" in refused.stderr
        assert "Traceback" not in refused.stderr
