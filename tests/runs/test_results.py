"""Result files: sound or absent, never half; small; equal bytes for equal results."""

import numpy as np
import pytest

from segbench.errors import ResultError
from segbench.files import write_atomically, write_json
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.trial_files import Result
from segbench.schema.protocol import Protocol


def synthetic_counts(num_images, num_classes, per_image, pixels=200_000, seed=0):
    """Counts as large as real ones: `per_image` classes of random sizes in each image."""
    rng = np.random.default_rng(seed)
    tp, label, pred = (np.zeros((num_images, num_classes), dtype=np.int64) for _ in range(3))
    for image in range(num_images):
        present = rng.choice(num_classes, min(per_image, num_classes), replace=False)
        label[image, present] = rng.integers(0, pixels // per_image, len(present))
        pred[image, present] = rng.integers(0, pixels // per_image, len(present))
        tp[image, present] = np.minimum(label, pred)[image, present] * rng.random(len(present))
    names = tuple(f"2007_{index:06d}" for index in range(num_images))
    confusion = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    confusion[:, :num_classes] = rng.integers(0, 10**9, (num_classes, num_classes))
    return Counted(names, tp, label, pred, confusion)


def test_counts_come_back_as_they_went_and_give_equal_bytes(tmp_path):
    counts = synthetic_counts(50, 21, 6)
    for name in ("a.npz", "b.npz"):
        trial_files.write_counts(tmp_path / name, counts)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = trial_files.load_counts(tmp_path / "a.npz")
    assert back.names == counts.names
    for ours, theirs in zip(back[1:], counts[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("images", "classes", "per_image"), [(1449, 21, 5), (2000, 150, 20), (5000, 171, 15)]
)
def test_counts_of_the_three_data_sets_take_at_most_a_megabyte(
    tmp_path, images, classes, per_image
):
    trial_files.write_counts(tmp_path / "counts.npz", synthetic_counts(images, classes, per_image))
    assert (tmp_path / "counts.npz").stat().st_size <= 1_000_000


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"not a zip file at all"])
def test_damaged_counts_are_an_error_that_names_the_file(tmp_path, damage):
    (tmp_path / "counts.npz").write_bytes(damage)
    with pytest.raises(ResultError, match=r"counts\.npz: is not a sound file of counts"):
        trial_files.load_counts(tmp_path / "counts.npz")


def test_a_torn_result_is_as_good_as_none(tmp_path):
    trial_files.write_result(tmp_path, Result(trial_id="a", status="done"))
    path = tmp_path / "result.json"
    assert trial_files.load_result(tmp_path) is not None
    path.write_bytes(path.read_bytes()[:-9])
    assert trial_files.load_result(tmp_path) is None
    assert not trial_files.is_done(tmp_path, (Protocol(),))


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResultError, match="No space left on device"):
        write_atomically(tmp_path / "a.json", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'


@pytest.mark.parametrize("torn", [b"", b'{"seed": '])
def test_a_torn_trial_file_is_written_again(toy_run, torn):
    workdir = next(trial_files.trial_folders(toy_run))
    trial = trial_files.load_trial(workdir)
    before = (workdir / "trial.json").read_bytes()
    (workdir / "trial.json").write_bytes(torn)
    trial_files.write_trial(workdir, trial)
    assert (workdir / "trial.json").read_bytes() == before
