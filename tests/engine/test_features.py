"""Cached feature maps of a frozen trunk: whose they are, and that they change no number."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segbench.commands.run import Flags, prepare_run
from segbench.engine import features
from segbench.engine.checkpoint import load_weights
from segbench.errors import ResultError
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
        assert not list((cache / "features").glob("*/stride*.npy"))
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


def test_features_that_were_stopped_go_on_where_they_were(toy_project, tmp_path, monkeypatch):
    cached = "train.cache_features=true"
    alone = _trained(toy_project, tmp_path / "alone", 0, cached)
    computed = []
    pieces = features._pieces

    def noted(segmenter, split, index, *others):
        computed.append(index)
        return pieces(segmenter, split, index, *others)

    monkeypatch.setattr(features, "_pieces", noted)
    after = _trained(toy_project, tmp_path / "stopped", 0, cached, stop_at=2)
    assert all((after[name] == alone[name]).all() for name in alone)
    last = max(computed)
    assert last > 3
    assert computed[:3] == [0, 0, 1]  # the first tells the files' shape, the second was the last
    assert computed[-(last - 1) :] == list(range(2, last + 1))
    assert not list((tmp_path / "stopped" / "features").glob("*/.*.partial"))
    for path in (tmp_path / "alone" / "features").glob("*/*.npy"):
        (same,) = (tmp_path / "stopped" / "features").glob(f"*/{path.name}")
        assert same.read_bytes() == path.read_bytes()


def _files(tmp_path, shapes):
    rng = np.random.default_rng(0)
    arrays = [rng.random(shape).astype(np.float16) for shape in shapes]
    arrays.append(rng.integers(0, 21, (len(arrays[0]), 9, 11)).astype(np.uint8))
    paths = [tmp_path / f"{index}.npy" for index in range(len(arrays))]
    return arrays, paths, lambda index: [array[index] for array in arrays]


@pytest.mark.parametrize("cut", [0, 1, 5000])
def test_what_is_written_piece_by_piece_is_numpys_file_also_after_a_cut(tmp_path, cut):
    arrays, paths, pieces_of = _files(tmp_path, [(7, 2, 3, 5, 4), (7, 2, 2, 10, 8)])

    def stopped(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features._compute(paths, pieces_of, 7, stopped)
    begun = tmp_path / ".1.npy.partial"
    begun.write_bytes(begun.read_bytes()[: -cut or None])
    features._compute(paths, pieces_of, 7, lambda _: None)
    for array, path in zip(arrays, paths, strict=True):
        np.save(tmp_path / "expected.npy", array)
        assert path.read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_a_full_disk_is_told_and_what_is_on_it_is_kept(tmp_path, monkeypatch):
    arrays, paths, pieces_of = _files(tmp_path, [(7, 2, 3, 5, 4)])
    append, left = features._append, iter(range(9))

    def to_a_small_disk(file, content):
        if next(left, None) is None:
            content = memoryview(content)[:-1]
            file.write(content)
            raise OSError(28, "No space left on device")
        append(file, content)

    monkeypatch.setattr(features, "_append", to_a_small_disk)
    with pytest.raises(ResultError, match=r"cannot be written \(No space left on device\)"):
        features._compute(paths, pieces_of, 7, lambda _: None)
    monkeypatch.undo()
    computed = []
    features._compute(
        paths, lambda index: computed.append(index) or pieces_of(index), 7, lambda _: None
    )
    assert computed == [0, 0, 2, 3, 4, 5, 6]
    assert np.array_equal(np.load(paths[0]), arrays[0])


def test_begun_files_of_another_trunk_are_made_anew(tmp_path):
    arrays, paths, pieces_of = _files(tmp_path, [(7, 2, 3, 5, 4)])

    def stopped(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features._compute(
            paths, lambda index: [1.1 * pieces_of(index)[0], pieces_of(index)[1]], 7, stopped
        )
    features._compute(paths, pieces_of, 7, lambda _: None)
    assert np.array_equal(np.load(paths[0]), arrays[0])


def test_batches_are_those_of_fancy_indexing():
    rng = np.random.default_rng(0)
    maps = tuple(
        rng.random(shape).astype(np.float16) for shape in ((6, 2, 3, 5, 4), (6, 2, 2, 9, 9))
    )
    labels = rng.integers(0, 256, (6, 9, 11)).astype(np.uint8)
    indices, flipped = torch.tensor([5, 0, 0, 3]), torch.tensor([True, False, True, False])
    found, label = features.CachedFeatures(maps, labels).batch(indices, flipped)
    for array, map_ in zip(maps, found, strict=True):
        assert np.array_equal(map_, array[indices, flipped.long()].astype(np.float32))
    assert label.dtype == torch.int64
    expected = [
        labels[i][:, ::-1] if f else labels[i] for i, f in zip(indices, flipped, strict=True)
    ]
    assert np.array_equal(label, np.stack(expected))


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
