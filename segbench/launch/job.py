"""What one job of a cluster does on its node: trials in processes of their own, as on one machine.

    python -m segbench.launch.job JOB.json LAUNCH_JSON TRIAL_ID [TRIAL_ID ...]

Used by Slurm's array elements and Ray's tasks. Exit codes: 0 ended, 1 a trial failed, 2 results
cannot be recorded, 69 what it waits for is not there, 75 interrupted with the state saved.
"""

import logging
import signal
import sys
from pathlib import Path

from segbench.code.own import move_current_folder_last
from segbench.errors import SegbenchError
from segbench.launch.base import Work
from segbench.launch.local import Waited, launch_local
from segbench.launch.node import end_with_parent, has_given_up, until_visible
from segbench.runs import trial_files
from segbench.schema.job import INTERRUPTED, UNAVAILABLE, UNRECORDED, Job
from segbench.schema.launching import Launch

LOG = logging.getLogger(__name__)
_POLITE_SECONDS = 90.0  # how long a job waits for a trial that another has or must do first


def run_job(job_path: Path, trial_ids: list[str], launch: Launch, *, restarts: int = 0) -> int:
    """Do the trials; return the process's exit code.

    launch: its `workers` says how many trials run at a time. restarts: how often the cluster has
    started this job again; a trial that made no headway in `max_attempts` of them fails.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, _interrupt)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, force=True)
    try:
        return _run(job_path, trial_ids, launch, restarts)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Waited as reason:
        LOG.warning("%s", reason)
        return UNAVAILABLE
    except SegbenchError as error:
        LOG.error("%s", error)
        return UNRECORDED


def _interrupt(number: int, _frame: object) -> None:
    LOG.info("signal %d: the trials save their state", number)
    raise KeyboardInterrupt


def _run(job_path: Path, trial_ids: list[str], launch: Launch, restarts: int) -> int:
    until_visible(job_path)
    job = Job.read(job_path)
    workdirs = {t: trial_files.trial_folder(Path(job.run_folder), t) for t in trial_ids}
    trials = {}
    for trial_id, workdir in workdirs.items():
        until_visible(workdir / "trial.json")
        if not has_given_up(trial_id, workdir, launch.max_attempts, restarts):
            trials[trial_id] = trial_files.load_trial(workdir)
    launch_local(
        Work(job, trials, launch),
        lambda event: LOG.info("%s", " ".join(event)),
        patience_seconds=_POLITE_SECONDS,
    )
    return int(any(trial_files.load_failure(workdir) is not None for workdir in workdirs.values()))


if __name__ == "__main__":
    move_current_folder_last()
    end_with_parent()
    sys.exit(run_job(Path(sys.argv[1]), sys.argv[3:], Launch.model_validate_json(sys.argv[2])))
