"""What one job of a cluster does on its node: trials in processes of their own, as on one machine.

    python -m segbench.launch.element JOB.json LAUNCH_JSON TRIAL_ID [TRIAL_ID ...]

Used by Slurm's array elements and Ray's tasks. Exit codes: 0 ended, 1 a trial failed, 2 results
cannot be recorded, 69 what it waits for is not there, 75 interrupted with the state saved.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from segbench import results
from segbench.errors import LaunchError, SegbenchError
from segbench.launch import Work
from segbench.launch.local import Waited, end_after, launch_local
from segbench.lease import claim, fruitless_attempts
from segbench.spec.job import INTERRUPTED, UNAVAILABLE, UNRECORDED, Job
from segbench.spec.launching import Launch

LOG = logging.getLogger(__name__)
_VISIBLE_SECONDS = 60.0  # how late a shared disk may show a file to another node
_POLITE_SECONDS = 90.0  # how long a job waits for a trial that another has or must do first
_STARTED_BY = "SEGBENCH_STARTED_BY"


def run(job_path: Path, trial_ids: list[str], launch: Launch, *, restarts: int = 0) -> int:
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
    workdirs = {t: results.trial_folder(Path(job.run_folder), t) for t in trial_ids}
    trials = {}
    for trial_id, workdir in workdirs.items():
        until_visible(workdir / "trial.json")
        if not has_given_up(trial_id, workdir, launch.max_attempts, restarts):
            trials[trial_id] = results.load_trial(workdir)
    launch_local(
        Work(job, trials, launch),
        lambda event: LOG.info("%s", " ".join(event)),
        patience_seconds=_POLITE_SECONDS,
    )
    return int(any(results.load_failure(workdir) is not None for workdir in workdirs.values()))


def has_given_up(trial_id: str, workdir: Path, max_attempts: int, restarts: int) -> bool:
    """Return whether the trial made no headway for too long, and is recorded as failed now."""
    if restarts < max_attempts - 1 or fruitless_attempts(workdir) < max_attempts:
        return False
    lease = claim(workdir)
    if lease is None:
        return False  # another worker holds it
    with lease:
        message = (
            f"{max_attempts} attempts in a row ended before anything was saved; see "
            f"{workdir / 'worker.log'}"
        )
        results.write_failure(workdir, trial_id, kind="killed", message=message)
    return True


def until_visible(path: Path) -> None:
    """Wait for a file that another node has written: shared disks may show it late."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{path}: is not here after {_VISIBLE_SECONDS:.0f} s; the run's folder must be on "
                "a disk that all nodes share"
            )
        time.sleep(1.0)


def started_here() -> dict[str, str]:
    """Return the variables for a process that is to end with this one; see `end_with_parent`."""
    return {**os.environ, _STARTED_BY: str(os.getpid())}


def end_with_parent() -> None:
    """Interrupt this process when the one that started it is gone, also where it is gone already.

    The kernel's own signal (PR_SET_PDEATHSIG) comes when the thread ends that started us, and Ray
    does its tasks in threads.
    """
    parent = int(os.environ.get(_STARTED_BY) or os.getppid())

    def wait_for_end() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)

    end_after(wait_for_end)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(run(Path(sys.argv[1]), sys.argv[3:], Launch.model_validate_json(sys.argv[2])))
