"""The KTH study's metric: predictions of a class count in images alone whose label has the class."""

import numpy as np
import pytest
import torch
from command_line import invoked
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from segbench.commands.run import Flags, prepare_run
from segbench.engine.evaluate import count_predictions
from segbench.metrics.counts import Counts
from segbench.metrics.mean_accuracy import MeanAccuracy
from segbench.metrics.mean_iou import mean_iou
from segbench.runs import trial_files
from segbench.schema.protocol import Protocol
from segbench.work import predictions, scoring
from segbench.work.trial import run_trial

CLASSES = 5
STUDY = Protocol(name="study", false_positives="labelled_images", absent_class="zero")


def plain_reading(pairs: list[tuple[NDArray, NDArray]]) -> tuple[float, float]:
    """Return mean accuracy and mean IU as the study's metric says: a loop over each label's classes.

    Source: colorize.py, which adds what is right, labelled and predicted over np.unique(label), and
    divides by all classes.
    """
    right, labelled, predicted = np.zeros(CLASSES), np.zeros(CLASSES), np.zeros(CLASSES)
    for prediction, label in pairs:
        for c in np.unique(label[label != 255]):
            right[c] += ((prediction == c) & (label == c)).sum()
            labelled[c] += (label == c).sum()
            predicted[c] += ((prediction == c) & (label != 255)).sum()
    there = labelled > 0
    accuracies = right[there] / labelled[there]
    ious = right[there] / (labelled + predicted - right)[there]
    return accuracies.sum() / CLASSES, ious.sum() / CLASSES


def counted(pairs: list[tuple[NDArray, NDArray]], protocol: Protocol) -> Counts:
    named = (
        (str(index), torch.from_numpy(prediction), torch.from_numpy(label))
        for index, (prediction, label) in enumerate(pairs)
    )
    return count_predictions(named, num_classes=CLASSES, protocol=protocol).as_counts()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_rule_is_the_study_s_by_a_plain_reading(seed, images):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        there = rng.permutation(CLASSES)[: rng.integers(1, CLASSES)]
        label = rng.choice([*there, 255], (9, 7)).astype(np.uint8)
        pairs.append((rng.integers(0, CLASSES, (9, 7)).astype(np.uint8), label))
    sums = counted(pairs, STUDY).sums
    accuracy, iou = plain_reading(pairs)
    assert MeanAccuracy().of_sums(sums, "zero") == pytest.approx(accuracy, abs=1e-12)
    assert mean_iou(sums, "zero") == pytest.approx(iou, abs=1e-12)


def test_false_alarms_elsewhere_are_left_out_and_nothing_else_is():
    label = np.array([[0, 0, 1, 1]], dtype=np.uint8)
    pairs = [(label, label), (np.array([[1, 0, 0, 0]], dtype=np.uint8), np.zeros_like(label))]
    field, study = counted(pairs, Protocol()).sums, counted(pairs, STUDY).sums
    assert (field.pred.tolist()[:2], study.pred.tolist()[:2]) == ([5, 3], [5, 2])
    assert mean_iou(field) == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert mean_iou(study) == pytest.approx((5 / 6 + 1) / 2)


def test_counts_serve_where_only_what_is_done_with_them_differs():
    assert STUDY.counts_like(Protocol())
    assert Protocol(with_background=False).counts_like(Protocol(absent_class="zero", name="other"))
    assert not Protocol().counts_like(STUDY)  # the false alarms are gone from its counts
    assert STUDY.revised(absent_class="skip").counts_like(STUDY)
    for other in (Protocol(flip=True), Protocol(split="train"), Protocol(void="false_positive")):
        assert not STUDY.counts_like(other)


def test_boundaries_have_no_such_rule():
    with pytest.raises(ValidationError, match=r"labelled_images knows no boundary; leave it out"):
        Protocol(false_positives="labelled_images", boundary=0.02)


def test_evaluate_copies_the_counts_of_a_run_without_its_models(toy_run, monkeypatch):
    monkeypatch.setattr(predictions, "load_segmenter", None)  # no model is built
    for workdir in trial_files.trial_folders(toy_run):
        (workdir / trial_files.WEIGHTS).unlink()
    rule = ["--set", "false_positives=labelled_images", "--set", "absent_class=zero"]
    done = invoked("evaluate", toy_run, *rule, "--name", "study")
    assert done.exit_code == 0, done.output
    for workdir in trial_files.trial_folders(toy_run):
        plain = trial_files.load_counts(trial_files.counts_path(workdir, Protocol()))
        found = trial_files.load_counts(trial_files.counts_path(workdir, STUDY))
        assert np.array_equal(found.pred, np.where(plain.label > 0, plain.pred, 0))
        assert np.array_equal(found.label, plain.label)
        evaluation = trial_files.load_evaluation(workdir, STUDY)
        assert evaluation is not None
        assert evaluation.figures["mean_iou"] == mean_iou(found.as_counts().sums, "zero")


def test_copied_counts_are_those_of_scoring_again(toy_run, monkeypatch):
    workdir = next(iter(trial_files.trial_folders(toy_run)))
    command = ["evaluate", str(toy_run), workdir.name, "--set", "false_positives=labelled_images"]
    stored = []
    for copies in (True, False):
        if not copies:
            monkeypatch.setattr(trial_files, "counted_alike", lambda *_: None)
        assert invoked(*command).exit_code == 0
        protocol = Protocol(false_positives="labelled_images")
        paths = (
            trial_files.counts_path(workdir, protocol),
            trial_files.evaluation_path(workdir, protocol),
        )
        stored.append([path.read_bytes() for path in paths])
        for path in paths:
            path.unlink()
    assert stored[0] == stored[1]


def test_a_trial_scores_protocols_that_count_alike_once(toy_project, tmp_path, monkeypatch):
    flags = Flags(cache=tmp_path / "cache", device="cpu", results=tmp_path / "results")
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    trial_id, trial = next(iter(prepared.asked.trials.items()))
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    scored = []

    def counting(*arguments, **options):
        scored.append(arguments[2].name)
        return evaluate(*arguments, **options)

    evaluate = scoring.evaluate
    monkeypatch.setattr(scoring, "evaluate", counting)
    protocols = (STUDY, Protocol(), Protocol(name="mirrored", flip=True))
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=protocols) == "done"
    assert scored == ["native", "mirrored"]
    assert trial_files.is_done(workdir, protocols)
