"""How far a trial's attempts came: what it has saved, and whether its last workers moved it on.

Who holds a trial is a matter of `segbench.leases`, which knows nothing of its files.
"""

import contextlib
from itertools import takewhile
from pathlib import Path

from segbench import leases
from segbench.files import digest
from segbench.runs.trial_files import WEIGHTS


def claim_trial(workdir: Path) -> leases.Lease | None:
    """Claim the trial, as `leases.claim`; the claim says what the trial has saved before it."""
    return leases.claim(workdir, mark=saved_mark(workdir))


def saved_mark(workdir: Path) -> str:
    """Return a mark that changes whenever the trial saves: checkpoint, weights or an evaluation."""
    paths = [workdir / "last.ckpt", workdir / WEIGHTS]
    paths += sorted((workdir / "evaluations").glob("[!.]*.json"))
    marks = []
    for path in paths:
        with contextlib.suppress(OSError):
            marks.append(f"{path.name} {path.stat().st_mtime_ns}")
    return digest(marks, length=16)


def fruitless_attempts(workdir: Path) -> int:
    """Return how many of the last attempts began with what is saved now: they saved nothing more.

    A trial that is interrupted often but moves on each time has none.
    """
    now = saved_mark(workdir)
    return sum(1 for _ in takewhile(lambda mark: mark == now, leases.marks(workdir)))


def last_note(workdir: Path) -> str:
    """Return the last thing that the trial's last worker wanted its user to know, or nothing."""
    return str(leases.heartbeat(workdir).get("note", ""))
