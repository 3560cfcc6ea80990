"""Start workers for trials and follow them. What a trial computes is unknown here.

A launcher takes a `Work` and calls back with events; the results are in files, the same whichever
launcher ran. A failed trial is an event, never an exception.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from segbench.errors import LaunchError
from segbench.spec.job import Job
from segbench.spec.launching import Launch
from segbench.spec.trial import Trial


class Work(NamedTuple):
    """Trials to do, in an order in which those that others start from come first."""

    job: Job
    trials: dict[str, Trial]
    launch: Launch

    @property
    def run_folder(self) -> Path:
        """The run's folder."""
        return Path(self.job.run_folder)


class Event(NamedTuple):
    """Something that happened to a trial; `message` is for people."""

    kind: Literal["started", "done", "failed", "again", "submitted", "waiting"]
    trial_id: str
    message: str = ""


class Launcher(Protocol):
    """Do the work and report; return when all of it has ended, or was handed to a cluster."""

    def __call__(self, work: Work, on_event: Callable[[Event], None]) -> None: ...


def launcher_named(name: str) -> Launcher:
    """Return the launcher; engines are imported only when they are used."""
    if name == "local":
        from segbench.launch.local import launch_local

        return launch_local
    if name == "ray":
        from segbench.launch.on_ray import launch_on_ray

        return launch_on_ray
    if name == "slurm":
        from segbench.launch.on_slurm import launch_on_slurm

        return launch_on_slurm
    raise LaunchError(f"no launcher {name!r}; launchers: local, ray, slurm")
