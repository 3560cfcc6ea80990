"""Trunks: a card's classification network, cut at its stages, with either geometry.

The network keeps its parameter names, so that published weights load as they are. Fully connected
layers that the card names become convolutions behind the deepest stage. A card that says where its
features lie has its network run whole (declared.py). Knows nothing of heads.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from segbench.code.own import TIMM, is_built_in, trusted_function
from segbench.errors import CardError
from segbench.models import geometry
from segbench.models.caffenet import caffenet
from segbench.models.declared import (
    MOST_PARAMETERS_CHECKED,
    DeclaredTrunk,
    declared_trunk,
    verify_places,
)
from segbench.models.geometry import DECLARE, Coordinates
from segbench.models.hollow import hollow
from segbench.schema.cards import BackboneCard, Stage
from segbench.schema.heads import BatchNorm, Geometry
from segbench.schema.yamlfile import did_you_mean

_OWN_BUILDERS = {"caffenet": caffenet}  # `segbench:NAME` on a card: names that files keep


class Trunk(NamedTuple):
    """A network that returns {stage name: (N, D, h, w)}, and where these lie in the image.

    smallest_side: the least pixels a side that leave every layer a feature. full_names: the names of
    all parameters and buffers of the network before it was cut. new_biases: those that stand where
    batch norm was. prefix: what the trunk's names have before the network's own.
    """

    network: fx.GraphModule | DeclaredTrunk
    coordinates: dict[str, Coordinates]
    smallest_side: int
    full_names: frozenset[str]
    new_biases: frozenset[str] = frozenset()
    prefix: str = ""


def build_trunk(
    card: BackboneCard,
    strides: tuple[int, ...],
    *,
    padding: Geometry,
    dropout: float,
    batch_norm: BatchNorm = "keep",
) -> Trunk:
    """Return the card's network, cut behind the stages with these strides.

    Parameters are drawn from torch's global generator as the builder does. The cut network is that
    of evaluation: auxiliary classifiers are gone; train() switches dropout and batch norm only.

    Raises:
        CardError: the builder cannot be used, or what it built is not what the card promises.
    """
    network = call_builder(card).eval()
    full_names = frozenset(network.state_dict())
    stages = card.stages_read(strides)[::-1]
    if card.is_declared:
        parts = declared_trunk(card, stages, network)
        return Trunk(parts.network.train(), parts.coordinates, 1, full_names, prefix="network.")
    trunk = _cut(card, network, stages)
    geometry.pools_as_modules(trunk)
    if card.average_pools is not None:
        geometry.set_average_pools(trunk, counts_padding=card.average_pools == "include_padding")
    new_biases = frozenset[str]() if batch_norm == "keep" else geometry.remove_batch_norm(trunk)
    _keep_stages_intact(trunk)
    if card.classifier is not None and stages[-1] is card.stages[-1]:
        _append_classifier(trunk, network, card, dropout=dropout)
    _pad(trunk, card, padding)
    trunk.graph.lint()
    trunk.recompile()
    coordinates = _coordinates(card, trunk)
    smallest = geometry.smallest_side(trunk)
    problems = _broken_promises(trunk, stages, coordinates)
    problems += _side_problems(stages[-1], smallest) if padding == "native" else []
    if problems:
        raise CardError("\n".join(f"{card.name}: {problem}" for problem in problems))
    return Trunk(trunk.train(), coordinates, smallest, full_names | new_biases, new_biases)


def _pad(trunk: fx.GraphModule, card: BackboneCard, padding: Geometry) -> None:
    if padding == "aligned":
        geometry.pad_aligned(trunk)
    elif padding == "caffe":
        geometry.pad_caffe(trunk)
    elif card.classifier is not None:
        # fc6 spanned a whole photograph in its training; padded, it reaches the borders of any
        geometry.pad_aligned(trunk, {card.classifier.fc6, card.classifier.fc7})


def _coordinates(card: BackboneCard, trunk: fx.GraphModule) -> dict[str, Coordinates]:
    try:
        return geometry.stage_coordinates(trunk)
    except CardError as error:
        raise CardError(f"{card.name}: {error}") from error


def _broken_promises(
    trunk: fx.GraphModule, stages: Sequence[Stage], coordinates: dict[str, Coordinates]
) -> list[str]:
    """Return in what stages are not what their card says."""
    return [
        problem
        for stage, channels in zip(stages, _channels(trunk, stages), strict=True)
        for problem in _stage_problems(stage, coordinates[stage.name].stride, channels)
    ]


def verify_card(card: BackboneCard) -> None:
    """Build the card's trunk without memory or arithmetic and compare it with what is declared.

    Places that a card declares are compared with those that random weights show, which takes both. A
    network of the user's that cannot be built so is left to the trial that builds it in earnest.

    Raises:
        CardError: there is no such builder, module or layer, or strides and channels are others.
    """
    finer = [(stage.stride,) for stage in card.stages[:-1] if stage.smallest_side is not None]
    trunk = trunk_without_memory(card, card.strides)
    if trunk is not None and card.has_batch_norm not in {None, bool(_batch_norms(trunk.network))}:
        raise CardError(
            f"{card.name}: is declared with has_batch_norm {str(card.has_batch_norm).lower()}, but its "
            f"trunk has {'none' if card.has_batch_norm else 'some'}"
        )
    if card.is_declared:  # the one comparison that takes seconds
        _verify_declared(card, trunk)
    for strides in finer:
        trunk_without_memory(card, strides)


def _verify_declared(card: BackboneCard, trunk: Trunk | None) -> None:
    """Compare the places that a card declares with those that random weights show.

    trunk: without memory, None where it cannot be built so.
    """
    if trunk is not None:
        count = sum(p.numel() for p in trunk.network.parameters())
        if count > MOST_PARAMETERS_CHECKED:
            return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_trunk(card, card.strides, padding="native", dropout=0.0)
    assert isinstance(built.network, DeclaredTrunk)
    verify_places(card, built.network)


def trunk_without_memory(
    card: BackboneCard,
    strides: tuple[int, ...],
    *,
    padding: Geometry = "native",
    batch_norm: BatchNorm = "keep",
) -> Trunk | None:
    """Return the trunk with shapes and names but no numbers; None where it cannot be built so.

    Raises:
        CardError: as `build_trunk`.
    """
    try:
        with torch.device("meta"):
            return build_trunk(card, strides, padding=padding, dropout=0.0, batch_norm=batch_norm)
    except (NotImplementedError, RuntimeError):
        return None


class SmallestMaps(NamedTuple):
    """The fewest features of one image that batch norm of the trunk sees, None without any; and a head."""

    batch_norm: int | None
    stages: int


def smallest_maps(trunk: Trunk, size: tuple[int, int]) -> SmallestMaps:
    """Return how small the maps of an image of `size` (H, W) become, without computing anything.

    trunk: of `trunk_without_memory`.
    """
    seen: list[int] = []
    for layer in _batch_norms(trunk.network):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, 0].numel()))
    with torch.inference_mode():
        maps = trunk.network.eval()(torch.empty(1, 3, *size, device="meta"))
    return SmallestMaps(
        min(seen, default=None), min(stage[0, 0].numel() for stage in maps.values())
    )


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    kind = nn.modules.batchnorm._BatchNorm
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def check_not_random(card: BackboneCard, trunk: nn.Module) -> None:
    """Refuse a trunk whose features differ from step to step, so that they cannot be computed once.

    Raises:
        CardError: names the first layer that draws at random while training.
    """
    for name, layer in trunk.named_modules():
        is_torchs = isinstance(layer, nn.modules.dropout._DropoutNd) or geometry.drops_blocks(layer)
        drop: float = getattr(layer, "p" if is_torchs else "drop_prob", 0) or 0  # timm's DropPath
        if drop > 0:
            raise CardError(
                f"{card.name}: the head reads it behind {name}, which draws at random at each step: "
                "take train.cache_features false, or build it without such layers"
            )


class _Tracer(fx.Tracer):
    """Looks into every block, torchvision's too, but not into what only training switches on."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether `m` stays one node."""
        return geometry.drops_blocks(m) or super().is_leaf_module(m, module_qualified_name)


def _cut(card: BackboneCard, network: nn.Module, stages: Sequence[Stage]) -> fx.GraphModule:
    """Return what the network computes up to its stages, as {stage name: feature map}."""
    try:
        graph = _Tracer().trace(network)
    except (TraceError, TypeError, RuntimeError) as error:
        raise CardError(
            f"{card.name}: the network cannot be traced, because what it computes depends on its "
            f"input: {error}; {DECLARE}"
        ) from error
    trunk = fx.GraphModule(network, graph)
    last: dict[str, fx.Node] = {}  # the last node inside each module is what the module returns
    for node in graph.nodes:
        last.update(dict.fromkeys(node.meta.get("nn_module_stack", ()), node))
    absent = [stage.module for stage in stages if stage.module not in last]
    if absent:
        raise CardError(
            f"{card.name}: the network has no module {', '.join(absent)} to cut a stage at"
            f"{did_you_mean(absent[0], last)}"
        )
    graph.erase_node(graph.output_node())
    graph.output({stage.name: last[stage.module] for stage in stages})
    graph.eliminate_dead_code()
    trunk.delete_all_unused_submodules()
    return trunk


def call_builder(card: BackboneCard) -> nn.Module:
    """Return the card's whole classification network, with random parameters.

    Raises:
        CardError: the builder does not exist, is not trusted, or refuses the arguments.
    """
    module_name, function_name = card.builder.split(":")
    arguments: dict[str, object] = dict(card.arguments)
    if module_name == "segbench":
        build = _own_builder(card, function_name)
    elif module_name == "torchvision.models":
        build = _torchvision_builder(card, function_name)
        arguments["weights"] = None
    elif module_name == TIMM:
        build = _timm_builder(card, function_name)
    elif is_built_in(card.builder):
        build = _segbench_builder(card, module_name, function_name)
    else:
        build = _users_builder(card)
    try:
        network = build(**arguments)
    except (TypeError, ValueError) as error:
        raise CardError(
            f"{card.name}: {card.builder} does not take the arguments: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise CardError(f"{card.name}: {card.builder} returned {type(network)}, not an nn.Module")
    return network


def _own_builder(card: BackboneCard, name: str) -> Callable[..., object]:
    if name not in _OWN_BUILDERS:
        raise CardError(
            f"{card.name}: segbench has no builder {name!r}{did_you_mean(name, _OWN_BUILDERS)}; it "
            f"has: {', '.join(_OWN_BUILDERS)}"
        )
    return _OWN_BUILDERS[name]


def _torchvision_builder(card: BackboneCard, name: str) -> Callable[..., object]:
    from torchvision.models import get_model_builder, list_models  # two seconds

    try:
        return get_model_builder(name)  # only registered models: no other function of the package
    except ValueError as error:
        raise CardError(
            f"{card.name}: torchvision.models has no model {name!r}{did_you_mean(name, list_models())}"
        ) from error


def _timm_builder(card: BackboneCard, name: str) -> Callable[..., object]:
    timm = timm_module()
    if not timm.is_model(name):
        raise CardError(
            f"{card.name}: timm has no model {name!r}{did_you_mean(name, timm.list_models())}"
        )
    return partial(timm.create_model, name, pretrained=False)


def timm_module() -> Any:
    """Return timm, or say how to install it."""
    try:
        import timm
    except ImportError as error:
        raise CardError("timm is not installed: pip install 'segbench[timm]'") from error
    return timm


def _segbench_builder(card: BackboneCard, module_name: str, name: str) -> Callable[..., object]:
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise CardError(f"{card.name}: builder {card.builder} cannot be found: {error}") from error
    if getattr(function, "__module__", None) != module_name:
        raise CardError(f"{card.name}: {module_name} does not define {name!r}")
    return function


def _users_builder(card: BackboneCard) -> Callable[..., object]:
    try:
        return trusted_function(card.builder)
    except CardError as error:
        raise CardError(f"{card.name}: builder {error}") from error


def _keep_stages_intact(trunk: fx.GraphModule) -> None:
    """Let no layer that reads a stage overwrite it in place."""
    for stage in trunk.graph.output_node().all_input_nodes:
        for reader in stage.users:
            if reader.op == "call_module":
                layer: Any = trunk.get_submodule(str(reader.target))
                if getattr(layer, "inplace", False):
                    layer.inplace = False
            elif reader.kwargs.get("inplace"):
                reader.update_kwarg("inplace", False)


def _append_classifier(
    trunk: fx.GraphModule, network: nn.Module, card: BackboneCard, *, dropout: float
) -> None:
    """Put fc6 and fc7, as convolutions under their own names, behind the deepest stage."""
    assert card.classifier is not None
    output = trunk.graph.output_node()
    stages: Any = output.args[0]
    node: fx.Node = stages[card.stages[-1].name]
    fc6, fc7 = card.classifier.fc6, card.classifier.fc7
    channels = card.classifier.channels  # what fc6 reads; fc7 reads what fc6 makes
    for name, kernel in ((fc6, card.classifier.kernel), (fc7, 1)):
        convolution = _as_convolution(card, network, name, (channels, kernel))
        channels = convolution.out_channels
        parts = {"": convolution, "_relu": nn.ReLU(inplace=True), "_dropout": nn.Dropout(dropout)}
        for suffix, layer in parts.items():
            trunk.add_submodule(name + suffix, layer)
            with trunk.graph.inserting_before(output):
                node = trunk.graph.call_module(name + suffix, (node,))
    output.update_arg(0, {**stages, card.stages[-1].name: node})


def _as_convolution(
    card: BackboneCard, network: nn.Module, name: str, reads: tuple[int, int]
) -> nn.Conv2d:
    channels, kernel = reads
    try:
        linear: Any = network.get_submodule(name)
    except AttributeError as error:
        raise CardError(f"{card.name}: classifier: the network has no layer {name!r}") from error
    if not isinstance(linear, nn.Linear) or linear.in_features != channels * kernel**2:
        raise CardError(
            f"{card.name}: classifier: {name} ({linear}) is not a fully connected layer over "
            f"{kernel}x{kernel} features of {channels} channels"
        )
    # Without memory of its own: it takes the weights of the layer that it stands for.
    convolution = nn.Conv2d(channels, linear.out_features, kernel, device="meta")
    # The flattened features of torchvision run channel, row, column: the order of a convolution.
    convolution.weight = nn.Parameter(linear.weight.detach().view(convolution.weight.shape))
    convolution.bias = linear.bias
    return convolution


def _channels(trunk: fx.GraphModule, stages: Sequence[Stage]) -> list[int]:
    """Return the channels of each stage, found without computing anything."""
    side = 8 * stages[-1].stride
    with torch.inference_mode():
        maps = hollow(trunk)(torch.empty(1, 3, side, side, device="meta"))
    return [maps[stage.name].shape[1] for stage in stages]


def _stage_problems(stage: Stage, stride: int, channels: int) -> list[str]:
    if (stride, channels) == (stage.stride, stage.channels):
        return []
    return [
        f"stage {stage.name} ({stage.module}) is declared with stride {stage.stride} and "
        f"{stage.channels} channels, but has stride {stride} and {channels} channels"
    ]


def _side_problems(stage: Stage, smallest: int) -> list[str]:
    stated = stage.smallest_side
    if stated is None or max(stated, stage.stride) == max(smallest, stage.stride):
        return []
    return [
        f"stage {stage.name} ({stage.module}) is declared with smallest_side {stage.smallest_side}, "
        f"but has a feature from {smallest} pixels a side on"
    ]
