"""Run trials on this machine: one process per trial, as many at a time as there is room for.

Processes come from a fork server that has torch loaded, so a trial starts in milliseconds and a
crash takes only its own trial with it. A process that dies without a result is started again; the
trial continues from its checkpoint. It fails when `max_attempts` attempts in a row saved nothing.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, NoReturn

from segbench.errors import LaunchError, SegbenchError
from segbench.launch.base import Event, Launcher, Work, end_of, start_state
from segbench.launch.node import end_after, memory_kills
from segbench.launch.ranks import start_all, wait_for_all
from segbench.leases import attempts
from segbench.runs import trial_files
from segbench.runs.attempts import saved_mark
from segbench.runs.status import last_line
from segbench.schema.job import INTERRUPTED, UNRECORDED, Job
from segbench.schema.launching import Launch

_POLL_SECONDS = 0.2
_HELD_SECONDS = 2.0


class Slot(NamedTuple):
    """Room for one trial: the GPUs that it may see, as CUDA_VISIBLE_DEVICES has them."""

    gpus: str | None


class _Running(NamedTuple):
    trial_id: str
    slot: Slot
    process: BaseProcess


class Waited(Exception):  # noqa: N818 - not an error: what it waits for is done elsewhere
    """Nothing could be started for as long as the caller has patience."""


class Local(Launcher):
    """Does the work in processes of this machine, side by side; see `launch_local`."""

    place = "machine"

    def start(self, work: Work, on_event: Callable[[Event], None]) -> None:
        """Do the work; ctrl-C asks the workers to save their state."""
        launch_local(work, on_event)


def launch_local(
    work: Work, on_event: Callable[[Event], None], *, patience_seconds: float = float("inf")
) -> None:
    """Do the work in processes of this machine; see `segbench.launch.base.Launcher`.

    On ctrl-C the workers are asked to save their state, and KeyboardInterrupt is raised again.

    Raises:
        LaunchError: a trial asks for more GPUs than there are; trials ended without a record,
            because their folders take no files.
        Waited: nothing ran for `patience_seconds`, as other workers have what is left to do.
    """
    pool = _Pool(work, on_event, patience_seconds)
    try:
        pool.run()
    except KeyboardInterrupt:
        pool.stop()
        raise
    if pool.unrecorded:
        first = next(iter(pool.unrecorded))
        raise LaunchError(
            f"{len(pool.unrecorded)} trials ended without a record, the first {first}: "
            f"{pool.unrecorded[first]}; mend that, then the same command goes on"
        )


class _Pool:
    """The processes that run, the trials that wait, and how often each was started."""

    def __init__(
        self, work: Work, on_event: Callable[[Event], None], patience_seconds: float
    ) -> None:
        self.work = work
        self.on_event = on_event
        self.patience_seconds = patience_seconds
        self.idle_since = time.monotonic()
        self.unrecorded: dict[str, str] = {}
        self.job_path = work.job.write()
        self.waiting = deque(work.trials)
        self.held_until: dict[str, float] = {}
        self.kills: dict[str, tuple[str, int]] = {}  # what was saved, and kills since then
        self.memory_kills = memory_kills()  # those that are known to us
        self.claims: dict[str, int] = {}  # of each trial, when its process was started
        self.never_began: dict[str, int] = {}
        self.free = deque(slots(work.launch))
        self.running: list[_Running] = []
        self.context = multiprocessing.get_context("forkserver")
        # these take half a second and two of their own, which each trial's process would spend again
        preloaded = ["segbench.work.worker", "datasets", "torchvision.models"]
        self.context.set_forkserver_preload(preloaded)
        with _ignored(signal.SIGTERM, signal.SIGUSR2):  # a cluster sends them to all processes
            forkserver.ensure_running()

    def run(self) -> None:
        while self.waiting or self.running:
            self._start_ready()
            wait([item.process.sentinel for item in self.running], timeout=_POLL_SECONDS)
            if not self.running:
                self._be_patient()
            self._reap()

    def _be_patient(self) -> None:
        if time.monotonic() - self.idle_since > self.patience_seconds:
            raise Waited(
                f"trials {', '.join(self.waiting)} are held, or wait for others, since "
                f"{self.patience_seconds:.0f} s"
            )
        time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ask every worker to save its state and end; end those that do not.

        Further signals are ignored: they say no more than the first, and the grace is short.
        """
        started = [item.process for item in self.running if item.process.pid is not None]
        with _ignored(signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            for process in started:
                process.terminate()
            deadline = time.monotonic() + grace_seconds(self.work.launch)
            for process in started:
                process.join(max(deadline - time.monotonic(), 0))
                if process.is_alive():
                    process.kill()
                    process.join()

    def _start_ready(self) -> None:
        for _ in range(len(self.waiting)):
            if not self.free:
                return
            trial_id = self.waiting.popleft()
            is_held = time.monotonic() < self.held_until.get(trial_id, 0)
            state = "later" if is_held else start_state(self.work, trial_id)
            if state == "ready":
                self._start(trial_id)
            elif state == "later":
                self.waiting.append(trial_id)
            elif (event := end_of(self.work, trial_id)) is not None:
                self.on_event(event)  # it failed with what it starts from

    def _start(self, trial_id: str) -> None:
        slot = self.free.popleft()
        process = self.context.Process(
            target=_worker,
            args=(str(self.job_path), trial_id, slot.gpus, self.work.launch),
            name=f"trial-{trial_id}",
        )
        self.claims[trial_id] = attempts(self.work.folder(trial_id))
        self.running.append(_Running(trial_id, slot, process))  # first, so that `stop` knows it
        try:
            process.start()
        except (EOFError, OSError) as error:  # the fork server was killed; the next start makes one
            self.running.pop()
            self.free.append(slot)
            self._did_not_begin(trial_id, f"could not be started ({type(error).__name__})")
            return
        if trial_id not in self.held_until:  # told once, however often it is looked at again
            self.on_event(Event("started", trial_id))

    def _reap(self) -> None:
        for item in [item for item in self.running if not item.process.is_alive()]:
            item.process.join()
            self.running.remove(item)
            self.free.append(item.slot)
            self._settle(item)

    def _settle(self, item: _Running) -> None:
        """Decide what the end of a process means for its trial: the files say it, not the code."""
        trial_id = item.trial_id
        workdir = self.work.folder(trial_id)
        event = end_of(self.work, trial_id)
        if event is not None:
            self.on_event(event)
        elif item.process.exitcode == UNRECORDED:
            log_path = workdir / "worker.log"
            self.unrecorded[trial_id] = last_line(log_path) or f"see {log_path}"
            self.on_event(Event("failed", trial_id, self.unrecorded[trial_id]))
        elif item.process.exitcode == 0:
            if trial_id not in self.held_until:
                self.on_event(Event("waiting", trial_id, "another worker has it"))
            self.held_until[trial_id] = time.monotonic() + _HELD_SECONDS
            self.waiting.append(trial_id)
            return  # such a process did no work: patience goes on
        else:
            self._again(trial_id, workdir, item.process.exitcode or 0)
        self.idle_since = time.monotonic()

    def _again(self, trial_id: str, workdir: Path, code: int) -> None:
        kind = "out_of_memory" if self._was_memory(code) else "killed"
        if kind == "out_of_memory":
            reason = "was killed for want of memory"
        else:
            reason = f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}"
        if attempts(workdir) == self.claims[trial_id]:
            self._did_not_begin(trial_id, f"{reason} before it began")
            return
        self.never_began.pop(trial_id, None)
        saved = saved_mark(workdir)
        before, kills = self.kills.get(trial_id, (saved, 0))
        kills = kills + 1 if before == saved else 1
        self.kills[trial_id] = (saved, kills)
        if kills < self.work.launch.max_attempts:
            self.waiting.appendleft(trial_id)
            self.on_event(Event("again", trial_id, f"its process {reason}"))
            return
        advice = "; ask for more (launch.memory_gib) or take smaller batches or crops"
        self._fail(
            trial_id,
            kind,
            f"its process {reason}, {attempts(workdir)} attempts in all"
            f"{advice if kind == 'out_of_memory' else ''}; see {workdir / 'worker.log'}",
        )

    def _did_not_begin(self, trial_id: str, reason: str) -> None:
        """Try again, or leave the trial as it is: what keeps workers from starting is no result."""
        count = self.never_began[trial_id] = self.never_began.get(trial_id, 0) + 1
        if count < self.work.launch.max_attempts:
            self.waiting.appendleft(trial_id)
            self.on_event(Event("again", trial_id, f"its process {reason}"))
            return
        self.unrecorded[trial_id] = (
            f"its process {reason}, {count} times; workers do not start here, and what they said "
            "stands above or in the job's log"
        )
        self.on_event(Event("failed", trial_id, self.unrecorded[trial_id]))

    def _was_memory(self, code: int) -> bool:
        """Return whether the kernel ended the process, as there was no memory left.

        Its counter is one for all processes of the group; each of its kills explains one end.
        """
        if code == INTERRUPTED or memory_kills() <= self.memory_kills:
            return False
        self.memory_kills += 1
        return True

    def _fail(self, trial_id: str, kind: str, message: str) -> None:
        trial_files.write_failure(self.work.folder(trial_id), trial_id, kind=kind, message=message)
        self.on_event(Event("failed", trial_id, f"{kind}: {message}"))


def slots(launch: Launch) -> list[Slot]:
    """Return the room on this machine: whole or shared GPUs, or shares of the CPU's cores.

    Raises:
        LaunchError: a trial asks for more GPUs than there are.
    """
    gpus = visible_gpus() if launch.gpus_wanted else []
    if gpus:
        per_trial = launch.gpus_wanted
        if per_trial < 1:
            found = [Slot(gpu) for _ in range(int(1 / per_trial)) for gpu in gpus]
        else:
            whole = int(per_trial)
            if whole > len(gpus):
                raise LaunchError(
                    f"launch.gpus_per_trial: a trial asks for {whole} GPUs (one for each rank, "
                    f"unless said), and this machine shows {len(gpus)} ({','.join(gpus)}); ask for "
                    f"{len(gpus)} at most, or show more in CUDA_VISIBLE_DEVICES"
                )
            found = [
                Slot(",".join(gpus[start : start + whole]))
                for start in range(0, len(gpus) - whole + 1, whole)
            ]
        return found if launch.workers == "auto" else found[: launch.workers]
    cores = len(os.sched_getaffinity(0))
    count = launch.workers
    if count == "auto":
        count = max(cores // (launch.cpus_per_rank * launch.ranks_per_trial), 1)
    return [Slot(None)] * count


def grace_seconds(launch: Launch) -> float:
    """Return how long workers that are to end may take to save their state.

    It is two thirds of a job's notice on Slurm: what is left is for the batch script, which must
    ask for the requeue while the job still runs.
    """
    return launch.notice_seconds * 2 / 3


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


@contextlib.contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Ignore signals for a while; processes that start meanwhile go on ignoring them."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _end_with_driver() -> None:
    """Interrupt this process when the driver is gone, be it killed: the parent is the fork server.

    That lives as long as any of its workers; the driver's end is told by a pipe, also where it came
    before this call.
    """
    driver = multiprocessing.parent_process()
    assert driver is not None
    end_after(driver.join)


def _worker(job_path: str, trial_id: str, gpus: str | None, launch: Launch) -> None:
    """Run in the new process."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    if launch.ranks_per_trial > 1:
        _ranks(job_path, trial_id, launch)
    from segbench.work import worker

    worker.stop_on_signals()
    _end_with_driver()
    try:
        outcome = worker.work(Job.read(Path(job_path)), trial_id)
    except (SegbenchError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - the trial's worker.log
        raise SystemExit(UNRECORDED) from error
    raise SystemExit(worker.exit_code([outcome]))


def _ranks(job_path: str, trial_id: str, launch: Launch) -> NoReturn:
    """Start a trial's ranks, hand signals on to them, and end as they do."""
    processes = start_all(Path(job_path), trial_id, launch)

    def hand_on(number: int, _frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the driver's
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, hand_on)
    _end_with_driver()
    code = wait_for_all(processes)
    raise SystemExit(code if code >= 0 else 128 - code)
