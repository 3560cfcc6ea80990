"""The launchers by their names, and what they say of a run together.

A launcher of the user's own, `package.module:name`, runs if its module is trusted
(`segbench.code.own`). It cannot change a number, so its source is part of no id.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from segbench.code.own import look_in, trusted_function
from segbench.errors import CardError, LaunchError
from segbench.files import digest, read_json, write_json
from segbench.launch.base import Launcher
from segbench.launch.inline import Inline
from segbench.launch.local import Local
from segbench.launch.ray.launcher import Ray
from segbench.launch.slurm.launcher import Slurm
from segbench.runs.status import ClusterJob
from segbench.schema.catalog import Catalog

# Each loads its engine only when it starts. The names are those of `schema.launching.LAUNCHERS`.
LAUNCHERS: dict[str, Launcher] = {
    "local": Local(),
    "inline": Inline(),
    "ray": Ray(),
    "slurm": Slurm(),
}


def launcher_named(name: str) -> Launcher:
    """Return the launcher of this name, or the one that `package.module:name` is or makes.

    Raises:
        LaunchError: there is none, its module is not trusted, or it is no `Launcher`.
    """
    if name in LAUNCHERS:
        return LAUNCHERS[name]
    if ":" not in name:
        raise LaunchError(f"no launcher {name!r}; launchers: {', '.join(LAUNCHERS)}")
    try:
        found: object = trusted_function(name)
    except CardError as error:
        raise LaunchError(f"launch.launcher: {error}") from error
    launcher = found() if isinstance(found, type) else found
    if not isinstance(launcher, Launcher):
        raise LaunchError(f"launch.launcher: {name} is no segbench.launch.base.Launcher")
    return launcher


def remember(run_folder: Path, name: str) -> None:
    """Note that a launcher of the user's own works on the run, so that it is asked of it later.

    A later command may use another launcher while jobs of this one still run.
    """
    if name not in LAUNCHERS:
        path = run_folder / "jobs" / f"launcher-{digest(name, length=8)}.json"
        write_json(path, {"launcher": name})


def jobs_of(run_folder: Path) -> dict[str, ClusterJob]:
    """Return what launchers say of each trial's job; one that waits or runs comes first.

    Raises:
        LaunchError: one of them cannot be asked.
    """
    found: dict[str, ClusterJob] = {}
    for launcher in _launchers_of(run_folder):
        for trial_id, job in launcher.jobs(run_folder).items():
            if trial_id not in found or job.is_queued:
                found[trial_id] = job
    return found


def cancel_jobs(run_folder: Path, trial_ids: Collection[str] = ()) -> list[str]:
    """End the jobs of these trials, or of the whole run; return the jobs' ids.

    Raises:
        LaunchError: a launcher cannot be asked.
    """
    launchers = _launchers_of(run_folder)
    return [job for launcher in launchers for job in launcher.cancel(run_folder, trial_ids)]


def _launchers_of(run_folder: Path) -> Iterator[Launcher]:
    yield from LAUNCHERS.values()
    for path in sorted((run_folder / "jobs").glob("launcher-*.json")):
        look_in(Catalog.on_path().code_folders)
        yield launcher_named((read_json(path) or {}).get("launcher", ""))
