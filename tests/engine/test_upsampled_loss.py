"""Cross-entropy by blocks of rows: equal to the plain formula, in loss and in gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segbench.engine import upsampled_loss
from segbench.engine.loss import image_losses
from segbench.engine.upsampled_loss import upsampled_losses
from segbench.models.upsampling import Bilinear, StretchedUpsampling, UpsamplingStep
from segbench.schema.cards import IGNORE_INDEX

CLAMPED = UpsamplingStep(8, 3.5, clamps=True)
FADING = UpsamplingStep(8, -11.0, clamps=False)  # rows and columns that no feature reaches


def _upsampling(
    kind: UpsamplingStep | None, size: tuple[int, int], fine: tuple[int, int], every: int
) -> Bilinear:
    if kind is None:
        return StretchedUpsampling().bilinear(size, fine, every=every)
    rows, columns = (kind.shares(s, range(0, f, every)) for s, f in zip(size, fine, strict=True))
    return Bilinear(rows, columns)


def _case(
    kind: UpsamplingStep | None,
    fine: tuple[int, int],
    classes: int,
    *,
    images: int = 3,
    every: int = 1,
) -> tuple[Tensor, Bilinear, Tensor]:
    """Return a coarse map, its upsampling and labels with void: the last image is nothing else."""
    generator = torch.Generator().manual_seed(0)
    size = (fine[0] // 8 + 1, fine[1] // 8 + 1)
    coarse = 3 * torch.randn(images, classes, *size, generator=generator)
    label = torch.randint(0, classes, (images, *fine), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE_INDEX
    label[-1] = IGNORE_INDEX
    return coarse, _upsampling(kind, size, fine, every), label[:, ::every, ::every]


def _both(coarse: Tensor, losses_of) -> tuple[Tensor, Tensor]:
    """Return the losses (N,), and the gradient where images count for 1, 2, 3, ..."""
    coarse = coarse.clone().requires_grad_()
    losses = losses_of(coarse)
    (losses * torch.arange(1, len(losses) + 1)).sum().backward()
    assert coarse.grad is not None
    return losses.detach(), coarse.grad


@given(
    kind=st.sampled_from([CLAMPED, FADING, None]),
    fine=st.tuples(st.integers(9, 70), st.integers(9, 70)),
    classes=st.integers(2, 30),
    every=st.integers(1, 4),
    block=st.sampled_from([1, 2000, 2**14, 2**18]),
    weighted=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_size_give_the_plain_formula(kind, fine, classes, every, block, weighted):
    coarse, bilinear, label = _case(kind, fine, classes, every=every)
    weights = torch.linspace(0, 2, classes) if weighted else None  # class 0 weighs nothing
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(upsampled_loss._BLOCK, "cpu", block)
        found = _both(coarse, lambda c: upsampled_losses(c, bilinear, label, weights))
    plain = _both(coarse, lambda c: image_losses(bilinear.of(c), label, weights))
    exact = _both(
        coarse.double(),
        lambda c: image_losses(
            bilinear.of(c), label, None if weights is None else weights.double()
        ),
    )
    for value, expected, right in zip(found, plain, exact, strict=True):
        largest = right.abs().max()
        assert (value - expected).abs().max() <= 5e-7 * largest
        assert (value - right).abs().max() <= 5e-7 * largest
    assert found[0][-1] == 0, "an image of nothing but void"
    assert (found[1][-1] == 0).all()


@pytest.mark.parametrize("classes", [2, 21, 171])
def test_at_the_sizes_of_a_training_loss_and_gradient_are_the_plain_formulas(classes):
    coarse, bilinear, label = _case(CLAMPED, (161, 150), classes)
    found = _both(coarse, lambda c: upsampled_losses(c, bilinear, label))
    plain = _both(coarse, lambda c: image_losses(bilinear.of(c), label))
    assert abs(found[0].sum() / plain[0].sum() - 1) <= 1e-7
    assert (found[1] - plain[1]).abs().max() <= 3e-7 * plain[1].abs().max()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_that_of_finite_differences(weighted):
    coarse, bilinear, label = _case(CLAMPED, (9, 11), 3)
    weights = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64) if weighted else None
    torch.autograd.gradcheck(
        lambda c: upsampled_losses(c, bilinear, label, weights),
        (coarse.double().requires_grad_(),),
    )


def test_without_gradients_the_loss_is_the_same_and_none_is_made(monkeypatch):
    coarse, bilinear, label = _case(CLAMPED, (33, 40), 5)
    expected = upsampled_losses(coarse.clone().requires_grad_(), bilinear, label)
    monkeypatch.setattr(upsampled_loss, "_UpsampledLosses", None)
    with torch.no_grad():
        found = upsampled_losses(coarse.clone().requires_grad_(), bilinear, label)
    assert torch.equal(found, expected.detach())
    assert torch.equal(upsampled_losses(coarse, bilinear, label), found)


def test_one_and_two_threads_give_equal_bits():
    coarse, bilinear, label = _case(CLAMPED, (321, 321), 21, images=2)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2, 1):
            torch.set_num_threads(threads)
            found.append(_both(coarse, lambda c: upsampled_losses(c, bilinear, label)))
    finally:
        torch.set_num_threads(before)
    for losses, gradient in found[1:]:
        assert torch.equal(losses, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_autocast_leaves_the_loss_of_a_bf16_map_in_float32():
    coarse, bilinear, label = _case(CLAMPED, (33, 40), 5)
    coarse = coarse.bfloat16().float()
    expected = _both(coarse, lambda c: upsampled_losses(c, bilinear, label))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _both(coarse, lambda c: upsampled_losses(c, bilinear, label))
    for value, other in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, other)


def test_the_large_map_is_never_made(monkeypatch):
    """The largest tensor is an image's map with all its columns and the rows of the coarse map."""
    coarse, bilinear, label = _case(CLAMPED, (400, 400), 30, images=2)
    monkeypatch.setitem(upsampled_loss._BLOCK, "cpu", 2**16)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.is_floating_point():
                largest = max(largest, found.untyped_storage().nbytes())
            return found

    with Watch():
        _both(coarse, lambda c: upsampled_losses(c, bilinear, label))
    assert largest == bilinear.of(coarse)[0].nbytes * coarse.shape[-2] // 400
