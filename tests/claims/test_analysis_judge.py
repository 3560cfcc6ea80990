"""Claims on small worlds whose answer is known, and the page that tells of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from segbench.claims.judge import judge
from segbench.claims.planning import measured_spreads, plan_claims, settle_plan
from segbench.errors import ResultError
from segbench.metrics.counts import Counts
from segbench.metrics.mean_iou import mean_iou
from segbench.report.claims_page import asked, render_claims, render_plan
from segbench.schema.claims import (
    AnyClaim,
    ClaimSource,
    Compare,
    Correlate,
    Equivalent,
    Order,
    Trend,
    Value,
)
from segbench.statistics.inference import holm
from segbench.statistics.observations import Observation, ObservedCell, cells_of
from segbench.statistics.power import (
    STATED_SPREAD,
    Spread,
    minimum_detectable_effect,
    settle_schedule,
)

CLASSES = ("background", "car", "cat", "cow", "cup", "pot")
VGG, GOOG = {"backbone": "vgg"}, {"backbone": "goog"}


def counts(quality: float, *, images: str, seed: int, seed_sd: float) -> Counts:
    """Return counts of 120 images; `quality` is the share of a class's pixels that is found."""
    scene = np.random.default_rng(list(images.encode()))
    label = scene.integers(2000, 9000, (120, 6)) * (scene.random((120, 6)) < 0.5)
    label[:, 0] = 9000
    hard = scene.normal(0, 0.08, (120, 6)) - 0.04 * np.arange(6)
    rng = np.random.default_rng([seed, int(1000 * quality)])
    found = np.clip(quality + hard + rng.normal(0, seed_sd) + rng.normal(0, 0.01, hard.shape), 0, 1)
    tp = np.floor(label * found).astype(int)
    return Counts(tp, label, tp, [f"{images}{index}" for index in range(120)])


def cell(
    axes: dict[str, str],
    quality: float,
    *,
    seeds: int = 5,
    seed_sd: float = 0.005,
    protocol: str = "native",
    **facts: float,
) -> list[Observation]:
    axes = {"dataset": "voc", **axes}
    return [
        Observation(
            axes,
            protocol,
            seed,
            counts(quality, images=axes["dataset"], seed=seed, seed_sd=seed_sd),
            CLASSES,
            facts={
                name: value + 0.01 * seed * (name == "forward_ms") for name, value in facts.items()
            },
            training_pixels=np.array([90.0, 50, 40, 30, 20, 10]),
        )
        for seed in range(seeds)
    ]


def verdict_of(claim: AnyClaim, observations: list[Observation], **keywords):
    return judge([claim], observations, resamples=2000, **keywords)[0]


BETTER = Compare(says="VGG is better", left=VGG, right=GOOG)


def two(gap: float, **keywords) -> list[Observation]:
    return cell(VGG, 0.7 + gap, **keywords) + cell(GOOG, 0.7, **keywords)


def test_a_large_gap_holds_and_its_effect_is_the_difference_of_mean_ious():
    observations = two(0.05)
    verdict = verdict_of(BETTER, observations)
    means = [
        100 * np.mean([mean_iou(o.counts.sums) for o in observations if o.axes["backbone"] == name])
        for name in ("vgg", "goog")
    ]
    assert verdict.outcome == "holds"
    assert verdict.parts[0].effect == pytest.approx(means[0] - means[1])
    assert verdict.parts[0].low > 0
    assert verdict.question.startswith("the method: new seeds, and new images")


def test_the_opposite_fails_and_so_does_a_gap_below_the_margin():
    opposite = replace_claim(BETTER, left=GOOG, right=VGG)
    assert verdict_of(opposite, two(0.05)).outcome == "fails"
    assert verdict_of(replace_claim(BETTER, margin=20.0), two(0.05)).outcome == "fails"
    assert verdict_of(replace_claim(BETTER, relation="below"), two(0.05)).outcome == "fails"
    assert verdict_of(replace_claim(opposite, relation="below"), two(0.05)).outcome == "holds"


def replace_claim(claim, **changes):
    return claim.revised(**changes)


def test_no_gap_is_undecided_and_says_what_it_would_take():
    verdict = verdict_of(BETTER, two(0.004, seed_sd=0.02))
    assert verdict.outcome == "undecided"
    assert verdict.smallest_detectable is not None
    assert verdict.smallest_detectable > abs(verdict.parts[0].effect)
    assert "the interval reaches across the margin" in verdict.reason.lower()
    seeds = verdict.seeds_needed
    assert (f"about {seeds} seeds" if seeds else "no number of seeds") in verdict.reason


@pytest.mark.parametrize(
    ("seeds", "question", "reason"),
    [
        (
            1,
            "these checkpoints",
            "One seed says nothing about the method; these checkpoints agree.",
        ),
        (
            2,
            "too few seeds",
            "2 seeds give an interval but no verdict, which takes at least 3; if the effect is as",
        ),
    ],
)
def test_few_seeds_give_an_interval_and_no_verdict(seeds: int, question: str, reason: str):
    verdict = verdict_of(BETTER, two(0.05, seeds=seeds))
    assert verdict.outcome == "undecided"
    assert question in verdict.question
    assert reason in verdict.reason
    assert verdict.p is None
    assert verdict.parts[0].low < verdict.parts[0].effect < verdict.parts[0].high


def test_three_seeds_give_a_verdict_and_two_where_the_claim_says_so():
    assert verdict_of(BETTER, two(0.05, seeds=3)).outcome == "holds"
    asked = replace_claim(BETTER, min_seeds=2)
    assert verdict_of(asked, two(0.2, seeds=2)).outcome == "holds"
    stricter = verdict_of(replace_claim(BETTER, min_seeds=5), two(0.05, seeds=4))
    assert "which takes at least 5" in stricter.reason


def test_a_claim_holds_only_where_every_combination_shows_it():
    both = two(0.05) + cell(VGG | {"dataset": "ade"}, 0.69) + cell(GOOG | {"dataset": "ade"}, 0.7)
    verdict = verdict_of(BETTER, both)
    assert [part.label for part in verdict.parts] == ["dataset voc", "dataset ade"]
    assert verdict.outcome == "undecided" or "dataset ade" in verdict.reason
    averaged = verdict_of(replace_claim(BETTER, average=True), both)
    assert averaged.outcome == "holds"
    effects = [part.effect for part in verdict.parts]
    assert averaged.parts[0].effect == pytest.approx(np.mean(effects))


def test_within_averages_over_the_axes_that_it_does_not_name():
    observations = [
        one
        for head, add in (("h32", 0.0), ("h8", 0.03))
        for name, quality in (("vgg", 0.75), ("goog", 0.7))
        for one in cell({"backbone": name, "head": head}, quality + add)
    ]
    each = verdict_of(BETTER, observations)
    joint = verdict_of(replace_claim(BETTER, within=("dataset",)), observations)
    assert len(each.parts) == 2
    assert len(joint.parts) == 1
    assert joint.parts[0].effect == pytest.approx(np.mean([part.effect for part in each.parts]))


def test_a_missing_side_is_named_and_keeps_the_claim_open():
    observations = two(0.05) + cell(VGG | {"dataset": "ade"}, 0.7)
    verdict = verdict_of(BETTER, observations)
    assert verdict.missing == ("dataset ade: no results of goog",)
    assert verdict.outcome == "undecided"
    assert verdict.reason == "Shown where there are results, but some are missing."
    nothing = verdict_of(BETTER, cell(VGG, 0.7))
    assert nothing.reason == "There are no results to judge it by."


def test_an_order_needs_each_step():
    heads = [
        one
        for head, quality in (("h32", 0.70), ("h16", 0.74), ("h8", 0.78))
        for one in cell({"head": head}, quality)
    ]
    rising = ({"head": "h32"}, {"head": "h16"}, {"head": "h8"})
    assert verdict_of(Order(says="finer", rising=rising), heads).outcome == "holds"
    swapped = Order(says="finer", rising=(rising[1], rising[0], rising[2]))
    verdict = verdict_of(swapped, heads)
    assert verdict.outcome == "fails"
    assert verdict.reason == "The opposite is shown for h32 against h16."


def test_equivalence_is_shown_and_not_assumed():
    claim = Equivalent(says="same", left=VGG, right=GOOG, margin=2.0)
    assert verdict_of(claim, two(0.0005)).outcome == "holds"
    assert verdict_of(claim, two(0.0005, seed_sd=0.03)).outcome == "undecided"
    assert verdict_of(claim, two(0.06)).outcome == "fails"


def test_a_value_is_judged_on_these_images_by_seeds_alone():
    observations = cell(VGG, 0.7)
    mean = 100 * float(np.mean([mean_iou(o.counts.sums) for o in observations]))
    near = verdict_of(Value(says="v", published=mean + 0.1, tolerance=2.0), observations)
    far = verdict_of(Value(says="v", published=mean + 9, tolerance=2.0), observations)
    assert (near.outcome, far.outcome) == ("holds", "fails")
    assert near.parts[0].effect == pytest.approx(-0.1)
    assert near.parts[0].seed_share == 1.0
    assert "on these very images" in near.question


def test_two_protocols_of_the_same_weights_are_compared_seed_by_seed():
    plain = cell(VGG, 0.7, seed_sd=0.05)
    crf = [replace(o, protocol="crf", counts=_a_little_better(o.counts)) for o in plain]
    claim = Compare(says="CRF helps", left={"protocol": "crf"}, right={"protocol": "native"})
    verdict = verdict_of(claim, plain + crf)
    assert verdict.outcome == "holds"
    gain = [
        mean_iou(b.counts.sums) - mean_iou(a.counts.sums) for a, b in zip(plain, crf, strict=True)
    ]
    assert verdict.parts[0].effect == pytest.approx(100 * float(np.mean(gain)))
    assert verdict.parts[0].estimate.seed_variance == pytest.approx(1e4 * np.var(gain, ddof=1) / 5)


def test_two_protocols_are_compared_over_the_seeds_that_both_scored():
    plain = cell(VGG, 0.7, seed_sd=0.05)
    crf = [replace(o, protocol="crf", counts=_a_little_better(o.counts)) for o in plain[1:]]
    claim = Compare(says="CRF helps", left={"protocol": "crf"}, right={"protocol": "native"})
    part = verdict_of(claim, plain + crf).parts[0]
    gain = [
        mean_iou(b.counts.sums) - mean_iou(a.counts.sums)
        for a, b in zip(plain[1:], crf, strict=True)
    ]
    assert part.seeds == (4, 4)
    assert part.effect == pytest.approx(100 * float(np.mean(gain)))


def _a_little_better(c: Counts) -> Counts:
    tp = c.tp + (c.label - c.tp) // 20
    return Counts(tp, c.label, tp, c.names)


def test_a_trend_is_the_slope_for_each_doubling():
    observations = [
        one
        for classes, quality in ((5, 0.80), (10, 0.76), (20, 0.72))
        for one in cell({"variant": f"c{classes}"}, quality, num_classes=float(classes))
    ]
    claim = Trend(says="harder", along="num_classes", direction="falls", monotone=True)
    verdict = verdict_of(claim, observations)
    means = [
        100 * np.mean([mean_iou(o.counts.sums) for o in observations if o.axes["variant"] == name])
        for name in ("c5", "c10", "c20")
    ]
    slope = np.polyfit(np.log2([5, 10, 20]), means, 1)[0]
    assert verdict.outcome == "holds"
    assert verdict.unit == "points per doubling of the number of classes"
    assert verdict.parts[0].effect == pytest.approx(slope)
    assert [part.label for part in verdict.parts[1:]] == ["10 against 5", "20 against 10"]
    rises = Trend(says="easier", along="num_classes", direction="rises")
    assert verdict_of(rises, observations).outcome == "fails"


def test_a_correlation_pools_within_data_sets():
    observations = cell(VGG, 0.7) + cell(VGG | {"dataset": "ade"}, 0.6)
    claim = Correlate(says="frequent is easier", by="training_pixels", average=True)
    verdict = verdict_of(claim, observations)
    assert verdict.parts[0].effect > 0.8
    assert verdict.parts[0].note == "over 6 classes"
    assert verdict.outcome == "holds"
    assert verdict_of(replace_claim(claim, direction="falls"), observations).outcome == "fails"
    bare = [replace(o, training_pixels=None) for o in observations]
    assert (
        verdict_of(claim, bare)
        .missing[0]
        .endswith("training_pixels of its classes are not recorded")
    )


def test_counts_need_no_seeds_and_measured_costs_do():
    observations = cell(VGG, 0.7, seeds=1, parameters=134e6, forward_ms=210.0)
    observations += cell(GOOG, 0.7, seeds=1, parameters=6e6, forward_ms=59.0)
    fewer = Compare(says="f", left=GOOG, right=VGG, relation="below", metric="parameters")
    faster = Compare(says="f", left=GOOG, right=VGG, relation="below", metric="forward_ms")
    assert verdict_of(fewer, observations).outcome == "holds"
    assert verdict_of(fewer, observations).p is None
    assert verdict_of(faster, observations).outcome == "undecided"
    more = Compare(says="f", left=GOOG, right=VGG, metric="parameters")
    assert verdict_of(more, observations).outcome == "fails"
    unknown = Compare(says="f", left=GOOG, right=VGG, metric="flops")
    assert "flops is not recorded" in verdict_of(unknown, observations).missing[0]


def test_holm_runs_over_the_claims_that_can_be_tested_counts_left_out():
    observations = two(0.05)
    for one in observations:
        one.facts["parameters"] = 1.0
    same = Compare(says="c", left=VGG, right=GOOG, metric="parameters", relation="below")
    missing = Compare(says="m", left=VGG, right={"backbone": "alex"})
    far = replace_claim(BETTER, margin=4.0)
    alone = judge([far], observations, resamples=500)[0]
    first, _, third = judge([far, same, missing], observations, resamples=500)
    assert third.p is None
    assert alone.p_adjusted == alone.p
    assert first.p is not None
    assert first.p_adjusted == pytest.approx(min(1.0, 2 * first.p))


def test_more_looks_ask_for_more():
    assert verdict_of(BETTER, two(0.05), looks=3).alpha == pytest.approx(0.05 / 3)


def test_a_seed_given_twice_is_refused():
    with pytest.raises(ResultError, match=r"vgg native: a seed stands twice in \[0, 0\]"):
        judge([BETTER], cell(VGG, 0.7, seeds=1) * 2)


def test_means_over_named_classes_and_a_table_of_these_classes_alone():
    claim = Compare(says="c", left=VGG, right=GOOG, classes=("car", "cat"), per_class=True)
    observations = two(0.05)
    verdict = verdict_of(claim, observations)
    ious = [100 * o.counts.sums.tp / o.counts.sums.union for o in observations]
    expected = np.mean(ious[:5], axis=0)[1:3].mean() - np.mean(ious[5:], axis=0)[1:3].mean()
    assert verdict.parts[0].effect == pytest.approx(expected)
    rows = verdict.parts[0].per_class
    assert [row.name for row in rows] == ["car", "cat"]
    assert [row.p_adjusted for row in rows] == holm([row.p for row in rows])
    whole = verdict_of(replace_claim(claim, classes=()), observations).parts[0].per_class
    assert [row.name for row in whole] == list(CLASSES)
    absent = verdict_of(replace_claim(BETTER, classes=("dog",)), observations)
    assert "has no class dog" in absent.missing[0]


@pytest.mark.parametrize(
    ("margin", "gap", "reason"),
    [
        (20.0, 0.05, "Shown to miss the margin"),
        (20.0, -0.05, "The opposite is shown"),
        (0.0, -0.05, "The opposite is shown"),
    ],
)
def test_a_missed_margin_is_not_called_the_opposite(margin: float, gap: float, reason: str):
    verdict = verdict_of(replace_claim(BETTER, margin=margin), two(gap))
    assert verdict.outcome == "fails"
    assert verdict.reason.startswith(reason)
    below = replace_claim(BETTER, margin=margin, relation="below")
    assert verdict_of(below, two(-gap)).reason.startswith(reason)


def test_what_fails_to_be_alike_is_told_as_a_difference():
    same = Equivalent(says="same", left=VGG, right=GOOG, margin=0.5)
    assert verdict_of(same, two(0.05)).reason.startswith("Shown to differ by more than the margin")
    value = Value(says="v", where={"backbone": ("vgg",)}, published=20.0, tolerance=1.0)
    assert "outside the tolerance" in verdict_of(value, two(0.05)).reason


def test_the_same_contrast_has_the_same_p_whatever_stands_beside_it():
    observations = two(0.05, seeds=4)
    others = [
        replace_claim(BETTER, says=f"at {margin}", margin=float(margin)) for margin in range(1, 7)
    ]
    alone = judge([BETTER], observations, resamples=500)[0]
    among = judge([BETTER, *others], observations, resamples=500)[0]
    assert alone.p == among.p
    assert alone.parts[0].test == "Welch"
    assert alone.outcome == "holds"


def test_models_that_predict_one_class_everywhere_are_told_of():
    observations = two(0.05)
    blank = []
    for one in observations[:5]:
        label = one.counts.label
        pred = np.zeros_like(label)
        pred[:, 0] = label.sum(axis=1)
        tp = np.zeros_like(label)
        tp[:, 0] = label[:, 0]
        blank.append(replace(one, counts=replace(one.counts, tp=tp, pred=pred)))
    verdict = verdict_of(BETTER, [*blank, *observations[5:]])
    assert "1 of the 2 cells compared did not learn (voc vgg native)" in verdict.notes[0]
    assert "(voc vgg native)" in verdict.notes[0]
    assert verdict_of(BETTER, observations).notes == ()
    exact = replace_claim(BETTER, metric="parameters")
    assert verdict_of(exact, [replace(o, facts={"parameters": 1.0}) for o in blank]).notes == ()


def test_where_no_number_of_seeds_settles_it_the_limit_of_the_images_is_told():
    verdict = verdict_of(replace_claim(BETTER, margin=4.96), two(0.05, seed_sd=0.0001))
    (part,) = verdict.parts
    assert part.seeds_needed is None
    assert part.image_limit is not None
    assert f"effects from {part.image_limit:.2f} points off the margin on" in verdict.reason
    assert f"this one lies {abs(part.effect - 4.96):.2f} off" in verdict.reason
    assert "on these 120 images" in verdict.reason


def everything() -> tuple[list[AnyClaim], list[Observation]]:
    source = ClaimSource(paper="FCN | 2015", published={"vgg16": 56.0, "googlenet": 42.5})
    claims: list[AnyClaim] = [
        BETTER.revised(source=source, says="VGG <script> | wins", per_class=True),
        Equivalent(says="same", left=VGG, right=GOOG, margin=2.0),
        Correlate(says="frequent is easier", by="training_pixels"),
    ]
    return claims, two(0.05) + cell(VGG | {"dataset": "ade"}, 0.7)


def test_the_page_is_the_same_bytes_whatever_the_order_of_the_results():
    claims, observations = everything()
    page = render_claims(judge(claims, observations, resamples=500))
    again = render_claims(judge(claims, observations, resamples=500))
    assert page == again
    by_seed = sorted(observations, key=lambda o: -o.seed)
    assert render_claims(judge(claims, by_seed, resamples=500)) == page


def test_the_page_tells_the_verdict_the_source_and_escapes_names():
    claims, observations = everything()
    page = render_claims(judge(claims, observations, resamples=500, planned_seeds=8))
    row = next(line for line in page.splitlines() if "#claim-1" in line)
    assert "VGG &lt;script&gt; \\| wins" in row
    assert "**undecided**" in row
    assert "vgg16 56, googlenet 42.5 (FCN \\| 2015)" in row
    assert "<script>" not in page
    assert "- Missing: dataset ade: no results of goog." in page
    assert "5 of 8 planned seeds are there." in page
    assert "Per class, IoU in per cent" in page
    assert render_claims(()).endswith("This experiment makes no claims.\n")


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (BETTER, "mean IoU of vgg minus that of goog lies above 0"),
        (
            replace_claim(BETTER, margin=20.0, classes=("car",)),
            "mean IoU over car of vgg minus that of goog lies above +20 points",
        ),
        (
            replace_claim(BETTER, metric="forward_ms", relation="below", margin=2.0),
            "the forward time of vgg minus that of goog lies below -2 ms",
        ),
        (
            Equivalent(says="s", left=VGG, right=GOOG, margin=0.5),
            "mean IoU of vgg minus that of goog lies between -0.5 and +0.5 points",
        ),
        (
            Order(says="o", rising=(VGG, GOOG), margin=1.0),
            "mean IoU of each of vgg, goog, minus that of the one before, lies above +1 points",
        ),
        (
            Trend(says="t", along="num_classes", direction="falls", monotone=True),
            "the slope of mean IoU lies below 0, and each step goes that way",
        ),
        (
            Correlate(says="c", by="training_pixels", margin=0.3),
            "the rank correlation of a class's IoU with the class's training pixels lies above +0.3",
        ),
        (
            Value(says="v", published=59.4, tolerance=1.0),
            "mean IoU lies within 1 points of the published 59.4",
        ),
    ],
)
def test_the_page_asks_each_kind_of_claim_in_figures_with_its_margin(claim: AnyClaim, words: str):
    assert asked(claim) == words
    page = render_claims(judge([claim], two(0.05), resamples=200))
    assert f"- Asked: {words}." in page


def test_a_published_figure_stands_beside_what_was_measured():
    value = Value(says="v", where={"backbone": ("vgg",)}, published=60.0, tolerance=1.0)
    observations = two(0.05)
    mean = np.mean([100 * mean_iou(o.counts.sums) for o in observations[:5]])
    page = render_claims(judge([value], observations, resamples=500))
    assert f"{mean:.2f} against 60: {mean - 60:+.2f} [" in page


def test_what_many_combinations_lack_is_told_once():
    observations = [
        one
        for head in ("h1", "h2", "h3")
        for one in cell(VGG | {"head": head}, 0.7) + cell(GOOG | {"head": head}, 0.7)
    ]
    claim = Compare(says="c", left=VGG, right=GOOG, metric="forward_ms")
    page = render_claims(judge([claim], observations, resamples=100))
    assert page.count("- Missing:") == 1
    assert (
        "forward_ms was not measured without other trials beside it (`segbench time RUN` measures it) in "
    ) in page
    assert "Question answered: none, there are no results." in page


def test_planning_warns_of_claims_that_can_never_be_decided():
    same = Equivalent(says="same", left=VGG, right=GOOG, margin=0.3)
    exact = replace_claim(BETTER, metric="parameters")
    few = plan_claims([BETTER, exact], planned(2))
    assert few[0].warning.startswith(
        "can never be decided with 2 seeds: a verdict on a method takes"
    )
    assert (few[1].detectable, few[1].warning) == (0.0, "")
    better, equal, average = plan_claims(
        [BETTER, same, replace_claim(BETTER, average=True)], planned(5)
    )
    assert better.warning == ""
    assert "can hardly hold with 5 seeds" in equal.warning
    assert better.detectable is not None
    assert average.detectable is not None
    assert average.detectable < better.detectable
    only_images = Spread(seed_sd=1e-9, image_sd=0.5)
    one, both = (
        plan_claims([claim], planned(5), spread=only_images)[0].detectable
        for claim in (
            replace_claim(BETTER, where={"dataset": ("voc",)}),
            replace_claim(BETTER, average=True),
        )
    )
    assert one is not None
    assert both == pytest.approx(one / math.sqrt(2))  # two data sets, each with its own images
    single = replace_claim(BETTER, where={"dataset": ("voc",)})
    known = plan_claims([single], planned(5), spread=Spread(0.31))[0]
    assert known.detectable == pytest.approx(minimum_detectable_effect(Spread(0.31), 5))


def one_sided(higher: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return p of `higher` lying above, by scipy's Welch test."""
    return np.asarray(
        stats.ttest_ind(higher, lower, axis=-1, alternative="greater", equal_var=False)
    )[1]


def test_a_planned_claim_over_several_combinations_is_found_in_all_of_them_at_once():
    """80 % for both together, in 20,000 simulated runs of 5 seeds."""
    found = plan_claims([BETTER], planned(5), spread=Spread(1.0))[0].detectable
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 20_000, 2, 5))
    p = one_sided(left + found, right)
    assert np.mean((2 * p <= 0.05).all(axis=1)) == pytest.approx(0.8, abs=0.01)


def test_the_band_of_a_planned_equivalence_is_shown_four_times_in_five():
    """Two one-sided tests of two equal models, in 20,000 simulated runs of 5 seeds."""
    same = Equivalent(says="same", left=VGG, right=GOOG, margin=0.1, where={"dataset": ("voc",)})
    band = plan_claims([same], planned(5), spread=Spread(1.0))[0].detectable
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 20_000, 5))
    above, below = one_sided(left + band, right), one_sided(right, left - band)
    assert np.mean(np.maximum(above, below) <= 0.05) == pytest.approx(0.8, abs=0.015)


def planned(seeds: int) -> list[ObservedCell]:
    """Return the cells of two models on two data sets, of 3 and 6 classes."""
    observations = [
        one
        for dataset in ("voc", "ade")
        for backbone in ("vgg", "goog")
        for one in cell(
            {"backbone": backbone, "dataset": dataset},
            0.5,
            seeds=seeds,
            parameters=math.nan,
            num_classes={"voc": 3, "ade": 6}[dataset],
        )
    ]
    return cells_of(observations)


def test_a_claim_that_lacks_a_side_can_never_hold():
    lacking = [one for one in planned(5) if one.axes["backbone"] == "vgg"]
    assert plan_claims([BETTER], lacking)[0].warning == (
        "can never hold as planned: no results of goog"
    )


def test_a_planned_trend_over_classes_knows_its_levels():
    """Two levels a doubling apart: the slope per doubling is the plain difference."""
    trend = Trend(says="harder", along="num_classes", direction="falls", scale="log")
    slope = plan_claims([trend], planned(5), spread=Spread(0.5))[0].detectable
    plain = plan_claims([BETTER], planned(5), spread=Spread(0.5))[0].detectable
    assert slope == pytest.approx(plain)
    unknown = Trend(says="bigger is better", along="parameters", direction="rises")
    assert plan_claims([unknown], planned(5))[0].detectable is None


def test_a_planned_correlation_is_limited_by_its_classes():
    claim = Correlate(says="frequent is easier", by="training_pixels", average=True)
    found = plan_claims([claim], planned(5))[0].detectable
    # two data sets of the same 6 classes: 3 degrees of freedom, (1.96 + 0.84) x sqrt(1.06 / 3)
    assert found == pytest.approx(math.tanh(2.8016 * math.sqrt(1.06 / 3)), rel=1e-3)
    renamed = [
        replace(one, class_names=tuple(f"{n}2" for n in one.class_names))
        for one in cell({"backbone": "vgg", "dataset": "other"}, 0.5)
    ]
    found = plan_claims([claim], [*planned(5), *cells_of(renamed)])[0].detectable
    assert found == pytest.approx(math.tanh(2.8016 * math.sqrt(1.06 / 6)), rel=1e-3)


@pytest.mark.parametrize(
    ("classes", "claims", "never"), [(4, 1, True), (5, 1, False), (5, 4, True)]
)
def test_a_plan_warns_where_even_a_perfect_order_is_too_likely(classes, claims, never):
    """Of 4 classes a perfect order has p = 2 / 24 two-sided; of 5 it has 2 / 120, above 5 % / 4."""
    names = planned(5)[0].observations[0].class_names[:classes]
    claim = Correlate(says="frequent", by="training_pixels", average=True, classes=names)
    found = plan_claims([claim, *[BETTER] * (claims - 1)], planned(5))[0]
    assert (found.detectable is None) == never
    assert ("even a perfect order is too likely" in found.warning) == never
    amounts = np.arange(6.0)[::-1]
    observations = [
        replace(one, training_pixels=amounts, counts=_falling(one.counts)) for one in cell(VGG, 0.7)
    ]
    verdict = judge([claim, *[BETTER] * (claims - 1)], observations, resamples=2000)[0]
    assert verdict.parts[0].effect == pytest.approx(1)
    assert (verdict.outcome == "undecided") == never


def _falling(counts: Counts) -> Counts:
    """Return counts whose IoU falls from class to class."""
    share = np.linspace(0.9, 0.2, counts.tp.shape[1])
    tp = np.floor(counts.label * share).astype(np.int64)
    return Counts(tp, counts.label, tp, counts.names)


def test_settling_adds_seeds_where_a_claim_is_undecided_and_nowhere_else():
    close = two(0.02, seed_sd=0.02)
    heads = [{"head": "h1"}, {"head": "h2"}]
    clear = cell(heads[0], 0.78) + cell(heads[1], 0.7)
    claims = [BETTER, Compare(says="clear", left=heads[0], right=heads[1])]
    verdicts = judge(claims, close + clear, resamples=2000, looks=3)
    assert [verdict.outcome for verdict in verdicts] == ["undecided", "holds"]
    plan = settle_plan(verdicts, settle_schedule(5))
    assert sorted(top.axes["backbone"] for top in plan.top_ups) == ["goog", "vgg"]
    assert {(top.seeds_now, top.seeds_next) for top in plan.top_ups} == {(5, 8)}
    with pytest.raises(ValueError, match="but 3 looks need"):
        settle_plan(judge(claims, close + clear, resamples=200), settle_schedule(5))


def test_settling_gives_up_what_seeds_cannot_decide():
    amounts = np.array([90.0, 10, 50, 20, 40, 30])
    observations = [replace(one, training_pixels=amounts) for one in cell(VGG, 0.7)]
    claim = Correlate(says="frequent is easier", by="training_pixels")
    verdicts = judge([claim], observations, resamples=500, looks=3)
    plan = settle_plan(verdicts, settle_schedule(5))
    assert plan.top_ups == ()
    assert plan.given_up == (
        "frequent is easier: more seeds cannot settle it, the number of classes sets the limit",
    )


def test_the_spread_is_measured_from_earlier_verdicts():
    observations = two(0.05, seed_sd=0.01)
    ((claim, spread),) = measured_spreads(judge([BETTER], observations, resamples=500))
    values = [
        [100 * mean_iou(o.counts.sums) for o in observations if o.axes["backbone"] == name]
        for name in ("vgg", "goog")
    ]
    assert claim == BETTER
    assert spread.seed_sd == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in values])))
    assert measured_spreads(judge([BETTER], two(0.05, seeds=1), resamples=100)) == []


def test_a_plan_promises_what_the_page_says_afterwards_where_few_images_carry_the_figure():
    """The variance of images is estimated, so a plan must know with how many degrees of freedom."""
    observations = [
        replace(one, counts=_rare(one.counts)) for one in two(0.05, seed_sd=0.01, seeds=5)
    ]
    claim = replace_claim(BETTER, classes=("pot",))
    verdicts = judge([claim], observations, resamples=4000)
    ((_, spread),) = measured_spreads(verdicts)
    assert spread.image_df < 10
    planned_one = plan_claims([claim], cells_of(observations), measured=[(claim, spread)])[0]
    assert planned_one.detectable == pytest.approx(verdicts[0].smallest_detectable, rel=0.02)
    known = [(claim, spread._replace(image_df=math.inf))]
    too_much = plan_claims([claim], cells_of(observations), measured=known)[0].detectable
    assert too_much < 0.95 * planned_one.detectable


def _rare(counts: Counts) -> Counts:
    """Return counts in which four images alone show the last class."""
    keep = np.ones_like(counts.tp)
    keep[4:, -1] = 0
    return Counts(counts.tp * keep, counts.label * keep, counts.pred * keep, counts.names)


def test_the_spread_of_several_combinations_is_that_of_the_hardest():
    observations = [
        one
        for head, seed_sd in (("h1", 0.005), ("h2", 0.04))
        for name in ("vgg", "goog")
        for one in cell({"backbone": name, "head": head}, 0.7, seed_sd=seed_sd, seeds=8)
    ]
    both = BETTER
    alone = replace_claim(BETTER, where={"head": ("h2",)})
    (_, found), (_, hardest) = measured_spreads(judge([both, alone], observations, resamples=1000))
    assert found.seed_sd == pytest.approx(hardest.seed_sd)


def test_an_averaged_claim_measures_the_spread_of_a_single_comparison():
    observations = [
        one
        for head in ("h1", "h2", "h3")
        for name in ("vgg", "goog")
        for one in cell({"backbone": name, "head": head}, 0.7, seed_sd=0.02, seeds=8)
    ]
    claims = [BETTER, replace_claim(BETTER, average=True)]
    (_, one), (_, averaged) = measured_spreads(judge(claims, observations, resamples=2000))
    assert averaged.seed_sd == pytest.approx(one.seed_sd)
    assert averaged.seed_sd > 0.5


def constant(axes: dict[str, str]) -> list[Observation]:
    """Return models that predict background everywhere."""

    def blank(one: Observation) -> Observation:
        label = one.counts.label
        tp, pred = np.zeros_like(label), np.zeros_like(label)
        tp[:, 0], pred[:, 0] = label[:, 0], label.sum(axis=1)
        return replace(one, counts=Counts(tp, label, pred, one.counts.names))

    return [blank(one) for one in cell(axes, 0.7)]


def test_models_that_learnt_nothing_make_no_verdict():
    blank = constant(VGG) + constant(GOOG)
    for claim in (BETTER, Equivalent(says="same", left=VGG, right=GOOG, margin=1.0)):
        verdict = verdict_of(claim, blank)
        assert (verdict.outcome, verdict.p) == ("undecided", None)
        assert "did not learn" in verdict.reason
        plan = settle_plan(judge([claim], blank, resamples=200, looks=3), settle_schedule(5))
        assert plan.top_ups == ()
        assert "not judged" in render_claims([verdict])
        assert "could have" not in render_claims([verdict])


def test_a_combination_that_learnt_nothing_is_missing_and_the_others_are_judged():
    heads = [{"head": "h1"}, {"head": "h2"}]
    learnt = cell(VGG | heads[0], 0.78) + cell(GOOG | heads[0], 0.7)
    blank = constant(VGG | heads[1]) + constant(GOOG | heads[1])
    verdict = verdict_of(BETTER, learnt + blank)
    assert verdict.outcome == "undecided"
    assert verdict.missing == ("head h2: did not learn",)
    assert "some are missing" in verdict.reason
    worse = replace_claim(BETTER, left=GOOG, right=VGG)
    assert verdict_of(worse, learnt + blank).outcome == "fails"
    baseline = verdict_of(BETTER, cell(VGG, 0.7) + constant(GOOG))
    assert baseline.outcome == "holds"  # a constant is a fair thing to be better than


def test_the_table_says_what_a_reader_of_it_alone_must_know():
    """Of one seed the interval knows images alone; a side may be a constant; one class may carry it."""

    def table(claim, observations):
        page = render_claims([verdict_of(claim, observations)])
        return page.partition("## How to read")[0]

    assert "(one seed: the interval knows of images alone)" in table(BETTER, two(0.1, seeds=1))
    assert "one seed" not in table(BETTER, two(0.1, seeds=2))
    baseline = cell(VGG, 0.7) + constant(GOOG)
    assert "(1 of the 2 compared did not learn)" in table(BETTER, baseline)
    assert "(those compared did not learn)" in table(BETTER, constant(VGG) + constant(GOOG))
    parameters = [replace(one, facts={"parameters": 1.0}) for one in baseline]
    assert "did not learn" not in table(replace_claim(BETTER, metric="parameters"), parameters)

    def better_at_cars(one):
        one.counts.tp[:, 1] += one.counts.label[:, 1] // 5
        return one

    observations = [better_at_cars(one) for one in cell(VGG, 0.7)] + cell(GOOG, 0.7)
    claim = replace_claim(BETTER, classes=("car", "cat", "cow"), per_class=True)
    assert "(1 of the 3 classes significant by itself)" in table(claim, observations)


def test_where_nothing_varies_at_the_margin_no_seeds_are_promised():
    same = counts(0.7, images="voc", seed=0, seed_sd=0.0)
    twice = [replace(one, counts=same) for one in two(0.0)]
    page = render_claims(judge([BETTER], twice, resamples=200))
    assert (
        "no number of seeds up to 100 would settle it four times in five, so near the margin"
        in page
    )
    assert "could have found: 0.00" not in page


def test_the_reason_names_the_correction_that_took_the_verdict():
    close = two(0.017, seed_sd=0.01)
    alone = judge([BETTER], close, resamples=2000)[0]
    assert alone.p is not None
    assert 0.05 / 3 < alone.p < 0.05, "the gap must lie between the levels"
    looked = judge([BETTER], close, resamples=2000, looks=3)[0]
    assert "not at the 1.67 % that each look" in looked.reason
    assert "1.67 % (5 % shared by the 3 times" in render_claims([looked])
    among = judge([BETTER] * 4, close, resamples=2000)[0]
    assert "not after correction for the other claims" in among.reason


def test_sides_on_different_images_are_not_called_paired():
    datasets = [{"dataset": "voc"}, {"dataset": "ade"}]
    claim = Compare(says="voc is easier", left=datasets[0], right=datasets[1])
    apart = cell(VGG | datasets[0], 0.8) + cell(VGG | datasets[1], 0.7)
    assert any("are not paired" in note for note in verdict_of(claim, apart).notes)
    assert not any("are not paired" in note for note in verdict_of(BETTER, two(0.05)).notes)


def test_holm_spends_the_smallest_p_on_the_claim_that_has_it():
    """A claim that cannot be judged yet stands first, and takes part with p = 1."""
    unjudged = Compare(says="no results", left={"backbone": "a"}, right={"backbone": "b"})
    close = [{"head": "h1"}, {"head": "h2"}]
    weak = Compare(says="weak", left=close[0], right=close[1])
    observations = two(0.05) + cell(close[0], 0.704) + cell(close[1], 0.7)
    for order in ([unjudged, BETTER, weak], [weak, unjudged, BETTER]):
        found = {v.claim.says: v for v in judge(order, observations, resamples=1000)}
        assert found["no results"].p_adjusted is None
        strong, other = found[BETTER.says], found["weak"]
        assert strong.p is not None and other.p is not None
        assert strong.p < other.p
        assert strong.p_adjusted == pytest.approx(3 * strong.p)
        assert other.p_adjusted == pytest.approx(min(1.0, 2 * other.p))


def test_planning_takes_holms_strictest_level_and_that_of_a_look():
    single = replace_claim(BETTER, where={"dataset": ("voc",)})
    alone = plan_claims([single], planned(5))[0].detectable
    counted = replace_claim(BETTER, metric="parameters")
    assert plan_claims([single, counted], planned(5))[0].detectable == alone
    three = plan_claims([single] * 3, planned(5))[0].detectable
    looked = plan_claims([single], planned(5), looks=3)[0].detectable
    assert alone is not None
    assert (
        three
        == looked
        == pytest.approx(minimum_detectable_effect(STATED_SPREAD, 5, alpha=0.05 / 3))
    )
    assert three > alone


def test_the_page_says_where_a_claim_is_asked():
    claim = replace_claim(BETTER, where={"dataset": ("voc", "ade")})
    page = render_claims(judge([claim], two(0.05), resamples=200))
    assert "lies above 0; asked where dataset is voc or ade." in page


def test_a_plan_takes_the_spread_of_the_claim_itself_then_of_its_like_and_no_other():
    narrow = replace_claim(BETTER, says="cars", classes=("car",))
    alike = replace_claim(BETTER, says="again", margin=1.0)
    accuracy = replace_claim(BETTER, says="accuracy", metric="pixel_accuracy")
    measured = [(BETTER, Spread(0.2, 0.1)), (narrow, Spread(5.0, 4.0))]
    found = plan_claims([BETTER, narrow, alike, accuracy], planned(5), measured=measured)
    assert [one.spread for one in found] == [
        Spread(0.2, 0.1), Spread(5.0, 4.0), Spread(0.2, 0.1), STATED_SPREAD,
    ]  # fmt: skip
    assert [one.is_measured for one in found] == [True, True, True, False]
    page = " ".join(render_plan(found).split())
    assert "5.00 / 4.00 measured" in page
    assert f"{STATED_SPREAD.seed_sd:.2f} / {STATED_SPREAD.image_sd:.2f} stated" in page


def test_to_contradict_one_of_several_combinations_takes_more():
    """p for the claim is the largest, p against it the smallest times their number."""
    observations = [
        one
        for head, gap in (("h1", 0.03), ("h2", -0.02), ("h3", 0.03))
        for name, quality in (("vgg", 0.7 + gap), ("goog", 0.7))
        for one in cell({"backbone": name, "head": head}, quality, seed_sd=0.01)
    ]
    verdict = verdict_of(BETTER, observations)
    p_for = max(part.p_for for part in verdict.parts)
    p_against = 3 * min(part.p_against for part in verdict.parts)
    assert p_against < p_for
    assert verdict.p == pytest.approx(min(1.0, 2 * p_against))


def test_cells_of_one_data_set_at_several_class_counts_are_judged_together():
    """Merged classes: the same images, fewer columns."""
    fine = cell({"variant": "fine"}, 0.6, num_classes=6)
    coarse = []
    for one in cell({"variant": "fine"}, 0.8):
        own = one.counts
        merged = [np.add.reduceat(a, [0, 2, 4], axis=1) for a in (own.tp, own.label, own.pred)]
        coarse.append(
            replace(
                one,
                axes={**one.axes, "variant": "coarse"},
                counts=Counts(*merged, own.names),
                class_names=("a", "b", "c"),
                facts={"num_classes": 3},
            )
        )
    trend = Trend(says="harder", along="num_classes", direction="falls")
    verdict = verdict_of(trend, fine + coarse)
    expected = np.mean([100 * mean_iou(o.counts.sums) for o in fine]) - np.mean(
        [100 * mean_iou(o.counts.sums) for o in coarse]
    )
    assert verdict.parts[0].effect == pytest.approx(expected)  # 3 to 6 classes is one doubling
    assert verdict.outcome == "holds"
