"""The toy world of the tests: a few cards, a small experiment, and the real data where it is."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_world import new_project, train_all

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


START = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget-seconds", type=float, help="skip the tests that have not begun by then"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--budget-seconds")
    if budget is not None and time.monotonic() - START > budget:
        pytest.skip(f"the run's {budget:.0f} s are over; `make test-engines` has no such bound")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's folders and variables."""
    for name in ("DATA", "WEIGHTS", "CARDS", "TRUSTED"):
        monkeypatch.delenv(f"SEGBENCH_{name}", raising=False)
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and labels."""
    return _needed(SHARED / "data", "real photographs")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of pretrained trunks."""
    return _needed(SHARED / "weights", "pretrained trunks")


def _needed(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        pytest.skip(f"needs the {what} in a folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session")
def toy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that a first run of the toy project leaves: its card compared, its images converted.

    So the many commands of the tests need not load torch for the card once more.
    """
    from segbench.commands import preflight
    from segbench.commands.run import Flags, prepare_run
    from segbench.data.prepared import open_prepared

    folder = tmp_path_factory.mktemp("toy_cache")
    project = new_project(folder / "project")
    flags = Flags(cache=folder / "cache", device="cpu", results=project / "results")
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    assert preflight.missing_files(prepared) == []
    dataset = next(iter(prepared.asked.trials.values())).dataset
    for split in ("train", "val"):
        open_prepared(dataset, split, prepared.machine)
    return folder / "cache"


@pytest.fixture
def toy_project(tmp_path: Path, toy_cache: Path) -> Path:
    """A user's project: cards of its own and experiments/toy.yaml. 4 trials of 6 steps each."""
    shutil.copytree(toy_cache, tmp_path / "cache")
    return new_project(tmp_path / "project")


@pytest.fixture(scope="session")
def _toy_run_once(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> Path:
    from segbench.commands.run import Flags, prepare_run

    folder = tmp_path_factory.mktemp("toy")
    project = new_project(folder / "project")
    cache = shutil.copytree(toy_cache, folder / "cache")
    flags = Flags(only=("head=fcn32s",), cache=cache, device="cpu", results=project / "results")
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    train_all(prepared, "segbench run experiments/toy.yaml --only head=fcn32s")
    return folder


@pytest.fixture
def toy_run(_toy_run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of the toy project that is done: fcn32s, two seeds; one's own copy."""
    shutil.copytree(_toy_run_once, tmp_path / "toy")
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "toy" / "cache"))
    monkeypatch.setenv("SEGBENCH_CARDS", str(tmp_path / "toy" / "project"))
    return tmp_path / "toy" / "project" / "results" / "toy"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that writes text to a new file under the test's folder."""

    def writer(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return writer
