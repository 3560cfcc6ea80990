"""Do trials on Ray: one that is started here, or joined at `launch.address`.

Tune places the trials and starts them again when a node is lost; what they computed is in their own
folders alone, so a driver that was lost continues with the same command.
"""

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segbench.errors import LaunchError
from segbench.launch.base import Event, Launcher, Work, levels_of, start_state
from segbench.launch.ray.asha import run_asha
from segbench.launch.ray.tasks import run_tasks
from segbench.launch.ray.tuner import Following
from segbench.schema.launching import Launch

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-C is to end us, not this part of the work
}
_ANSWER_SECONDS = 10.0


class Ray(Launcher):
    """Does the work on Ray and follows it to its end."""

    stops_early = True

    def start(self, work: Work, on_event: Callable[[Event], None]) -> None:
        """Do the work; what another command does at the same time is left to it.

        Raises:
            LaunchError: Ray is not installed or cannot be joined, or trials ended without a record.
        """
        _run(work, on_event)


def _run(work: Work, on_event: Callable[[Event], None]) -> None:
    for name, value in {**_QUIET, **_to_join(work.launch.address)}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise LaunchError("the launcher ray needs Ray: pip install 'segbench[ray]'") from error
    job_path = work.job.write()
    _join(work.launch)
    following = Following(work, on_event)
    try:
        if work.search is not None:
            for bracket in work.brackets:
                run_asha(work, work.search, job_path, bracket, following)
                while following.moving:  # all of them, since they are compared
                    run_asha(work, work.search, job_path, bracket, following)
        levels = levels_of(work.trials) if work.search is None else {}
        for level in sorted(set(levels.values())):
            left = [t for t in levels if levels[t] == level and _may_start(work, t, following)]
            while left:
                run_tasks(work, job_path, left, following)
                left = [trial_id for trial_id in left if trial_id in following.moving]
    finally:
        ray.shutdown()
    if following.lost:
        first = next(trial_id for trial_id in work.trials if trial_id in following.lost)
        log = work.folder(first) / "ray.log"
        raise LaunchError(
            f"{len(following.lost)} trials ended without a record, the first {first}; see {log}; "
            "the same command goes on"
        )


def _may_start(work: Work, trial_id: str, following: Following) -> bool:
    """Return whether what the trial starts from is done; otherwise follow what becomes of it."""
    state = start_state(work, trial_id)
    if state == "failed":
        following.ended(trial_id)
    elif state == "later" and work.trials[trial_id].start_from in following.held:
        following.held.add(trial_id)
        following.ended(trial_id)
    elif state == "later":
        following.lost.add(trial_id)
    return state == "ready"


def _to_join(address: str | None) -> dict[str, str]:
    """Return the variables with which a Ray that is there is joined.

    `ray start` asks for the token as soon as this user has one, which any earlier local Ray has
    made; a driver that names an address shows it only if told. One that asks for none minds none.
    """
    if address is None:
        return {}
    has_token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if has_token or (Path.home() / ".ray" / "auth_token").exists():
        return {"RAY_AUTH_MODE": "token", "RAY_BACKEND_LOG_LEVEL": "error"}
    return {"RAY_BACKEND_LOG_LEVEL": "error"}


def _join(launch: Launch) -> None:
    import ray
    from ray.exceptions import RayError

    here: dict[str, Any] = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        if launch.address:
            _check_answers(launch.address)
        ray.init(
            address=launch.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if launch.address else here),
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if launch.address is None:
            raise LaunchError(f"no Ray starts on this machine: {error}") from error
        if "AuthenticationError" in f"{error!r} {error.__cause__}":
            raise LaunchError(
                f"launch.address {launch.address}: this Ray asks for a token, and yours is another "
                "or none; put its own (`ray get-auth-token` there) into ~/.ray/auth_token or "
                "$RAY_AUTH_TOKEN"
            ) from error
        raise LaunchError(
            f"launch.address {launch.address}: no Ray answers there ({error}); start one with "
            "`ray start --head`, or leave the address out to have one started here"
        ) from error


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself would go on trying for a quarter of an hour."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
