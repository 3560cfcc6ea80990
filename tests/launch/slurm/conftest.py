"""A real Slurm of two nodes, the toy grid on it, and the grid as one machine computes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_faults import Toy, undisturbed_run
from slurm_cluster import SlurmCluster, missing_programs
from slurm_grid import GRID, come_up


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"needs a real Slurm; not here: {', '.join(missing)}")
    with come_up(SlurmCluster(tmp_path_factory.mktemp("slurm"), max_array_size=5)) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Path:
    """The grid's results from one machine: what every other way must give, byte for byte."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return undisturbed_run(folder, toy_cache, *GRID, "launch.workers=2")


@pytest.fixture
def toy(toy_project: Path, cluster: SlurmCluster) -> Iterator[Toy]:
    yield Toy(toy_project, *GRID, "launch.launcher=slurm", environment=cluster.environment)
    cluster.cancel_all()
