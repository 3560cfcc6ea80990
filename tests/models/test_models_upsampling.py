"""Bilinear upsampling by coordinates: fixed, learned, clamped, fading."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segbench.errors import CardError
from segbench.models.geometry import Coordinates
from segbench.models.upsampling import (
    FixedUpsampling,
    LearnedUpsampling,
    StretchedUpsampling,
    UpsamplingStep,
)

DELTAS = (-11.0, -3.25, -0.5, 0.0, 0.5, 1.75, 3.5, 6.5, 12.5)


def _interpolated(values: np.ndarray, place: float, *, clamps: bool) -> float:
    """Return one value between two neighbours, by the definition of linear interpolation."""
    last = len(values) - 1
    if clamps:
        place = min(max(place, 0.0), float(last))
    below = math.floor(place)
    share = place - below
    value = 0.0
    for index, weight in ((below, 1 - share), (below + 1, share)):
        if 0 <= index <= last:
            value += weight * values[index]
    return value


def _naive(coarse: np.ndarray, step: UpsamplingStep, rows: range, columns: range) -> np.ndarray:
    wide = np.array(
        [
            [
                _interpolated(line, (x - step.delta) / step.factor, clamps=step.clamps)
                for x in columns
            ]
            for line in coarse
        ]
    )
    return np.array(
        [
            [_interpolated(line, (y - step.delta) / step.factor, clamps=step.clamps) for y in rows]
            for line in wide.T
        ]
    ).T


@settings(deadline=None, max_examples=60)
@given(
    factor=st.sampled_from([1, 2, 4, 8]),
    delta=st.sampled_from(DELTAS),
    clamps=st.booleans(),
    size=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    window=st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 3)),
)
def test_fixed_upsampling_is_linear_interpolation_at_any_offset(
    factor, delta, clamps, size, window
):
    step = UpsamplingStep(factor, delta, clamps)
    coarse = torch.randn(1, 1, *size, dtype=torch.float64)
    rows, columns = range(window[0], window[0] + window[1], window[2]), range(window[1])
    ours = FixedUpsampling(step)(coarse, rows, columns)[0, 0].numpy()
    np.testing.assert_allclose(ours, _naive(coarse[0, 0].numpy(), step, rows, columns), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_half_pixel_offsets_give_torch_s_own_interpolation(factor):
    coarse = torch.randn(2, 3, 5, 4)
    step = UpsamplingStep(factor, (factor - 1) / 2, clamps=True)
    ours = FixedUpsampling(step)(coarse, range(5 * factor), range(4 * factor))
    torch.testing.assert_close(
        ours, F.interpolate(coarse, scale_factor=factor, mode="bilinear", align_corners=False)
    )


@settings(deadline=None, max_examples=60)
@given(
    coarse=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    every=st.integers(1, 3),
)
def test_stretched_upsampling_is_torch_s_own_interpolation_at_any_sizes(coarse, more, every):
    scores = torch.randn(2, 3, *coarse)
    size = (coarse[0] + more[0], coarse[1] + more[1])
    expected = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    ours = StretchedUpsampling()(scores, size, every=every)
    torch.testing.assert_close(ours, expected[..., ::every, ::every], atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    factor=st.sampled_from([2, 4, 8]),
    delta=st.sampled_from(DELTAS),
    clamps=st.booleans(),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    every=st.integers(1, 3),
)
def test_learned_upsampling_starts_as_the_fixed_one(factor, delta, clamps, size, every):
    step = UpsamplingStep(factor, delta, clamps)
    coarse = torch.randn(2, 3, *size)
    rows, columns = (step.shared(n, n * factor + 3)[::every] for n in size)
    if not len(rows) or not len(columns):
        return
    learned = LearnedUpsampling(step, torch.eye(3))(coarse, rows, columns)
    fixed = FixedUpsampling(step)(coarse, rows, columns)
    assert learned.shape == (2, 3, len(rows), len(columns))
    torch.testing.assert_close(learned, fixed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("factor", "delta", "taps", "centre"),
    [(32, 12.5, 64, 31.5), (16, 8.5, 32, 15.5), (2, 6.5, 4, 1.5), (32, 13.0, 63, 31.0)],
)
def test_kernels_have_the_sizes_of_the_paper_s_deconvolutions(factor, delta, taps, centre):
    step = UpsamplingStep(factor, delta, clamps=False)
    assert (step.taps, step.centre) == (taps, centre)
    kernel = step.kernel()
    assert kernel[0] > 0
    assert kernel[-1] > 0
    # Each output is met by every factor-th tap; these shares must be whole.
    for phase in range(factor):
        assert kernel[phase::factor].sum().item() == pytest.approx(1)


def test_learned_kernels_mix_classes_and_are_trained():
    upsampling = LearnedUpsampling(UpsamplingStep(2, 0.5, clamps=True), torch.eye(4))
    upsampling(torch.randn(1, 4, 3, 3), range(6), range(6)).square().sum().backward()
    assert upsampling.weight.shape == (4, 4, 4, 4)
    assert upsampling.weight.grad is not None
    assert upsampling.weight.grad[0, 1].abs().sum() > 0


def test_strides_that_do_not_divide_are_refused():
    with pytest.raises(CardError, match="stride 12 is not a multiple of stride 8"):
        UpsamplingStep.between(Coordinates(12), Coordinates(8), clamps=True)
