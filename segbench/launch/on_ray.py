"""Do trials as tasks of Ray Tune, on a Ray that is started here or joined at `launch.address`.

Tune places the trials and starts them again when a node is lost; what they computed is in their own
folders alone, so a driver that was lost continues with the same command. A Tune trial carries a
path, an id and resources; its work is done by `segbench.launch.element` in a process of its own.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segbench.errors import LaunchError
from segbench.launch.node import started_here
from segbench.launch.rank import GRACE_SECONDS, free_port, log_name, variables, worst
from segbench.launch.rung import read_score
from segbench.launch.work import Event, Work, end_of, levels_of, start_state
from segbench.leases import living, saved_mark
from segbench.runs import trial_files
from segbench.schema.job import UNAVAILABLE, Job
from segbench.schema.launching import Launch
from segbench.schema.search import Search

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-C is to end us, not this part of the work
}
_ANSWER_SECONDS = 10.0
_HELD_SECONDS = 2.0
_HELD = {"held": True}  # what a task answers whose trial another command has


def launch_on_ray(work: Work, on_event: Callable[[Event], None]) -> None:
    """Do the work on Ray and follow it to its end; see `segbench.launch.Launcher`.

    What another command does at the same time is left to it.

    Raises:
        LaunchError: Ray is not installed or cannot be joined, or trials ended without a record.
    """
    for name, value in {**_QUIET, **_to_join(work.launch.address)}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise LaunchError("the launcher ray needs Ray: pip install 'segbench[ray]'") from error
    job_path = work.job.write()
    _join(work.launch)
    following = _Following(work, on_event)
    try:
        if work.search is not None:
            for bracket in work.brackets:
                _run_asha(work, work.search, job_path, bracket, following)
                while following.moving:  # all of them, since they are compared
                    _run_asha(work, work.search, job_path, bracket, following)
        levels = levels_of(work.trials) if work.search is None else {}
        for level in sorted(set(levels.values())):
            left = [t for t in levels if levels[t] == level and _may_start(work, t, following)]
            while left:
                _run(work, job_path, left, following)
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


class _Following:
    """Tells what becomes of the trials, and keeps those that end without a record.

    held: another command has them; lost: they made no headway; moving: Tune gave them up, but they
    saved something since `begin`.
    """

    def __init__(self, work: Work, on_event: Callable[[Event], None]) -> None:
        self.work = work
        self.on_event = on_event
        self.held: set[str] = set()
        self.lost: set[str] = set()
        self.moving: set[str] = set()
        self.saved: dict[str, str] = {}

    def begin(self, trial_ids: Sequence[str]) -> None:
        """Note how far the trials are."""
        self.moving = set()
        self.lost.difference_update(trial_ids)
        self.saved = {trial_id: saved_mark(self.work.folder(trial_id)) for trial_id in trial_ids}

    def ended(self, trial_id: str, *, is_stopped: bool = False) -> None:
        """Tell how a trial ended: its files say it. is_stopped: Tune may have stopped it."""
        event = end_of(self.work, trial_id)
        if event is not None:
            self.held.discard(trial_id)
            self.on_event(event)
        elif trial_id in self.held:
            self.on_event(Event("waiting", trial_id, "another worker has it"))
        elif is_stopped:
            self.on_event(Event("waiting", trial_id, "stopped early: not among the best"))
        elif saved_mark(self.work.folder(trial_id)) != self.saved[trial_id]:
            self.moving.add(trial_id)
            self.on_event(Event("again", trial_id, "it was broken off, but has saved its state"))
        else:
            self.lost.add(trial_id)
            self.on_event(Event("failed", trial_id, "ended without a record"))


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


def _may_start(work: Work, trial_id: str, following: _Following) -> bool:
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


def _run(work: Work, job_path: Path, trial_ids: Sequence[str], following: _Following) -> None:
    """Do trials, each in as many attempts as it may make without headway.

    Tune counts every lost node and every process that Ray ended, also where the trial had saved its
    state; such a trial is `moving` afterwards.
    """
    from ray import tune

    launch = work.launch
    reserved = resources(launch)
    do = tune.with_resources(_do_trial, reserved)
    if launch.ranks_per_trial > 1:
        names = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
        bundles = [{names[name]: amount for name, amount in reserved.items() if amount}]
        placed = tune.PlacementGroupFactory([{}, *bundles * launch.ranks_per_trial])
        do = tune.with_resources(_do_trial_in_ranks, placed)
    told = {
        "job_path": str(job_path),
        "launch": launch.revised(launcher="local", workers=1).model_dump_json(),
    }
    _tune(work, do, trial_ids, told, following)


def _tune(
    work: Work,
    do: Any,
    trial_ids: Sequence[str],
    told: dict[str, Any],
    following: _Following,
    **scheduling: Any,
) -> None:
    """Let Tune call `do` for each trial, with its id and what all are told, and follow it."""
    from ray import tune

    launch = work.launch
    tuner = tune.Tuner(
        do,
        param_space={
            "trial_id": tune.grid_search(list(trial_ids)),
            "run_folder": str(work.run_folder),
            **told,
        },
        tune_config=tune.TuneConfig(
            max_concurrent_trials=None if launch.workers == "auto" else launch.workers,
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
            **scheduling,
        ),
        run_config=tune.RunConfig(
            storage_path=str(work.run_folder / "jobs" / "ray"),
            failure_config=tune.FailureConfig(max_failures=launch.max_attempts - 1),
            callbacks=[_events(work, following)],
            verbose=0,
        ),
    )
    following.begin(trial_ids)
    tuner.fit()


def _run_asha(
    work: Work, search: Search, job_path: Path, bracket: Sequence[str], following: _Following
) -> None:
    """Train a bracket's samples rung by rung; Tune's ASHA stops those not among its best."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    if work.launch.ranks_per_trial > 1:
        raise LaunchError("launch.ranks_per_trial: asha's samples are trained in one process each")
    last = work.trials[bracket[0]].train.steps  # equal in all of them, see spec.searched.brackets
    grace = min(search.grace_steps or last, last)
    rungs = [grace]
    while rungs[-1] * search.reduction < last:
        rungs.append(rungs[-1] * search.reduction)
    do = tune.with_resources(_do_sample, resources(work.launch))
    scheduler = ASHAScheduler(
        time_attr="step", max_t=last, grace_period=grace, reduction_factor=search.reduction
    )
    told = {"job_path": str(job_path), "rungs": sorted({*rungs, last}), "metric": search.metric}
    _tune(work, do, bracket, told, following, metric="score", mode="max", scheduler=scheduler)


def _do_sample(config: dict[str, Any]) -> None:
    """Run in a Ray worker: climb the rungs until Tune stops it, or the training ends."""
    from ray import tune

    workdir = _workdir(config)
    command = ["segbench.launch.rung", config["job_path"], config["trial_id"]]
    for step in config["rungs"]:
        score = read_score(workdir, step)  # a search that is continued climbed it before
        while score is None:
            if living([workdir]):  # another command climbs it; a process of ours would only look
                time.sleep(_HELD_SECONDS)
                score = read_score(workdir, step)
                continue
            code = _exit_code([*command, str(step), config["metric"]], workdir / "ray.log")
            if code == 1:
                return  # a failed sample is a row
            score = read_score(workdir, step)
            if score is None and not living([workdir]):
                raise RuntimeError(f"exit code {code}; see {workdir / 'ray.log'}")
        tune.report({"score": score, "step": step})


def _workdir(config: dict[str, Any]) -> Path:
    return trial_files.trial_folder(Path(config["run_folder"]), config["trial_id"])


def _exit_code(
    command: list[str], log_path: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Run a module of ours in a process that ends with this one; return its exit code."""
    with log_path.open("ab") as log:
        return subprocess.run(
            [sys.executable, "-m", *command],
            env={**started_here(), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def resources(launch: Launch) -> dict[str, float]:
    """Return what Ray reserves for a rank of a trial; a GPU where it has any, unless told."""
    import ray

    has_any = launch.gpus_per_trial is not None or ray.cluster_resources().get("GPU")
    gpus = launch.gpus_wanted / launch.ranks_per_trial if has_any else 0.0
    reserved = {"cpu": float(launch.cpus_per_rank), "gpu": gpus}
    if launch.memory_gib is not None:
        reserved["memory"] = launch.memory_gib * 2**30 / launch.ranks_per_trial
    return reserved


def _do_trial(config: dict[str, str]) -> dict[str, bool]:
    """Run in a Ray worker: do one trial in a process of its own, and end with it.

    Raises:
        RuntimeError: the process ended before its trial did; Tune then starts it again.
    """
    log_path = _workdir(config) / "ray.log"
    command = ["segbench.launch.element", config["job_path"], config["launch"], config["trial_id"]]
    code = _exit_code(command, log_path)
    if code == UNAVAILABLE:
        return _HELD
    if code not in {0, 1}:
        raise RuntimeError(f"exit code {code}; see {log_path}")
    return {}


def _do_trial_in_ranks(config: dict[str, str]) -> dict[str, bool]:
    """Run in a Ray worker: do one trial in several processes, wherever Ray has placed them.

    Raises:
        RuntimeError: one of them ended before the trial did; Tune then starts all again.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    launch = Launch.model_validate_json(config["launch"])
    here = ray.util.get_current_placement_group()
    assert here is not None  # made by `_run`
    reserved = resources(launch)
    member: Any = ray.remote(_Member).options(
        num_cpus=reserved["cpu"],
        num_gpus=reserved["gpu"],
        scheduling_strategy=PlacementGroupSchedulingStrategy(here),
    )
    members = [member.remote(config) for _ in range(launch.ranks_per_trial)]
    addresses = ray.get([one.address.remote() for one in members])
    address, port = addresses[0]
    if len({found for found, _ in addresses}) == 1:
        address = "127.0.0.1"
    running = [
        one.run.remote(variables(rank, len(members), address=address, port=port), rank)
        for rank, one in enumerate(members)
    ]
    codes: list[int | None] = []
    while running:  # if one ends badly the others are not left alone
        ended, running = ray.wait(running, timeout=GRACE_SECONDS if any(codes) else None)
        codes += ray.get(ended)
        if not ended:
            break
    for one in members:
        ray.kill(one)  # what it started ends with it
    workdir = _workdir(config)
    if (code := worst(codes)) not in {0, 1}:
        raise RuntimeError(f"exit code {code}; see {workdir / 'worker.log'}")
    has_ended = trial_files.is_done(workdir, Job.read(Path(config["job_path"])).protocols)
    return {} if code or has_ended else _HELD


class _Member:
    """A Ray actor that does one rank's part in a process of its own."""

    def __init__(self, config: dict[str, str]) -> None:
        self.config = config

    def address(self) -> tuple[str, int]:
        """Return where the others find this node, and a free port on it."""
        import ray

        return ray.util.get_node_ip_address(), free_port()

    def run(self, environment: dict[str, str], rank: int) -> int:
        """Return the exit code of the rank's process."""
        config = self.config
        command = ["segbench.launch.rank", config["job_path"], config["launch"], config["trial_id"]]
        # Ray shows each rank its own GPU alone, so it is the first that the process sees
        own = {**environment, "LOCAL_RANK": "0"}
        return _exit_code(command, _workdir(config) / log_name(rank), own)


def _events(work: Work, following: _Following) -> Any:
    """Return a Tune callback that tells our events, in place of Tune's own that prints."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Tell(TrialProgressCallback):
        def __reduce__(self) -> Any:
            return (
                object,
                (),
            )  # Tune saves its state in order to go on; ours is in the trials' folders

        def on_trial_result(
            self,
            iteration: int,  # noqa: ARG002
            trials: Any,  # noqa: ARG002
            trial: Any,
            result: Any,
            **_: Any,
        ) -> None:
            if "held" in result:
                following.held.add(trial.config["trial_id"])

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
            following.on_event(Event("started", trial.config["trial_id"]))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
            following.ended(trial.config["trial_id"], is_stopped=work.search is not None)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
            following.ended(trial.config["trial_id"])

    return Tell()
