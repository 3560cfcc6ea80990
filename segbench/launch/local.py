"""Run trials on this machine: one process per trial, as many at a time as there is room for.

Processes come from a fork server that has torch loaded, so a trial starts in milliseconds and a
crash takes only its own trial with it. A process that dies without a result is started again, up to
`max_attempts` times; the trial continues from its checkpoint.
"""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from segbench import results
from segbench.launch import Event, Work
from segbench.lease import attempts
from segbench.results import Result
from segbench.spec.launching import Launch

_POLL_SECONDS = 0.2
_HELD_SECONDS = 2.0
_GRACE_SECONDS = 60.0


class Slot(NamedTuple):
    """Room for one trial: the GPUs that it may see, as CUDA_VISIBLE_DEVICES has them."""

    gpus: str | None


class _Running(NamedTuple):
    trial_id: str
    slot: Slot
    process: BaseProcess


def launch_local(work: Work, on_event: Callable[[Event], None]) -> None:
    """Do the work in processes of this machine; see `segbench.launch.Launcher`.

    On ctrl-C the workers are asked to save their state, and KeyboardInterrupt is raised again.
    """
    pool = _Pool(work, on_event)
    try:
        pool.run()
    except KeyboardInterrupt:
        pool.stop()
        raise


class _Pool:
    """The processes that run, the trials that wait, and how often each was started."""

    def __init__(self, work: Work, on_event: Callable[[Event], None]) -> None:
        self.work = work
        self.on_event = on_event
        self.job_path = work.job.write()
        self.waiting = deque(work.trials)
        self.held_until: dict[str, float] = {}
        self.kills: dict[str, int] = {}
        self.free = deque(slots(work.launch))
        self.running: list[_Running] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["segbench.worker"])

    def run(self) -> None:
        while self.waiting or self.running:
            self._start_ready()
            wait([item.process.sentinel for item in self.running], timeout=_POLL_SECONDS)
            if not self.running:
                time.sleep(_POLL_SECONDS)
            self._reap()

    def stop(self) -> None:
        """Ask every worker to save its state and end; end those that do not."""
        for item in self.running:
            item.process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for item in self.running:
            item.process.join(max(deadline - time.monotonic(), 0))
            if item.process.is_alive():
                item.process.kill()

    def _start_ready(self) -> None:
        for _ in range(len(self.waiting)):
            if not self.free:
                return
            trial_id = self.waiting.popleft()
            state = self._start_state(trial_id)
            if state == "ready":
                self._start(trial_id)
            elif state == "later":
                self.waiting.append(trial_id)

    def _start_state(self, trial_id: str) -> str:
        """Return `ready`, `later`, or `never` where the trial that it starts from failed."""
        if time.monotonic() < self.held_until.get(trial_id, 0):
            return "later"
        start_from = self.work.trials[trial_id].start_from
        if start_from is None:
            return "ready"
        before = results.load_result(results.trial_folder(self.work.run_folder, start_from))
        if before is not None and before.status == "done":
            return "ready"
        if start_from in self.waiting or any(r.trial_id == start_from for r in self.running):
            return "later"
        self._fail(trial_id, "start_from", f"trial {start_from}, which it starts from, is not done")
        return "never"

    def _start(self, trial_id: str) -> None:
        slot = self.free.popleft()
        process = self.context.Process(
            target=_worker, args=(str(self.job_path), trial_id, slot.gpus), name=f"trial-{trial_id}"
        )
        process.start()
        self.running.append(_Running(trial_id, slot, process))
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
        workdir = results.trial_folder(self.work.run_folder, trial_id)
        result = results.load_result(workdir)
        if results.is_done(workdir, self.work.job.protocols):
            self.on_event(Event("done", trial_id))
        elif result is not None and result.status == "failed":
            self.on_event(Event("failed", trial_id, f"{result.kind}: {result.message}"))
        elif item.process.exitcode == 0:
            self.held_until[trial_id] = time.monotonic() + _HELD_SECONDS
            self.waiting.append(trial_id)
            self.on_event(Event("waiting", trial_id, "another worker has it"))
        else:
            self._again(trial_id, workdir, item.process.exitcode or 0)

    def _again(self, trial_id: str, workdir: Path, code: int) -> None:
        self.kills[trial_id] = self.kills.get(trial_id, 0) + 1
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self.kills[trial_id] < self.work.launch.max_attempts:
            self.waiting.appendleft(trial_id)
            self.on_event(Event("again", trial_id, f"its process ended with {reason}"))
            return
        self._fail(
            trial_id,
            "killed",
            f"its process ended with {reason}, {attempts(workdir)} times in all; see "
            f"{workdir / 'worker.log'}",
        )

    def _fail(self, trial_id: str, kind: str, message: str) -> None:
        workdir = results.trial_folder(self.work.run_folder, trial_id)
        results.write_result(
            workdir, Result(trial_id=trial_id, status="failed", kind=kind, message=message)
        )
        self.on_event(Event("failed", trial_id, f"{kind}: {message}"))


def slots(launch: Launch) -> list[Slot]:
    """Return the room on this machine: whole or shared GPUs, or shares of the CPU's cores."""
    gpus = visible_gpus() if launch.gpus_per_trial != 0 else []
    if gpus:
        per_trial = launch.gpus_per_trial or 1
        if per_trial < 1:
            found = [Slot(gpu) for _ in range(int(1 / per_trial)) for gpu in gpus]
        else:
            whole = int(per_trial)
            found = [
                Slot(",".join(gpus[start : start + whole]))
                for start in range(0, len(gpus) - whole + 1, whole)
            ]
        return found if launch.workers == "auto" else found[: launch.workers]
    cores = len(os.sched_getaffinity(0))
    count = launch.workers
    if count == "auto":
        count = max(cores // (launch.cpus_per_trial or 1), 1)
    return [Slot(None)] * count


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _worker(job_path: str, trial_id: str, gpus: str | None) -> None:
    """Run in the new process."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    from segbench import worker
    from segbench.spec.job import Job

    worker.stop_on_signals()
    raise SystemExit(worker.exit_code([worker.work(Job.read(Path(job_path)), trial_id)]))
