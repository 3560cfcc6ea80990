"""One worker at a time holds a trial: claims by exclusive creation, and a heartbeat.

No file locks, so it works on NFS: `leases/0001.json` is a hard link, which only one worker can make,
and the highest number holds the trial. A holder is gone when its process is gone (same host), or
when its heartbeat file has not changed for as long as the watcher has watched with its own steady
clock: two hosts' clocks are never compared, so a clock that jumps does no harm. Unknown is not dead.

Knows nothing of what a trial computes. If two workers hold a trial all the same (a host that was
cut off comes back), both write equal bytes under unique temporary names.
"""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from segbench.errors import ResultError
from segbench.files import read_json, write_json

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_RECENT_SECONDS = 120.0  # a shared disk may show a file's time as late as a minute
_WATCH_SECONDS = 1.3 * HEARTBEAT_SECONDS


class Holder(NamedTuple):
    """Who holds a trial: attempt number, host, process, and the process's start in clock ticks."""

    attempt: int
    host: str
    pid: int
    start: int


class Lease:
    """A held trial. Beats while it lives; `report` says how far the work is.

    Use as a context manager. The heartbeat file has one writer: this process.
    """

    def __init__(self, workdir: Path, holder: Holder) -> None:
        self.workdir = workdir
        self.holder = holder
        self._progress: dict[str, Any] = {}
        self._phase_start = time.monotonic()
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def report(self, **progress: Any) -> None:
        """Remember values for the next heartbeat (step, steps, phase, loss, note).

        A new phase starts its own clock, from which others tell how long it still takes.
        """
        now = time.monotonic()
        if "phase" in progress:
            self._phase_start = now
            self._progress.pop("phase_first_step", None)
        elif "step" in progress:
            progress.setdefault("phase_seconds", round(now - self._phase_start, 3))
            first = self._progress.get("phase_first_step", progress["step"] - 1)
            progress["phase_first_step"] = first
        self._progress = {**self._progress, **progress}

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._beat()  # how far it came, for those who look at a trial that was stopped
        _released_path(self.workdir, self.holder.attempt).touch()

    def _beat_on(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS if self._beats > 2 else 0.5):
            self._beat()

    def _beat(self) -> None:
        self._beats += 1
        beat = {
            **self._progress,
            "attempt": self.holder.attempt,
            "beat": self._beats,
            "host": self.holder.host,
            "pid": self.holder.pid,
            "time": time.time(),
        }
        with contextlib.suppress(ResultError):  # a full disk ends the trial where it must write
            write_json(self.workdir / "heartbeat.json", beat)


def claim(workdir: Path, *, mark: str = "", stale_seconds: float = STALE_SECONDS) -> Lease | None:
    """Return the lease of the trial in `workdir`, or None while somebody else holds it.

    A holder on another host is watched for up to `stale_seconds` before it counts as gone.
    mark: kept with the claim, see `marks`.
    """
    attempt = attempts(workdir)
    if attempt and not holder_is_gone(workdir, attempt, stale_seconds=stale_seconds):
        return None
    return _create(workdir, attempt + 1, mark)


def holder_is_gone(
    workdir: Path,
    attempt: int,
    *,
    stale_seconds: float = STALE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return whether attempt `attempt` released the trial, died, or stands still."""
    where = _where(workdir, attempt)
    if where == "elsewhere":
        return _ends_while_watched(workdir, attempt, stale_seconds, sleep)
    return where == "no"


def held(workdir: Path) -> Literal["no", "here", "elsewhere"]:
    """Return what this host knows at once of who holds the trial.

    elsewhere: another host's process claimed it and released nothing; whether it lives `beating`
    says.
    """
    attempt = attempts(workdir)
    return _where(workdir, attempt) if attempt else "no"


def _where(workdir: Path, attempt: int) -> Literal["no", "here", "elsewhere"]:
    """See `held`; of one attempt."""
    if _released_path(workdir, attempt).exists():
        return "no"
    holder = _read_holder(_claim_path(workdir, attempt), attempt)
    if holder is None or holder.host != socket.gethostname():
        return "elsewhere"
    return "here" if _start_of(holder.pid) == holder.start else "no"


def beating(
    workdirs: Collection[Path], *, watch: bool, sleep: Callable[[float], None] = time.sleep
) -> set[Path]:
    """Return those of these trials' folders in which a heart beats, whatever the hosts' clocks say.

    A heartbeat is as old as its file is beside a file that is written now: the disk's own clock.
    watch: look once more, some seconds later, at what is old by that; a disk may take its times
    from the hosts, and in a folder that takes no files all are old.
    """
    now = next((_disk_time(workdir) for workdir in workdirs), None)
    recent = {w for w in workdirs if now is not None and abs(now - _sign_time(w)) < _RECENT_SECONDS}
    old = {workdir: _sign(workdir) for workdir in workdirs if workdir not in recent}
    if old and watch:
        sleep(_WATCH_SECONDS)
        recent |= {workdir for workdir, sign in old.items() if _sign(workdir) != sign}
    return recent


def living(workdirs: Collection[Path]) -> set[Path]:
    """Return those of these trials' folders that somebody may be working in, here or elsewhere."""
    found = {workdir: held(workdir) for workdir in workdirs}
    elsewhere = [workdir for workdir, where in found.items() if where == "elsewhere"]
    return {w for w, where in found.items() if where == "here"} | beating(elsewhere, watch=True)


def attempts(workdir: Path) -> int:
    """Return how often the trial has been claimed."""
    return max((int(path.stem) for path in _folder(workdir).glob("[0-9]*.json")), default=0)


def heartbeat(workdir: Path) -> dict[str, Any]:
    """Return the last heartbeat: what `Lease.report` was told; empty where there is none."""
    return read_json(workdir / "heartbeat.json") or {}


def marks(workdir: Path) -> Iterator[str | None]:
    """Yield the mark that each attempt began with, the last one's first; None where it is lost."""
    for attempt in range(attempts(workdir), 0, -1):
        yield (read_json(_claim_path(workdir, attempt)) or {}).get("saved")


def _ends_while_watched(
    workdir: Path, attempt: int, seconds: float, sleep: Callable[[float], None]
) -> bool:
    """Return whether the holder releases, or stands still for `seconds` by our own steady clock."""
    first = _beat_of(workdir)
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        sleep(min(1.0, seconds))
        if _released_path(workdir, attempt).exists():
            return True
        if _beat_of(workdir) != first:
            return False
    return True


def _sign(workdir: Path) -> tuple[int, bytes]:
    return attempts(workdir), _beat_of(workdir)


def _sign_time(workdir: Path) -> float:
    """Return when the disk took the last heartbeat or claim, by the disk's clock."""
    paths = (workdir / "heartbeat.json", _claim_path(workdir, attempts(workdir)))
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _disk_time(workdir: Path) -> float | None:
    """Return the time that a file gets which is written now; None where none can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".now-") as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
            return Path(file.name).stat().st_mtime
    except OSError:
        return None


def _beat_of(workdir: Path) -> bytes:
    try:
        return (workdir / "heartbeat.json").read_bytes()
    except OSError:
        return b""


def _create(workdir: Path, attempt: int, mark: str) -> Lease | None:
    holder = Holder(attempt, socket.gethostname(), os.getpid(), _start_of(os.getpid()))
    path = _claim_path(workdir, attempt)
    temporary = path.with_name(f".{path.name}.{holder.host}.{holder.pid}.tmp")
    try:
        write_json(temporary, {**holder._asdict(), "saved": mark})
        os.link(temporary, path)  # exclusive like O_EXCL, and never seen half-written
    except FileExistsError:
        return None  # somebody was faster
    except OSError as error:
        raise ResultError(
            f"{path}: cannot be written ({error.strerror}); free space, or choose a folder "
            "that can be written"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Lease(workdir, holder)


def _read_holder(path: Path, attempt: int) -> Holder | None:
    fields = read_json(path)
    try:
        return Holder(attempt, str(fields["host"]), int(fields["pid"]), int(fields["start"]))
    except (ValueError, KeyError, TypeError):
        return None  # not yet visible on this host: the heartbeat decides


def _start_of(pid: int) -> int:
    """Return when the process started, in ticks since boot; 0 where there is no such process.

    A process number alone is not enough: it is given out again after a reboot or a long time.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def _folder(workdir: Path) -> Path:
    """Return the folder of the claims: what the first release called `claims` goes on as such."""
    old = workdir / "claims"
    return old if old.is_dir() else workdir / "leases"


def _claim_path(workdir: Path, attempt: int) -> Path:
    return _folder(workdir) / f"{attempt:04d}.json"


def _released_path(workdir: Path, attempt: int) -> Path:
    return _claim_path(workdir, attempt).with_suffix(".released")
