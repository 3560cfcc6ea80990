"""The kernel's counter of processes killed for want of memory, and what a trial's end makes of it.

The files of control groups are stand-ins here; the test with a real Slurm has the kernel kill.
"""

import signal

import pytest

from segbench.drive import Flags, prepare_run
from segbench.launch import Work, local
from segbench.launch.memory_kills import memory_kills
from segbench.results import load_result, trial_folder
from segbench.spec.job import Job
from segbench.spec.launching import Launch
from segbench.spec.machine import Machine


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


class Ended:
    """Stands in for a worker's process that was killed before it did anything."""

    exitcode = -signal.SIGKILL


@pytest.mark.parametrize(("kernel", "kind"), [(True, "out_of_memory"), (False, "killed")])
def test_who_was_killed_for_want_of_memory_is_told_apart(toy_project, monkeypatch, kernel, kind):
    kills = iter([7, 7 + kernel, 7 + 2 * kernel])
    monkeypatch.setattr(local, "memory_kills", lambda: next(kills))
    prepared = prepare_run(
        toy_project / "experiments" / "toy.yaml", Flags(results=toy_project / "results")
    )
    job = Job(
        run_folder=str(prepared.run_folder), machine=Machine(cache="/none"), protocols=(),
        code_version="test",
    )  # fmt: skip
    work = Work(job, dict(prepared.asked.trials), Launch(max_attempts=2))
    events = []
    pool = local._Pool(work, events.append, float("inf"))
    trial_id = pool.waiting.popleft()
    for _ in range(2):
        pool._settle(local._Running(trial_id, local.Slot(None), Ended()))
    result = load_result(trial_folder(work.run_folder, trial_id))
    assert result.kind == kind
    assert ("launch.memory_gib" in result.message) == kernel
    assert [event.kind for event in events] == ["again", "failed"]
    words = "was killed for want of memory" if kernel else "ended with signal 9"
    assert all(words in event.message for event in events)
