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
from segbench.metrics.counts import Counts
from segbench.metrics.mean_iou import mean_iou
from segbench.metrics.metric import Scored
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
from segbench.statistics.resample import image_draws, left_out, point


def seeds_only(left, right, **keywords):
    terms = (
        Term(1.0, SeedSample(np.asarray(left, float)), "a"),
        Term(-1.0, SeedSample(np.asarray(right, float)), "b"),
    )
    return estimate(terms, **keywords)


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
    low, high = seeds_only(LEFT, RIGHT, resamples=200_000).interval()
    theirs: Any = stats.ttest_ind(LEFT, RIGHT, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


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
        result = estimate(terms, resamples=400)
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
    result = estimate(terms, resamples=400)
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
    found = compare_two([left], [right], resamples=4000)

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
    low, high = theirs.confidence_interval
    assert found.question == "checkpoints"
    assert found.difference == pytest.approx(gap(np.arange(1500)[None])[0])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.08 * width)
    assert found.high == pytest.approx(high, abs=0.08 * width)


@pytest.mark.parametrize("metric", ["mean_iou", "mean_accuracy", "mean_iou_per_image",
                                    "mean_iou_per_class", "pixel_accuracy",
                                    "frequency_weighted_iou"])  # fmt: skip
def test_figures_without_one_image_each_are_those_of_the_other_images(metric):
    model = drawn_world(World("w", seed_sd=0.2, images=12, classes=6))(np.random.default_rng(1), 1)
    counts = model[0][0]
    found = left_out([Scored(counts)], metric)
    assert found is not None
    for index in range(12):
        rest = np.arange(12) != index
        other = Counts(
            *(p[rest] for p in (counts.tp, counts.label, counts.pred)), tuple("abcdefghijk")
        )
        assert found[0, index] == pytest.approx(point(Scored(other), metric)), index


def test_of_a_mean_over_images_the_image_variance_is_the_textbook_s():
    values = np.random.default_rng(0).normal(size=40)
    without = (values.sum() - values) / 39
    term = Term(1.0, SeedSample(np.array([values.mean()]), np.zeros((1, 50)), without[None]), "a")
    assert estimate([term], resamples=50).image_variance == pytest.approx(values.var(ddof=1) / 40)


def test_images_of_which_two_carry_all_the_variance_leave_next_to_no_degree_of_freedom():
    without = np.zeros((1, 1000))
    without[0, :2] = 1, -1
    draws = np.random.default_rng(0).normal(size=(1, 500))
    assert estimate(
        [Term(1.0, SeedSample(np.zeros(1), draws, without), "a")], resamples=500
    ).df == pytest.approx(2.0)
    without = np.random.default_rng(0).normal(size=(1, 1000))
    assert (
        estimate([Term(1.0, SeedSample(np.zeros(1), draws, without), "a")], resamples=500).df > 300
    )


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
            [Scored(c) for c in left], [Scored(c) for c in right], ["ground", "rare"], resamples=300
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
    ground, rare = class_differences(*both, ["ground", "rare"], resamples=300)
    assert (rare.images, rare.p, rare.p_adjusted) == (images, 1.0, 1.0)
    assert (rare.low, rare.high) == (-math.inf, math.inf)
    assert rare.difference > 60
    assert ground.p_adjusted == ground.p


def test_no_interval_of_a_class_leaves_what_two_figures_can_differ_by():
    rng = np.random.default_rng(0)
    shares = np.array([0.95, 0.1, 0.9]), np.array([0.05, 0.1, 0.05])
    left, right = ([_of_class(3, share, rng) for _ in range(5)] for share in shares)
    both = [Scored(c) for c in left], [Scored(c) for c in right]
    rare = class_differences(*both, ["ground", "rare"], resamples=2000)[1]
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
    found = compare_two(left, right, shared_training=shared, resamples=500)
    assert (found.p < 0.001) == shared
    assert (found.per_class[1].p < 0.001) == shared


def _mean_iou_of(counts: Counts, index: np.ndarray, axis: int) -> np.ndarray:
    del axis
    tp, label, pred = (part[index].sum(axis=-2) for part in (counts.tp, counts.label, counts.pred))
    return (tp / (label + pred - tp)).mean(axis=-1)


def test_pairing_images_narrows_the_interval():
    left, right = one_checkpoint_each()
    renamed = Counts(right.tp, right.label, right.pred, [f"other{n}" for n in right.names])
    paired = compare_two([left], [right], resamples=2000)
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
        left, right = draw(np.random.default_rng([1, repetition]), 4)
        models = [Scored(counts) for counts in (*left, *right)]
        draws = image_draws(models, "mean_iou", resamples=100, seed=repetition).values
        values = np.array([point(model, "mean_iou") for model in models])
        result = estimate(
            (
                Term(1.0, SeedSample(values[:4], draws[:4]), "a"),
                Term(-1.0, SeedSample(values[4:], draws[4:]), "b"),
            ),
            resamples=100,
        )
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
    draws = rng.normal(0, 1, (1, 2000))
    terms = [
        Term(sign, SeedSample(rng.normal(mean, 1, 5), np.repeat(draws, 5, axis=0) * sign), name)
        for sign, mean, name in ((1.0, 8.0, "a"), (-1.0, 0.0, "b"))
    ]
    result = estimate(terms, resamples=2000)
    assert result.image_df == math.inf
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
    straight = compare_two([left], [right], resamples=200)
    found = compare_two([left], [shuffled], resamples=200)
    assert (found.low, found.high, found.p) == (straight.low, straight.high, straight.p)
    assert found.per_class == straight.per_class
    assert straight.left == pytest.approx(100 * mean_iou(left.sums))
    renamed = Counts(right.tp, right.label, right.pred, ["new", *right.names[1:]])
    with pytest.raises(ResultError, match="2 images are in one result and not in another"):
        compare_two([left], [renamed])


def test_the_class_table_corrects_over_classes():
    draw = drawn_world(World("small", seed_sd=0.02, taste_sd=0.5, images=150, classes=4))
    left, right = draw(np.random.default_rng(2), 5)
    found = compare_two(left, right, ["sky", "road", "car", "pole"], resamples=500)
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
    """ResampledMetric made of parts of known size: only the images' own part is added to the seeds'."""
    rng = np.random.default_rng(0)
    values = rng.normal(50, 1, 5)
    draws = values[:, None] + image_sd * rng.normal(size=4000) + rng.normal(0, 1.5, (5, 4000))
    result = estimate((Term(1.0, SeedSample(values, draws), "a"),), resamples=4000)
    assert result.seed_variance == pytest.approx(np.var(values, ddof=1) / 5)
    assert result.image_variance == pytest.approx(image_sd**2, abs=0.03)  # not + 1.5**2 / 5
    fixed = estimate((Term(1.0, SeedSample(values[:1], draws[:1]), "a"),), resamples=4000)
    assert fixed.image_variance == pytest.approx(image_sd**2 + 1.5**2, rel=0.06)


@pytest.mark.parametrize("scale", [1.0, 0.25, 1e-3, 3.0])
def test_sides_hang_on_the_signs_of_weights_not_on_their_size(scale: float):
    weights = [(1, "a"), (1, "b"), (-1, "c"), (-2, "d"), (1, "e"), (-1, "e")]
    sides = sides_of([(scale * weight, training) for weight, training in weights])
    assert sides == {"a": 1, "b": 1, "c": -1, "d": -1, "e": 0}


@pytest.mark.parametrize(("bound", "expected"), [(-5.0, 1), (1.0, 0), (5.0, -1)])
def test_an_effect_lies_above_or_below_a_bound_or_on_no_shown_side(bound: float, expected: int):
    assert direction(seeds_only(LEFT, RIGHT), bound, alpha=0.05) == expected
