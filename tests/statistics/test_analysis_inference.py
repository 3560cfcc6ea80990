"""Intervals, p values, power and correlation, against independent implementations."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from calibration import World, drawn_world
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from segbench.claims.correlation import _shuffled, spearman
from segbench.errors import ResultError
from segbench.metrics import METRICS
from segbench.metrics.counts import Counts
from segbench.metrics.mean_iou import mean_iou
from segbench.metrics.metric import Scored
from segbench.metrics.of_images import influences_of_worst
from segbench.report.claims_page import render_comparison
from segbench.statistics.inference import (
    SeedSample,
    Term,
    direction,
    estimate,
    holm,
    name_of_test,
    sides_of,
    tails,
)
from segbench.statistics.pairwise import class_differences, compare_two
from segbench.statistics.power import (
    Spread,
    minimum_detectable_effect,
    seeds_to_settle,
    settle_schedule,
)
from segbench.statistics.resample import image_draws
from segbench.statistics.samples import point, sample_of


def seeds_only(left, right, **asked):
    terms = (
        Term(1.0, SeedSample(np.asarray(left, float)), "a"),
        Term(-1.0, SeedSample(np.asarray(right, float)), "b"),
    )
    return estimate(terms, **asked)


LEFT = [56.1, 55.2, 57.0, 56.4, 55.9]
RIGHT = [55.0, 54.1, 55.6, 54.3, 55.5]


@pytest.mark.parametrize("bound", [0.0, 0.5, -1.0])
def test_without_images_the_p_value_is_welchs(bound: float):
    result = seeds_only(LEFT, RIGHT)
    shifted = np.array(LEFT) - bound
    for alternative, ours in (("greater", result.p_above(bound)), ("less", result.p_below(bound))):
        theirs: Any = stats.ttest_ind(shifted, RIGHT, equal_var=False, alternative=alternative)
        assert ours == pytest.approx(theirs.pvalue, rel=1e-12)
        assert result.df == pytest.approx(theirs.df)


def test_without_images_the_interval_is_welchs():
    low, high = seeds_only(LEFT, RIGHT).interval()
    theirs: Any = stats.ttest_ind(LEFT, RIGHT, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_one_training_scored_twice_is_a_paired_t_test():
    terms = (
        Term(1.0, SeedSample(np.array(LEFT)), "same"),
        Term(-1.0, SeedSample(np.array(RIGHT)), "same"),
    )
    result = estimate(terms)
    theirs: Any = stats.ttest_rel(LEFT, RIGHT)
    assert 2 * result.p_above(0.0) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_an_average_over_two_data_sets_is_tested_by_welch():
    terms = [
        Term(sign / 2, SeedSample(np.array(values)), name)
        for sign, values, name in (
            (1, LEFT, "a1"),
            (-1, RIGHT, "b1"),
            (1, LEFT, "a2"),
            (-1, RIGHT, "b2"),
        )
    ]
    result = estimate(terms)
    assert name_of_test(result) == "Welch"


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_cells_that_are_averaged_vary_as_much_as_their_mean_does_over_seeds(shared: float):
    """Heads that share seeds, however much they move together: scipy's Welch on the seeds' means."""
    rng = np.random.default_rng(6)
    heads, seeds, wrong, inside = 4, 5, 0, 0
    for _ in range(400):
        terms, means = [], []
        for sign, side in ((1, "a"), (-1, "b")):
            values = np.sqrt(shared) * rng.normal(size=seeds) + np.sqrt(1 - shared) * rng.normal(
                size=(heads, seeds)
            )
            means.append(values.mean(axis=0))
            terms += [
                Term(sign / heads, SeedSample(own), f"{side}{head}")
                for head, own in enumerate(values)
            ]
        result = estimate(terms)
        theirs = stats.ttest_ind(*means, equal_var=False)
        assert 2 * min(tails(result, 0.0)) == pytest.approx(theirs.pvalue)
        wrong += theirs.pvalue <= 0.05
        low, high = result.interval()
        inside += low <= 0 <= high
    assert wrong / 400 <= 0.07
    assert 0.92 <= inside / 400 <= 0.98


def test_one_training_scored_in_two_ways_is_paired_in_every_head_of_an_average():
    rng = np.random.default_rng(7)
    base = rng.normal(size=(2, 5))
    gains = np.array([[1.0, 1.1, 0.9, 1.0, 1.05], [2.0, 2.2, 1.9, 2.0, 2.1]])
    terms = [
        Term(sign / 2, SeedSample(values), f"head{head}")
        for head in range(2)
        for sign, values in ((1, base[head] + gains[head]), (-1, base[head]))
    ]
    theirs = stats.ttest_1samp(gains.mean(axis=0), 0.0)
    result = estimate(terms)
    assert 2 * min(tails(result, 0.0)) == pytest.approx(theirs.pvalue)
    assert name_of_test(result) == "t over seeds"


def test_cells_on_one_side_with_other_numbers_of_seeds_are_refused():
    terms = [Term(0.5, SeedSample(np.arange(n, dtype=float)), f"head{n}") for n in (4, 5)]
    with pytest.raises(ValueError, match="must have the same seeds"):
        estimate(terms)


def one_checkpoint_each(images: int = 200) -> tuple[Counts, Counts]:
    draw = drawn_world(World("small", seed_sd=0.2, taste_sd=0.8, images=images, classes=5))
    left, right = draw(np.random.default_rng(3), 1)
    return left[0], right[0]


def test_one_seed_each_agrees_with_scipys_paired_bootstrap():
    left, right = one_checkpoint_each(1500)
    found = compare_two([left], [right])

    def gap(index, axis=-1):
        return 100 * (_mean_iou_of(left, index, axis) - _mean_iou_of(right, index, axis))

    theirs = stats.bootstrap(
        (np.arange(1500),),
        gap,
        n_resamples=4000,
        batch=250,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    assert found.question == "checkpoints"
    assert found.difference == pytest.approx(gap(np.arange(1500)[None])[0])
    one, two = (sample_of([Scored(counts)], "mean_iou") for counts in (left, right))
    ours = estimate((Term(1.0, one, "a"), Term(-1.0, two, "b")))
    assert (found.low, found.high) == ours.interval()
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.06)


SMOOTH = [name for name, one in METRICS.items() if "worst" not in name and not one.needs_boundary]


@pytest.mark.parametrize("absent_class", ["skip", "zero"])
@pytest.mark.parametrize("metric", SMOOTH)
def test_an_image_adds_what_the_metric_of_the_other_images_lacks(metric, absent_class):
    """By brute force; the losses are centred, and shrink as the jackknife of a mean asks."""
    model = drawn_world(World("w", seed_sd=0.2, images=12, classes=6))(np.random.default_rng(1), 1)
    counts = model[0][0]
    found = METRICS[metric].influences(Scored(counts, absent_class).compared())
    without = [
        point(Scored(counts.of_images(np.delete(np.arange(12), i)), absent_class), metric)
        for i in range(12)
    ]
    if absent_class == "skip":
        assert found == pytest.approx((np.mean(without) - without) * 11 / 12, abs=1e-12)
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_of_the_worst_images_an_image_adds_what_it_does_to_a_trimmed_mean():
    """Worked by hand: of 20 values the worst two are the share, the third stands for all others."""
    values = np.array([0.1, 0.3, 0.4, *np.linspace(0.5, 0.9, 17)])
    lowered = np.array([0.1, 0.3] + [0.4] * 18)
    assert influences_of_worst(values) == pytest.approx((lowered - lowered.mean()) / 2)


@pytest.mark.parametrize("metric", ["worst_images_iou", "worst_class_images_iou"])
def test_the_variance_of_the_worst_images_is_that_of_a_bootstrap(metric):
    draw = drawn_world(World("w", seed_sd=0.2, images=3000, classes=4))
    model = Scored(draw(np.random.default_rng(1), 1)[0][0])
    drawn = image_draws([model], metric, resamples=1000, seed=0).values[0]
    influences = METRICS[metric].influences(model.compared())
    assert math.sqrt((influences**2).sum()) == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize("metric", [*SMOOTH])
@pytest.mark.parametrize("paired", [False, True])
def test_a_hierarchical_bootstrap_gives_the_interval_of_the_influences(metric, paired):
    draw = drawn_world(World("w", seed_sd=0.05, taste_sd=0.4, noise_sd=0.3, images=300, classes=5))
    found = compare_two(
        *draw(np.random.default_rng(5), 6), metric=metric, paired=paired, resamples=6000
    )
    assert found.resampled is not None
    assert found.resampled == pytest.approx(
        (found.low, found.high), abs=0.06 * (found.high - found.low)
    )


def of_images(values: np.ndarray, **more) -> Term:
    """Return one checkpoint whose figure is the mean over images of these values."""
    influences = (values - values.mean()) / len(values)
    return Term(1.0, SeedSample(np.array([values.mean()]), influences[None], "i", **more), "a")


def test_of_a_mean_over_images_the_image_variance_is_the_textbook_s():
    values = np.random.default_rng(0).normal(size=40)
    assert estimate([of_images(values)]).image_variance == pytest.approx(values.var(ddof=1) / 40)


def test_of_a_mean_over_groups_alike_in_size_the_variance_is_that_of_the_groups_means():
    values = np.random.default_rng(0).normal(size=40)
    groups = np.tile(np.arange(8), 5)
    result = estimate([of_images(values, groups=groups)])
    means = values.reshape(5, 8).mean(axis=0)
    assert result.image_variance == pytest.approx(means.var(ddof=1) / 8)
    assert result.image_df <= 7
    assert (result.num_groups, result.speaks_of_new_images) == (8, True)
    few = estimate([of_images(values, groups=groups // 2)])
    assert (few.num_groups, few.speaks_of_new_images) == (4, False)
    assert few.on_these_images().speaks_of_new_images


def test_groups_of_one_image_each_are_no_groups():
    values = np.random.default_rng(0).normal(size=30)
    plain, alone = (
        estimate([of_images(values)]),
        estimate([of_images(values, groups=np.arange(30))]),
    )
    assert alone.image_variance == pytest.approx(plain.image_variance)
    assert alone.df == pytest.approx(plain.df)


def test_one_group_of_images_shows_no_spread_at_all():
    result = estimate([of_images(np.arange(9.0), groups=np.zeros(9, dtype=np.int64))])
    assert result.interval() == (-math.inf, math.inf)
    assert tails(result, -1e9) == (0.5, 0.5)


def test_images_of_which_two_carry_all_the_variance_leave_next_to_no_degree_of_freedom():
    values = np.zeros(1000)
    values[:2] = 1, -1
    assert estimate([of_images(values)]).df == pytest.approx(2.0)
    assert estimate([of_images(np.random.default_rng(0).normal(size=1000))]).df > 300


def test_sides_that_are_paired_are_a_paired_t_test_and_need_the_same_seeds():
    result = seeds_only(LEFT, RIGHT, paired=True)
    theirs: Any = stats.ttest_rel(LEFT, RIGHT)
    assert 2 * min(tails(result, 0.0)) == pytest.approx(theirs.pvalue, rel=1e-12)
    assert result.interval() == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9)
    assert name_of_test(result) == "paired t"
    with pytest.raises(ValueError, match="must have the same seeds"):
        seeds_only(LEFT, RIGHT[:4], paired=True)
    counts = [one_checkpoint_each()[0]] * 3
    with pytest.raises(ResultError, match="3 and 2 seeds are no pairs"):
        compare_two(counts, counts[:2], paired=True)


def test_a_trimmed_mean_of_seeds_is_yuens_test():
    values = np.array([3.1, 2.9, 3.3, 9.0, 3.0, 3.2, 2.8, 3.4])
    result = estimate([Term(1.0, SeedSample(values), "a")], target="iqm")
    theirs = stats.trim_mean(values, 0.25)
    winsorised = stats.mstats.winsorize(values, limits=(0.25, 0.25))
    error = np.std(winsorised, ddof=1) / (0.5 * math.sqrt(8))
    assert result.effect == pytest.approx(theirs)
    # Yuen's h (h - 1) in place of (1 - 2 share)^2 n^2
    assert result.standard_error == pytest.approx(error * math.sqrt(7 * 4 / (8 * 3)))
    assert result.df == 3


def test_the_median_of_seeds_has_price_and_bonetts_error():
    values = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
    result = estimate([Term(1.0, SeedSample(values), "a")], target="median")
    assert result.effect == 4.0
    assert result.standard_error == pytest.approx(10 / (2 * stats.norm.isf(1 / 32)))


def test_one_contrast_has_one_interval_in_the_table_of_classes_too():
    """Of one class the mean IoU over that class is the same figure."""
    draw = drawn_world(World("w", seed_sd=0.05, taste_sd=0.4, noise_sd=0.3, images=90, classes=4))
    left, right = draw(np.random.default_rng(5), 4)
    groups = [str(index // 6) for index in range(90)]
    for asked in ({}, {"paired": True}, {"groups": groups}, {"groups": groups, "paired": True}):
        found = compare_two(left, right, class_indices=(2,), **asked)
        row = found.per_class[2]
        assert (row.low, row.high, row.p) == pytest.approx((found.low, found.high, found.p))


@pytest.mark.parametrize("images", [3, 5])
def test_a_class_of_few_images_is_not_shown_to_differ_by_chance(images):
    wrong = 0
    for repetition in range(20):
        rng = np.random.default_rng([images, repetition])
        left, right = (
            [_of_class(images, rng_share, rng) for _ in range(5)]
            for rng_share in (rng.normal(0.5, 0.2, images), rng.normal(0.5, 0.2, images))
        )
        rows = class_differences(
            [Scored(c) for c in left], [Scored(c) for c in right], ["ground", "rare"]
        )
        wrong += rows[1].p < 0.05
    assert wrong <= 4  # binomial(20, 0.05) exceeds 4 in 0.3 %


def _of_class(images: int, share: np.ndarray, rng: np.random.Generator) -> Counts:
    label = np.zeros((200, 2), dtype=np.int64)
    label[:, 0], label[:images, 1] = 8000, 2000
    tp = label.copy()
    tp[:images, 1] = 2000 * np.clip(share + rng.normal(0, 0.03, images), 0.01, 0.99)
    pred = tp.copy()
    pred[:, 0] += label[:, 1] - tp[:, 1]
    return Counts(tp, label, pred, tuple(map(str, range(200))))


@pytest.mark.parametrize("images", [1, 2])
def test_a_class_of_one_or_two_images_has_an_endless_interval_and_costs_the_others_nothing(images):
    rng = np.random.default_rng(0)
    left, right = (
        [_of_class(images, np.full(images, share), rng) for _ in range(5)] for share in (0.9, 0.2)
    )
    both = [Scored(c) for c in left], [Scored(c) for c in right]
    ground, rare = class_differences(*both, ["ground", "rare"])
    assert (rare.images, rare.p, rare.p_adjusted) == (images, 1.0, 1.0)
    assert (rare.low, rare.high) == (-math.inf, math.inf)
    assert rare.difference > 60
    assert ground.p_adjusted == ground.p


def test_no_interval_of_a_class_leaves_what_two_figures_can_differ_by():
    rng = np.random.default_rng(0)
    shares = np.array([0.95, 0.1, 0.9]), np.array([0.05, 0.1, 0.05])
    left, right = ([_of_class(3, share, rng) for _ in range(5)] for share in shares)
    both = [Scored(c) for c in left], [Scored(c) for c in right]
    rare = class_differences(*both, ["ground", "rare"])[1]
    assert rare.high == 100
    assert -100 <= rare.low < rare.difference


def test_one_image_is_no_sample_of_images():
    rng = np.random.default_rng(0)
    one = _of_class(1, np.full(1, 0.5), rng)
    alone = Counts(one.tp[:1], one.label[:1], one.pred[:1], ("a",))
    with pytest.raises(ResultError, match="one image says nothing about others"):
        compare_two([alone], [alone])


def test_a_pixel_of_a_class_that_is_nowhere_labelled_does_not_change_the_classes_compared():
    label = np.tile(np.array([[500, 300, 0]]), (50, 1))
    tp = label - np.array([100, 50, 0])
    pred = tp + np.array([50, 100, 0])
    stray = pred.copy()
    stray[0] += np.array([-1, 0, 1])
    names = tuple(map(str, range(50)))
    found = compare_two([Counts(tp, label, pred, names)], [Counts(tp, label, stray, names)])
    assert abs(found.difference) < 0.01


def test_draws_without_any_of_the_classes_asked_for_are_drawn_again():
    rng = np.random.default_rng(0)
    counts = _of_class(3, np.array([0.5, 0.6, 0.7]), rng)  # 5 % of the draws miss all three images
    drawn = image_draws([Scored(counts, class_indices=(1,))], "mean_iou", resamples=2000, seed=0)
    assert drawn.values.min() > 0.45


@pytest.mark.parametrize("shared", [False, True])
def test_weights_scored_twice_are_paired_in_every_class_too(shared):
    rng = np.random.default_rng(0)
    levels = rng.normal(0.5, 0.1, 5)
    left, right = (
        [_of_class(150, np.full(150, level + shift), rng) for level in levels]
        for shift in (0.02, 0.0)
    )
    found = compare_two(left, right, paired=shared)
    assert (found.p < 0.001) == shared
    assert (found.per_class[1].p < 0.001) == shared


def _mean_iou_of(counts: Counts, index: np.ndarray, axis: int) -> np.ndarray:
    del axis
    tp, label, pred = (part[index].sum(axis=-2) for part in (counts.tp, counts.label, counts.pred))
    return (tp / (label + pred - tp)).mean(axis=-1)


def test_pairing_images_narrows_the_interval():
    left, right = one_checkpoint_each()
    renamed = Counts(right.tp, right.label, right.pred, [f"other{n}" for n in right.names])
    paired = compare_two([left], [right])
    values = [
        100 * image_draws([Scored(c)], "mean_iou", resamples=2000, seed=0).values
        for c in (left, renamed)
    ]
    unpaired = np.std(values[0] - values[1])
    assert (paired.high - paired.low) / 3.92 < 0.8 * unpaired


def test_the_hierarchical_variance_is_unbiased():
    """Over many worlds the mean estimated variance is the variance of the estimates."""
    draw = drawn_world(World("small", 0.1, taste_sd=0.6, noise_sd=0.5, images=80, classes=4))
    effects, variances = [], []
    for repetition in range(250):
        sides = draw(np.random.default_rng([1, repetition]), 4)
        left, right = (sample_of([Scored(c) for c in side], "mean_iou") for side in sides)
        result = estimate((Term(1.0, left, "a"), Term(-1.0, right, "b")))
        effects.append(result.effect)
        variances.append(result.standard_error**2)
    assert np.mean(variances) == pytest.approx(np.var(effects), rel=0.25)


def test_holm_as_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_agrees_with_statsmodels_bit_for_bit():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        p = rng.integers(0, 20, count) / rng.choice([20, 50, 200])  # ties among them
        assert holm(p.tolist()) == multipletests(p, method="holm")[1].tolist()


def test_nothing_that_varies_needs_no_chance():
    result = seeds_only([3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0])
    assert result.interval() == (1.0, 1.0)
    assert direction(result, 0.0, alpha=0.05) == 1


@pytest.mark.parametrize("seeds", [4, 5, 8])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
def test_the_detectable_effect_is_found_four_times_in_five(seeds: int, alpha: float):
    """In 40,000 simulated runs, by scipy's Welch test."""
    found = minimum_detectable_effect(Spread(0.7), seeds, alpha=alpha)
    rng = np.random.default_rng(8)
    left, right = rng.normal(0, 0.7, (2, 40_000, seeds))
    p = stats.ttest_ind(left + found, right, axis=1, equal_var=False).pvalue
    assert np.mean(p <= alpha) == pytest.approx(0.8, abs=0.01)


def test_the_detectable_effect_of_many_seeds_agrees_with_statsmodels():
    theirs = TTestIndPower().solve_power(nobs1=40, alpha=0.05, power=0.8, alternative="two-sided")
    assert minimum_detectable_effect(Spread(0.7), 40) == pytest.approx(0.7 * theirs, rel=0.02)


def test_images_set_a_floor_that_seeds_cannot_pass():
    many = minimum_detectable_effect(Spread(0.7, image_sd=0.5), 1000)
    assert many == pytest.approx((1.96 + 0.8416) * 0.5, rel=0.02)
    assert minimum_detectable_effect(Spread(0.7), 1) == math.inf


def test_seeds_to_settle_are_the_fewest_with_the_power():
    result = seeds_only(LEFT, RIGHT)
    needed = seeds_to_settle(result, 0.6)
    assert needed is not None
    rng = np.random.default_rng(9)
    spreads = [np.std(LEFT, ddof=1), np.std(RIGHT, ddof=1)]
    for seeds, enough in ((needed + 1, True), (needed - 1, False)):
        left, right = (rng.normal(0, sd, (20_000, seeds)) for sd in spreads)
        p = stats.ttest_ind(left + 0.6, right, axis=1, equal_var=False).pvalue
        assert bool(np.mean(p <= 0.05) >= 0.8) is enough
    assert seeds_to_settle(result, 0.0) is None


def test_the_top_up_rule_keeps_the_error_that_looking_thrice_doubles():
    rng = np.random.default_rng(5)
    schedule = settle_schedule(5)
    assert schedule == (5, 8, 13)
    left, right = rng.normal(size=(2, 4000, schedule[-1]))
    p = np.array(
        [
            np.asarray(stats.ttest_ind(left[:, :n], right[:, :n], axis=1, equal_var=False)[1])
            for n in schedule
        ]
    )
    assert (p <= 0.05 / 3).any(axis=0).mean() < 0.055
    assert (p <= 0.05).any(axis=0).mean() > 0.09


def test_spearman_agrees_with_scipy_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 6, (2, 9)).astype(float)
        assert spearman(a[None], b[None])[0] == pytest.approx(stats.spearmanr(a, b)[0])


def test_seeds_settle_nothing_where_one_image_carries_what_is_known():
    rng = np.random.default_rng(0)
    influences = rng.normal(0, 1, (1, 2000)) / math.sqrt(2000)
    terms = [
        Term(sign, SeedSample(rng.normal(mean, 1, 5), np.repeat(influences, 5, 0) * sign), name)
        for sign, mean, name in ((1.0, 8.0, "a"), (-1.0, 0.0, "b"))
    ]
    result = estimate(terms)
    assert result.image_df > 500
    assert seeds_to_settle(result, 8.0) is not None
    assert seeds_to_settle(replace(result, image_df=1.0), 8.0) is None


def test_the_permutation_of_classes_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a = rng.normal(size=7)
    b = a + rng.normal(size=7)
    observed: Any = stats.spearmanr(a, b)[0]
    orders = rng.permuted(np.broadcast_to(np.arange(7), (20_000, 7)), axis=1)
    ours = (_shuffled(a, b, orders) >= observed - 1e-9).mean()
    theirs = stats.permutation_test(
        (a,),
        lambda x: stats.spearmanr(x, b)[0],
        permutation_type="pairings",
        alternative="greater",
        n_resamples=10_000,
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)


def test_compare_two_lines_images_up_by_name_and_refuses_others():
    left, right = one_checkpoint_each()
    order = np.random.default_rng(0).permutation(200)
    names: list[str] = [left.names[int(i)] for i in order]
    shuffled = Counts(right.tp[order], right.label[order], right.pred[order], names)
    straight = compare_two([left], [right])
    found = compare_two([left], [shuffled])
    assert (found.low, found.high, found.p) == (straight.low, straight.high, straight.p)
    assert found.per_class == straight.per_class
    assert straight.left == pytest.approx(100 * mean_iou(left.sums))
    renamed = Counts(right.tp, right.label, right.pred, ["new", *right.names[1:]])
    with pytest.raises(ResultError, match="2 images are in one result and not in another"):
        compare_two([left], [renamed])


def test_the_class_table_corrects_over_classes():
    draw = drawn_world(World("small", seed_sd=0.02, taste_sd=0.5, images=150, classes=4))
    left, right = draw(np.random.default_rng(2), 5)
    found = compare_two(left, right, ["sky", "road", "car", "pole"])
    assert found.question == "method"
    assert [row.name for row in found.per_class] == ["sky", "road", "car", "pole"]
    assert [row.p_adjusted for row in found.per_class] == pytest.approx(
        holm([row.p for row in found.per_class])
    )
    page = render_comparison(found, "ours", "<theirs>")
    assert page.startswith("ours against &lt;theirs&gt;, mean_iou in per cent, 150 images, 5 and 5")
    assert f"{found.left:.2f} - {found.right:.2f} = " in page
    assert "Question answered: the method: new seeds, and new images" in page
    iou = np.mean([100 * c.sums.tp / c.sums.union for c in left], axis=0)
    assert [row.left for row in found.per_class] == pytest.approx(iou.tolist())


@pytest.mark.parametrize("image_sd", [0.0, 0.8])
def test_what_seeds_show_already_does_not_come_in_again_with_the_images(image_sd: float):
    """Made of parts of known size: only the images' own part is added to the seeds'."""
    rng = np.random.default_rng(0)
    values = rng.normal(50, 1, 5)
    count = 4000
    shared, own = image_sd * rng.normal(size=count), rng.normal(0, 1.5, (5, count))
    influences = (shared + own) / math.sqrt(count)
    result = estimate((Term(1.0, SeedSample(values, influences), "a"),))
    assert result.seed_variance == pytest.approx(np.var(values, ddof=1) / 5)
    assert result.image_variance == pytest.approx(image_sd**2, abs=0.03)  # not + 1.5**2 / 5
    fixed = estimate((Term(1.0, SeedSample(values[:1], influences[:1]), "a"),))
    assert fixed.image_variance == pytest.approx(image_sd**2 + 1.5**2, rel=0.06)


@pytest.mark.parametrize("scale", [1.0, 0.25, 1e-3, 3.0])
def test_sides_hang_on_the_signs_of_weights_not_on_their_size(scale: float):
    weights = [(1, "a"), (1, "b"), (-1, "c"), (-2, "d"), (1, "e"), (-1, "e")]
    sides = sides_of([(scale * weight, training) for weight, training in weights])
    assert sides == {"a": 1, "b": 1, "c": -1, "d": -1, "e": 0}


@pytest.mark.parametrize(("bound", "expected"), [(-5.0, 1), (1.0, 0), (5.0, -1)])
def test_an_effect_lies_above_or_below_a_bound_or_on_no_shown_side(bound: float, expected: int):
    assert direction(seeds_only(LEFT, RIGHT), bound, alpha=0.05) == expected
