"""The quick form of the calibration suite: wrong verdicts stay rare where the truth is known."""

import numpy as np
import pytest

from segbench.analysis.calibration import (
    World,
    drawn_world,
    measure,
    measure_settling,
    real_world,
    report,
    true_gap,
)

SIZE = {"repetitions": 100, "resamples": 200}


@pytest.mark.parametrize(("seed_sd", "naive"), [(0.0143, 0.1), (0.0357, 0.3)])
def test_one_method_twice_is_rarely_told_apart_unless_seeds_are_forgotten(
    seed_sd: float, naive: float
):
    world = World("null", seed_sd=seed_sd, images=1000, classes=8)
    rates = measure(drawn_world(world), 0.0, **SIZE)
    assert rates.false_verdicts <= 0.11  # 5 % and 2.7 standard errors of 100 repetitions
    assert rates.coverage >= 0.89
    assert rates.image_only_false >= naive


def test_a_margin_at_the_true_gap_is_rarely_decided():
    world = World("margin", seed_sd=0.02, taste_sd=0.4, images=300, classes=8)
    rates = measure(drawn_world(world), true_gap(world), **SIZE)
    assert rates.false_verdicts <= 0.11
    assert rates.coverage >= 0.89


def test_real_counts_make_a_world_with_their_own_gap():
    draw = drawn_world(World("real", seed_sd=0.03, taste_sd=0.3, images=200, classes=6))
    left, right = draw(np.random.default_rng(0), 8)
    world, gap = real_world(left, right)
    drawn = world(np.random.default_rng(1), 5)
    assert [len(side) for side in drawn] == [5, 5]
    rates = measure(world, gap, repetitions=60, resamples=150)
    assert rates.false_verdicts <= 0.15
    assert "| real" in report([("real", rates)])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_looking_thrice_by_the_rule_keeps_the_error_rate_and_without_it_does_not():
    world = World("null", seed_sd=0.03, images=120, classes=5)
    by_rule, without = measure_settling(drawn_world(world), repetitions=150, resamples=100)
    assert by_rule <= 0.09  # 5 % at most, and 2.3 standard errors of 150 repetitions
    assert by_rule < without
