"""A metric of somebody's own: found by name, trusted, part of the protocol, usable like any other."""

import sys

import numpy as np
import pytest
from test_metrics import CLASSES, compare, counted, counts

from segbench.claims.judge import judge
from segbench.code import own as own_code
from segbench.commands.run import Flags, prepare_run
from segbench.errors import CardError, ExperimentError
from segbench.runs.trial_files import evaluation_of, write_counts
from segbench.schema.claims import Compare
from segbench.schema.protocol import Protocol
from segbench.statistics.observations import Observation

DICE = """
import numpy as np
from segbench.metrics import Metric

class Dice(Metric):
    takes_classes = True

    def value(self, model):
        sums = model.counts.sums
        of_classes = 2 * sums.tp / np.maximum(sums.label + sums.pred, 1)
        return float(of_classes[model.kept()].mean())

dice = Dice()
number = 3
"""
FAST = """
from segbench.metrics.of_sums import MeanOverClasses

class Dice(MeanOverClasses):
    def above(self, pixels):
        return 2 * pixels.tp

    def below(self, pixels):
        return pixels.label + pixels.pred

dice = Dice()
"""
EXPERIMENT = """
question: Which is better?
sweep: {{backbone: [resnet18, resnet50], head: fcn32s, dataset: shapes_4, seeds: 4}}
train:
  images: {{squash: [32, 32]}}
  batch_size: 4
  stages: [{{name: all, steps: 4, optimizer: {{name: sgd, lr: 0.1}}}}]
evaluate:
  native: {{{native}}}
claims:
  - kind: compare
    says: resnet18 is better
    metric: {metric}
    left: {{backbone: resnet18}}
    right: {{backbone: resnet50}}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes the module `mydice`, trusted, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(own_code.TRUSTED_VARIABLE, "mydice")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(own_code, "_loaded", {})

    def write(text: str) -> None:
        sys.modules.pop("mydice", None)
        own_code._loaded.pop("mydice", None)
        (tmp_path / "mydice.py").write_text(text)

    write(DICE)
    yield write
    sys.modules.pop("mydice", None)


def planned(folder, native="", metric="mydice:dice"):
    path = folder / "asked.yaml"
    path.write_text(EXPERIMENT.format(native=native, metric=metric))
    return prepare_run(path, Flags(results=folder / "results")).asked


def expected(of) -> float:
    return float(
        np.mean(
            [
                2 * t.sum() / (u.sum() + p.sum())
                for t, u, p in zip(of.tp.T, of.label.T, of.pred.T, strict=True)
            ]
        )
    )


def test_its_source_is_part_of_the_protocol_that_names_it_and_of_no_trial(own, tmp_path):
    plain = planned(tmp_path, metric="mean_iou")
    named = planned(tmp_path, "metrics: ['mydice:dice']")
    assert list(named.trials) == list(plain.trials)
    digests = [asked.experiment.evaluate["native"].digest() for asked in (plain, named)]
    assert digests[0] == Protocol().digest() != digests[1]
    own(DICE + "# changed\n")
    changed = planned(tmp_path, "metrics: ['mydice:dice']")
    assert changed.experiment.evaluate["native"].digest() not in digests
    assert list(changed.trials) == list(plain.trials)


def test_it_is_computed_beside_the_others_and_refused_where_its_code_has_changed(own, tmp_path):
    asked = planned(tmp_path, "metrics: ['mydice:dice']")
    trial = next(iter(asked.trials.values()))
    protocol = asked.experiment.evaluate["native"]
    keys = {
        "trial_id": trial.id(),
        "protocol": protocol,
        "dataset": trial.dataset,
        "split_fingerprint": "x",
    }
    found = evaluation_of(counted(counts(0)), **keys)
    assert found.figures["mydice:dice"] == pytest.approx(expected(counts(0)))
    own(DICE + "# changed\n")
    with pytest.raises(CardError, match="mydice has changed; start again"):
        evaluation_of(counted(counts(0)), **keys)


def test_a_claim_on_it_is_judged(own, tmp_path):
    protocol = planned(tmp_path, "metrics: ['mydice:dice']").experiment.evaluate["native"]
    names = [f"c{index}" for index in range(CLASSES)]
    observations = [
        Observation({"head": head}, "native", seed, counts(seed + start), names, code=protocol.code)
        for head, start in (("a", 0), ("b", 10))
        for seed in range(4)
    ]
    claim = Compare(says="x", left={"head": "a"}, right={"head": "b"}, metric="mydice:dice")
    (verdict,) = judge([claim], observations, resamples=30)
    means = [
        np.mean([100 * expected(counts(seed + start)) for seed in range(4)]) for start in (0, 10)
    ]
    assert verdict.parts[0].effect == pytest.approx(means[0] - means[1])
    own(DICE + "# changed\n")
    (verdict,) = judge([claim], observations, resamples=30)
    assert "was scored by another mydice:dice: mydice has changed" in verdict.missing[0]


def test_it_is_compared(own, tmp_path):
    own(FAST)
    for file, seed in (("a.npz", 0), ("b.npz", 1)):
        write_counts(tmp_path / file, counted(counts(seed)))
    done = compare(tmp_path, "mydice:dice")
    assert done.exit_code == 0, done.output
    left, right = (100 * expected(counts(seed)) for seed in (0, 1))
    assert f"{left:.2f} - {right:.2f}" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("native", "metric", "sentence"),
    [
        (
            "",
            "mydice:dice",
            "protocol native does not compute mydice:dice; give it `metrics: [mydice:dice]`",
        ),
        ("metrics: ['mydice:number']", "mean_iou", "mydice:number is no metric but a int"),
        ("metrics: ['mydice:dise']", "mean_iou", "mydice:dise cannot be found"),
        ("metrics: ['elsewhere:dice']", "mean_iou", "which is not trusted"),
        ("metrics: [mean_iou]", "mean_iou", "segbench's are always computed"),
        ("code: {a: b}", "mean_iou", "is filled in from `metrics`"),
    ],
)
def test_a_wrong_one_is_a_sentence_before_anything_runs(own, tmp_path, native, metric, sentence):
    with pytest.raises(ExperimentError) as caught:
        planned(tmp_path, native, metric)
    assert sentence in str(caught.value)
    assert "asked.yaml:" in str(caught.value)
