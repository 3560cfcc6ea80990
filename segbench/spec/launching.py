"""How workers are started: the `launch:` part of an experiment. It cannot change a number.

Knows nothing of the engines; launch/ does what this record says.
"""

from typing import Annotated, Literal

from pydantic import Field

from segbench.spec.base import Spec

Count = Annotated[int, Field(ge=1)]


class Launch(Spec):
    """The engine and the resources of each worker.

    workers: how many trials run at a time on one machine; `auto` is one per GPU, or one per two
    CPU cores without a GPU. max_attempts: how often a trial that was killed is started again.
    setup: shell lines that run before a worker on a cluster (module load ...). sbatch: further
    options, name -> value. throttle: how many trials of the whole grid run at a time on Slurm.
    """

    launcher: Literal["local", "ray", "slurm"] = "local"
    workers: Count | Literal["auto"] = "auto"
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    cpus_per_trial: Count | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    time_minutes: Count | None = None
    partition: str | None = None
    account: str | None = None
    throttle: Count | None = None
    trials_per_job: Count = 1
    ranks: Count = 1
    max_attempts: Count = 5
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str | int | float | bool] = {}
    address: str | None = None
    stage_data_to: str | None = None
