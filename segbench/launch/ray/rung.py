"""Train one sample of a search up to a step and score it on the held-out images: a rung of ASHA.

    python -m segbench.launch.ray.rung JOB.json TRIAL_ID STEP METRIC

Leaves `rungs/<step>.json` in the trial's folder; the same call again finds it and returns at once.
The last rung is the trial's own end and its result. Exit codes are those of a worker.
"""

import sys
from pathlib import Path
from typing import Any

from segbench.code.own import move_current_folder_last
from segbench.errors import SegbenchError
from segbench.files import read_json, write_json
from segbench.launch.node import end_with_parent
from segbench.runs import trial_files
from segbench.schema.job import INTERRUPTED, UNRECORDED, Job


def rung_path(workdir: Path, step: int) -> Path:
    """Return the file of a rung's score."""
    return workdir / "rungs" / f"{step}.json"


def read_score(workdir: Path, step: int) -> float | None:
    """Return the score at a step, a fraction; None while it is not there."""
    found: Any = read_json(rung_path(workdir, step))
    return None if found is None else float(found["score"])


def run_rung(job_path: Path, trial_id: str, step: int, metric: str) -> int:
    """Climb the rung; return the process's exit code."""
    import torch

    from segbench.engine.checkpoint import load_checkpoint
    from segbench.work import worker
    from segbench.work.scoring import score_checkpoint

    job = Job.read(job_path)
    workdir = trial_files.trial_folder(Path(job.run_folder), trial_id)
    if read_score(workdir, step) is not None:
        return 0
    worker.stop_on_signals()
    saved = load_checkpoint(workdir, torch.device("cpu"))
    if saved is None or saved["step"] < step:
        outcome = worker.work(job, trial_id, pause_at_step=step)
        if worker.exit_code([outcome]) == 1:
            return 1
    trial, protocol = trial_files.load_trial(workdir), job.protocols[0]
    evaluation = trial_files.load_evaluation(workdir, protocol)
    if evaluation is None:
        saved = load_checkpoint(workdir, torch.device("cpu"))
        if saved is None or saved["step"] < step:
            return INTERRUPTED  # by a signal, before the rung
        evaluation = score_checkpoint(trial, workdir, job.machine, protocol)
    write_json(rung_path(workdir, step), {"score": evaluation.figures[metric] or 0.0, "step": step})
    return 0


if __name__ == "__main__":
    move_current_folder_last()
    end_with_parent()
    try:
        sys.exit(run_rung(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    except SegbenchError as error:
        print(f"segbench rung: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(UNRECORDED)
