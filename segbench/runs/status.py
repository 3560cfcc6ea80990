"""How far each trial is, read from files alone. No torch here.

Unknown is not failed: a trial that somebody claimed on another host and that has been silent is
`silent`, not dead. Knows nothing of launchers, and compares no two hosts' clocks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from segbench.leases import beating, heartbeat, held
from segbench.runs import trial_files
from segbench.runs.record import RunRecord
from segbench.schema.protocol import Protocol

State = Literal["done", "running", "starting", "silent", "waiting", "queued", "failed", "skipped"]


_GOES_ON = "the same run command goes on from there"


class ClusterJob(NamedTuple):
    """What a cluster says of the job that a trial was given to.

    state: `pending` or `running` while it is in the queue, then how it ended, in the cluster's own
    word (completed, timeout, out_of_memory, node_fail, preempted, cancelled, failed), or `lost`.
    logs: looks for what it has printed, what tells most first. farewells: how lines begin that the
    cluster itself adds to a log.
    """

    job_id: str
    state: str
    message: str
    logs: Callable[[], list[Path]] = list
    farewells: tuple[str, ...] = ()

    @property
    def is_queued(self) -> bool:
        """Whether the job waits or runs, so that the trial needs no other."""
        return self.state in {"pending", "running"}


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


def statuses(
    run_folder: Path, record: RunRecord, jobs: Mapping[str, ClusterJob] = MappingProxyType({})
) -> list[TrialStatus]:
    """Return the state of every cell, in the record's order; jobs: a cluster's, by trial id.

    Takes some seconds where a job has ended and its trial's heart may beat all the same.
    """
    protocols = tuple(record.experiment.evaluate.values())
    found = [
        _status(run_folder, cell.trial_id, label(cell.axes, cell.seed), cell.skipped, protocols)
        for cell in record.cells
    ]
    alive = _alive(run_folder, found, jobs)
    found = [s._replace(state="running") if s.trial_id in alive else s for s in found]
    return [_with_job(status, jobs.get(status.trial_id)) for status in found]


def last_line(path: Path, farewells: tuple[str, ...] = ()) -> str:
    """Return the last line, empty where there is none.

    A line that begins with a cluster's farewell says less than the error before.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip()]
    own = [line for line in told if not line.startswith(farewells)]
    return (own or told or [""])[-1]


def _alive(run_folder: Path, found: list[TrialStatus], jobs: Mapping[str, ClusterJob]) -> set[str]:
    """Return the trials on other hosts whose hearts beat; only what would be failed is watched."""
    folders = {s.trial_id: run_folder / "trials" / s.trial_id for s in found if s.state == "silent"}
    lost = {t for t in folders if t in jobs and not jobs[t].is_queued}
    alive = beating([folders[t] for t in folders if t not in lost], watch=False)
    alive |= beating([folders[t] for t in lost], watch=True)
    return {trial_id for trial_id, workdir in folders.items() if workdir in alive}


def _with_job(status: TrialStatus, job: ClusterJob | None) -> TrialStatus:
    """Return the status in the light of the trial's job, where the files alone cannot tell.

    A job that left the queue has failed its trial only if the heartbeat has stopped too.
    """
    if job is None or status.state not in {"waiting", "silent"}:
        return status
    if job.is_queued:
        state: State = "starting" if job.state == "running" else "queued"
        return status._replace(state=state, message=job.message)
    if job.state == "completed":  # another worker had the trial, or the one it starts from
        return status._replace(message=job.message)
    if job.state == "lost":  # unknown is not failed: nothing runs, and nothing is known to be wrong
        return status._replace(state="waiting", message=f"{job.message}; {_GOES_ON}")
    logs = job.logs()
    said = last_line(logs[0], job.farewells) if logs else ""
    message = "; ".join(filter(None, (job.message, said, _GOES_ON)))
    log_path = str(logs[0]) if logs else status.log_path
    return status._replace(state="failed", kind=job.state, message=message, log_path=log_path)


def label(axes: dict[str, str], seed: int) -> str:
    """Return a cell's name for people: `vgg16 fcn8s voc2012 seed 0`."""
    return f"{' '.join(axes.values())} seed {seed}"


def _status(
    run_folder: Path, trial_id: str, name: str, skipped: str, protocols: tuple[Protocol, ...]
) -> TrialStatus:
    if not trial_id:
        return TrialStatus("", name, "skipped", message=skipped)
    workdir = trial_files.trial_folder(run_folder, trial_id)
    log_path = str(workdir / "worker.log")
    failure = trial_files.load_failure(workdir)
    if failure is not None:
        return TrialStatus(
            trial_id, name, "failed", kind=failure.kind, message=failure.message, log_path=log_path
        )
    if trial_files.is_done(workdir, protocols):
        why = _why_not_learnt(workdir, protocols)
        told = f"did not learn: {why}" if why else ""
        return TrialStatus(trial_id, name, "done", message=told, log_path=log_path)
    return _unfinished(workdir, trial_id, name, log_path)


def _why_not_learnt(workdir: Path, protocols: tuple[Protocol, ...]) -> str:
    evaluation = trial_files.load_evaluation(workdir, protocols[0]) if protocols else None
    blank = None if evaluation is None else evaluation.blank
    return trial_files.why_not_learnt(trial_files.load_result(workdir), blank)


def _torn_in_words(workdir: Path) -> str:
    torn = [path.relative_to(workdir).as_posix() for path in trial_files.torn_files(workdir)]
    return f"{', '.join(torn)}: damaged; the same command makes it again" if torn else ""


def _unfinished(workdir: Path, trial_id: str, name: str, log_path: str) -> TrialStatus:
    beat = heartbeat(workdir)
    states: dict[str, State] = {"no": "waiting", "here": "running", "elsewhere": "silent"}
    state = states[held(workdir)]
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
        eta_seconds=pace * (steps - step) if state != "waiting" and elapsed and step else None,
        message=str(beat.get("note", "")) or _torn_in_words(workdir),
        log_path=log_path,
    )
