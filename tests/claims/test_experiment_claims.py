"""The claims of every experiment file: each can be judged once its sweep has results."""

from pathlib import Path

import numpy as np
import pytest

from segbench.claims.judge import judge
from segbench.claims.planning import plan_claims, planned_cells
from segbench.metrics.counts import Counts
from segbench.report.claims_page import render_claims
from segbench.schema.catalog import Catalog
from segbench.schema.experiment import read_experiment
from segbench.schema.sweep import expand
from segbench.statistics.observations import Observation

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
IMAGES = 12


def _with_results(planned: Observation, trained: int) -> Observation:
    """Return the planned observation with made-up counts, facts and training classes."""
    classes = len(planned.class_names)
    scene = np.random.default_rng(classes)
    label = scene.integers(1, 900, (IMAGES, classes))
    rng = np.random.default_rng([trained, planned.seed])
    tp = np.floor(label * rng.uniform(0.3, 0.7, classes)).astype(np.int64)
    facts = dict.fromkeys(planned.facts, 1.0 + trained + 0.1 * planned.seed)
    facts |= {"parameters": 100.0 + trained, "flops": 5.0 + trained, "num_classes": classes}
    amounts = np.arange(classes, 0, -1.0)
    return Observation(
        planned.axes, planned.protocol, planned.seed,
        Counts(tp, label, tp, tuple(map(str, range(IMAGES)))), planned.class_names,
        facts=facts, training_pixels=amounts, training_images=amounts,
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_claim_can_be_judged_once_the_sweep_has_results(path):
    experiment, document = read_experiment(path, ())
    plan = expand(experiment, Catalog.on_path((), experiment=path), document)
    cells = planned_cells(plan)
    for planned in plan_claims(experiment.claims, cells):
        too_few_seeds = planned.warning.startswith("can never be decided with")
        assert too_few_seeds or "never" not in planned.warning, planned
    observations = [
        _with_results(one, index) for index, cell in enumerate(cells) for one in cell.observations
    ]
    verdicts = judge(experiment.claims, observations, resamples=50)
    assert len(verdicts) == len(experiment.claims)
    for verdict in verdicts:
        assert verdict.parts, verdict.claim.says
        assert verdict.missing == (), verdict.claim.says
    assert render_claims(verdicts).count("## ") == (len(verdicts) + 1 if verdicts else 0)


def test_the_files_carry_at_least_ten_claims_of_the_literature():
    sourced = {
        claim.says
        for path in FILES
        for claim in read_experiment(path, ())[0].claims
        if claim.source is not None and not claim.source.paper.startswith("none")
    }
    assert len(sourced) >= 10, sourced
