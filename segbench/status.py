"""How far each trial is, read from files alone. No torch here.

Unknown is not failed: a trial that somebody claimed on another host and that has been silent is
`silent`, not dead. Knows nothing of launchers.
"""

import socket
import time
from pathlib import Path
from typing import Literal, NamedTuple

from segbench import results
from segbench.lease import attempts, holder_is_gone
from segbench.run import RunRecord
from segbench.spec.protocol import Protocol

State = Literal["done", "running", "silent", "waiting", "failed", "skipped"]
SILENT_SECONDS = 120.0


class TrialStatus(NamedTuple):
    """State of one cell. step of steps in `phase`; eta_seconds from this phase's own pace."""

    trial_id: str
    label: str
    state: State
    phase: str = ""
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None
    kind: str = ""
    message: str = ""
    log_path: str = ""


def statuses(run_folder: Path, record: RunRecord) -> list[TrialStatus]:
    """Return the state of every cell, in the record's order."""
    protocols = tuple(record.experiment.evaluate.values())
    return [
        _status(run_folder, cell.trial_id, label(cell.axes, cell.seed), cell.skipped, protocols)
        for cell in record.cells
    ]


def label(axes: dict[str, str], seed: int) -> str:
    """Return a cell's name for people: `vgg16 fcn8s voc2012 seed 0`."""
    return f"{' '.join(axes.values())} seed {seed}"


def _status(
    run_folder: Path, trial_id: str, name: str, skipped: str, protocols: tuple[Protocol, ...]
) -> TrialStatus:
    if not trial_id:
        return TrialStatus("", name, "skipped", message=skipped)
    workdir = results.trial_folder(run_folder, trial_id)
    log_path = str(workdir / "worker.log")
    result = results.load_result(workdir)
    if result is not None and result.status == "failed":
        return TrialStatus(
            trial_id, name, "failed", kind=result.kind, message=result.message, log_path=log_path
        )
    if result is not None and results.is_done(workdir, protocols):
        return TrialStatus(trial_id, name, "done", log_path=log_path)
    return _unfinished(workdir, trial_id, name, log_path)


def _unfinished(workdir: Path, trial_id: str, name: str, log_path: str) -> TrialStatus:
    beat = results.read_json(workdir / "heartbeat.json") or {}
    attempt = attempts(workdir)
    state: State = "waiting"
    if attempt:
        if beat.get("host") == socket.gethostname() or not beat:
            state = "waiting" if holder_is_gone(workdir, attempt, stale_seconds=0) else "running"
        elif not (workdir / "claims" / f"{attempt:04d}.released").exists():
            is_fresh = time.time() - float(beat.get("time", 0)) < SILENT_SECONDS
            state = "running" if is_fresh else "silent"
    step, steps = int(beat.get("step", 0)), int(beat.get("steps", 0))
    elapsed = float(beat.get("phase_seconds", 0))
    pace = elapsed / max(step - int(beat.get("phase_first_step", 0)), 1)
    return TrialStatus(
        trial_id,
        name,
        state,
        phase=str(beat.get("phase", "")),
        step=step,
        steps=steps,
        eta_seconds=pace * (steps - step) if state == "running" and elapsed and step else None,
        log_path=log_path,
    )
