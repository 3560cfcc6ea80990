"""The public Python API: typed, listed, and each example of the docs as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import segbench
from segbench.engine.counting import confusion_matrix
from segbench.errors import DataError
from segbench.metrics.arrays import counts_of_arrays

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_listed_and_documented():
    page = (ROOT / "docs" / "python-api.md").read_text()
    for name in dir(segbench):
        assert getattr(segbench, name).__doc__
    for name in (
        "run",
        "plan",
        "score",
        "compare",
        "load_results",
        "build_model",
        "ConfusionMatrix",
    ):
        assert f"`{name}`" in page
    assert (ROOT / "segbench" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        segbench.nothing  # noqa: B018


def test_the_examples_of_the_docs_run_as_they_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    page = (ROOT / "docs" / "python-api.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    exec(compile(code, "docs/python-api.md", "exec"), {"__name__": "docs"})


def test_scoring_and_planning_load_no_torch():
    code = (
        "import sys, numpy as np, segbench\n"
        "one = segbench.score([np.zeros((2, 2), int)] * 2, [np.zeros((2, 2), int)] * 2, 2)\n"
        "segbench.compare(one, one)\n"
        "segbench.plan('experiments/quickstart.yaml')\n"
        "assert not {'torch', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_arrays_are_counted_as_the_trainings_scorer_counts(seed, num_classes):
    rng = np.random.default_rng(seed)
    label = rng.choice([*range(num_classes), 255], (9, 11))
    prediction = rng.integers(-1, num_classes + 2, (9, 11))
    counts = counts_of_arrays([prediction], [label], num_classes)
    matrix = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), num_classes)
    inner = matrix[:, :num_classes].numpy()
    assert counts.tp[0].tolist() == np.diag(inner).tolist()
    assert counts.label[0].tolist() == matrix.sum(1).tolist()
    assert counts.pred[0].tolist() == inner.sum(0).tolist()


@pytest.mark.parametrize(
    ("predictions", "labels", "said"),
    [
        ([[[0]]], [[[0, 1]]], "image 0: prediction and label must have one shape"),
        ([[[0]]], [[[7]]], "image 0: labels must lie in 0..1 or be 255"),
        ([[[0.5]]], [[[0]]], "image 0: the prediction holds float64"),
        ([[[0]]], [], "not equally many"),
        ([], [], "there is no image"),
    ],
)
def test_wrong_arrays_are_named(predictions, labels, said):
    with pytest.raises(DataError, match=re.escape(said)):
        segbench.score(predictions, labels, 2)


def test_names_must_fit():
    image = np.zeros((2, 2), int)
    with pytest.raises(DataError, match="names: 2 given for 1 images"):
        segbench.score([image], [image], 2, names=["a", "b"])
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        segbench.score([image], [image], 2, class_names=["a", "b", "c"])


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="no such option: seed"):
        segbench.plan("experiments/quickstart.yaml", seed=1)  # type: ignore[call-arg]


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "segbench.engine.torchmetric", raising=False)
    with pytest.raises(
        ImportError, match="needs torchmetrics: pip install 'segbench\\[metrics\\]'"
    ):
        segbench.ConfusionMatrix  # noqa: B018


def test_a_training_without_tensorboard_writes_its_log_alone(tmp_path, monkeypatch):
    from segbench.engine.training_log import TrainingLog

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with TrainingLog(tmp_path, first_step=0) as log:
        log.add(1, "all", loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
