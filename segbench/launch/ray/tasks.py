"""Do the trials of a grid as tasks of Ray Tune, each in a process, or several, of its own.

A task's work is done by `segbench.launch.job`, that of a rank by `segbench.launch.ranks`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbench.launch.base import Work
from segbench.launch.ranks import GRACE_SECONDS, free_port, log_name, variables, worst
from segbench.launch.ray.tuner import Following, exit_code_of, resources, tune_trials, workdir_of
from segbench.runs import trial_files
from segbench.schema.job import UNAVAILABLE, Job
from segbench.schema.launching import Launch

_HELD = {"held": True}  # what a task answers whose trial another command has


def run_tasks(work: Work, job_path: Path, trial_ids: Sequence[str], following: Following) -> None:
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
    tune_trials(work, do, trial_ids, told, following)


def _do_trial(config: dict[str, str]) -> dict[str, bool]:
    """Run in a Ray worker: do one trial in a process of its own, and end with it.

    Raises:
        RuntimeError: the process ended before its trial did; Tune then starts it again.
    """
    log_path = workdir_of(config) / "ray.log"
    command = ["segbench.launch.job", config["job_path"], config["launch"], config["trial_id"]]
    code = exit_code_of(command, log_path)
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
    assert here is not None  # made by `run_tasks`
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
    workdir = workdir_of(config)
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
        command = [
            "segbench.launch.ranks",
            config["job_path"],
            config["launch"],
            config["trial_id"],
        ]
        # Ray shows each rank its own GPU alone, so it is the first that the process sees
        own = {**environment, "LOCAL_RANK": "0"}
        return exit_code_of(command, workdir_of(config) / log_name(rank), own)
