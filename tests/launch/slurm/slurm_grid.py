"""What the tests with a real Slurm share: a grid of six trials, and what is asked of it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_faults import Toy, results_so_far, wait_until
from slurm_cluster import SlurmCluster

GRID = ("sweep.seeds=3", "train.stages.0.steps=50", "monitor.checkpoint_every_steps=5")


@contextlib.contextmanager
def come_up(cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Bring a cluster up; skip where the machine forbids it (devices, users, ports)."""
    try:
        cluster.__enter__()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"a Slurm does not come up on this machine: {error}")
    with contextlib.closing(cluster):
        yield cluster


def jobs_in_queue(cluster: SlurmCluster) -> list[str]:
    return cluster.ask("squeue", "-h", "-r", "-o", "%i").split()


def attempts_in(run_folder: Path) -> int:
    return len(list(run_folder.glob("trials/*/leases/*.json")))


def until_done(toy: Toy, number: int = 6, *, results: str = "results") -> None:
    wait_until(lambda: len(results_so_far(toy.folder(results))) == number, seconds=400)
    toy.do("report", f"{results}/toy")
