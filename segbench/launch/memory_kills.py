"""Whether the kernel has killed processes of this one's control group for want of memory.

A process that is killed so looks like any other that got signal 9; only the group's counter tells.
Knows nothing of trials.
"""

from pathlib import Path

_FILES = {"": ("", "memory.events"), "memory": ("memory", "memory.oom_control")}  # v2, v1


def memory_kills(root: Path = Path("/")) -> int:
    """Return how many were killed since the group was made; 0 where the system does not tell.

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
        for controller in set(controllers.split(",")) & set(_FILES):
            folder, name = _FILES[controller]
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
