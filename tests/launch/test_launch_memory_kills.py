"""The kernel's counter of processes killed for want of memory, and what a trial's end makes of it.

The files of control groups are stand-ins here; the test with a real Slurm has the kernel kill.
"""

import signal

import pytest

from segbench.commands.run import Flags, prepare_run
from segbench.launch import local
from segbench.launch.base import Work
from segbench.launch.node import memory_kills
from segbench.leases import attempts, claim
from segbench.runs.trial_files import load_result, trial_folder
from segbench.schema.job import Job
from segbench.schema.launching import Launch
from segbench.schema.machine import Machine


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        ("0::/jobs/a\n", "jobs/a/memory.events"),
        ("9:name=systemd:/\n4:memory:/jobs/a\n0::/\n", "memory/jobs/a/memory.oom_control"),
        ("7:cpu,memory:/jobs/a\n", "memory/jobs/a/memory.oom_control"),
        ("0::/of/the/host\n", "memory.events"),
        ("4:memory:/of/the/host\n", "memory/memory.oom_control"),
    ],
)
def test_kills_are_read_from_the_own_group_of_either_kind(tmp_path, groups, path):
    assert memory_kills(tmp_path) == 0
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    assert memory_kills(tmp_path) == 0
    file = tmp_path / "sys/fs/cgroup" / path
    file.parent.mkdir(parents=True)
    file.write_text("low 0\noom 5\noom_kill 3\noom_group_kill 0\n")
    assert memory_kills(tmp_path) == 3


def test_here_the_kernel_is_asked_without_a_complaint():
    assert memory_kills() >= 0


def work_of(toy_project) -> Work:
    prepared = prepare_run(
        toy_project / "experiments" / "toy.yaml", Flags(results=toy_project / "results")
    )
    job = Job(
        run_folder=str(prepared.run_folder), machine=Machine(cache="/none"), protocols=(),
        code_version="test",
    )  # fmt: skip
    return Work(job, dict(prepared.asked.trials), Launch(max_attempts=2))


class Ended:
    """Stands in for a worker's process that was killed before it did anything."""

    exitcode = -signal.SIGKILL


@pytest.mark.parametrize(("kernel", "kind"), [(True, "out_of_memory"), (False, "killed")])
def test_who_was_killed_for_want_of_memory_is_told_apart(toy_project, monkeypatch, kernel, kind):
    kills = iter([7, 7 + kernel, 7 + 2 * kernel])
    monkeypatch.setattr(local, "memory_kills", lambda: next(kills))
    work = work_of(toy_project)
    events = []
    pool = local._Pool(work, events.append, float("inf"))
    trial_id = pool.waiting.popleft()
    workdir = trial_folder(work.run_folder, trial_id)
    for _ in range(2):
        pool.claims[trial_id] = attempts(workdir)
        lease = claim(workdir)
        assert lease is not None
        with lease:
            pass
        pool._settle(local._Running(trial_id, local.Slot(None), Ended()))
    result = load_result(workdir)
    assert result.kind == kind
    assert ("launch.memory_gib" in result.message) == kernel
    assert [event.kind for event in events] == ["again", "failed"]
    words = "was killed for want of memory" if kernel else "ended with signal 9"
    assert all(words in event.message for event in events)


def test_workers_that_never_begin_leave_their_trial_as_it_is(toy_project):
    """A node on which nothing starts must not use up the attempts of a grid."""
    work = work_of(toy_project)
    events = []
    pool = local._Pool(work, events.append, float("inf"))
    trial_id = pool.waiting.popleft()
    pool.claims[trial_id] = 0
    for _ in range(2):
        pool._settle(local._Running(trial_id, local.Slot(None), Ended()))
    assert load_result(trial_folder(work.run_folder, trial_id)) is None
    assert [event.kind for event in events] == ["again", "failed"]
    assert "ended with signal 9 before it began, 2 times" in pool.unrecorded[trial_id]
