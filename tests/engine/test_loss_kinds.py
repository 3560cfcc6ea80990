"""Losses beside cross-entropy, each against its formula written out pixel by pixel."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from segbench.engine.loss import image_losses, labelled_pixels, loss_weights
from segbench.engine.loss_kinds import LOSSES, losses_of
from segbench.schema.recipe import Loss, LossKind, Recipe

C, VOID = 3, 255
RECORDS = {
    "cross_entropy": Loss(label_smoothing=0.1),
    "focal": Loss(kind="focal", gamma=2.0),
    "ohem": Loss(kind="ohem", keep=0.3),
    "dice": Loss(kind="dice", cross_entropy=0.5),
}


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Two images of 4x5 pixels; the second lacks class 2, both have void."""
    torch.manual_seed(0)
    label = torch.randint(0, C, (2, 4, 5))
    label[1] = label[1].clamp(max=1)
    label[:, 0, 0] = VOID
    return 3 * torch.randn(2, C, 4, 5, requires_grad=True), label


def _pixels(score_map: Tensor, label: Tensor) -> list[list[tuple[Tensor, int]]]:
    """Return, for each image, the log-probabilities and the class of each labelled pixel."""
    logs = score_map.detach().double().log_softmax(1)
    return [
        [
            (logs[n, :, i, j], int(label[n, i, j]))
            for i in range(label.shape[1])
            for j in range(label.shape[2])
            if label[n, i, j] != VOID
        ]
        for n in range(len(label))
    ]


def _expected(kind: str, pixels: list[tuple[Tensor, int]]) -> float:
    costs = [-float(logs[k]) for logs, k in pixels]
    if kind == "cross_entropy":
        return sum(
            0.9 * cost - 0.1 * float(logs.mean())
            for cost, (logs, _) in zip(costs, pixels, strict=True)
        )
    if kind == "focal":
        return sum((1 - float(logs[k].exp())) ** 2 * -float(logs[k]) for logs, k in pixels)
    if kind == "ohem":
        kept = sorted(costs, reverse=True)[: -(-3 * len(costs) // 10)]
        return sum(kept) / len(kept) * len(costs)
    coefficients = []
    for c in {k for _, k in pixels}:
        both = sum(float(logs[c].exp()) for logs, k in pixels if k == c)
        sizes = sum(float(logs[c].exp()) for logs, _ in pixels) + sum(k == c for _, k in pixels)
        coefficients.append(2 * both / sizes)
    return (1 - sum(coefficients) / len(coefficients)) * len(pixels) + 0.5 * sum(costs)


def test_every_kind_is_in_the_table():
    assert tuple(LOSSES) == get_args(LossKind)
    assert set(RECORDS) == set(LOSSES)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_loss_is_its_formula(case, kind):
    score_map, label = case
    found = losses_of(RECORDS[kind], score_map, label)
    expected = [_expected(kind, pixels) for pixels in _pixels(score_map, label)]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.sum(), score_map)
    assert gradient.isfinite().all()
    assert not gradient[:, :, 0, 0].any()  # void


@pytest.mark.parametrize("kind", RECORDS)
def test_an_image_without_a_label_costs_nothing(kind):
    score_map = torch.randn(1, C, 2, 2, requires_grad=True)
    found = losses_of(RECORDS[kind], score_map, torch.full((1, 2, 2), VOID))
    assert found.tolist() == [0]
    (gradient,) = torch.autograd.grad(found.sum(), score_map)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "ohem"])
def test_class_weights_weigh_pixels(case, kind):
    score_map, label = case
    loss = RECORDS[kind].revised(**({"keep": 1.0} if kind == "ohem" else {}))
    if kind == "cross_entropy":
        loss = Loss()
    ones, twos = torch.ones(C), torch.full((C,), 2.0)
    torch.testing.assert_close(
        losses_of(loss, score_map, label, ones), losses_of(loss, score_map, label)
    )
    doubled = losses_of(loss, score_map, label, twos)
    torch.testing.assert_close(doubled, 2 * losses_of(loss, score_map, label))


def test_the_plain_loss_is_what_it_was(case):
    score_map, label = case
    torch.testing.assert_close(losses_of(Loss(), score_map, label), image_losses(score_map, label))
    assert (
        "loss"
        not in Recipe.model_validate(
            {
                "batch_size": 1,
                "stages": ({"name": "a", "steps": 1, "optimizer": {"lr": 0.1}},),
            }
        ).identity()
    )


def test_the_mean_of_dice_over_images_is_the_mean_of_their_dice(case):
    score_map, label = case
    dice = losses_of(Loss(kind="dice"), score_map, label)
    weights = loss_weights(labelled_pixels(label), "mean_per_image")
    per_image = dice / labelled_pixels(label)
    torch.testing.assert_close((dice * weights).sum(), per_image.mean())


def test_fields_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="gamma: belongs to loss kind focal, but this is ohem"):
        Loss(kind="ohem", gamma=3.0)
