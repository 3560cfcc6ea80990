"""Ranks and letters say no more than the pairs that are decided."""

import numpy as np
import pytest
from drawn_run import drawn_counts
from hypothesis import given
from hypothesis import strategies as st

from segbench.metrics.mean_iou import mean_iou
from segbench.statistics.observations import Observation
from segbench.statistics.ranking import letters_of, ranking_of


def seeds_of(quality: float, number: int, start: int = 0) -> list[Observation]:
    return [
        Observation(
            {"backbone": str(quality)}, "native", seed,
            drawn_counts(np.random.default_rng(start + seed), 4, 25, quality).as_counts(), "abcd",
        )
        for seed in range(number)
    ]  # fmt: skip


@st.composite
def decisions(draw):
    size = draw(st.integers(1, 7))
    differs = np.zeros((size, size), dtype=bool)
    for left in range(size):
        for right in range(left):
            differs[left, right] = differs[right, left] = draw(st.booleans())
    return [draw(st.floats(0, 100)) for _ in range(size)], differs


@given(decisions())
def test_two_models_share_a_letter_exactly_if_they_are_not_told_apart(case):
    means, differs = case
    groups = [set(letters) for letters in letters_of(means, differs)]
    for left in range(len(means)):
        assert groups[left]
        for right in range(len(means)):
            assert bool(groups[left] & groups[right]) == (not differs[left, right])


@given(decisions())
def test_no_letter_says_what_another_says_already(case):
    letters = letters_of(*case)
    groups = [
        {i for i, own in enumerate(letters) if x in own} for x in sorted(set("".join(letters)))
    ]
    assert not any(
        one < two or (one == two and i != j)
        for i, one in enumerate(groups)
        for j, two in enumerate(groups)
    )


def test_letters_of_a_case_worked_by_hand():
    # 1 and 3 differ, 1 and 4 differ, 2 and 4 differ: {1 2}, {2 3}, {3 4}
    differs = np.zeros((4, 4), dtype=bool)
    for left, right in ((0, 2), (0, 3), (1, 3)):
        differs[left, right] = differs[right, left] = True
    assert letters_of([4, 3, 2, 1], differs) == ["a", "ab", "bc", "c"]
    assert letters_of([1, 2, 3, 4], differs) == ["c", "bc", "ab", "a"]


def test_many_overlapping_groups_have_no_letters_and_take_no_time():
    """Pairs differ at random: the groups of 60 models that do not differ are thousands."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((60, 60)) < 0.3, 1)
    assert letters_of(list(range(60)), upper | upper.T) == [""] * 60


def test_models_far_apart_get_places_and_letters_of_their_own():
    ranking = ranking_of([seeds_of(0.5, 4), seeds_of(0.9, 4, 50), seeds_of(0.7, 4, 90)])
    assert [(s.first, s.last, s.letters) for s in ranking.standings] == [
        (3, 3, "c"),
        (1, 1, "a"),
        (2, 2, "b"),
    ]


def test_the_same_method_twice_shares_a_place_and_a_letter():
    ranking = ranking_of([seeds_of(0.7, 5), seeds_of(0.7, 5, 100)])
    assert [(s.first, s.last, s.letters) for s in ranking.standings] == [(1, 2, "a"), (1, 2, "a")]


def test_two_seeds_decide_nothing_however_far_apart():
    ranking = ranking_of([seeds_of(0.3, 2), seeds_of(0.95, 2, 50)])
    assert not ranking.decided.any()
    assert [(s.first, s.last, s.letters) for s in ranking.standings] == [(1, 2, ""), (1, 2, "")]


def test_the_mean_is_that_of_the_seeds_and_lies_in_the_interval():
    seeds = seeds_of(0.7, 4)
    standing = ranking_of([seeds]).standings[0]
    assert standing.mean == pytest.approx(100 * np.mean([mean_iou(o.counts.sums) for o in seeds]))
    assert standing.low < standing.mean < standing.high
    assert standing.varies == "seeds and images"
    assert ranking_of([seeds[:1]]).standings[0].varies == "images alone"


def test_one_seed_has_the_interval_of_a_plain_bootstrap_over_images():
    one = seeds_of(0.7, 1)[0]
    rng, draws = np.random.default_rng(7), []
    for _ in range(4000):
        chosen = rng.integers(25, size=25)
        tp, label, pred = (
            part[chosen].sum(0) for part in (one.counts.tp, one.counts.label, one.counts.pred)
        )
        draws.append(100 * (tp / (label + pred - tp)).mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    standing = ranking_of([[one]]).standings[0]
    assert standing.low == pytest.approx(low, abs=0.25)
    assert standing.high == pytest.approx(high, abs=0.25)
