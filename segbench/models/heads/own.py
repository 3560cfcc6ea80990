"""A head of the user's: a function that builds the way from feature maps to a coarse score map.

The function is called as `build(channels=..., strides=..., num_classes=..., **arguments)` with the
channels and strides of the stages, coarse to fine, and returns a module. Its `forward(feature_maps)`
gets the maps (N, D, h, w) in that order and returns the score map (N, C, h, w) on the grid of the
finest one; segbench upsamples that as it does an FCN's. N images, C classes, D channels.
"""

import torch
from torch import Tensor, nn

from segbench.code.own import FAULTS, trusted_function
from segbench.errors import CardError
from segbench.models.geometry import Coordinates
from segbench.models.heads.base import HeadModule, StageShape, final_upsampling
from segbench.schema.heads import Head


class OwnHead(HeadModule):
    """The user's module `own`, and behind it the final upsampling of an FCN."""

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for `stages`, coarse to fine.

        Raises:
            CardError: the builder cannot be used, or returns no module.
        """
        super().__init__()
        assert head.builder is not None
        self._told = f"{head.name}: {head.builder}"
        self._num_classes = num_classes
        try:
            build = trusted_function(head.builder)
        except CardError as error:
            raise CardError(f"{head.name}: builder {error}") from error
        try:
            own = build(
                channels=tuple(stage.channels for stage in stages),
                strides=tuple(stage.coordinates.stride for stage in stages),
                num_classes=num_classes,
                **head.arguments,
            )
        except FAULTS as error:
            raise CardError(
                f"{self._told} cannot be built with channels, strides, num_classes and the head's "
                f"arguments: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(own, nn.Module):
            raise CardError(f"{self._told} returned {type(own).__name__}, not an nn.Module")
        self.own = own
        self.final = final_upsampling(head, stages[-1], num_classes, clamps=clamps)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the finest stage.

        Raises:
            CardError: it has another shape. On another grid it would be upsampled to wrong places.
        """
        coarse = self.own(feature_maps)
        if not isinstance(coarse, Tensor):
            raise CardError(f"{self._told} gives {type(coarse).__name__}, not a tensor")
        images, _, h, w = feature_maps[-1].shape
        expected = (images, self._num_classes, h, w)
        if tuple(coarse.shape) != expected:
            raise CardError(
                f"{self._told} gives a score map of shape {_shape(coarse)}, but "
                f"{self._num_classes} classes on the grid of the finest stage are {_sizes(expected)}"
            )
        return coarse.contiguous()  # upsampling multiplies along rows, the trunk has channels last


def verify_own_head(head: Head, channels: dict[int, int], num_classes: int) -> None:
    """Build a head of the user's and let it score two random images, in training and in evaluation.

    channels: of each stride that the trunk has.

    Raises:
        CardError: it cannot be built, fails, or its score map has a wrong shape or is not finite.
    """
    stages = [StageShape(channels[stride], Coordinates(stride)) for stride in head.strides]
    side = 4 * head.strides[0]  # of the images: the coarsest stage has 4 features a side
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = OwnHead(head, stages, num_classes, clamps=True)
        maps = tuple(
            torch.randn(2, stage.channels, side // stride, side // stride)
            for stage, stride in zip(stages, head.strides, strict=True)
        )
        for mode in (True, False):
            try:
                coarse = module.train(mode)(maps)
            except FAULTS as error:
                shapes = ", ".join(map(_shape, maps))
                raise CardError(
                    f"{head.name}: {head.builder} fails on feature maps of {shapes}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not coarse.isfinite().all():
                raise CardError(
                    f"{head.name}: {head.builder} gives scores that are not finite from its start, "
                    "on random feature maps: look at how its layers begin"
                )


def _shape(tensor: Tensor) -> str:
    return _sizes(tuple(tensor.shape))


def _sizes(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
