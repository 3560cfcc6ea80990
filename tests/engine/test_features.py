"""Cached feature maps of a frozen trunk: whose they are, and that they change no number."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from segbench.commands.run import Flags, prepare_run
from segbench.engine.checkpoint import load_weights
from segbench.runs import trial_files
from segbench.work.phases import Stops
from segbench.work.trial import run_trial


def _trained(project: Path, cache: Path, seed: int, *settings: str, stop_at: int = 0) -> dict:
    """Return the weights of a trial that is stopped, then goes on, if a number of looks is given."""
    flags = Flags(
        cards=(project,),
        settings=(
            "sweep.head=[fcn8s]",
            f"sweep.seeds=[{seed}]",
            "train.stages.all.frozen=[backbone]",
            *settings,
        ),
        cache=cache,
        device="cpu",
        results=cache / "results",
    )
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    if stop_at:
        looks = itertools.count(1)
        stopped = run_trial(
            trial,
            workdir,
            machine=prepared.machine,
            protocols=(),
            stops=Stops(lambda: next(looks) >= stop_at),
        )
        assert stopped == "interrupted"
        assert next(looks) == stop_at + 1, "it did not stop at once"
        assert not list((cache / "features").glob("*/*"))
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=()) == "done"
    return load_weights(workdir / "model.safetensors")


def test_a_random_trunk_is_never_given_the_features_of_another_seed(toy_project, tmp_path):
    _trained(toy_project, tmp_path / "shared", 0, "train.cache_features=true")
    after_another = _trained(toy_project, tmp_path / "shared", 1, "train.cache_features=true")
    alone = _trained(toy_project, tmp_path / "alone", 1, "train.cache_features=true")
    assert after_another.keys() == alone.keys()
    assert all((after_another[name] == alone[name]).all() for name in alone)


def test_cached_features_change_the_trained_layers_by_rounding_alone(toy_project, tmp_path):
    cached = _trained(toy_project, tmp_path / "a", 0, "train.cache_features=true")
    computed = _trained(toy_project, tmp_path / "b", 0)
    for name, weight in computed.items():
        # float16 keeps 11 bits of a feature
        assert cached[name].numpy() == pytest.approx(weight.numpy(), abs=2e-3), name
    assert any((cached[name] != computed[name]).any() for name in computed)


def test_a_stop_is_heard_while_features_are_computed(toy_project, tmp_path):
    cached = "train.cache_features=true"
    alone = _trained(toy_project, tmp_path / "alone", 0, cached)
    after = _trained(toy_project, tmp_path / "stopped", 0, cached, stop_at=2)
    assert all((after[name] == alone[name]).all() for name in alone)


@pytest.mark.parametrize("harm", ["of another trunk", "torn"])
def test_features_that_are_not_this_trunks_are_computed_anew(toy_project, tmp_path, harm):
    """A geometry that changes its meaning between versions once trained heads on foreign maps."""
    alone = _trained(toy_project, tmp_path / "alone", 0, "train.cache_features=true")
    _trained(toy_project, tmp_path / "cache", 0, "train.cache_features=true")
    maps = list((tmp_path / "cache" / "features").glob("*/stride*.npy"))
    assert maps
    for path in maps:
        if harm == "torn":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            np.save(path, np.load(path) * np.float16(1.1))
    shutil.rmtree(tmp_path / "cache" / "results")
    after = _trained(toy_project, tmp_path / "cache", 0, "train.cache_features=true")
    assert all((after[name] == alone[name]).all() for name in alone)


def test_features_of_images_resized_otherwise_are_others(toy_project, tmp_path):
    squash = ("train.cache_features=true", "train.images.squash=[48, 48]")
    for resize in ("bilinear", "nearest", "bilinear"):
        _trained(toy_project, tmp_path, 0, *squash, f"train.images.resize={resize}")
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_features_that_float16_does_not_hold_are_refused_by_the_image(toy_project, tmp_path):
    settings = ("train.cache_features=true", "model.input={mean: [0, 0, 0], std: [1e-7, 1, 1]}")
    with pytest.raises(AssertionError, match="failed"):
        _trained(toy_project, tmp_path, 0, *settings)
    (workdir,) = trial_files.trial_folders(tmp_path / "results" / "toy")
    failed = trial_files.load_failure(workdir)
    assert failed.kind == "data"
    assert failed.message.startswith("train_")
    assert "the trunk's features go beyond 65504, the most that cached ones hold" in failed.message
