"""How fast a grid of 1,000 trials is given to a real Slurm and looked at, and 10,000 are planned.

    python benchmarks/launchers.py

Brings up the tests' Slurm of two nodes (as root, with slurm-wlm and munge installed), drains them so
that all jobs wait, and times whole commands, the start of Python included.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "slurm"))

from slurm_cluster import NODES, SlurmCluster, missing_programs
from toy_world import new_project


def timed(project: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run a command of segbench; return how long it took and its last line."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "segbench", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = done.stdout.strip().splitlines()[-1]
    return f"{time.perf_counter() - start:6.2f} s, {cpu:5.2f} s of CPU   {last}"


def main() -> None:
    """Print the three times."""
    if missing := missing_programs(accounting=False):
        sys.exit(f"not here: {', '.join(missing)}")
    with (
        tempfile.TemporaryDirectory() as folder,
        SlurmCluster(Path(folder) / "slurm", accounting=False) as cluster,
    ):
        project = new_project(Path(folder) / "project")
        for node in NODES:
            cluster.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=wait")
        here = {**cluster.environment, "SEGBENCH_CACHE": str(Path(folder) / "cache")}
        toy = "experiments/toy.yaml"
        rates = ", ".join(f"v{i}: {{train.batch_size: {i}}}" for i in range(1, 6))
        five = ("--set", f"variants={{{rates}}}")
        print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}")
        print(
            "plan of 10,000  ",
            timed(project, here, "plan", toy, *five, "--set", "sweep.seeds=1000"),
        )
        grid = ("--set", "sweep.seeds=500", "--launcher", "slurm")
        print("run of 1,000    ", timed(project, here, "run", toy, *grid))
        print("status of 1,000 ", timed(project, here, "status", "results/toy"))
        print("cancel of 1,000 ", timed(project, here, "cancel", "results/toy"))


if __name__ == "__main__":
    main()
