"""Which parameter gets which learning rate and weight decay."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from segbench.engine.train import parameter_groups
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.heads import HEADS, Model
from segbench.schema.recipe import Optimizer


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    card = Catalog((built_in_root(),)).backbone("resnet18")
    return build_segmenter(card, HEADS["fcn32s"], Model(), 3)


def _expected(name: str, optimizer: Optimizer) -> tuple[float, float]:
    """Return the rate and decay by the layers' names in torchvision's ResNet: `bn1`, `downsample.1`."""
    is_norm = any(part.startswith("bn") for part in name.split(".")) or "downsample.1." in name
    rate, decay = optimizer.lr, optimizer.weight_decay
    if name.startswith("head."):
        rate *= optimizer.head_lr_factor
    if name.endswith(".bias"):
        rate *= optimizer.bias_lr_factor
        if optimizer.bias_weight_decay is not None:
            decay = optimizer.bias_weight_decay
    if is_norm and optimizer.norm_weight_decay is not None:
        decay = optimizer.norm_weight_decay
    return rate, decay


@pytest.mark.parametrize(
    ("bias_decay", "norm_decay"), list(itertools.product([None, 0.0, 3e-4], [None, 0.0, 2e-4]))
)
def test_each_parameter_has_the_rate_and_decay_of_its_kind(segmenter, bias_decay, norm_decay):
    optimizer = Optimizer(
        lr=0.1, weight_decay=5e-4, bias_lr_factor=2, head_lr_factor=10,
        bias_weight_decay=bias_decay, norm_weight_decay=norm_decay,
    )  # fmt: skip
    found: dict[int, tuple[float, float]] = {}
    for group in parameter_groups(segmenter, optimizer, segmenter.parameter_kinds()):
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group["lr"], group["weight_decay"]
    names = {name: found.pop(id(p)) for name, p in segmenter.named_parameters()}
    assert names == {name: _expected(name, optimizer) for name in names}
    assert not found


def test_a_scale_without_decay_stands_still_where_no_gradient_moves_it(segmenter):
    """One step of SGD with zero gradients multiplies what decays by 1 - lr * decay."""
    optimizer = Optimizer(lr=0.5, weight_decay=0.1, norm_weight_decay=0)
    before: dict[str, Tensor] = {n: p.detach().clone() for n, p in segmenter.named_parameters()}
    for parameter in segmenter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    groups = parameter_groups(segmenter, optimizer, segmenter.parameter_kinds())
    torch.optim.SGD(groups, lr=optimizer.lr).step()
    norms = {
        f"{name}.weight"
        for name, module in segmenter.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert norms
    for name, parameter in segmenter.named_parameters():
        factor = 1.0 if name in norms or name.replace("bias", "weight") in norms else 0.95
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
