"""Trunks whose card says where features lie: any network, run whole, its maps taken by hooks.

The network is one module whose layers nobody looks into. A check on random weights stands in the place
of the proof that geometry.py gives for traced networks: the gradient of a feature must lie, on average,
where the card puts the feature. N images, D channels, H W image size, h w feature size, L tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.errors import CardError, DataError
from segbench.models.geometry import Coordinates
from segbench.models.hollow import hollow
from segbench.schema.cards import BackboneCard, Stage
from segbench.schema.yamlfile import did_you_mean

TOLERANCE_PX = 0.5
FEATURES_CHECKED = 7  # along the diagonal: a window of Swin's, so that its two halves cancel out
CHANNELS_CHECKED = 64  # of the image
MOST_PARAMETERS_CHECKED = 10**9  # larger networks are compared by their shapes alone
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _AllFound(Exception):  # noqa: N818 - no error: the network need not go on
    """Raised inside a network when it has made all maps that are asked for."""


class DeclaredTrunk(nn.Module):
    """Images -> {stage name: (N, D, ceil(H / stride), ceil(W / stride))}, by a network run as one.

    network: under its own names of parameters. Images are padded with zeros, the mean of normalised
    ones, at the bottom and on the right.
    """

    def __init__(self, card: BackboneCard, stages: Sequence[Stage], network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stages = tuple(stages)
        self._card_name = card.name
        self._multiple = card.multiple
        self._fixed_side = card.fixed_side
        for layer in network.modules():
            if getattr(layer, "inplace", False):
                layer.inplace = False  # pyright: ignore[reportArgumentType]  # else it might overwrite a map that was taken

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps of the stages.

        Raises:
            DataError: the network takes no image of this size.
            CardError: a map is not what the card says.
        """
        height, width = int(image.shape[-2]), int(image.shape[-1])
        fixed = self._fixed_side
        if fixed is not None and (height, width) != (fixed, fixed):
            raise DataError(
                f"{self._card_name} takes images of {fixed}x{fixed} pixels alone, not {height}x{width}: "
                "squash them, or build it for another size (fixed_side)"
            )
        padded = F.pad(image, (0, -width % self._multiple, 0, -height % self._multiple))
        taken, image_size = self._taken(padded), (int(padded.shape[-2]), int(padded.shape[-1]))
        maps = {}
        for stage in self.stages:
            whole = self._as_map(stage, taken[stage.module], image_size)
            maps[stage.name] = whole[
                :, :, : -(-height // stage.stride), : -(-width // stage.stride)
            ]
        return maps

    def sizes(self, side: int) -> dict[str, int]:
        """Return the features along one axis of each stage, for an image of `side` pixels."""
        return {stage.name: -(-side // stage.stride) for stage in self.stages}

    def _taken(self, image: Tensor) -> dict[str, Any]:
        """Return what each module of a stage gives for the image; the network stops behind the last."""
        found: dict[str, Any] = {}
        modules = {stage.module for stage in self.stages}
        hooks = []
        try:
            for name in modules:

                def take(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                    found.setdefault(name, output)
                    if len(found) == len(modules):
                        raise _AllFound

                hooks.append(_module(self.network, name).register_forward_hook(take))
            self.network(image)
        except _AllFound:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        if absent := sorted(modules - set(found)):
            raise CardError(f"{self._card_name}: the network never runs its module {absent[0]!r}")
        return found

    def _as_map(self, stage: Stage, value: Any, image_size: tuple[int, int]) -> Tensor:
        """Return the stage's map (N, D, h, w) of a padded image."""
        h, w = (side // stage.stride for side in image_size)
        if stage.item is not None:
            try:
                value = value[stage.item]
            except (LookupError, TypeError) as error:
                raise self._wrong(stage, f"has no item {stage.item!r}") from error
        if not isinstance(value, Tensor):
            raise self._wrong(stage, f"gives {_form(value)}: name the map with `item`")
        if stage.through is not None:
            value = _module(self.network, stage.through)(value)
        form = _form(value)
        if stage.layout == "tokens" and value.ndim == 3 and value.shape[1] >= h * w:
            value = value[:, value.shape[1] - h * w :]  # class and register tokens come first
            value = value.unflatten(1, (h, w))  # (N, h, w, D)
        if stage.layout != "NCHW" and value.ndim == 4:
            value = value.permute(0, 3, 1, 2)  # (N, D, h, w)
        if value.ndim != 4 or tuple(value.shape[1:]) != (stage.channels, h, w):
            raise self._wrong(
                stage,
                f"gives {form} for an image of {image_size[0]}x{image_size[1]} pixels, where stride "
                f"{stage.stride}, {stage.channels} channels and layout {stage.layout} ask for "
                f"{_asked_for(stage, h, w)}",
            )
        return value

    def _wrong(self, stage: Stage, what: str) -> CardError:
        return CardError(f"{self._card_name}: stage {stage.name} ({stage.module}) {what}")


class DeclaredParts(NamedTuple):
    """A declared trunk, and where its features lie."""

    network: DeclaredTrunk
    coordinates: dict[str, Coordinates]


def declared_trunk(
    card: BackboneCard, stages: Sequence[Stage], network: nn.Module
) -> DeclaredParts:
    """Return the network as a trunk, without the parts that its stages do not need.

    stages: fine to coarse.

    Raises:
        CardError: a module is not there, or gives another map than its stage says.
    """
    names = dict(network.named_modules())
    for name in (*(s.module for s in stages), *(s.through for s in stages if s.through)):
        if name != "." and name not in names:
            raise CardError(
                f"{card.name}: the network has no module {name} to cut a stage at"
                f"{did_you_mean(name, names)}"
            )
    trunk = DeclaredTrunk(card, stages, network)
    _drop_unused(trunk, card)
    reach = 1  # how far a feature sees is not known, and nothing asks for it
    places = {s.name: Coordinates(s.stride, s.offset or 0.0, reach) for s in stages}
    return DeclaredParts(trunk, places)


def checked_side(card: BackboneCard) -> int:
    """Return the side, in pixels, of the images that a declared trunk is tried on."""
    if card.fixed_side is not None:
        return card.fixed_side
    return card.multiple * -(-FEATURES_CHECKED * max(card.strides) // card.multiple)


def verify_places(card: BackboneCard, trunk: DeclaredTrunk) -> None:
    """Compare where the gradients of features lie with where the card puts the features.

    The trunk's numbers are changed.

    Raises:
        CardError: names each stage that lies elsewhere.
    """
    problems = []
    stages = {stage.name: stage for stage in trunk.stages}
    for stage, (down, across) in deviations(trunk, card).items():
        if max(abs(down), abs(across)) <= TOLERANCE_PX:  # also false for NaN
            continue
        here = stages[stage]
        problems.append(
            f"{card.name}: stage {stage} is declared with offset {here.offset}, but random weights put "
            f"its features {down:+.1f} pixels down and {across:+.1f} across from there; offset "
            f"{fitting_offset(here, (down, across))} would fit"
        )
    if problems:
        raise CardError("\n".join(problems))


def deviations(trunk: DeclaredTrunk, card: BackboneCard) -> dict[str, tuple[float, float]]:
    """Return how far from their declared places the features of each stage lie, (down, across) px.

    The centre of a feature is that of its gradient's squares over the image, as they are for random
    weights: squares leave what attention spreads over the whole image next to nothing. The mean is
    over features of the diagonal in the middle of the image, so that what its borders and windows
    pull at cancels out. Every convolution sees its taps alike, since a feature's place is that of its
    window and not of its weights; max pools, which draw lots on a smooth image, are averages; and
    the image has many channels where the network lets it, since squares of three are mostly chance.
    """
    _make_smooth(trunk)
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels = _widened(trunk, checked_side(card))
        for stage in trunk.stages:
            trunk.stages = (stage,)  # it stops there
            side = _side_for(card, stage.stride)
            image = torch.randn(1, channels, 1, 1).expand(1, channels, side, side)
            found[stage.name] = _deviation(trunk, stage, image)
    return found


def fitting_offset(stage: Stage, deviation: tuple[float, float]) -> float:
    """Return the offset, to half a pixel, of a stage whose features lie so far from where it says."""
    return round(2 * (stage.offset or 0.0) + sum(deviation)) / 2


def _deviation(trunk: DeclaredTrunk, stage: Stage, image: Tensor) -> tuple[float, float]:
    side, offset = image.shape[-1], stage.offset or 0.0
    at = _middle(side, stage)
    image = image.clone().requires_grad_()
    feature_map = trunk(image)[stage.name]
    picked = torch.stack([feature_map[0, :, i, i] for i in at])  # (features, D)
    mixed = (picked * torch.randn_like(picked)).sum(1)
    gradients = [torch.autograd.grad(one, image, retain_graph=True)[0] for one in mixed]
    energy = torch.cat(gradients).square().sum(1).double()  # (features, H, W)
    pixels = torch.arange(side, dtype=torch.float64)
    total = energy.sum((1, 2))
    places = torch.tensor([stage.stride * i + offset for i in at], dtype=torch.float64)
    down = (energy.sum(2) @ pixels) / total - places
    across = (energy.sum(1) @ pixels) / total - places
    return float(down.mean()), float(across.mean())


def _widened(trunk: DeclaredTrunk, side: int) -> int:
    """Let the network read images of many channels, where one convolution reads the image; how many."""
    readers: dict[nn.Conv2d, None] = {}

    def note(layer: nn.Module, _: tuple[Any, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            readers[layer] = None

    hooks = [layer.register_forward_pre_hook(note) for layer in trunk.modules()]
    with torch.no_grad():
        trunk(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    if len(readers) != 1:
        return 3
    (layer,) = readers
    narrow, layer.in_channels = layer.weight, CHANNELS_CHECKED
    wide = torch.randn(layer.out_channels, CHANNELS_CHECKED, 1, 1).expand(
        -1, -1, *layer.kernel_size
    )
    layer.weight = nn.Parameter(wide / wide[0].numel() ** 0.5)
    try:
        with torch.no_grad():
            trunk(torch.zeros(1, CHANNELS_CHECKED, side, side))
    except FAULTS:
        layer.weight, layer.in_channels = narrow, 3
        return 3
    return CHANNELS_CHECKED


def _side_for(card: BackboneCard, stride: int) -> int:
    """Return a side that shows the middle of a stage; fine ones want less of it."""
    most = checked_side(card)
    if card.fixed_side is not None:
        return most
    return min(card.multiple * -(-2 * FEATURES_CHECKED * stride // card.multiple), most)


def _middle(side: int, stage: Stage) -> range:
    """Return the indices of features whose declared places lie evenly about the image's centre."""
    features = side // stage.stride
    centre = ((side - 1) / 2 - (stage.offset or 0.0)) / stage.stride  # in features
    most = min(FEATURES_CHECKED, features)
    windows = [
        range(first, first + size)
        for size in range(most, 0, -1)
        for first in range(features - size + 1)
    ]
    return min(windows, key=lambda w: (abs((w[0] + w[-1]) / 2 - centre) > 0.1, -len(w),
                                       abs((w[0] + w[-1]) / 2 - centre)))  # fmt: skip


def _make_smooth(trunk: nn.Module) -> None:
    """Let every convolution see its taps alike, norms pass what they are given, and pools average."""
    trunk.eval()
    for name, layer in list(trunk.named_modules()):
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
            with torch.no_grad():
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
        elif isinstance(layer, nn.modules.batchnorm._NormBase) and layer.weight is not None:
            nn.init.ones_(layer.weight)  # some begin at 0, which would switch branches off
        elif isinstance(layer, nn.MaxPool2d):
            parent, _, child = name.rpartition(".")
            average = nn.AvgPool2d(
                layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode,
                count_include_pad=False,
            )  # fmt: skip
            setattr(trunk.get_submodule(parent), child, average)


def _drop_unused(trunk: DeclaredTrunk, card: BackboneCard) -> None:
    """Take out what the stages do not need, such as a classifier, so that no parameter idles.

    A module goes if it has parameters, never ran, and none of them moves a map.
    """
    shadow = hollow(trunk).eval()
    side = checked_side(card)
    on_meta = torch.empty(1, 3, side, side, device="meta")
    try:
        used = _used(shadow, on_meta)
    except (NotImplementedError, RuntimeError) as error:
        if next(trunk.parameters()).is_meta:
            raise
        used = _used_in_earnest(trunk, torch.zeros(1, 3, side, side), error)
    for name, layer in list(trunk.network.named_modules()):
        parent, _, child = name.rpartition(".")
        if name and name not in used and parent in used and any(True for _ in layer.parameters()):
            setattr(trunk.network.get_submodule(parent), child, nn.Identity())


def _used_in_earnest(trunk: DeclaredTrunk, image: Tensor, first: Exception) -> set[str]:
    mode = trunk.training
    try:
        return _used(trunk.eval(), image)
    except FAULTS as error:
        raise CardError(
            f"{trunk._card_name}: the network fails on an image of {image.shape[-2]}x"
            f"{image.shape[-1]} pixels: {error or first}"
        ) from error
    finally:
        trunk.train(mode)


def _used(trunk: DeclaredTrunk, image: Tensor) -> set[str]:
    """Return the names of the modules that run, or whose parameters move a map, and of their parents."""
    ran: set[str] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
        for name, layer in trunk.network.named_modules()
    ]
    try:
        moved = {name.rpartition(".")[0] for name in _moving(trunk, image)}
    finally:
        for hook in hooks:
            hook.remove()
    return {part for name in ran | moved for part in _parents(name)}


def _moving(trunk: DeclaredTrunk, image: Tensor) -> set[str]:
    """Return the names, in the network, of the parameters that any map depends on."""
    with torch.enable_grad():
        maps = trunk(image)
        named = {n: p for n, p in trunk.network.named_parameters() if p.requires_grad}
        total = torch.stack([feature_map.float().sum() for feature_map in maps.values()]).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, found in zip(named, gradients, strict=True) if found is not None}


def _parents(name: str) -> Iterator[str]:
    """Yield a module's name and those of all that hold it."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name


def _module(network: nn.Module, name: str) -> nn.Module:
    return network if name == "." else network.get_submodule(name)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape))
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(repr, value))}"
    if isinstance(value, Sequence):
        return f"{len(value)} values"
    return type(value).__name__


def _asked_for(stage: Stage, h: int, w: int) -> str:
    if stage.layout == "tokens":
        return f"Nx{h * w} or more tokens x{stage.channels}"
    sizes = (h, w, stage.channels) if stage.layout == "NHWC" else (stage.channels, h, w)
    return f"Nx{'x'.join(map(str, sizes))}"
