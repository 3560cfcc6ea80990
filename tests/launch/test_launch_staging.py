"""Data on a node's own disk: copied once, by one process, verified; never a reason to fail."""

import logging
import threading
from pathlib import Path

import pytest

from segbench.commands.run import Flags, prepare_run
from segbench.data import staging
from segbench.data.split import open_split
from segbench.data.staging import staged
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.trial import run_trial


@pytest.fixture
def toy(toy_project):
    flags = Flags(settings=("launch.stage_data_to=$NODE_DISK",))
    return prepare_run(toy_project / "experiments" / "toy.yaml", flags)


@pytest.fixture
def trial(toy):
    return next(iter(toy.asked.trials.values()))


@pytest.fixture
def machine(toy, tmp_path, monkeypatch) -> Machine:
    assert toy.machine.stage_data_to == "$NODE_DISK"
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    return toy.machine.revised(cache=str(tmp_path / "shared"), device="cpu")


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("disk/segbench-*/*/arrow/[!.]*/*"))


def test_a_split_is_read_from_the_copy_and_is_the_same(trial, machine, tmp_path):
    there = staged(trial.dataset, "train", machine)
    assert there.cache.startswith(str(tmp_path / "disk"))
    ours, theirs = (open_split(trial.dataset, "train", m) for m in (there, machine))
    assert ours.fingerprint == theirs.fingerprint
    assert ours.names == theirs.names
    names = {path.name for path in files(tmp_path)}
    assert {"about.json", "part000.arrow", "pixels.npy", "verified"} <= names


def test_it_is_copied_once_for_many_processes_and_never_twice(
    trial, machine, tmp_path, monkeypatch
):
    copied = []
    copy = staging._copy
    monkeypatch.setattr(staging, "_copy", lambda *paths: (copied.append(paths), copy(*paths)))
    open_split(trial.dataset, "train", machine)
    threads = [
        threading.Thread(target=staged, args=(trial.dataset, "train", machine)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == 1
    assert staged(trial.dataset, "train", machine).cache.startswith(str(tmp_path / "disk"))
    assert len(copied) == 1


def test_half_of_a_copy_is_not_used(trial, machine, tmp_path):
    staged(trial.dataset, "train", machine)
    mark = next(path for path in files(tmp_path) if path.name == "verified")
    part = mark.with_name("part000.arrow")
    whole = part.read_bytes()
    mark.unlink()  # as a kill leaves it
    part.write_bytes(whole[:100])
    staged(trial.dataset, "train", machine)
    assert part.read_bytes() == whole


def test_a_copy_that_reads_back_otherwise_is_thrown_away_and_the_shared_disk_is_read(
    trial, machine, tmp_path, monkeypatch, caplog
):
    """A mock: no disk that loses bits can be had here."""
    sha256 = staging.sha256_of_file
    monkeypatch.setattr(
        staging, "sha256_of_file",
        lambda path: "other" if path.suffix == ".arrow" else sha256(path),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert staged(trial.dataset, "train", machine) == machine
    assert "differs from" in caplog.text
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", [None, "relative", "/proc/nowhere"])
def test_where_it_cannot_be_copied_to_the_shared_disk_is_read(
    trial, machine, monkeypatch, caplog, place
):
    monkeypatch.delenv("NODE_DISK")
    if place is not None:
        monkeypatch.setenv("NODE_DISK", place)
    with caplog.at_level(logging.WARNING):
        assert staged(trial.dataset, "train", machine) == machine
    assert "launch.stage_data_to: " in caplog.text


def test_loader_workers_are_a_setting_of_the_launch(toy_project):
    path, results = toy_project / "experiments" / "toy.yaml", toy_project / "results"
    plain = prepare_run(path, Flags(results=results))
    loading = prepare_run(path, Flags(results=results, settings=("launch.loader_workers=2",)))
    assert (plain.machine.loader_workers, loading.machine.loader_workers) == (0, 2)
    assert list(plain.asked.trials) == list(loading.asked.trials)


def test_a_trial_gives_the_same_bytes_from_a_staged_copy(trial, machine, tmp_path):
    for name, where in (
        ("staged", machine),
        ("shared", machine.revised(stage_data_to=None)),
    ):
        assert run_trial(trial, tmp_path / name, machine=where, protocols=(Protocol(),)) == "done"
    for name in ("model.safetensors", "result.json", "log.jsonl"):
        one, other = tmp_path / "staged" / name, tmp_path / "shared" / name
        assert one.read_bytes() == other.read_bytes()
    assert len([path for path in files(tmp_path) if path.name == "verified"]) == 2
