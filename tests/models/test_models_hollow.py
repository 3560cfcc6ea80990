"""A hollow network gives the shapes and the arithmetic of the whole one."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from segbench.models.hollow import hollow


def test_a_hollow_network_has_the_shapes_and_the_arithmetic_of_the_whole_one():
    network = get_model("mobilenet_v3_small", weights=None).features.eval()
    shapes, flops = [], []
    for one, device in ((network, "cpu"), (hollow(network), "meta")):
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            shapes.append([])
            image = torch.zeros(2, 3, 67, 45, device=device)
            for block in one:
                image = block(image)
                shapes[-1].append(image.shape)
        flops.append(counter.get_total_flops())
    assert shapes[0] == shapes[1]
    assert flops[0] == flops[1] > 0


def test_the_whole_network_keeps_its_layers_and_numbers():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Hardswish())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copied = hollow(network)
    assert {tensor.device.type for tensor in copied.state_dict().values()} == {"meta"}
    assert [type(layer) for layer in network] == [nn.Conv2d, nn.BatchNorm2d, nn.Hardswish]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
