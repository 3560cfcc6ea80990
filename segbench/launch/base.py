"""What a launcher is given and what it tells: trials, which of them may start, how they ended."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from segbench.leases import note
from segbench.runs import trial_files
from segbench.schema.job import Job
from segbench.schema.launching import Launch
from segbench.schema.search import Search
from segbench.schema.trial import Trial


class Work(NamedTuple):
    """Trials to do, in an order in which those that others start from come first.

    shapes: the launches of trials that need other resources than the rest. search: the search whose
    samples the trials are, where its method wants more than to run them all; brackets: the ids of
    those that are compared with each other.
    """

    job: Job
    trials: dict[str, Trial]
    launch: Launch
    shapes: Mapping[str, Launch] = MappingProxyType({})
    search: Search | None = None
    brackets: tuple[tuple[str, ...], ...] = ()

    def launch_of(self, trial_id: str) -> Launch:
        """Return the resources of one trial: its cell's own, where the experiment names some."""
        return self.shapes.get(trial_id, self.launch)

    @property
    def run_folder(self) -> Path:
        """The run's folder."""
        return Path(self.job.run_folder)

    def folder(self, trial_id: str) -> Path:
        """Return the folder of a trial."""
        return trial_files.trial_folder(self.run_folder, trial_id)


class Event(NamedTuple):
    """Something that happened to a trial; `message` is for people."""

    kind: Literal["started", "done", "failed", "again", "submitted", "waiting"]
    trial_id: str
    message: str = ""


def levels_of(trials: Mapping[str, Trial]) -> dict[str, int]:
    """Return 0 for each trial that starts from none of these, 1 for its followers ...

    trials: in an order in which those that others start from come first, as in a `Work`.
    """
    levels: dict[str, int] = {}
    for trial_id, trial in trials.items():
        start = trial.start_from
        levels[trial_id] = levels[start] + 1 if start in levels else 0
    return levels


def start_state(work: Work, trial_id: str) -> Literal["ready", "later", "failed"]:
    """Return whether the trial may start: what it starts from is done, is still to come, or failed.

    Where that failed so has the trial, and its folder says so from now on.
    """
    start_from = work.trials[trial_id].start_from
    if start_from is None:
        return "ready"
    before = trial_files.load_result(work.folder(start_from))
    if before is None:
        return "later"  # it waits or runs, here or elsewhere
    if before.status == "done":
        return "ready"
    message = f"trial {start_from}, which it starts from, is not done"
    trial_files.write_failure(work.folder(trial_id), trial_id, kind="start_from", message=message)
    return "failed"


def end_of(work: Work, trial_id: str) -> Event | None:
    """Return how the trial ended, as its files say it; None where it has not."""
    folder = work.folder(trial_id)
    result = trial_files.load_result(folder)
    if trial_files.is_done(folder, work.job.protocols):
        return Event("done", trial_id, note(folder))
    if result is not None and result.status == "failed":
        return Event("failed", trial_id, f"{result.kind}: {result.message}")
    return None
