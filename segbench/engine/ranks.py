"""Several processes that do one trial together: who this one is, and what all agree on.

Who it is stands in torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), but
only a process that calls `joined` looks at them. Alone, every function returns what it was given.
Knows nothing of trials.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_T = TypeVar("_T")
_PATIENCE = timedelta(minutes=30)  # one rank may convert data while the others wait
_CPU = torch.device("cpu")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes of this trial, and leave them at the end."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes do this trial."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def local_rank() -> int:
    """Return which of the trial's processes on this machine this one is."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def agreed(value: _T) -> _T:
    """Return the first rank's value on all ranks; what the others give is not looked at."""
    if count() == 1:
        return value
    holder: list[Any] = [value]
    dist.broadcast_object_list(holder, src=0, device=_CPU)
    return holder[0]


def any_of(flag: bool) -> bool:
    """Return whether the flag is true on any rank."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean over ranks, the same bits on all of them."""
    if count() == 1:
        return value
    found = value.clone()
    dist.all_reduce(found)
    return found / count()


def gathered(value: _T) -> list[_T]:
    """Return the values of all ranks, in order, on all of them."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first rank do something (make files) before the others do it (and find them)."""
    if not is_first():
        any_of(flag=False)
    yield
    if is_first():
        any_of(flag=False)


def is_loss_of_a_rank(error: BaseException) -> bool:
    """Return whether the error says that another rank is gone, and nothing of this one."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)


def share_batch_norm(network: nn.Module) -> None:
    """Make batch norm layers take their statistics over the batches of all ranks.

    So they are those of the whole batch, as with one rank.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, _shared(child))
        else:
            share_batch_norm(child)


def _shared(layer: nn.Module) -> nn.Module:
    if next(layer.buffers()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    layer.__class__ = type("SharedBatchNorm", (_SharedBatchNorm, type(layer)), {})
    return layer


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(value: Tensor) -> Tensor:
    found = _Sum.apply(value)
    assert isinstance(found, Tensor)
    return found


class _SharedBatchNorm(nn.BatchNorm2d):
    """torch.nn.SyncBatchNorm for a CPU, which has none."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C, H, W) normalised by the mean and variance of all ranks' pixels."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        pixels = input.transpose(0, 1).flatten(1)  # (C, N * H * W)
        number = pixels.shape[1] * count()  # ranks have equal shares
        mean = _sum(pixels.sum(1)) / number
        variance = _sum((pixels - mean[:, None]).square().sum(1)) / number
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * number / (number - 1), share)
        shape = (1, -1, 1, 1)
        normal = (input - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape)
