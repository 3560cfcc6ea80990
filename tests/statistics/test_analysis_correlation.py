"""Rank correlations of IoU with training amounts: pooling, resamples, and what has to stay apart."""

import numpy as np
import pytest
from scipy import stats

from segbench.claims.correlation import RankCorrelation, rank_correlation
from segbench.claims.judge import judge
from segbench.metrics.counts import Counts
from segbench.schema.claims import Correlate
from segbench.statistics.observations import Observation, ObservedCell, cells_of

CLAIM = Correlate(says="frequent is easier", by="training_pixels", average=True)


def observation(
    ious: list[float], amounts: list[float], *, seed: int = 0, **axes: str
) -> Observation:
    """Return a trial whose class i has IoU ious[i], of five equal images."""
    label = np.full((5, len(ious)), 1000)
    tp = np.round(label * ious).astype(int)
    counts = Counts(tp, label, tp, tuple("abcde"))
    names = tuple(f"class {index}" for index in range(len(ious)))
    return Observation(
        {"dataset": "voc", **axes}, "native", seed, counts, names,
        training_pixels=np.array(amounts),
    )  # fmt: skip


def cell(ious: list[float], amounts: list[float], **axes: str) -> ObservedCell:
    return cells_of([observation(ious, amounts, seed=s, **axes) for s in range(4)])[0]


LARGE = np.random.default_rng(3)
AMOUNTS = LARGE.permutation(21) + 1.0
IOUS = np.clip(0.3 + 0.02 * AMOUNTS + LARGE.normal(0, 0.05, 21), 0, 1)


def test_one_data_set_has_spearmans_rho_even_where_the_order_is_perfect():
    found = rank_correlation([[cell(list(IOUS), list(AMOUNTS))]], "training_pixels")
    theirs = stats.spearmanr(AMOUNTS, np.round(1000 * IOUS))
    assert found.rho == pytest.approx(theirs.statistic)
    perfect = rank_correlation([[cell([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])]], "training_pixels")
    assert perfect.rho == pytest.approx(1)


def test_a_data_set_of_five_classes_neither_outweighs_nor_widens_one_of_twenty_one():
    large = [cell(list(IOUS), list(AMOUNTS))]
    small = [cell([0.5, 0.6, 0.55, 0.7, 0.65], [3, 1, 5, 2, 4], dataset="toy")]
    alone = rank_correlation([large], "training_pixels")
    both = rank_correlation([large, small], "training_pixels")
    assert both.num_classes == 26
    width = np.subtract(*reversed(alone.interval()))
    assert np.subtract(*reversed(both.interval())) < 1.6 * width
    assert alone.rho - 0.25 < both.rho < alone.rho
    perfect = [cell([0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5], dataset="toy")]
    assert rank_correlation([large, perfect], "training_pixels").rho < alone.rho + 0.1


def test_what_was_trained_on_other_amounts_is_not_averaged_first():
    amounts = [1.0, 2, 3, 4, 5, 6]
    rising, falling = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    observations = [
        *(observation(rising, amounts, seed=s, variant="whole") for s in range(4)),
        *(observation(falling, amounts[::-1], seed=s, variant="thinned") for s in range(4)),
    ]
    (verdict,) = judge([CLAIM], observations, resamples=500)
    assert verdict.parts[0].effect > 0.9  # both are perfectly in order, each by its own amounts
    assert verdict.parts[0].note == "over 6 classes"  # the same, twice


def test_the_same_classes_trained_on_in_several_ways_are_no_larger_sample_of_classes():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(40):
        ious, amounts = rng.uniform(0.2, 0.8, 15), rng.permutation(15) + 1.0
        variants = [
            [cell(list(ious), list(amounts * (1 + rng.uniform(0, 0.1, 15))), variant=name)]
            for name in "abcd"
        ]
        found = rank_correlation(variants, "training_pixels", resamples=500)
        assert found.sizes == (15,)
        wrong += 2 * min(found.tails(0.0)) <= 0.05
    assert wrong <= 6  # binomial(40, 0.05) exceeds 6 in 0.3 %


def test_variants_with_other_classes_are_pooled_and_do_not_crash():
    observations = [
        *(observation([0.1, 0.3, 0.2, 0.4], [1, 2, 3, 4], seed=s, variant="4") for s in range(4)),
        *(observation(list(IOUS), list(AMOUNTS), seed=s, variant="21") for s in range(4)),
    ]
    (verdict,) = judge([CLAIM], observations, resamples=500)
    assert verdict.parts[0].note == "over 25 classes"


def test_p_counts_the_observed_order_as_one_of_the_permutations():
    found = RankCorrelation(0.9, 9, draws=np.full(99, 0.9), null=np.linspace(-0.5, 0.5, 99))
    assert found.tails(0.0) == pytest.approx((1 / 100, 1.0))
    assert found.tails(0.3)[0] == pytest.approx(1 / 100)
