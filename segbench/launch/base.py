"""What a launcher is, what it is given and what it tells: trials, which may start, how they ended.

One's own is a subclass of `Launcher` with a `start`; docs/on-a-cluster.md has an example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from segbench.runs import trial_files
from segbench.runs.attempts import last_note
from segbench.runs.status import ClusterJob
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


class Launcher(ABC):
    """Starts workers for trials, and knows what became of the jobs that it made for them.

    place: where trials run: in the command's own `process`, whose terminal they share; in processes
    of this `machine`; or `elsewhere`. leaves: `start` hands the trials over and returns, so that
    `jobs` tells what they do. stops_early: it does the work of a `search` by asha, too.
    """

    place: Literal["process", "machine", "elsewhere"] = "elsewhere"
    leaves: bool = False
    stops_early: bool = False

    @abstractmethod
    def start(self, work: Work, on_event: Callable[[Event], None]) -> None:
        """Do the work and report; return when all of it has ended, or was handed over.

        A trial that fails is an event. ctrl-C ends the work so that the same call goes on.

        Raises:
            LaunchError: work could not be started, or ended without a record.
        """

    def jobs(self, run_folder: Path) -> Mapping[str, ClusterJob]:  # noqa: ARG002
        """Return the job of each trial that was handed over, by trial id: its state and its logs.

        Raises:
            LaunchError: that cannot be known now.
        """
        return {}

    def cancel(self, run_folder: Path, trial_ids: Collection[str] = ()) -> list[str]:  # noqa: ARG002
        """End the jobs of these trials (of all, if none is named); return the ids of the jobs.

        Raises:
            LaunchError: that cannot be done now.
        """
        return []


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
        return Event("done", trial_id, last_note(folder))
    if result is not None and result.status == "failed":
        return Event("failed", trial_id, f"{result.kind}: {result.message}")
    return None
