"""Rules of judging: pairs, few seeds, two populations, bands, and what older runs were promised."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired
from test_analysis_judge import BETTER, CLASSES, GOOG, VGG, cell, two

from segbench.claims.judge import judge
from segbench.claims.seeds import outlier_of
from segbench.metrics.mean_iou import mean_iou
from segbench.report.claims_page import render_claims
from segbench.schema.claims import Compare, Equivalent, Value

FINE, COARSE = {"backbone": "vgg", "head": "h8"}, {"backbone": "vgg", "head": "h32"}
FINER = Compare(says="finer is better", left={"head": "h8"}, right={"head": "h32"})


def of_heads(gap=0.03, seeds=5, seed_sd=0.02):
    """Two heads of one trunk whose figures have a gap."""
    return cell(FINE, 0.7 + gap, seeds=seeds, seed_sd=seed_sd) + cell(
        COARSE, 0.7, seeds=seeds, seed_sd=seed_sd
    )


def values(observations):
    every = np.array([100 * mean_iou(one.counts.sums) for one in observations])
    return np.split(every, 2)


def one(claim, observations, **asked):
    return judge([claim], observations, **asked)[0]


def test_heads_of_one_trunk_are_paired_and_backbones_are_not():
    on_these = FINER.revised(on="these_images")
    verdict = one(on_these, of_heads())
    theirs = stats.ttest_rel(*values(of_heads()))
    assert verdict.parts[0].test == "paired t"
    assert verdict.p == pytest.approx(theirs.pvalue)
    apart = one(on_these.revised(seeds="independent"), of_heads())
    assert apart.p == pytest.approx(stats.ttest_ind(*values(of_heads()), equal_var=False).pvalue)
    assert one(BETTER, two(0.05)).parts[0].test == "Welch"
    asked = one(BETTER.revised(seeds="paired", on="these_images"), two(0.05))
    assert asked.p == pytest.approx(stats.ttest_rel(*values(two(0.05))).pvalue)


def test_a_run_from_before_pairs_keeps_its_rule():
    verdict = one(FINER, of_heads(), rule=1)
    assert (verdict.parts[0].test, verdict.rule) == ("Welch", 1)
    few = one(FINER, of_heads(seeds=3), rule=1)
    assert "takes at least 4" in few.reason
    assert one(FINER, of_heads(seeds=3)).p is not None


def test_each_population_has_its_interval_and_the_claim_says_which_decides():
    new, these = (one(FINER.revised(on=on), of_heads()) for on in ("new_images", "these_images"))
    assert new.parts[0].other == (these.parts[0].low, these.parts[0].high)
    assert these.parts[0].other == (new.parts[0].low, new.parts[0].high)
    assert new.parts[0].high - new.parts[0].low >= these.parts[0].high - these.parts[0].low
    assert "on these very images" in these.question
    assert "| 95 % on these very images" in render_claims([new])
    assert "| 95 % on new images" in render_claims([these])


@pytest.mark.parametrize("margin", [0.4, 1.0, 2.0])
def test_alike_is_what_two_one_sided_tests_of_statsmodels_say(margin):
    claim = Equivalent(
        says="same", left={"head": "h8"}, right={"head": "h32"}, margin=margin, on="these_images"
    )
    observations = of_heads(gap=0.004)
    verdict = one(claim, observations)
    assert verdict.parts[0].p_for == pytest.approx(
        ttost_paired(*values(observations), -margin, margin)[0]
    )
    apart = one(claim.revised(seeds="independent"), observations)
    expected = ttost_ind(*values(observations), -margin, margin, usevar="unequal")[0]
    assert apart.parts[0].p_for == pytest.approx(expected)
    if apart.parts[0].p_for < apart.parts[0].p_against:
        assert apart.p == apart.parts[0].p_for  # not twice
    doubled = one(claim.revised(seeds="independent"), observations, rule=1)
    assert doubled.p == pytest.approx(
        min(1, 2 * min(doubled.parts[0].p_for, doubled.parts[0].p_against))
    )
    assert (apart.confidence, doubled.confidence) == (0.9, 0.95)


def test_a_band_of_no_width_is_refuted_as_often_as_a_difference_is_found():
    claim = Equivalent(says="same", left=VGG, right=GOOG, margin=1e-9, on="these_images")
    observations = two(0.05)
    theirs = stats.ttest_ind(*values(observations), equal_var=False)
    assert one(claim, observations).p == pytest.approx(theirs.pvalue, rel=1e-4)


def test_cells_without_a_seed_in_common_are_missing_and_no_number_is_made_of_them():
    heads = [{"head": "h1"}, {"head": "h2"}]
    observations = [
        o
        for backbone in (VGG, GOOG)
        for head, first in zip(heads, (0, 5), strict=True)
        for o in cell(backbone | head, 0.7, seeds=10)
        if first <= o.seed < first + 5
    ]
    verdict = one(BETTER.revised(average=True), observations)
    assert verdict.missing == ("its cells have no seed in common",)
    assert verdict.parts == ()


def test_seeds_without_a_partner_are_named():
    observations = of_heads(seeds=6)
    verdict = one(FINER, [o for o in observations if (o.axes["head"], o.seed) != ("h8", 5)])
    assert verdict.parts[0].seeds == (5, 5)
    assert any("voc vgg h32 native counts 5 of its 6 seeds" in n for n in verdict.notes), (
        verdict.notes
    )


def test_a_seed_far_off_and_unequal_spreads_are_told():
    assert outlier_of(np.array([1.0, 1.1, 0.9, 1.05, 9.0])) == 4
    assert outlier_of(np.array([1.0, 1.1, 0.9, 1.05, 1.2])) is None
    assert outlier_of(np.array([1.0, 1.1, 9.0])) is None
    observations = cell(VGG, 0.75, seed_sd=0.1) + cell(GOOG, 0.7, seed_sd=0.005)
    assert any("vary much more" in note for note in one(BETTER, observations).notes)
    assert not any("vary much more" in note for note in one(BETTER, two(0.05)).notes)


def test_what_is_compared_may_be_the_median_of_the_seeds():
    observations = two(0.05)
    verdict = one(BETTER.revised(target="median"), observations)
    left, right = values(observations)
    assert verdict.parts[0].effect == pytest.approx(np.median(left) - np.median(right))
    assert "the median over seeds of mean IoU" in render_claims([verdict])


def test_a_claim_fails_only_by_the_comparison_whose_p_decides():
    verdict = one(BETTER.revised(left=GOOG, right=VGG), two(0.05))
    decides = min(verdict.judged, key=lambda part: part.p_against)
    assert (verdict.outcome, decides.leaning) == ("fails", "against")


@pytest.mark.parametrize("groups", [4, 5])
def test_fewer_than_five_groups_of_images_say_nothing_of_new_ones(groups):
    from dataclasses import replace

    observations = two(0.05)
    names = observations[0].counts.names
    grouped = [
        replace(o, groups=[f"drive{i % groups}" for i in range(len(names))]) for o in observations
    ]
    verdict = one(BETTER, grouped)
    assert (verdict.p is None) == (groups < 5)
    assert ("nothing can be said of new images" in verdict.reason) == (groups < 5)
    these = one(BETTER.revised(on="these_images"), grouped)
    assert these.outcome == "holds"
    assert f"come from {groups} groups" in render_claims([verdict])


def test_the_interval_at_the_corrected_level_stands_beside_and_says_what_p_says():
    claims = [BETTER, *(BETTER.revised(says=str(m), margin=m) for m in (3.0, 4.0, 5.0))]
    for verdict in judge(claims, two(0.05)):
        part = verdict.parts[0]
        low, high = part.interval(verdict.decisive)
        clear = low > part.region.lower or high < part.region.lower
        assert clear == (verdict.p * round(0.05 / (1 - verdict.decisive)) <= 0.05)
    assert "as corrected" in render_claims(judge(claims, two(0.05)))


def test_a_published_number_is_of_the_images_that_were_scored():
    claim = Value(says="v", where={"backbone": ("vgg",)}, published=60.0, tolerance=30.0)
    assert claim.on == "these_images"
    assert len(CLASSES) > 2
    assert one(claim, two(0.05)).question == "the method: new seeds, on these very images"
