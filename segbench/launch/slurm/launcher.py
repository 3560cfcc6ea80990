"""Give trials to Slurm through submitit, as job arrays, and leave: nothing stays on the login node.

`Slurm` submits; `run_element` is what an array element does on its node. What travels is
the job file's path and trial ids; submitit pickles no more than that, and a call by its name.

An element that is to go on (75: interrupted with its state saved; 69: what it waits for is not
there; 76: a rank of its trial is gone; killed by a signal) is requeued by its own batch script under
the same id, unless Slurm is ending or requeueing the job itself. A trial that makes no headway in
`max_attempts` attempts fails.
"""

import contextlib
import io
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbench.errors import LaunchError
from segbench.launch import job, ranks
from segbench.launch.base import Event, Launcher, Work, levels_of
from segbench.launch.slurm import queue
from segbench.launch.slurm.queue import Submission
from segbench.leases import claim, living
from segbench.runs import trial_files
from segbench.runs.status import ClusterJob
from segbench.schema.job import INTERRUPTED, RANK_LOST, UNAVAILABLE
from segbench.schema.launching import Launch

_SUBMIT_LIMIT = re.compile(r"\w+Submit\w*Limit")  # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPer...


class Array(NamedTuple):
    """One array to submit. elements: the trials of each; lane: arrays of a lane follow one another.

    throttle: how many elements run at a time; level: 0, or 1 more than that of what it starts from.
    """

    elements: tuple[tuple[str, ...], ...]
    launch: Launch
    level: int
    lane: int
    throttle: int


class Slurm(Launcher):
    """Submits, and leaves. What its queue and accounts say of jobs stands in `queue`."""

    leaves = True

    def start(self, work: Work, on_event: Callable[[Event], None]) -> None:
        """Submit the trials that no job has yet, and return.

        Raises:
            LaunchError: Slurm cannot be asked, or refused; says what was and what was not submitted.
        """
        _submit_missing(work, on_event)

    def jobs(self, run_folder: Path) -> Mapping[str, ClusterJob]:
        """See `queue.jobs_of`."""
        return queue.slurm_jobs_of(run_folder)

    def cancel(self, run_folder: Path, trial_ids: Collection[str] = ()) -> list[str]:
        """See `queue.cancel_jobs`."""
        return queue.cancel_slurm_jobs(run_folder, trial_ids)


def _submit_missing(work: Work, on_event: Callable[[Event], None]) -> None:
    _check_installed()
    folder = work.run_folder / "jobs"
    lease = claim(folder / "submitting")
    if lease is None:
        raise LaunchError(
            f"{work.run_folder}: another segbench run is submitting it just now; wait until that "
            "has ended, then look at segbench status"
        )
    with lease:
        jobs = queue.slurm_jobs_of(work.run_folder)
        left = []
        for trial_id in work.trials:
            job = jobs.get(trial_id)
            if job is not None and job.is_queued:
                on_event(Event("waiting", trial_id, job.message))
            elif job is not None and _is_done(work, trial_id):
                on_event(Event("done", trial_id))  # while we were planning
            else:
                left.append(trial_id)
        alive = living([work.folder(trial_id) for trial_id in left])
        for trial_id in [t for t in left if work.folder(t) in alive]:
            left.remove(trial_id)
            on_event(Event("waiting", trial_id, "its worker's heart beats"))
        queued = {trial_id: job.job_id for trial_id, job in jobs.items() if job.is_queued}
        _submit(with_gpus(work), left, queued, on_event)


def with_gpus(work: Work) -> Work:
    """Return the work in which every trial says how many GPUs it wants: one where there are any.

    Nothing is added to what the experiment says, in `gpus_per_trial` or in words of sbatch.
    """
    if work.job.machine.device == "cpu":
        return work
    have: dict[str | None, bool] = {}

    def told(launch: Launch) -> Launch:
        in_words = any(key.startswith("gpu") or key == "gres" for key in launch.sbatch)
        if launch.gpus_per_trial is not None or in_words:
            return launch
        if launch.partition not in have:
            have[launch.partition] = queue.has_gpus(launch.partition)
        wanted = launch.gpus_wanted if have[launch.partition] else 0.0
        return launch.model_copy(update={"gpus_per_trial": wanted})

    shapes = {trial_id: told(launch) for trial_id, launch in work.shapes.items()}
    return work._replace(launch=told(work.launch), shapes=shapes)


def _is_done(work: Work, trial_id: str) -> bool:
    return trial_files.is_done(work.folder(trial_id), work.job.protocols)


def _check_installed() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise LaunchError(
            "the launcher slurm needs submitit: pip install 'segbench[slurm]'"
        ) from error


def _submit(
    work: Work, left: list[str], queued: dict[str, str], on_event: Callable[[Event], None]
) -> None:
    """Submit arrays of these trials; what the limit on submitted jobs refuses is tried in halves.

    So that what fits is submitted, whoever's limit it is: the user's, an account's or a QOS's.
    """
    job_path = work.job.write()
    waiting = deque(arrays_of(work, left, queue.max_array_size()))
    after: dict[str, str] = dict(queued)  # trial -> the job that does it
    earlier = {job_id.split("_")[0] for job_id in queued.values()}
    last_in_lane: dict[int, str] = {}
    given: list[Array] = []
    while waiting:
        array = waiting.popleft()
        starts = (work.trials[trial_id].start_from for e in array.elements for trial_id in e)
        needed = {after[start].split("_")[0] for start in starts if start in after}
        if work.launch.throttle is not None:  # shared with what earlier commands have queued
            last = last_in_lane.get(array.lane)
            needed |= earlier if last is None else {last}
        try:
            submission = _sbatch(work.run_folder, job_path, array, sorted(needed, key=int))
        except LaunchError as error:
            half = len(array.elements) // 2
            if half and _SUBMIT_LIMIT.search(str(error)):
                halves = [array._replace(elements=e) for e in _pieces(array.elements, half)]
                waiting.extendleft(reversed(halves))
                continue
            raise LaunchError(_refusal(str(error), given, array, left)) from error
        given.append(array)
        last_in_lane[array.lane] = str(submission.job_id)
        for trial_ids in array.elements:
            for trial_id in trial_ids:
                after[trial_id] = str(submission.job_id)
                on_event(Event("submitted", trial_id, f"job {submission.job_id}"))


def _refusal(reason: str, given: list[Array], refused: Array, left: list[str]) -> str:
    submitted = sum(len(trial_ids) for array in given for trial_ids in array.elements)
    advice = "when that is mended, the same command submits the rest"
    if limit := _SUBMIT_LIMIT.search(reason):
        reason = f"Slurm takes no more jobs of yours now ({limit[0]})"
        advice = (
            "when jobs have ended, the same command submits the rest (with more "
            "launch.trials_per_job they are fewer jobs)"
        )
    return (
        f"{reason}. Submitted: {submitted} of {len(left)} trials, in {len(given)} arrays; not "
        f"submitted: {len(left) - submitted}, from trial {refused.elements[0][0]} on; {advice}"
    )


def arrays_of(work: Work, trial_ids: Sequence[str], max_array_size: int) -> Iterator[Array]:
    """Yield the arrays to submit: one per resource shape and level, split at the cluster's limit.

    The throttle is shared: arrays that may run side by side divide it. Where there are more of them
    than it allows, they stand in as many lanes, and in a lane each waits for the one before.
    """
    groups: dict[tuple[int, str], list[str]] = {}
    levels = levels_of({trial_id: work.trials[trial_id] for trial_id in trial_ids})
    for trial_id in trial_ids:
        shape = work.launch_of(trial_id).model_dump_json()
        groups.setdefault((levels[trial_id], shape), []).append(trial_id)
    chunks = []
    for (level, _), members in sorted(groups.items(), key=lambda item: item[0][0]):
        launch = work.launch_of(members[0])
        elements = list(_pieces(members, launch.trials_per_job))
        pieces = -(-len(elements) // max_array_size)
        size = -(
            -len(elements) // pieces
        )  # even pieces, so that equal shares of a throttle are fair
        chunks += [(tuple(piece), launch, level) for piece in _pieces(elements, size)]
    throttle = work.launch.throttle
    lanes = len(chunks) if throttle is None else min(len(chunks), throttle)
    for index, (elements, launch, level) in enumerate(chunks):
        lane = index % lanes
        share = len(elements) if throttle is None else throttle // lanes + (lane < throttle % lanes)
        yield Array(elements, launch, level, lane, share)


def _pieces(items: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def _sbatch(run_folder: Path, job_path: Path, array: Array, after: list[str]) -> Submission:
    """Submit one array; its record is written before and completed after."""
    import submitit
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    submission = queue.new_submission(run_folder, array.elements)
    try:
        executor = submitit.SlurmExecutor(run_folder / "jobs" / "submitit")
        executor.update_parameters(
            job_name=submission.job_name,
            array_parallelism=array.throttle,
            dependency=f"afterany:{':'.join(after)}" if after else None,
            **sbatch_options(array.launch),
        )
        with contextlib.redirect_stderr(io.StringIO()):  # submitit says there what it raises too
            found = executor.map_array(
                run_element,
                [str(job_path)] * len(array.elements),
                [list(trial_ids) for trial_ids in array.elements],
                [array.launch.model_dump_json()] * len(array.elements),
            )
    except (FailedSubmissionError, UncompletedJobError, RuntimeError) as error:
        for unused in (run_folder / "jobs" / "submitit").glob(f"{'[0-9a-f]' * 32}.pkl"):
            unused.unlink()
        reason = _in_one_line(str(error))
        queue.write_submission(run_folder, submission.revised(refused=reason or "refused"))
        raise LaunchError(f"sbatch refused: {reason}") from error
    submission = submission.revised(job_id=found[0].job_id.split("_")[0])
    queue.write_submission(run_folder, submission)
    return submission


def _in_one_line(text: str) -> str:
    """Return sbatch's own words, each line once: submitit wraps them in its own and repeats them."""
    lines = [line.strip() for line in text.rsplit("\n\n", maxsplit=1)[-1].splitlines()]
    return " ".join(dict.fromkeys(filter(None, lines)))


def sbatch_options(launch: Launch) -> dict[str, Any]:
    """Return what submitit's Slurm executor is told for these resources."""
    together = _side_by_side(launch)
    memory = None if launch.memory_gib is None else f"{round(launch.memory_gib * together * 1024)}M"
    gpus = launch.gpus_per_trial or 0
    further = {name.replace("_", "-"): value for name, value in launch.sbatch.items()}
    requeue = {} if "no-requeue" in further else {"requeue": True}
    return {
        "partition": launch.partition,
        "account": launch.account,
        "time": launch.time_minutes,
        "mem": memory,
        "ntasks_per_node": launch.ranks_per_trial,
        "cpus_per_task": launch.cpus_per_rank * together,
        "gpus_per_node": (max(int(gpus), 1) if gpus else None),
        "srun_args": ["--kill-on-bad-exit=1"],
        "signal_delay_s": launch.notice_seconds,
        "setup": [*launch.setup, "set +e"],
        "teardown": _requeue_lines(launch.max_attempts),
        "additional_parameters": {**requeue, **further},
    }


def _side_by_side(launch: Launch) -> int:
    """Return how many trials of a job run at once: those that share its GPU."""
    share = launch.gpus_per_trial or 1
    return min(launch.trials_per_job, int(1 / share)) if share < 1 else 1


def _requeue_lines(max_attempts: int) -> list[str]:
    """Return the end of the batch script: requeue what is to go on, if the job counts as running.

    A job that the user cancelled, or that Slurm preempts, is in another state by now.
    """
    return [
        "code=$?",
        "me=$SLURM_JOB_ID",
        '[ -n "$SLURM_ARRAY_JOB_ID" ] && me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID',
        f"again=$([ $code -eq {INTERRUPTED} ] && echo yes)",
        f"if [ $code -eq {UNAVAILABLE} ] || [ $code -eq {RANK_LOST} ] || [ $code -gt 128 ]; then",
        f'  [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_attempts - 1} ] && again=yes',
        "fi",
        'if [ "$again" = yes ] && scontrol -o show job "$me" | grep -q "JobState=RUNNING "; then',
        '  scontrol requeue "$me"',
        "fi",
        "exit $code",
    ]


def run_element(job_path: str, trial_ids: list[str], launch: str) -> None:
    """Do an array element's trials on its node; called by submitit with a Launch as JSON."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    resources = Launch.model_validate_json(launch)
    together = resources.revised(launcher="local", workers=_side_by_side(resources))
    if resources.ranks_per_trial > 1:  # Slurm has started this job's call once for each
        _join_rank()
        code = ranks.run_rank(Path(job_path), trial_ids[0], together, restarts=restarts)
    else:
        code = job.run_job(Path(job_path), trial_ids, together, restarts=restarts)
    if code:
        sys.exit(code)


def _join_rank() -> None:
    """Put torchrun's variables into this process's environment, from Slurm's own."""
    from submitit.helpers import TorchDistributedEnvironment

    known = TorchDistributedEnvironment()
    os.environ.update(
        ranks.variables(known.rank, known.world_size, address="127.0.0.1", port=known.master_port)
    )
