"""What every kind of claim must answer, built in or not, from its record to its place on the page."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import invoked

from segbench.claims.cells import cells_in, judgements
from segbench.claims.judge import judge
from segbench.claims.kind import Measured
from segbench.claims.kinds import KINDS, usable, wrong_kinds
from segbench.claims.planning import plan_claims, with_settle_note
from segbench.claims.verdict import Region
from segbench.code import own as own_code
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.errors import ExperimentError
from segbench.metrics.counts import Counts
from segbench.report.claims_page import render_claims, render_plan
from segbench.runs.record import RunRecord, record_of
from segbench.schema.base import Spec
from segbench.schema.claims import (
    AnyClaim,
    BuiltIn,
    Claim,
    Compare,
    Correlate,
    Equivalent,
    Order,
    OwnClaim,
    Trend,
    Value,
)
from segbench.schema.yamlfile import parse_document, validate
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
    named = [record.model_fields["kind"].default for record in BuiltIn.__args__]
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


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
OWN = "floors"
(FLOOR,) = re.findall(rf"```python\n(# {OWN}.py\n.*?)```", DOCUMENTED, re.DOTALL)
(CLAIM,) = re.findall(rf'```yaml\n(claims:\n  - {{kind: "{OWN}:.*?)```', DOCUMENTED, re.DOTALL)
BROKEN = """
class Half(Measured):
    pass

nothing = 3
"""


@pytest.fixture
def project(toy_project, monkeypatch):
    """The toy project with the kind and the claim of docs/claims.md, its module beside the cards."""
    (toy_project / f"{OWN}.py").write_text(FLOOR + BROKEN)
    with (toy_project / "experiments" / "toy.yaml").open("a") as experiment:
        experiment.write(CLAIM)
    monkeypatch.setenv("SEGBENCH_TRUSTED", OWN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(toy_project)])
    yield toy_project
    forget()


def forget() -> None:
    """Let the next import read the files, as another process does."""
    sys.modules.pop(OWN, None)
    own_code._loaded.clear()


def claims_of(project):
    flags = Flags(device="cpu", results=project / "results")
    return prepare_run(project / "experiments" / "toy.yaml", flags).asked.experiment.claims


def test_a_kind_of_the_users_is_judged_planned_and_told(project):
    (claim,) = claims_of(project)
    assert wrong_kinds([claim]) == []
    unreached = claim.model_copy(update={"arguments": {"percent": 90}})
    claims = [claim, EXAMPLES["compare"], unreached]
    above, _, below = judge(claims, world(seeds=5), resamples=500)
    assert (above.outcome, below.outcome) == ("holds", "fails")
    assert len(above.parts) == 4
    page = render_claims([above, below])
    assert "- Asked: mean IoU of each lies above 30 points." in page
    assert "The opposite is shown for" in page
    assert "other code" not in page
    (planned,) = plan_claims([claim], cells_of(world(seeds=5)))
    assert planned.detectable is not None
    assert math.isfinite(planned.detectable)


def test_the_code_of_a_kind_is_part_of_the_claim_that_is_registered(project):
    (claim,) = claims_of(project)
    assert isinstance(claim, OwnClaim)
    assert list(claim.code) == [OWN]
    text = RunRecord.model_validate_json(record_text(project)).model_dump_json()
    assert RunRecord.model_validate_json(text).experiment.claims == (claim,)
    (project / f"{OWN}.py").write_text(FLOOR.replace("0.0", "1.0"))
    forget()
    (changed,) = claims_of(project)
    assert changed.asks() != claim.asks()
    (verdict,) = judge([claim], world(seeds=1), resamples=50)
    assert f"It is judged by other code than was registered: {OWN} has changed." in verdict.notes


def record_text(project) -> str:
    flags = Flags(device="cpu", results=project / "results")
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    return record_of(prepared.asked, "segbench run").model_dump_json()


def test_report_finds_a_kind_beside_the_cards_of_the_run(project, monkeypatch, tmp_path):
    (project / f"{OWN}.py").rename(project / "backbones" / f"{OWN}.py")
    ours = list(sys.path)
    flags = Flags(device="cpu", results=project / "results")
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    record_run(prepared, "segbench run")
    forget()
    monkeypatch.setattr(sys, "path", [folder for folder in ours if folder != str(project)])
    monkeypatch.chdir(tmp_path)
    done = invoked("report", prepared.run_folder)
    assert done.exit_code == 0, done.output
    assert (prepared.run_folder / "claims.md").is_file()


def test_a_kind_that_is_not_trusted_is_refused_in_its_line(project, monkeypatch):
    monkeypatch.delenv("SEGBENCH_TRUSTED")
    with pytest.raises(ExperimentError, match=rf"claims\[0\].kind: {OWN}:Floor would run code"):
        claims_of(project)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nothing", "expected a segbench.claims.kind.Kind, got 3"),
        ("Half", "Can't instantiate abstract class Half"),
        ("missing", "cannot be found"),
    ],
)
def test_what_is_no_kind_is_told_before_anything_is_trained(name, why):
    (sentence,) = wrong_kinds([OwnClaim(kind=f"{OWN}:{name}", says="s")])
    assert why in sentence


def test_a_claim_of_an_unknown_kind_is_told_the_built_in_ones():
    document = parse_document("claims: [{kind: ordr, says: s}]", "x.yaml", ExperimentError)
    with pytest.raises(ExperimentError) as told:
        validate(document, File, ExperimentError)
    assert "x.yaml:1: claims[0]: expected kind to be one of 'compare', " in str(told.value)
    assert "did you mean 'order'?" in str(told.value)


class File(Spec):
    claims: tuple[Claim, ...] = ()
