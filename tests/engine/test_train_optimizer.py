"""Optimizers in their fused form: the same steps as the plain formula, fp16 and clipping included."""

import copy
import math
from pathlib import Path

import pytest
import torch
from test_loss import CLASSES, _segmenter
from torch import Tensor

from segbench.engine.train import (
    Batch,
    Hooks,
    Interrupted,
    _optimizer,
    _restore,
    parameter_groups,
    train,
)
from segbench.models.segmenter import Segmenter
from segbench.schema.machine import Monitor
from segbench.schema.recipe import Optimizer, Recipe, TrainImages, TrainStage

NAMES = ["sgd", "adam", "adamw"]


def _batches(first: int, last: int):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)
        yield Batch(images, torch.randint(0, CLASSES, (2, 16, 16), generator=generator))


def _recipe(name: str, **fields) -> Recipe:
    optimizer = Optimizer(name=name, lr=1e-2, weight_decay=1e-2, bias_lr_factor=2)
    stage = TrainStage(name="all", steps=6, optimizer=optimizer)
    return Recipe(images=TrainImages(squash=(16, 16)), batch_size=2, stages=(stage,), **fields)


def _trained(folder: Path, recipe: Recipe, *, stops_at: int = 0) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    segmenter, reached = _segmenter(), 0

    def on_step(step: int, _: float | None) -> None:
        nonlocal reached
        reached = step

    train(
        segmenter, recipe, _batches, folder=folder, monitor=Monitor(), device=torch.device("cpu"),
        hooks=Hooks(on_step, lambda: reached == stops_at),
    )  # fmt: skip
    return segmenter.state_dict()


def _by_formula(
    segmenter: Segmenter, optimizer: Optimizer, gradients: list[list[Tensor]]
) -> list[Tensor]:
    """Return the parameters after the steps by the papers' formulas, in float64."""
    groups = parameter_groups(segmenter, optimizer, segmenter.parameter_kinds())
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    first, second = optimizer.betas
    found = []
    for index, parameter in enumerate(segmenter.parameters()):
        rate, decay = rates[id(parameter)]
        value = parameter.detach().double()
        mean = velocity = square = torch.zeros_like(value)
        for step, gradient in enumerate((g[index].double() for g in gradients), start=1):
            if optimizer.name == "adamw":
                value = value * (1 - rate * decay)
            else:
                gradient = gradient + decay * value
            velocity = optimizer.momentum * velocity + gradient
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            scaled = mean / (1 - first**step) / ((square / (1 - second**step)).sqrt() + 1e-8)
            value = value - rate * (velocity if optimizer.name == "sgd" else scaled)
        found.append(value)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_form_takes_the_formulas_steps(name):
    segmenter, optimizer = _segmenter(), _recipe(name).stages[0].optimizer
    gradients = [[torch.randn_like(p) for p in segmenter.parameters()] for _ in range(5)]
    expected = _by_formula(copy.deepcopy(segmenter), optimizer, gradients)
    groups = parameter_groups(segmenter, optimizer, segmenter.parameter_kinds())
    stepper = _optimizer(groups, optimizer)
    assert all(group["fused"] for group in stepper.param_groups)
    for step in gradients:
        for parameter, gradient in zip(segmenter.parameters(), step, strict=True):
            parameter.grad = gradient
        stepper.step()
    for parameter, value in zip(segmenter.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_that_was_stopped_gives_the_same_bits(tmp_path, name, precision):
    recipe = _recipe(name, precision=precision)
    straight = _trained(tmp_path / "straight", recipe)
    with pytest.raises(Interrupted):
        _trained(tmp_path / "stopped", recipe, stops_at=3)
    resumed = _trained(tmp_path / "stopped", recipe)
    assert all(torch.equal(resumed[key], value) for key, value in straight.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_under_fp16_gradients_are_unscaled_once_and_infinite_ones_skip_the_step(name, clip):
    """Fused optimizers unscale by themselves, unless clipping had it done before."""
    optimizer = _recipe(name).stages[0].optimizer
    found = []
    for enabled in (False, True):
        segmenter = _segmenter()
        parameters = list(segmenter.parameters())
        groups = parameter_groups(segmenter, optimizer, segmenter.parameter_kinds())
        stepper, scaler = _optimizer(groups, optimizer), torch.GradScaler("cpu", enabled=enabled)
        for factor in (1.0, math.inf, 2.0) if enabled else (1.0, 2.0):
            before = [p.detach().clone() for p in parameters]
            stepper.zero_grad()
            scaler.scale(factor * sum(p.square().sum() for p in parameters)).backward()
            if clip is not None:
                scaler.unscale_(stepper)
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            scaler.step(stepper)
            scaler.update()
            moved = any(not torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
            assert moved == math.isfinite(factor)
        found.append([p.detach() for p in parameters])
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_state_of_another_memory_layout_is_laid_out_as_the_parameters(name):
    """Fused forms walk over the memory of a weight and its momentum without a look at strides."""
    optimizer, found = _recipe(name).stages[0].optimizer, []
    for layout in (torch.contiguous_format, torch.channels_last):
        segmenter = _segmenter()
        segmenter.trunk.to(memory_format=layout)
        groups = parameter_groups(segmenter, optimizer, segmenter.parameter_kinds())
        stepper = _optimizer(groups, optimizer)
        if found:
            segmenter.load_state_dict(found[0][0])
            _restore(stepper, found[0][1])
        for step in (1, 2):
            torch.manual_seed(step)
            for parameter in segmenter.parameters():
                gradient = torch.randn(parameter.shape)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            if step == 2 or not found:
                stepper.step()
            if step == 1 and not found:
                found.append(copy.deepcopy((segmenter.state_dict(), stepper.state_dict())))
        found.append([p.detach() for p in segmenter.parameters()])
    for plain, other in zip(*found[1:], strict=True):
        assert torch.equal(plain, other)
