"""Have Ray Tune call a function for each trial, and tell what becomes of the trials.

A Tune trial carries a path, an id and resources; what it computes lies in the trial's folder alone.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segbench.launch.base import Event, Work, end_of
from segbench.launch.node import started_here
from segbench.runs import trial_files
from segbench.runs.attempts import saved_mark
from segbench.schema.launching import Launch


class Following:
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


def tune_trials(
    work: Work,
    do: Any,
    trial_ids: Sequence[str],
    told: dict[str, Any],
    following: Following,
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


def _events(work: Work, following: Following) -> Any:
    """Return a Tune callback that tells our events, in place of Tune's own that prints."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Tell(TrialProgressCallback):
        def __reduce__(self) -> Any:
            # Tune saves its state in order to go on; ours is in the trials' folders
            return object, ()

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


def workdir_of(config: dict[str, Any]) -> Path:
    """Return the folder of the trial that a Tune trial is for."""
    return trial_files.trial_folder(Path(config["run_folder"]), config["trial_id"])


def exit_code_of(
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
