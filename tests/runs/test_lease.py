"""Claims: one holder at a time, taken over from the dead and from nobody else."""

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from segbench import leases
from segbench.errors import ResultError


def _hold(workdir: str, ready) -> None:
    held = leases.claim(Path(workdir))
    assert held is not None
    with held:
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the trial in tmp_path."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready))
    process.start()
    ready.wait()
    yield process
    process.kill()
    process.join()


def test_a_held_trial_is_not_given_to_a_second_worker(tmp_path, holder):
    assert leases.claim(tmp_path, stale_seconds=0) is None


def test_a_killed_worker_loses_its_trial_at_once_on_its_own_host(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    second = leases.claim(tmp_path)
    assert second is not None
    assert second.holder.attempt == 2


def test_a_released_trial_can_be_claimed_again(tmp_path):
    first = leases.claim(tmp_path)
    assert first is not None
    with first:
        assert leases.claim(tmp_path, stale_seconds=0) is None
    second = leases.claim(tmp_path)
    assert second is not None
    assert (first.holder.attempt, second.holder.attempt) == (1, 2)


def test_of_many_workers_that_claim_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(8) as pool:
        won = pool.map(_claims, [str(tmp_path)] * 24)
    assert sum(won) == 1


def _claims(workdir: str) -> bool:
    held = leases.claim(Path(workdir), stale_seconds=0)
    if held is not None:
        held.__enter__()
        time.sleep(1)
    return held is not None


def _claim_of_another_host(workdir: Path) -> None:
    (workdir / "leases").mkdir()
    claim = {"attempt": 1, "host": "elsewhere", "pid": 1, "start": 1}
    (workdir / "leases" / "0001.json").write_text(json.dumps(claim))


def test_another_hosts_worker_is_gone_only_after_it_stood_still_while_we_watched(tmp_path):
    _claim_of_another_host(tmp_path)
    (tmp_path / "heartbeat.json").write_text('{"beat": 7, "time": 0}')
    slept: list[float] = []
    assert leases.holder_is_gone(tmp_path, 1, stale_seconds=0.05, sleep=_counted(slept))
    assert slept


def test_another_hosts_worker_that_beats_is_alive_whatever_its_clock_says(tmp_path):
    _claim_of_another_host(tmp_path)
    beat = tmp_path / "heartbeat.json"
    beat.write_text('{"beat": 7, "time": 0}')

    def sleep(_: float) -> None:
        beat.write_text('{"beat": 8, "time": -1000000}')  # its clock jumped back

    assert not leases.holder_is_gone(tmp_path, 1, stale_seconds=0.05, sleep=sleep)


def test_another_hosts_worker_that_releases_while_we_watch_is_gone_at_once(tmp_path):
    _claim_of_another_host(tmp_path)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / "leases" / "0001.released").touch()

    assert leases.holder_is_gone(tmp_path, 1, stale_seconds=1000, sleep=sleep)
    assert slept == [1.0]


def _beat_at(workdir: Path, *, seconds_ago: float, clock: float = 0.0) -> Path:
    """Leave another host's claim and heartbeat, as old as that for the disk."""
    workdir.mkdir(exist_ok=True)
    _claim_of_another_host(workdir)
    then = time.time() - seconds_ago
    beat = workdir / "heartbeat.json"
    beat.write_text(json.dumps({"beat": 7, "time": clock}))
    for path in (beat, workdir / "leases" / "0001.json"):
        os.utime(path, (then, then))
    return beat


@pytest.mark.parametrize("offset", [-600, 600, -1e9])
def test_a_heart_beats_by_the_disks_clock_whatever_its_own_host_says(tmp_path, offset):
    _beat_at(tmp_path / "fresh", seconds_ago=20, clock=time.time() + offset)
    _beat_at(tmp_path / "old", seconds_ago=600, clock=time.time())
    assert leases.held(tmp_path / "old") == "elsewhere"
    both = [tmp_path / "fresh", tmp_path / "old"]
    assert leases.beating(both, watch=False) == {tmp_path / "fresh"}


@pytest.mark.parametrize("seconds_ago", [600, -600])
def test_where_the_disk_takes_its_times_from_the_hosts_a_beat_is_seen_by_watching(
    tmp_path, seconds_ago
):
    beat = _beat_at(tmp_path / "alive", seconds_ago=seconds_ago)
    _beat_at(tmp_path / "dead", seconds_ago=seconds_ago)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        beat.write_text('{"beat": 8}')
        os.utime(beat, (time.time() - seconds_ago,) * 2)

    both = [tmp_path / "alive", tmp_path / "dead"]
    assert leases.beating(both, watch=True, sleep=sleep) == {tmp_path / "alive"}
    assert len(slept) == 1  # all are watched at once
    assert slept[0] > leases.HEARTBEAT_SECONDS


def test_a_holder_is_here_elsewhere_or_gone(tmp_path):
    assert leases.held(tmp_path) == "no"
    first = leases.claim(tmp_path)
    assert first is not None
    with first:
        assert leases.held(tmp_path) == "here"
        assert leases.living([tmp_path]) == {tmp_path}
    assert leases.held(tmp_path) == "no"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".now")]


def _counted(slept):
    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    return sleep


def test_a_process_number_that_was_given_out_again_is_not_the_holder(tmp_path):
    (tmp_path / "leases").mkdir()
    claim = {"attempt": 1, "host": socket.gethostname(), "pid": os.getpid(), "start": 1}
    (tmp_path / "leases" / "0001.json").write_text(json.dumps(claim))
    assert leases.holder_is_gone(tmp_path, 1)


def test_the_heartbeat_says_how_far_the_work_is(tmp_path):
    held = leases.claim(tmp_path)
    assert held is not None
    held.report(phase="train", step=0, steps=10)
    held.report(step=3)
    with held:
        beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["phase"], beat["step"], beat["steps"]) == ("train", 3, 10)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        leases.claim(tmp_path / "file")


def test_a_trial_that_the_first_release_began_keeps_its_folder_and_its_attempts(tmp_path):
    with leases.claim(tmp_path) or pytest.fail("held"):
        pass
    (tmp_path / "leases").rename(tmp_path / "claims")
    with leases.claim(tmp_path) or pytest.fail("held") as second:
        assert second.holder.attempt == leases.attempts(tmp_path) == 2
    assert not (tmp_path / "leases").exists()
