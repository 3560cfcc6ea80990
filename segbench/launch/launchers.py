"""The launchers by their names."""

from collections.abc import Callable
from typing import Protocol

from segbench.errors import LaunchError
from segbench.launch.base import Event, Work


class Launcher(Protocol):
    """Do the work and report; return when all of it has ended, or was handed to a cluster."""

    def __call__(self, work: Work, on_event: Callable[[Event], None]) -> None:  # noqa: D102
        ...


def launcher_named(name: str) -> Launcher:
    """Return the launcher; engines are imported only when they are used."""
    if name == "local":
        from segbench.launch.local import launch_local

        return launch_local
    if name == "ray":
        from segbench.launch.ray.launcher import launch_on_ray

        return launch_on_ray
    if name == "slurm":
        from segbench.launch.slurm.launcher import launch_on_slurm

        return launch_on_slurm
    raise LaunchError(f"no launcher {name!r}; launchers: local, ray, slurm")
