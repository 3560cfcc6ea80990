"""What Slurm says of a run's jobs: our records of what was submitted, its queue, its accounts.

A record `jobs/slurm-<key>.json` is written before sbatch is called and completed after it, so a
submission that was cut off in between is found again by its job's name. No submitit here: `status`
must be fast. Accounts (sacct) only give an ended job its word; they never decide whether it lives.
"""

import math
import os
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from segbench.errors import LaunchError
from segbench.files import read_json, write_json
from segbench.runs.status import ClusterJob
from segbench.schema.base import Spec

_ASK_SECONDS = 60
_FAREWELLS = ("srun: ", "slurmstepd")
_OUT_OF_MEMORY = "OUT_OF_MEMORY"
_OUT_OF_MEMORY_EXIT = "0:125"  # SIG_OOM of Slurm's own slurm.h, as exit:signal
_QUEUED_AS_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}


class Submission(Spec):
    """One call of sbatch. elements: the trials of each array element; job_id None: not known.

    refused: sbatch's words, if it refused.
    """

    key: str
    job_name: str
    job_id: str | None = None
    elements: tuple[tuple[str, ...], ...]
    submitted: str
    refused: str = ""

    def element_id(self, index: int) -> str:
        """Return an element's id as Slurm has it; submitit makes no array of a single element."""
        return f"{self.job_id}_{index}" if len(self.elements) > 1 else str(self.job_id)


class QueueEntry(NamedTuple):
    """A job or array element that is waiting or running. array_id: the job's own id if no array."""

    array_id: str
    state: str
    reason: str
    job_name: str
    nodes: str


class Ended(NamedTuple):
    """How a job ended: Slurm's word in capitals (TIMEOUT, OUT_OF_MEMORY, ...), exit and nodes."""

    state: str
    exit_code: str
    nodes: str


def new_submission(run_folder: Path, elements: Sequence[Sequence[str]]) -> Submission:
    """Write and return the record of a submission that is about to be made."""
    key = os.urandom(4).hex()
    submission = Submission(
        key=key,
        job_name=f"segbench-{run_folder.name}-{key}",
        elements=tuple(tuple(trial_ids) for trial_ids in elements),
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_submission(run_folder, submission)
    return submission


def write_submission(run_folder: Path, submission: Submission) -> None:
    """Write the record under its key."""
    path = run_folder / "jobs" / f"slurm-{submission.key}.json"
    submission.write_to(path)


def submissions(run_folder: Path) -> list[Submission]:
    """Return the records of a run's submissions, refused ones left out.

    Oldest first by Slurm's own numbers, since clocks jump; those without a number come last.
    """
    found = []
    for path in (run_folder / "jobs").glob("slurm-*.json"):
        try:
            found.append(Submission.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise LaunchError(
                f"{path}: is damaged ({str(error).splitlines()[0]}); cancel its job with scancel, "
                "then delete it"
            ) from error
    return sorted((s for s in found if not s.refused), key=lambda s: (_number(s), s.key))


def _number(submission: Submission) -> float:
    return math.inf if submission.job_id is None else int(submission.job_id)


def queue() -> dict[str, QueueEntry]:
    """Return this user's jobs and array elements that wait or run, by id.

    Raises:
        LaunchError: squeue cannot be asked; then nothing is known, and nothing may be assumed.
    """
    text = _ask(
        "squeue", f"--user={_user()}", "--noheader", "--array", "--format=%F|%K|%T|%r|%j|%N"
    )
    found = {}
    for line in text.splitlines():
        array_id, index, state, reason, name, nodes = line.split("|", 5)
        element = f"{array_id}_{index}" if index.isdigit() else array_id
        found[element] = QueueEntry(array_id, state, reason, name, nodes)
    return found


def ended(job_ids: Iterable[str]) -> dict[str, Ended]:
    """Return how jobs ended, from sacct, or from slurmctld's memory where there is no accounting.

    slurmctld forgets after some minutes (MinJobAge): a job may be in neither. A job whose step was
    out of memory counts so, though Slurm itself calls the job FAILED: its batch script went on.
    """
    wanted = set(job_ids)
    arrays = sorted({job_id.split("_")[0] for job_id in wanted})
    if not arrays:
        return {}
    try:
        text = _ask(
            "sacct", "--noheader", "--parsable2",
            "--format=JobID,State,ExitCode,NodeList", f"--jobs={','.join(arrays)}",
        )  # fmt: skip
    except LaunchError:
        text = ""
    found: dict[str, Ended] = {}
    for line in text.splitlines():  # a job comes before its steps
        name, state, exit_code, nodes = line.split("|", 3)
        job_id, _, step = name.partition(".")
        if not step:
            found[job_id] = Ended(state.split()[0], exit_code, nodes)
        elif state.startswith(_OUT_OF_MEMORY) and job_id in found:
            found[job_id] = found[job_id]._replace(state=_OUT_OF_MEMORY, exit_code=exit_code)
    return found if wanted <= set(found) else {**_from_controller(set(arrays)), **found}


def _from_controller(arrays: set[str]) -> dict[str, Ended]:
    try:
        text = _ask("scontrol", "--oneliner", "--details", "show", "job")
    except LaunchError:
        return {}
    found = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        array_id = fields.get("ArrayJobId", fields.get("JobId", ""))
        if array_id in arrays and (index := fields.get("ArrayTaskId", "0")).isdigit():
            job_id = f"{array_id}_{index}" if "ArrayTaskId" in fields else array_id
            state, exit_code = fields.get("JobState", ""), fields.get("ExitCode", "")
            if fields.get("DerivedExitCode") == _OUT_OF_MEMORY_EXIT:
                state, exit_code = _OUT_OF_MEMORY, _OUT_OF_MEMORY_EXIT
            found[job_id] = Ended(state, exit_code, fields.get("NodeList", ""))
    return found


def slurm_jobs_of(run_folder: Path) -> dict[str, ClusterJob]:
    """Return what Slurm says of each trial's job, by trial id: one in the queue, else the latest.

    Empty where no trial of the run was ever submitted.

    Raises:
        LaunchError: squeue cannot be asked.
    """
    known = submissions(run_folder)
    if not known:
        return {}
    waiting = queue()
    latest = {
        trial_id: next((job for job in reversed(job_ids) if job in waiting), job_ids[-1])
        for trial_id, job_ids in _all_jobs(run_folder, known, waiting).items()
    }
    gone = ended(job_id for job_id in latest.values() if job_id not in waiting)
    for job_id in _cancelled(run_folder):  # a job that never began is in no account
        gone.setdefault(job_id, Ended("CANCELLED", "0:0", ""))
    return {
        trial_id: _job(job_id, waiting.get(job_id), gone.get(job_id))._replace(
            logs=partial(job_logs, run_folder, job_id), farewells=_FAREWELLS
        )
        for trial_id, job_id in latest.items()
    }


def job_logs(run_folder: Path, job_id: str) -> list[Path]:
    """Return what a job has printed, errors of the first rank first."""
    folder = run_folder / "jobs" / "submitit"
    found = []
    for kind in ("err", "out"):  # named, not searched: a folder may hold thousands
        ranks = (folder / f"{job_id}_{rank}_log.{kind}" for rank in count())
        found += takewhile(Path.exists, ranks)
    return found


def _all_jobs(
    run_folder: Path, known: Sequence[Submission], waiting: dict[str, QueueEntry]
) -> dict[str, list[str]]:
    """Return the jobs that each trial was ever given to, oldest first."""
    numbered = [with_job_id(run_folder, submission, waiting) for submission in known]
    found: dict[str, list[str]] = {}
    for submission in sorted((s for s in numbered if s.job_id is not None), key=_number):
        for index, trial_ids in enumerate(submission.elements):
            for trial_id in trial_ids:
                found.setdefault(trial_id, []).append(submission.element_id(index))
    return found


def with_job_id(
    run_folder: Path, submission: Submission, waiting: dict[str, QueueEntry]
) -> Submission:
    """Return the submission with its job's id where sbatch's answer was lost, found by name."""
    if submission.job_id is not None:
        return submission
    for entry in waiting.values():
        if entry.job_name == submission.job_name:
            found = submission.revised(job_id=entry.array_id)
            write_submission(run_folder, found)
            return found
    return submission


def _job(job_id: str, entry: QueueEntry | None, gone: Ended | None) -> ClusterJob:
    if entry is not None:
        state = "pending" if entry.state in _QUEUED_AS_PENDING else "running"
        about = f"on {entry.nodes}" if state == "running" else entry.reason
        return ClusterJob(job_id, state, f"job {job_id} {state} ({about})")
    if gone is None or not gone.state:
        return ClusterJob(
            job_id, "lost", f"job {job_id} left the queue; Slurm remembers no more of it"
        )
    where = f" on {gone.nodes}" if gone.nodes and gone.nodes != "None assigned" else ""
    return ClusterJob(
        job_id,
        gone.state.lower(),
        f"job {job_id} ended{where} as {gone.state}, exit {gone.exit_code}",
    )


def max_array_size() -> int:
    """Return how many elements an array may have on this cluster."""
    text = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise LaunchError("scontrol show config: names no MaxArraySize; is this a Slurm cluster?")
    return int(found[1])


def has_gpus(partition: str | None) -> bool:
    """Return whether any node of the partition (Slurm's default one if None) has a GPU."""
    where = [] if partition is None else [f"--partition={partition}"]
    text = _ask("sinfo", "--noheader", "--format=%P|%G", *where)
    found = (line.split("|", 1) for line in text.splitlines())
    return any(
        resource.startswith("gpu")
        for name, resources in found
        if partition is not None or name.endswith("*")
        for resource in resources.split(",")
    )


def cancel_slurm_jobs(run_folder: Path, trial_ids: Collection[str] = ()) -> list[str]:
    """Cancel the run's jobs that wait or run, or those of these trials; return their ids.

    A job that does several trials ends for all of them; each saves its state first.

    Raises:
        LaunchError: the cluster cannot be asked.
    """
    known = submissions(run_folder)
    waiting = queue() if known else {}
    jobs = {
        job_id
        for trial_id, job_ids in _all_jobs(run_folder, known, waiting).items()
        if not trial_ids or trial_id in trial_ids
        for job_id in job_ids
        if job_id in waiting
    }
    cancelled = sorted(jobs)
    for start in range(0, len(cancelled), 200):
        _ask("scancel", *cancelled[start : start + 200])
    if cancelled:
        path = run_folder / "jobs" / f"cancelled-{os.urandom(4).hex()}.json"
        write_json(path, {"jobs": cancelled})
    return cancelled


def _cancelled(run_folder: Path) -> set[str]:
    notes = (read_json(path) for path in (run_folder / "jobs").glob("cancelled-*.json"))
    return {job_id for note in notes if isinstance(note, dict) for job_id in note.get("jobs", ())}


def _user() -> str:
    import getpass

    return getpass.getuser()


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_ASK_SECONDS
        )
    except FileNotFoundError as error:
        raise LaunchError(
            f"{command[0]}: is not installed here; run this where Slurm's commands are, such as a "
            "login node, or choose --launcher local"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{command[0]}: gave no answer in {_ASK_SECONDS} s; try again") from error
    if done.returncode != 0:
        raise LaunchError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
