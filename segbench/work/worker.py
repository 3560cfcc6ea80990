"""The process that does trials: reads a job's JSON file, runs its trials, answers by exit code.

    python -m segbench.work.worker JOB.json TRIAL_ID [TRIAL_ID ...]

The same on one machine, under Ray and under Slurm; nothing is pickled. Exit codes: 0 all done (or
held by another worker), 1 a trial failed, 75 interrupted and to be continued (sysexits' TEMPFAIL),
76 another rank of the trial is gone.
Knows nothing of who started it.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from segbench.code.own import look_in, move_current_folder_last, trust
from segbench.code.version import code_version
from segbench.errors import LaunchError, SegbenchError
from segbench.runs import trial_files
from segbench.schema.job import INTERRUPTED, RANK_LOST, UNRECORDED, Job
from segbench.work.phases import Stops
from segbench.work.trial import Outcome, run_trial

_STOP = threading.Event()


def main(arguments: list[str]) -> int:
    """Run the trials that the command line names."""
    if len(arguments) < 2:
        usage = "usage: python -m segbench.work.worker JOB.json TRIAL_ID [TRIAL_ID ...]"
        print(usage, file=sys.stderr)  # noqa: T201
        return 2
    stop_on_signals()
    job = Job.read(Path(arguments[0]))
    return exit_code([work(job, trial_id) for trial_id in arguments[1:] if not _STOP.is_set()])


def work(
    job: Job, trial_id: str, *, pause_at_step: int | None = None, log_name: str = "worker.log"
) -> Outcome:
    """Do one trial of the job; its folder receives what the process prints."""
    _log_to(trial_files.trial_folder(Path(job.run_folder), trial_id) / log_name)
    return work_here(job, trial_id, should_stop=_STOP.is_set, pause_at_step=pause_at_step)


def work_here(
    job: Job, trial_id: str, *, should_stop: Callable[[], bool], pause_at_step: int | None = None
) -> Outcome:
    """Do one trial of the job; what the process prints goes where it went."""
    workdir = trial_files.trial_folder(Path(job.run_folder), trial_id)
    if job.code_version != code_version():
        logging.getLogger(__name__).warning(
            "this worker runs segbench %s, but the run was submitted by %s",
            code_version(),
            job.code_version,
        )
    look_in(job.machine.code_folders)
    trust(job.machine.trusted)
    trial = trial_files.load_trial(workdir)
    if trial.id() != trial_id:
        raise LaunchError(
            f"{workdir}: trial.json has the id {trial.id()}; this segbench ({code_version()}) is not "
            f"the one that planned the run ({job.code_version})"
        )
    return run_trial(
        trial,
        workdir,
        machine=job.machine,
        protocols=job.protocols,
        stops=Stops(should_stop, pause_at_step),
        submitted_code_version=job.code_version,
    )


def stop_on_signals() -> None:
    """Let SIGTERM and SIGUSR2 (submitit's time-out signal) end the process after saving its state.

    SIGINT is left to the driver: ctrl-C reaches every process of a terminal at once.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: _STOP.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def exit_code(outcomes: list[Outcome]) -> int:
    """Return the process's exit code for these outcomes."""
    if _STOP.is_set() or "interrupted" in outcomes:
        return INTERRUPTED
    if "lost" in outcomes:
        return RANK_LOST
    return 1 if "failed" in outcomes else 0


def _log_to(path: Path) -> None:
    """Send everything that the process prints, libraries included, to the trial's own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=logging.INFO,
        force=True,
    )


if __name__ == "__main__":
    move_current_folder_last()
    try:
        sys.exit(main(sys.argv[1:]))
    except SegbenchError as error:
        print(f"segbench worker: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(UNRECORDED)
