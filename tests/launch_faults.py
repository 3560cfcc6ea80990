"""What the fault tests share: a toy grid, the bytes that must be equal, and ways to do harm."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_world import new_project

from segbench.leases import Holder, attempts, holder_is_gone

DETERMINISTIC = ("trial.json", "result.json", "model.safetensors", "evaluations/*")


ANOTHER_HOST = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh")


class Toy:
    """A toy project and one experiment in it: `heads` x `seeds` trials of `steps` steps."""

    def __init__(
        self, project: Path, *settings: str, environment: dict[str, str] | None = None
    ) -> None:
        self.project = project
        self.settings = settings
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}

    def command(self, results: str, *arguments: str) -> list[str]:
        sets = [part for setting in self.settings for part in ("--set", setting)]
        run = ["run", "experiments/toy.yaml", "--results", results, *sets, *arguments]
        return [sys.executable, "-m", "segbench", *run]

    def run(
        self, results: str, *arguments: str, ok: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self._finished(self.command(results, *arguments), ok=ok)

    def do(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        return self._finished([sys.executable, "-m", "segbench", *arguments], ok=ok)

    def start(
        self, results: str, *arguments: str, under: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*under, *self.command(results, *arguments)],
            cwd=self.project, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def folder(self, results: str) -> Path:
        return self.project / results / "toy"

    def _finished(self, command: list[str], *, ok: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True,
            check=False, timeout=800,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done


def undisturbed_run(folder: Path, cache: Path, *settings: str) -> Path:
    """Run the toy grid under these settings in a new project; return the run's folder.

    Nobody disturbs it, so it saves no checkpoints; they are no part of what is compared.
    """
    toy = Toy(new_project(folder), *settings, environment={"SEGBENCH_CACHE": str(cache)})
    toy.run("results", "--set", "monitor.checkpoint_every_steps=1000")
    toy.run("results")  # the pages name the command
    return toy.folder("results")


def result_bytes(run_folder: Path) -> dict[str, bytes]:
    """Return every file that must be equal for equal trials, by its path in the run's folder."""
    found = [p for pattern in DETERMINISTIC for p in (run_folder / "trials").glob(f"*/{pattern}")]
    found += [*run_folder.glob("*.md"), *run_folder.glob("per_class/*.md")]
    return {
        str(path.relative_to(run_folder)): path.read_bytes()
        for path in sorted(found)
        if not path.name.startswith(".")
    }


def assert_same(left: Path, right: Path) -> None:
    """Compare two runs' files byte for byte; say which differ."""
    one, other = result_bytes(left), result_bytes(right)
    assert one, f"{left} holds no results"
    differing = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    assert not differing


def part_of(whole: Path, part: Path) -> None:
    """Check that every trial's file of a smaller grid is that of the whole grid."""
    expected = result_bytes(whole)
    trials = {n: data for n, data in result_bytes(part).items() if n.startswith("trials/")}
    assert trials
    assert not [name for name, data in trials.items() if expected[name] != data]


def results_so_far(run_folder: Path) -> dict[str, int]:
    """Return when each trial's result was written, by trial id."""
    return {p.parent.name: p.stat().st_mtime_ns for p in run_folder.glob("trials/*/result.json")}


def live_workers(run_folder: Path) -> list[Holder]:
    """Return the processes of this host that hold a trial now."""
    found = []
    for workdir in run_folder.glob("trials/*"):
        attempt = attempts(workdir)
        if attempt and not holder_is_gone(workdir, attempt, stale_seconds=0):
            with contextlib.suppress(OSError, ValueError, KeyError):
                fields = json.loads((workdir / "leases" / f"{attempt:04d}.json").read_bytes())
                found.append(Holder(attempt, fields["host"], fields["pid"], fields["start"]))
    return found


def is_alive(pid: int) -> bool:
    """Return whether the process runs; one that ended and that nobody waits for does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return the number of the process that a process belongs to."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def harm_at_random(
    run_folder: Path,
    *,
    times: int,
    until: Callable[[], bool],
    signals: tuple[int, ...],
    pause: tuple[float, float] = (0.05, 0.8),
) -> Counter[int]:
    """Send signals to random workers at random moments, `times` times or until all is over."""
    draw = random.Random(0)
    sent: Counter[int] = Counter()
    while sent.total() < times and not until():
        time.sleep(draw.uniform(*pause))
        workers = live_workers(run_folder)
        if workers:
            number = draw.choice(signals)
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers).pid, number)
                sent[number] += 1
    return sent


def kill_all_over(
    run_folder: Path, *, kills: int, trials: int, until: Callable[[], bool]
) -> Counter[int]:
    """Kill random workers `kills` times, spread over the grid, with a SIGTERM now and then.

    A moment is a number of trials done and a pause after it; the last ones leave trials to harm.
    """
    draw = random.Random(0)
    sent: Counter[int] = Counter()
    for moment in sorted(draw.uniform(0, trials - 4) for _ in range(kills)):
        wait_until(lambda moment=moment: until() or len(results_so_far(run_folder)) >= int(moment))
        number = 0
        while number != signal.SIGKILL and not until():
            time.sleep(draw.uniform(0.05, 0.8))
            workers = live_workers(run_folder)
            if workers:
                number = draw.choice([signal.SIGTERM, *[signal.SIGKILL] * 4])
                os.kill(draw.choice(workers).pid, number)
                sent[number] += 1
    return sent


def wait_until(is_so: Callable[[], object], *, seconds: float = 300.0) -> None:
    """Look four times a second; fail when it does not become so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.25)


_SLEEP_UNDER_LIBFAKETIME = """
# With the steady clock left alone, libfaketime 0.9.10 answers EINVAL to clock_nanosleep, with which
# time.sleep waits; what an Event waits with goes through.
import threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds)
"""


class Clock:
    """A wall clock that jumps, for commands in `environment`; their steady clock goes on.

    libfaketime stands between a process and the kernel: setting this machine's own clock would harm
    whatever else runs on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
        if library is None:
            pytest.skip("needs libfaketime (Debian's package faketime)")
        own = path.with_suffix(".python")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(own), os.environ.get("PYTHONPATH")])),
        }
        own.mkdir()
        (own / "sitecustomize.py").write_text(_SLEEP_UNDER_LIBFAKETIME)
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """Let the clock differ from this machine's by an offset such as +3d or -1y."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{offset}\n")
        new.replace(self.path)


@contextlib.contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[Path]:
    """Mount a file system in memory that is soon full. Needs root's rights."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={mebibytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine mounts no file system in memory: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a command and all its children at once, as a node's death does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
