"""Cards of networks that are named, `timm:NAME` or `torchvision:NAME`: found by trying the network.

timm says which modules end its stages; torchvision's are looked for: the last module of each stride.
Shapes come from a run without numbers, places from the gradients of random weights (declared.py).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segbench.errors import CardError
from segbench.fetch.hub import hub_weights
from segbench.models.declared import (
    FAULTS,
    MOST_PARAMETERS_CHECKED,
    declared_trunk,
    deviations,
    fitting_offset,
)
from segbench.models.trunk import call_builder, timm_module, verify_card
from segbench.schema.cards import BackboneCard
from segbench.schema.yamlfile import did_you_mean

_INPUT = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_STRIDES = (4, 8, 16, 32)
_ROUNDS = 4
_LAYERS = 4  # of a network whose layers all have one stride: the last ones, as DINOv2's probe takes
# What lets a network of timm's read images of any size, where it has such a switch.
_TIMM_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True}, {"strict_img_size": False}, {},
)  # fmt: skip


class _Tap(NamedTuple):
    """A module that ends a stage; what it returns is looked at."""

    module: str
    stride: int


def named_card(name: str, *, with_weights: bool = True) -> dict[str, Any]:
    """Return the data of a card for `timm:NAME`, `timm:NAME.TAG` or `torchvision:NAME`.

    with_weights: look up the hash of timm's weights on the hub, where the name has a tag. Without a
    tag the network starts from random weights.

    Raises:
        CardError: there is no such network, or no stage of it can be found.
        DataError: the hub cannot be asked.
    """
    library, _, model = name.partition(":")
    if library == "timm":
        return _of_timm(model, with_weights=with_weights)
    if library == "torchvision":
        return _of_torchvision(model)
    raise CardError(f"{name}: expected timm:NAME or torchvision:NAME")


def _of_timm(name: str, *, with_weights: bool) -> dict[str, Any]:
    timm = timm_module()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise CardError(f"timm has no model {architecture!r}{did_you_mean(architecture, known)}")
    config = timm.get_pretrained_cfg(name)
    if config is None:
        tags = [
            f"{architecture}.{one}" for one in timm.models.get_arch_pretrained_cfgs(architecture)
        ]
        raise CardError(f"timm has no weights {name!r}{did_you_mean(name, tags)}")
    network, arguments = _without_numbers(timm, architecture)
    infos = network.feature_info
    taps = [
        _Tap(info["module"], info["reduction"])
        for info in (infos if isinstance(infos, list) else infos.get_dicts())
        if info.get("module") and info["reduction"] >= min(_STRIDES)
    ]
    if len({tap.stride for tap in taps}) == 1:
        taps = taps[-_LAYERS:]
    data: dict[str, Any] = {
        "name": name,
        "title": f"{name} (timm)",
        "builder": f"timm:{architecture}",
        "arguments": arguments,
        "input": {"mean": tuple(config.mean), "std": tuple(config.std)},
        "licence": config.license or "see timm",
        "source": {
            "paper": "Wightman, PyTorch Image Models",
            "url": f"https://github.com/huggingface/pytorch-image-models, {architecture}",
        },
        "notes": f"Written for timm {timm.__version__}.",
    }
    if tag and with_weights:
        weights = hub_weights(config.hf_hub_id or f"timm/{name}", licence=data["licence"])
        data |= {"weights": {tag: {**weights, "source": f"timm {name}"}}, "default_weights": tag}
    return _declared(data, network, taps, side=config.input_size[-1])


def _without_numbers(timm: Any, architecture: str) -> tuple[Any, dict[str, Any]]:
    """Return the network on the device `meta`, and the first of the arguments that it takes."""
    for arguments in _TIMM_ARGUMENTS:
        try:
            with torch.device("meta"):
                return timm.create_model(architecture, **arguments).eval(), arguments
        except TypeError:
            continue
    raise CardError(f"timm cannot build {architecture} without arguments")


def _of_torchvision(name: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": name,
        "title": f"{name} (torchvision)",
        "builder": f"torchvision.models:{name}",
        "arguments": _quiet_arguments(name),
        "weights": "torchvision:DEFAULT",
        "licence": "BSD-3-Clause",
        "source": {"paper": "torchvision", "url": "https://docs.pytorch.org/vision/stable/models"},
    }
    bare = {**data, "weights": {}, "input": _INPUT, "stages": (_stage("s", _Tap("x", 1), 1),)}
    with torch.device("meta"):
        network = call_builder(BackboneCard.model_validate(bare)).eval()
    side = 299 if name == "inception_v3" else 224
    taps = _last_of_each_stride(network, side)
    stages = tuple(_stage(f"s{tap.stride}", tap, tap.channels) for tap in taps)
    traced = {**data, "stages": stages}
    try:
        verify_card(BackboneCard.model_validate({**bare, **traced, "weights": {}}))
    except CardError:
        plain = [_Tap(tap.module, tap.stride) for tap in taps]
        return _declared(data, network, plain, side=side)
    return traced


def _quiet_arguments(name: str) -> dict[str, Any]:
    """Return what keeps torchvision's slow random start away; files of weights replace it anyway."""
    return {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}


class _Seen(NamedTuple):
    module: str
    stride: int
    channels: int


def _last_of_each_stride(network: nn.Module, side: int) -> list[_Seen]:
    """Return the module that ends each stride: of the outermost that return a map of it, the last."""
    found: dict[int, _Seen] = {}
    hooks = []
    for name, layer in network.named_modules():

        def look(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            if not name or not isinstance(output, Tensor) or output.ndim not in {3, 4}:
                return
            for channels, h in _readings(output):
                nearest = min(_STRIDES, key=lambda s: abs(side / s - h))
                # unpadded stems leave up to a fifth fewer features than the stride says
                if not side / nearest * 0.75 <= h <= side / nearest + 1:
                    continue
                before = found.get(nearest)
                if before is None or name.count(".") <= before.module.count("."):
                    found[nearest] = _Seen(name, nearest, channels)
                break

        hooks.append(layer.register_forward_hook(look))
    with torch.no_grad():
        network(torch.empty(2, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return [found[stride] for stride in sorted(found)]


def _readings(output: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (channels, side) of what a tensor may be: an NCHW map, an NHWC map, or tokens."""
    if output.ndim == 4:
        _, a, b, c = output.shape
        if b == c:
            yield a, b
        if a == b:
            yield c, a
        return
    side = int(output.shape[1] ** 0.5)
    if side > 1 and output.shape[1] - side * side <= 8:
        yield output.shape[2], side


def _declared(
    data: dict[str, Any], network: nn.Module, taps: list[_Tap], *, side: int
) -> dict[str, Any]:
    """Return the card's data with stages that declare where they lie.

    network: on the device `meta`. side: of the images that it was trained on.
    """
    coarsest = max(tap.stride for tap in taps)
    ways = (
        ({}, (7 * coarsest, 5 * coarsest)),
        ({"multiple_of": side}, (side, 2 * side)),
        ({"fixed_side": side}, (side,)),
        ({"fixed_side": side, "multiple_of": side}, (side,)),
    )
    why = ""
    for way, sides in ways:
        if side % coarsest and way:
            continue
        try:
            shapes = [_shapes(network, taps, one) for one in sides]
            stages = [_stage_of(tap, shapes[0][tap.module], sides[0], index=index)
                      for index, tap in enumerate(taps)]  # fmt: skip
        except FAULTS as error:
            why = why or str(error)
            continue
        whole = {**data, **way, "stages": tuple(_with_norm(network, stages))}
        return _measured(whole)
    raise CardError(f"{data['name']}: cannot be run on images of {side} pixels: {why}")


def _shapes(network: nn.Module, taps: list[_Tap], side: int) -> dict[str, Any]:
    """Return what each module returns for an image of `side` pixels."""
    found: dict[str, Any] = {}
    hooks = []
    for tap in taps:

        def take(_: nn.Module, __: Any, output: Any, name: str = tap.module) -> None:
            found.setdefault(name, output)

        hooks.append(network.get_submodule(tap.module).register_forward_hook(take))
    try:
        with torch.no_grad():
            network(torch.empty(2, 3, side, side, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _stage_of(tap: _Tap, output: Any, side: int, *, index: int) -> dict[str, Any]:
    """Return the stage's fields, its layout and item read off what the module returned."""
    h = side // tap.stride
    several = enumerate(output) if isinstance(output, list | tuple) else [(None, output)]
    for item, one in several:
        if not isinstance(one, Tensor):
            continue
        shape = tuple(one.shape[1:])
        layout, channels = None, 0
        if len(shape) == 3 and shape[1:] == (h, h):
            layout, channels = "NCHW", shape[0]
        elif len(shape) == 3 and shape[:2] == (h, h):
            layout, channels = "NHWC", shape[2]
        elif len(shape) == 2 and 0 <= shape[0] - h * h <= 16:
            layout, channels = "tokens", shape[1]
        if layout is not None:
            fields = {"layout": layout, "item": item, "offset": (tap.stride - 1) / 2}
            return {**_stage(f"s{tap.stride}_{index}", tap, channels), **fields}
    raise ValueError(f"{tap.module} returns no map of stride {tap.stride} for {side} pixels")


def _stage(name: str, tap: Any, channels: int) -> dict[str, Any]:
    return {"name": name, "module": tap.module, "stride": tap.stride, "channels": channels}


def _with_norm(network: nn.Module, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let the layers of a transformer go through its last norm, as DINOv2's probe does."""
    norm = getattr(network, "norm", None)
    is_last = isinstance(norm, nn.LayerNorm) or type(norm).__name__ in {"LayerNorm", "RmsNorm"}
    if not is_last or any(stage["layout"] != "tokens" for stage in stages):
        return stages
    return [{**stage, "through": "norm"} for stage in stages]


def _measured(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data with the offsets, to half a pixel, that random weights show.

    A wrong guess is looked for off the image's middle, where borders pull at it: it is tried again.
    """
    bare = {**data, "weights": {}, "default_weights": None, "input": data.get("input", _INPUT)}
    card = BackboneCard.model_validate(bare)
    with torch.device("meta"):
        count = sum(p.numel() for p in call_builder(card).parameters())
    if count > MOST_PARAMETERS_CHECKED:
        return data
    for _ in range(_ROUNDS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            trunk = declared_trunk(card, card.stages, call_builder(card).eval()).network
        found = deviations(trunk, card)
        stages = tuple(
            stage.revised(offset=fitting_offset(stage, found[stage.name])) for stage in card.stages
        )
        if stages == card.stages:
            break
        card = card.revised(stages=stages)
    offsets = {stage.name: stage.offset for stage in card.stages}
    return {**data, "stages": tuple({**s, "offset": offsets[s["name"]]} for s in data["stages"])}
