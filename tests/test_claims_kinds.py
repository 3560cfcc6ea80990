"""What every kind of claim must answer, built in or not, from its record to its place on the page."""

import math
from typing import Literal

import numpy as np
import pytest

from segbench.claims.cells import Step, cells_in, judgements
from segbench.claims.judge import judge
from segbench.claims.kind import Kind, Measured
from segbench.claims.kinds import KINDS, kind_of, usable
from segbench.claims.planning import plan_claims, with_settle_note
from segbench.claims.verdict import Region
from segbench.metrics.counts import Counts
from segbench.report.claims_page import render_claims, render_plan
from segbench.schema.claims import (
    AnyClaim,
    Compare,
    Correlate,
    Equivalent,
    MeasuredClaim,
    Order,
    Trend,
    Value,
)
from segbench.statistics.observations import Observation, cells_of
from segbench.statistics.power import STATED_SPREAD

CLASSES = ("sky", "car", "cat", "cow", "cup", "pot")
COARSE, FINE = {"head": "coarse"}, {"head": "fine"}
EXAMPLES: dict[str, AnyClaim] = {
    "compare": Compare(says="s", left=FINE, right=COARSE, per_class=True),
    "order": Order(says="s", rising=(COARSE, FINE)),
    "equivalent": Equivalent(says="s", left=FINE, right=COARSE, margin=1),
    "trend": Trend(says="s", along="train.batch_size", direction="rises", monotone=True),
    "correlate": Correlate(says="s", by="training_pixels", average=True),
    "value": Value(says="s", published=60, tolerance=1),
}


def world(*, seeds: int) -> list[Observation]:
    """Return two heads at two batch sizes; fine is better, and so is the larger batch."""
    label = np.random.default_rng(0).integers(100, 900, (40, len(CLASSES)))
    found = []
    for head, quality in (("coarse", 0.6), ("fine", 0.7)):
        for batch in (1, 8):
            for seed in range(seeds):
                rng = np.random.default_rng([seed, batch, len(head)])
                share = quality + 0.01 * batch + rng.normal(0, 0.01, label.shape) + 0.01 * seed
                tp = (label * share).astype(int)
                axes = {"dataset": "toy", "head": head, "train.batch_size": str(batch)}
                counts = Counts(tp, label, tp, [f"image{index}" for index in range(len(label))])
                amounts = np.arange(len(CLASSES), dtype=float)
                found.append(
                    Observation(axes, "native", seed, counts, CLASSES, training_pixels=amounts)
                )
    return found


def test_each_record_has_one_kind_and_each_kind_an_example():
    named = [record.model_fields["kind"].default for record in AnyClaim.__args__]
    assert named == list(KINDS) == list(EXAMPLES)
    assert all(EXAMPLES[name].kind == name for name in KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_compares_cells_that_it_can_use_and_knows_where_it_puts_the_effect(name):
    claim, kind = EXAMPLES[name], KINDS[name]
    cells, missing = usable(claim, cells_of(world(seeds=4)))
    assert cells
    assert missing == []
    bounds = kind.region(claim).bounds()
    assert len(bounds) in {1, 2}
    assert kind.is_band(claim) is (len(bounds) == 2)
    for _, combinations in judgements(claim, cells):
        steps = list(kind.effects(claim, combinations))
        assert steps
        for step in steps:
            assert not step.problem
            assert {cell.key for _, cell in step.weights} <= {c.key for c in cells_in(combinations)}
            small = kind.smallest_found(claim, step, STATED_SPREAD, alpha=0.05, power=0.8)
            assert small is None or small > 0


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_planned_judged_and_told(name):
    claim, kind = EXAMPLES[name], KINDS[name]
    (planned,) = plan_claims([claim], cells_of(world(seeds=5)))
    assert claim.says in render_plan([planned])
    for seeds, which in ((1, 0), (5, 1)):
        (verdict,) = judge([claim], world(seeds=seeds), resamples=200)
        assert verdict.parts
        assert not verdict.missing
        assert verdict.question == kind.questions(claim)[which]
        assert verdict.unit == kind.unit(claim)
        for part in verdict.parts:
            assert part.low <= part.effect <= part.high
            assert 0 <= part.p_for <= 1
            assert 0 <= part.p_against <= 1
            assert kind.failed(claim, part).endswith(".")
        page = render_claims([with_settle_note(verdict, [4, 8])])
        assert f"- Asked: {kind.asked(claim)}." in page
        assert verdict.reason in page
        assert "nan" not in page


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_leaves_out_cells_that_lack_what_it_reads(name):
    claim = EXAMPLES[name].revised(classes=("dog",))
    cells, missing = usable(claim, cells_of(world(seeds=1)))
    assert cells == []
    assert all(sentence.endswith("has no class dog") for sentence in missing)


def test_what_a_kind_leaves_out_stops_the_import():
    class Half(Measured[Compare]):
        def region(self, claim: Compare) -> Region:
            return Region(lower=claim.margin)

    with pytest.raises(TypeError, match="asked"):
        Half()  # pyright: ignore[reportAbstractUsage]


class Floor(MeasuredClaim):
    """Every cell lies above a floor."""

    kind: Literal["floor"] = "floor"
    floor: float


class FloorKind(Measured[Floor]):
    def region(self, claim):
        del claim
        return Region.beyond(0.0)

    def effects(self, claim, combinations):
        for cell in cells_in(combinations):
            yield Step(cell.axes["head"], ((1.0, cell),), self.region(claim), offset=claim.floor)

    def asked(self, claim):
        return f"{self.what(claim)} of each lies above {claim.floor:g} {self.unit(claim)}"


def test_a_kind_from_elsewhere_is_judged_planned_and_told(monkeypatch):
    kind: Kind[Floor] = FloorKind()
    monkeypatch.setitem(KINDS, "floor", kind)
    claim = Floor(says="all are good", floor=30)
    assert kind_of(claim) is kind  # pyright: ignore[reportArgumentType]
    claims: list = [claim, EXAMPLES["compare"], claim.revised(floor=90)]
    above, _, below = judge(claims, world(seeds=5), resamples=500)
    assert (above.outcome, below.outcome) == ("holds", "fails")
    assert len(above.parts) == 4
    page = render_claims([above, below])
    assert "- Asked: mean IoU of each lies above 30 points." in page
    assert "The opposite is shown for" in page
    (planned,) = plan_claims([claim], cells_of(world(seeds=5)))  # pyright: ignore[reportArgumentType]
    assert planned.detectable is not None
    assert math.isfinite(planned.detectable)
