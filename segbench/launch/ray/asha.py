"""Train a search's samples rung by rung; Tune's ASHA stops those that are not among the best."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segbench.errors import LaunchError
from segbench.launch.base import Work
from segbench.launch.ray.rung import read_score
from segbench.launch.ray.tuner import Following, exit_code_of, resources, tune_trials, workdir_of
from segbench.leases import living
from segbench.schema.search import Search

_HELD_SECONDS = 2.0


def run_asha(
    work: Work, search: Search, job_path: Path, bracket: Sequence[str], following: Following
) -> None:
    """Train a bracket's samples rung by rung; Tune's ASHA stops those not among its best."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    if work.launch.ranks_per_trial > 1:
        raise LaunchError("launch.ranks_per_trial: asha's samples are trained in one process each")
    last = work.trials[bracket[0]].train.steps  # equal in all of them, see schema.searched.brackets
    grace = min(search.grace_steps or last, last)
    rungs = [grace]
    while rungs[-1] * search.reduction < last:
        rungs.append(rungs[-1] * search.reduction)
    do = tune.with_resources(_do_sample, resources(work.launch))
    scheduler = ASHAScheduler(
        time_attr="step", max_t=last, grace_period=grace, reduction_factor=search.reduction
    )
    told = {"job_path": str(job_path), "rungs": sorted({*rungs, last}), "metric": search.metric}
    tune_trials(work, do, bracket, told, following, metric="score", mode="max", scheduler=scheduler)


def _do_sample(config: dict[str, Any]) -> None:
    """Run in a Ray worker: climb the rungs until Tune stops it, or the training ends."""
    from ray import tune

    workdir = workdir_of(config)
    command = ["segbench.launch.ray.rung", config["job_path"], config["trial_id"]]
    for step in config["rungs"]:
        score = read_score(workdir, step)  # a search that is continued climbed it before
        while score is None:
            if living([workdir]):  # another command climbs it; a process of ours would only look
                time.sleep(_HELD_SECONDS)
                score = read_score(workdir, step)
                continue
            code = exit_code_of([*command, str(step), config["metric"]], workdir / "ray.log")
            if code == 1:
                return  # a failed sample is a row
            score = read_score(workdir, step)
            if score is None and not living([workdir]):
                raise RuntimeError(f"exit code {code}; see {workdir / 'ray.log'}")
        tune.report({"score": score, "step": step})
