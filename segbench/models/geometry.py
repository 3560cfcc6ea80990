"""Where each feature of a trunk lies in the image, computed from its layers; and the paddings that are ours.

A trunk is a torch.fx graph. Feature i of a layer is centred on pixel `stride * i + offset` of the
image and sees `receptive_field` pixels around it; pixels are counted from 0, so offset 0 is the
centre of the first one. Each layer changes the three numbers by its own window; branches that meet
must agree. Knows nothing of cards or heads.
"""

import itertools
import operator
import sys
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from segbench.errors import CardError

Windowed = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
CAFFE_PADDING = 100  # Long et al.'s net definitions; it lets fc6 be valid on the smallest image


DECLARE = (
    "say where they lie: give each stage an `offset`, the pixel that its first feature is centred on, "
    "such as 7.5 for patches of 16 pixels (docs/extending.md)"
)


class Coordinates(NamedTuple):
    """The affine map from feature indices to pixels, along one axis of the image."""

    stride: int = 1
    offset: float = 0.0
    receptive_field: int = 1

    def after(self, window: "AxisKernel") -> "Coordinates":
        """Return the coordinates of the features that `window` makes of these."""
        reach = window.extent - 1
        return Coordinates(
            self.stride * window.stride,
            self.offset + self.stride * (reach / 2 - window.padding),
            self.receptive_field + self.stride * reach,
        )

    def shifted(self, features: int) -> "Coordinates":
        """Return the coordinates without the first `features` features (negative: with more)."""
        return self._replace(offset=self.offset + self.stride * features)


class AxisKernel(NamedTuple):
    """A convolution or pool along one axis; `padding` is what comes before the first feature."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def extent(self) -> int:
        """How many features it spans."""
        return self.dilation * (self.kernel - 1) + 1


def stage_coordinates(trunk: fx.GraphModule) -> dict[str, Coordinates]:
    """Return the coordinates of each feature map that the trunk returns, by stage name.

    Raises:
        CardError: a layer whose geometry is unknown, branches that do not agree, or a trunk that
            treats the two axes differently.
    """
    rows, columns = (_walk(trunk, axis) for axis in (0, 1))
    stages: Any = trunk.graph.output_node().args[0]
    found: dict[str, Coordinates] = {}
    for name, node in stages.items():
        here = rows[node]
        if here is None or here != columns[node]:
            raise CardError(
                f"stage {name}: its features have no single place along both axes of the image "
                f"(rows {here}, columns {columns[node]}); {DECLARE}"
            )
        found[name] = here
    return found


def stage_sizes(trunk: fx.GraphModule, side: int) -> dict[str, int]:
    """Return the features along one axis of each stage, for an image of `side` pixels."""
    found = _sizes(trunk, side, 0)
    stages: Any = trunk.graph.output_node().args[0]
    return {name: found[node] for name, node in stages.items()}


def smallest_side(trunk: fx.GraphModule) -> int:
    """Return the least pixels a side of an image that leave every layer at least one feature."""
    return next(
        side
        for side in itertools.count(1)
        if all(min(_sizes(trunk, side, axis).values(), default=1) > 0 for axis in (0, 1))
    )


def _sizes(trunk: fx.GraphModule, side: int, axis: int) -> dict[fx.Node, int]:
    """Return the features of each node along one axis, for an image of `side` pixels."""
    found: dict[fx.Node, int] = {}
    for node in trunk.graph.nodes:
        sizes = [found[source] for source in node.all_input_nodes if source in found]
        layer = trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            found[node] = side
        elif isinstance(layer, nn.AdaptiveAvgPool2d) or not sizes or node.op == "output":
            continue  # a summary of the whole image: it has a value at any size
        elif isinstance(layer, Windowed):
            window = _window(layer, axis)
            room = min(sizes) + 2 * window.padding - window.extent
            whole = room // window.stride + 1 if room >= 0 else 0
            # a pool that rounds up may begin its last window in the input, not behind it
            rounds_up = isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and layer.ceil_mode
            begins = whole * window.stride < min(sizes) + window.padding
            found[node] = whole + (rounds_up and room % window.stride > 0 and begins)
        elif node.target is F.pad:
            padding: Any = node.args[1]
            found[node] = min(sizes) + sum(padding[2 * (1 - axis) : 2 * (1 - axis) + 2])
        else:
            found[node] = min(sizes)
    return found


def pad_aligned(trunk: fx.GraphModule, layers: Container[str] | None = None) -> None:
    """Pad every layer so that feature i lies at pixel stride * i and ceil(size / stride) remain.

    layers: those with these names alone; None means all.

    A window of odd extent e gets (e - 1) / 2 on both sides. One of even extent cannot be centred on
    a feature: it starts so that windows of neighbours tile the input (2x2 pools of stride 2: no
    padding, the last one cut at the border), and shifts the offset by half a feature.
    """
    for node, layer in _windows(trunk):
        if layers is not None and str(node.target) not in layers:
            continue
        rows, columns = (_window(layer, axis) for axis in (0, 1))
        before = (_padding_before(rows), _padding_before(columns))
        after = (rows.extent - 1 - before[0], columns.extent - 1 - before[1])
        if isinstance(layer, nn.Conv2d):
            if before == after:
                layer.padding = before
            else:
                layer.padding = (0, 0)
                _insert_padding(node, (before[1], after[1], before[0], after[0]))
            continue
        if any(w.extent % 2 == 0 and (w.extent - w.stride) % 2 for w in (rows, columns)):
            raise CardError(
                f"{node.target}: a pool of {rows.kernel}x{columns.kernel}, stride {rows.stride}, "
                "cannot keep its input's size; give it an odd size, or an even stride"
            )
        layer.padding = before
        layer.ceil_mode = before != after


def pad_caffe(trunk: fx.GraphModule) -> None:
    """Pad the first convolution by 100 and let pools round up, as the FCN paper's Caffe nets do.

    A pool beside other readers of its input (Inception's reductions) keeps its own rounding, or it
    would not fit the strided convolutions that it is concatenated with.

    Source: Long, Shelhamer, Darrell, CVPR 2015, voc-fcn32s/net.py.
    """
    is_first = True
    for node, layer in _windows(trunk):
        if isinstance(layer, nn.Conv2d):
            if is_first:
                layer.padding = (CAFFE_PADDING, CAFFE_PADDING)
            is_first = False
            continue
        readers = [user for user in node.all_input_nodes[0].users if user.op != "output"]
        if len(readers) == 1:
            layer.ceil_mode = True


def remove_batch_norm(trunk: fx.GraphModule) -> frozenset[str]:
    """Take the batch norm layers out; return the names of the biases of 0 that stand in their place.

    A convolution that had a bias of its own keeps it.
    """
    biases = set()
    for node in list(trunk.graph.nodes):
        if node.op != "call_module":
            continue
        if not isinstance(trunk.get_submodule(node.target), nn.BatchNorm2d):
            continue
        source = node.all_input_nodes[0]
        layer = trunk.get_submodule(str(source.target)) if source.op == "call_module" else None
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels))
            biases.add(f"{source.target}.bias")
        node.replace_all_uses_with(source)
        trunk.graph.erase_node(node)
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return frozenset(biases)


def pools_as_modules(trunk: fx.GraphModule) -> None:
    """Turn functional pools into modules, so that one rule serves both."""
    for node in list(trunk.graph.nodes):
        kinds = {id(F.max_pool2d): _MAX_POOL, id(F.avg_pool2d): _AVG_POOL}
        if node.op != "call_function" or id(node.target) not in kinds:
            continue
        module_type, names = kinds[id(node.target)]
        options = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
        trunk.add_submodule(f"pool_of_{node.name}", module_type(**options))
        with trunk.graph.inserting_before(node):
            pool = trunk.graph.call_module(f"pool_of_{node.name}", (node.args[0],))
        node.replace_all_uses_with(pool)
        trunk.graph.erase_node(node)
    trunk.recompile()


def set_average_pools(trunk: fx.GraphModule, *, counts_padding: bool) -> None:
    """Let every average pool divide by its whole window, or by the pixels that lie inside."""
    for _, layer in _windows(trunk):
        if isinstance(layer, nn.AvgPool2d):
            layer.count_include_pad = counts_padding


_MAX_POOL = (
    nn.MaxPool2d,
    ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
)
_AVG_POOL = (
    nn.AvgPool2d,
    ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
)

_POINTWISE_MODULES = (
    nn.BatchNorm2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Identity,
    nn.LeakyReLU,
    nn.LocalResponseNorm,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Sigmoid,
)
_POINTWISE_FUNCTIONS = {
    *(F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.dropout, F.leaky_relu, torch.relu),
    *(
        torch.sigmoid,
        F.hardsigmoid,
        torch.add,
        torch.sub,
        torch.mul,
        torch.div,
        torch.neg,
        torch.abs,
        torch.exp,
        torch.tanh,
        torch.clamp,
        torch.cat,
        torch.concat,
    ),
    *(operator.add, operator.iadd, operator.mul, operator.imul, operator.neg, operator.pos),
    *(operator.sub, operator.isub, operator.truediv, operator.itruediv, operator.pow),
}
_POINTWISE_METHODS = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "abs", "exp", "clone"),
    *("relu", "relu_", "sigmoid", "tanh", "clamp", "contiguous", "float", "pow"),
}


def is_pointwise(layer: nn.Module | None) -> bool:
    """Return whether the layer is known to make each feature of that feature alone, in place."""
    return isinstance(layer, _POINTWISE_MODULES) or drops_blocks(layer)


def drops_blocks(layer: nn.Module | None) -> bool:
    """Return whether the layer is torchvision's StochasticDepth.

    Who has such a layer has loaded torchvision, which takes two seconds that other trunks do without.
    """
    operators = sys.modules.get("torchvision.ops")
    return operators is not None and isinstance(layer, operators.StochasticDepth)


def _walk(trunk: fx.GraphModule, axis: int) -> dict[fx.Node, Coordinates | None]:
    """Return the coordinates of every node along one axis; None is a summary of the whole image."""
    found: dict[fx.Node, Coordinates | None] = {}
    for node in trunk.graph.nodes:
        if node.op == "placeholder":
            found[node] = Coordinates()
        elif node.op != "output":
            inputs = {source: found[source] for source in node.all_input_nodes}
            found[node] = _coordinates(trunk, node, inputs, axis)
    return found


def _coordinates(
    trunk: fx.GraphModule,
    node: fx.Node,
    inputs: dict[fx.Node, Coordinates | None],
    axis: int,
) -> Coordinates | None:
    here = _meeting(node, inputs)
    layer = trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        return None  # squeeze and excitation: one value for all places
    if isinstance(layer, Windowed):
        return here.after(_window(layer, axis)) if here else None
    if node.target is F.pad and here:
        padding: Any = node.args[1]
        return here.shifted(-padding[2 * (1 - axis)])
    if is_pointwise(layer) or node.target in _POINTWISE_FUNCTIONS:
        return here
    if node.op == "call_method" and node.target in _POINTWISE_METHODS:
        return here
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    kind = name if layer is None else f"{name} ({type(layer).__name__})"
    raise CardError(
        f"the trunk's layer {kind} moves features in a way that is not known here; {DECLARE}"
    )


def _meeting(node: fx.Node, inputs: dict[fx.Node, Coordinates | None]) -> Coordinates | None:
    placed = [coordinates for coordinates in inputs.values() if coordinates is not None]
    if len({(c.stride, c.offset) for c in placed}) > 1:
        where = ", ".join(f"{source.name} {c}" for source, c in inputs.items())
        raise CardError(
            f"the branches that meet at {node.name} do not lie alike: {where}; {DECLARE}"
        )
    return max(placed, key=lambda c: c.receptive_field) if placed else None


def _windows(trunk: fx.GraphModule) -> Iterable[tuple[fx.Node, Windowed]]:
    for node in list(trunk.graph.nodes):
        if node.op == "call_module":
            layer = trunk.get_submodule(str(node.target))
            if isinstance(layer, Windowed):
                yield node, layer


def _window(layer: Windowed, axis: int) -> AxisKernel:
    def along(name: str) -> int:
        value: Any = getattr(layer, name, 1)
        return value if isinstance(value, int) else value[axis]

    kernel, dilation = along("kernel_size"), along("dilation")
    if layer.padding == "same":
        padding = dilation * (kernel - 1) // 2
    else:
        padding = 0 if layer.padding == "valid" else along("padding")
    return AxisKernel(kernel, along("stride"), padding, dilation)


def _padding_before(window: AxisKernel) -> int:
    if window.extent % 2:
        return window.extent // 2
    return max(0, window.extent - window.stride) // 2


def _insert_padding(node: fx.Node, padding: tuple[int, int, int, int]) -> None:
    with node.graph.inserting_before(node):
        padded = node.graph.call_function(F.pad, (node.args[0], padding))
    node.update_arg(0, padded)
