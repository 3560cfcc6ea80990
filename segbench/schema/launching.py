"""How workers are started: the `launch:` part of an experiment. It cannot change a number.

Knows nothing of the engines; launch/ does what this record says.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from segbench.schema.base import Spec, matches
from segbench.schema.yamlfile import did_you_mean

Count = Annotated[int, Field(ge=1)]
LAUNCHERS = ("local", "inline", "ray", "slurm")  # segbench.launch.launchers has them
_OWN_LAUNCHER = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
_NOTICE_SECONDS = 90

_FROM_KEYS = {
    "partition": ("partition", "p"),
    "account": ("account", "A"),
    "time_minutes": ("time", "t"),
    "memory_gib": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "cpus_per_trial": ("cpus-per-task", "c", "cpus-per-gpu"),
    "ranks_per_trial": ("ntasks", "n", "ntasks-per-node", "nodes", "N"),
    "throttle, and trials_per_job for larger jobs": ("array", "a"),
    "max_attempts, or sbatch.no-requeue to have none": ("requeue",),
    "start_from in the experiment": ("dependency", "d"),
}
_OWN_OPTIONS = {  # what sbatch would take twice, and with some of them lose trials
    **{option: f"use launch.{key}" for key, options in _FROM_KEYS.items() for option in options},
    **dict.fromkeys(
        ("job-name", "J", "output", "o", "error", "e", "open-mode", "signal", "wrap", "chdir", "D"),
        "leave it out: status and logs rest on it",
    ),
}


def _launcher_name(name: str) -> str:
    if name in LAUNCHERS or re.fullmatch(_OWN_LAUNCHER, name):
        return name
    raise ValueError(
        f"no launcher {name!r}{did_you_mean(name, LAUNCHERS)}; launchers: {', '.join(LAUNCHERS)}, or "
        "your own as `package.module:name`"
    )


# for editors: they offer the names
_IN_SCHEMA = {
    "anyOf": [{"enum": list(LAUNCHERS)}, {"type": "string", "pattern": f"^{_OWN_LAUNCHER}$"}]
}
LauncherName = Annotated[str, AfterValidator(_launcher_name), WithJsonSchema(_IN_SCHEMA)]


class CellResources(Spec):
    """What the cells that match `where` (axis -> value) ask for instead, on Slurm.

    CPU threads are not among it: equal bits need equal threads.

    where: axes and values. gpus_per_trial, memory_gib, time_minutes and partition: as in `Launch`.
    """

    where: Annotated[dict[str, str], Field(min_length=1)]
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    time_minutes: Count | None = None
    partition: str | None = None


class Launch(Spec):
    """The engine and the resources of each worker.

    launcher: what starts trials: `local` (processes of this machine), `inline` (the command's own
    process, for a debugger), `ray`, `slurm`, or your own as `package.module:name`, whose module must
    be trusted. cells: other resources for some cells; the last that matches counts. workers: how many
    trials run at a time on one machine; `auto` is one per GPU, or one per two CPU cores without a GPU.
    max_attempts: how many attempts in a row may end before they saved anything. setup: shell lines
    that run before a worker on a cluster (module load ...). sbatch: further options, name -> value.
    throttle: how many trials of the whole grid run at a time on Slurm. trials_per_job: on Slurm, as
    many share a GPU at once as gpus_per_trial allows. address: of a Ray to join.
    gpus_per_trial: None is one for each rank where there are any. ranks_per_trial: how many
    processes train one trial together, a GPU each; the batch is shared out among them, so it stays
    the recipe's and so does the learning rate. cpus_per_trial: CPU threads, shared out among ranks.
    memory_gib: of a trial's job. time_minutes: the time limit of a job. partition and account: Slurm's.
    stage_data_to: a folder on each node's own disk (variables such as $TMPDIR are the node's) to
    which data are copied once, and read from. loader_workers: processes that load and augment images
    for each trial (each rank); 0 does so in the trial's own. Any number gives the same bits.
    """

    launcher: LauncherName = "local"
    workers: Count | Literal["auto"] = "auto"
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    cpus_per_trial: Count | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    time_minutes: Count | None = None
    partition: str | None = None
    account: str | None = None
    throttle: Count | None = None
    trials_per_job: Count = 1
    ranks_per_trial: Count = 1
    max_attempts: Count = 5
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str | int | float | bool] = Field(default_factory=dict)
    address: str | None = None
    stage_data_to: str | None = None
    loader_workers: Annotated[int, Field(ge=0)] = 0
    cells: tuple[CellResources, ...] = ()

    @model_validator(mode="after")
    def _sbatch_is_further(self) -> Self:
        for name in self.sbatch:
            own = _OWN_OPTIONS.get(name.lstrip("-").replace("_", "-"))
            if own is not None:
                raise ValueError(f"sbatch.{name}: is set by segbench itself; {own}")
        return self

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        ranks = self.ranks_per_trial
        if ranks == 1:
            return self
        if self.trials_per_job > 1:
            raise ValueError(f"ranks_per_trial {ranks}: a job has one such trial, not several")
        for gpus in (self.gpus_per_trial, *(cell.gpus_per_trial for cell in self.cells)):
            if gpus not in {None, 0, ranks}:
                raise ValueError(
                    f"ranks_per_trial {ranks}: each rank has one GPU, so gpus_per_trial is {ranks}, "
                    f"or 0 without GPUs, found {gpus:g}"
                )
        return self

    @property
    def gpus_wanted(self) -> float:
        """How many GPUs a trial gets where there are any."""
        return self.ranks_per_trial if self.gpus_per_trial is None else self.gpus_per_trial

    @property
    def cpus_per_rank(self) -> int:
        """CPU threads of each of a trial's processes."""
        return max((self.cpus_per_trial or 1) // self.ranks_per_trial, 1)

    @property
    def notice_seconds(self) -> int:
        """How long before its time limit a job on Slurm is told to end: a fifth of a short limit."""
        if self.time_minutes is None:
            return _NOTICE_SECONDS
        return min(_NOTICE_SECONDS, self.time_minutes * 60 // 5)

    def of_cell(self, axes: Mapping[str, str]) -> Self:
        """Return the launch of a cell with these axes, without `cells`."""
        changes: dict[str, object] = {"cells": ()}
        for cell in self.cells:
            if matches(axes, cell.where):
                given = cell.model_dump(exclude_none=True, exclude={"where"})
                changes.update(given)
        return self.model_copy(update=changes)
