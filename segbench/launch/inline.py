"""Do trials in this very process, one after another: for `breakpoint()`, a profiler, a notebook.

What a trial prints stays on the terminal; what it logs is in its `worker.log`, as everywhere.
"""

import bdb
import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from segbench.errors import LaunchError
from segbench.launch.base import Event, Launcher, Work, end_of, start_state

_HELD_SECONDS = 2.0


class Inline(Launcher):
    """Does the work here. The first ctrl-C lets the trial save its state, the second ends it."""

    place = "process"

    def start(self, work: Work, on_event: Callable[[Event], None]) -> None:
        """Do the work; `launch.workers` has no meaning here.

        Raises:
            LaunchError: a trial asks for several processes, or its folder takes no files.
            KeyboardInterrupt: after ctrl-C, or where the user has quit the debugger.
        """
        if work.launch.ranks_per_trial > 1:
            raise LaunchError(
                f"launch.ranks_per_trial {work.launch.ranks_per_trial}: the launcher inline does a "
                "trial in one process; choose --launcher local"
            )
        with _ctrl_c() as stop:
            _work_off(work, on_event, stop)


def _work_off(work: Work, on_event: Callable[[Event], None], stop: threading.Event) -> None:
    waiting = deque(work.trials)
    told: set[str] = set()
    idle = 0  # trials in a row that cannot be done now: another worker has them
    while waiting:
        trial_id = waiting.popleft()
        if start_state(work, trial_id) == "ready":
            if trial_id not in told:
                on_event(Event("started", trial_id))
            _do(work, trial_id, stop)
        event = end_of(work, trial_id)
        if event is not None:
            on_event(event)
            idle = 0
        elif not stop.is_set():
            if trial_id not in told:
                on_event(Event("waiting", trial_id, "another worker has it"))
            told.add(trial_id)
            waiting.append(trial_id)
            idle += 1
            if idle >= len(waiting):
                stop.wait(_HELD_SECONDS)
        if stop.is_set():
            raise KeyboardInterrupt


def _do(work: Work, trial_id: str, stop: threading.Event) -> None:
    from segbench.work import worker

    try:
        with _logged_to(work.folder(trial_id) / "worker.log"):
            worker.work_here(work.job, trial_id, should_stop=stop.is_set)
    except bdb.BdbQuit:  # `q` ends the command; the trial has not failed
        stop.set()


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Yield what is set by ctrl-C or a polite kill; a second one raises KeyboardInterrupt."""
    stop, here = threading.Event(), os.getpid()

    def ask(_number: int, _frame: object) -> None:
        if os.getpid() != here:
            return  # a process that loads images: it ends with this one
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Append what is logged to the trial's own file, for a while."""
    root = logging.getLogger()
    handler, level = logging.FileHandler(path), root.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
