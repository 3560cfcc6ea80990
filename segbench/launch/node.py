"""What processes see to on any node: end with who started them, wait for shared disks, give up.

Knows nothing of what they do besides.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from segbench.errors import LaunchError
from segbench.runs import trial_files
from segbench.runs.attempts import claim_trial, fruitless_attempts
from segbench.schema.job import INTERRUPTED

_VISIBLE_SECONDS = 60.0  # how late a shared disk may show a file to another node
_STARTED_BY = "SEGBENCH_STARTED_BY"
_ORPHAN_SECONDS = 60.0  # how long a process may take to save its state that nobody waits for
_KILLS_FILES = {"": ("", "memory.events"), "memory": ("memory", "memory.oom_control")}  # v2, v1


def has_given_up(trial_id: str, workdir: Path, max_attempts: int, restarts: int) -> bool:
    """Return whether the trial made no headway for too long, and is recorded as failed now."""
    if restarts < max_attempts - 1 or fruitless_attempts(workdir) < max_attempts:
        return False
    lease = claim_trial(workdir)
    if lease is None:
        return False  # another worker holds it
    with lease:
        message = (
            f"{max_attempts} attempts in a row ended before anything was saved; see "
            f"{workdir / 'worker.log'}"
        )
        trial_files.write_failure(workdir, trial_id, kind="killed", message=message)
    return True


def until_visible(path: Path) -> None:
    """Wait for a file that another node has written: shared disks may show it late."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{path}: is not here after {_VISIBLE_SECONDS:.0f} s; the run's folder must be on "
                "a disk that all nodes share"
            )
        time.sleep(1.0)


def started_here() -> dict[str, str]:
    """Return the variables for a process that is to end with this one; see `end_with_parent`."""
    return {**os.environ, _STARTED_BY: str(os.getpid())}


def end_with_parent() -> None:
    """Interrupt this process when the one that started it is gone, also where it is gone already.

    The kernel's own signal (PR_SET_PDEATHSIG) comes when the thread ends that started us, and Ray
    does its tasks in threads.
    """
    parent = int(os.environ.get(_STARTED_BY) or os.getppid())

    def wait_for_end() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)

    end_after(wait_for_end)


def end_after(wait_for_end: Callable[[], object]) -> None:
    """Interrupt this process when `wait_for_end` returns: what started it is gone.

    So nothing runs unseen. One that cannot stop by itself, since it waits for others, ends without
    saving.
    """

    def watch() -> None:
        wait_for_end()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def memory_kills(root: Path = Path("/")) -> int:
    """Return how many processes of our control group the kernel killed for want of memory.

    Since the group was made; 0 where the system does not tell. A process that is killed so looks
    like any other that got signal 9; only the group's counter tells.
    Source: Linux's cgroup-v2.rst (`oom_kill` of memory.events), cgroup-v1/memory.rst (`oom_kill` of
    memory.oom_control). root: where /proc and /sys lie.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    found = 0
    for line in groups:
        _, controllers, group = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_KILLS_FILES):
            folder, name = _KILLS_FILES[controller]
            mounted = root / "sys/fs/cgroup" / folder
            # in a container the group's path may be the host's: then its own group is the root
            for path in (mounted / group.lstrip("/") / name, mounted / name):
                counted = _counted(path)
                if counted is not None:
                    found = max(found, counted)
                    break
    return found


def _counted(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
