"""A network without its numbers: the shapes that it gives, found without memory or arithmetic.

Knows nothing of cards.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from segbench.models.geometry import is_pointwise

Network = TypeVar("Network", bound=nn.Module)


def hollow(network: Network) -> Network:
    """Return a copy on the device `meta`, without the layers that keep the shape of their input.

    The shape behind one batch norm takes torch longer than that behind ten convolutions. No weights
    are copied.
    """
    memo: dict[int, object] = {
        id(tensor): kind(torch.empty_like(tensor, device="meta"))
        for kind, tensors in (
            (nn.Parameter, network.parameters()),
            (torch.Tensor, network.buffers()),
        )
        for tensor in tensors
    }
    memo |= {id(layer): nn.Identity() for layer in network.modules() if is_pointwise(layer)}
    return copy.deepcopy(network, memo)
