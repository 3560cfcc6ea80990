"""What a segmenter asks of a head, and how a coarse score map is brought to the image's size.

N images, C classes, D channels, H W image size, h w coarse size. Knows nothing of any one head.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segbench.errors import DataError
from segbench.models.geometry import Coordinates
from segbench.models.upsampling import (
    Bilinear,
    FixedUpsampling,
    LearnedUpsampling,
    StretchedUpsampling,
    UpsamplingStep,
)
from segbench.schema.heads import Head

IMAGE = Coordinates()


class StageShape(NamedTuple):
    """What a head must know of a feature map: its channels, and where its features lie."""

    channels: int
    coordinates: Coordinates


class HeadModule(nn.Module):
    """Feature maps -> coarse score map -> score map. Every kind of head is one.

    A kind is built as `kind(head, stages, num_classes, clamps=...)`: the head's record, the shapes of
    the stages that it reads, coarse to fine, and whether a map goes on beyond its last feature
    (clamps) or fades to zero. Its parameters are drawn from torch's global generator, trunk first.
    Names of parameters are kept in files of weights. `final` is the last step to the image.
    """

    final: nn.Module

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) of maps (N, D, h, w), coarse to fine."""
        raise NotImplementedError

    def upsample_to(self, coarse: Tensor, size: tuple[int, int], *, every: int = 1) -> Tensor:
        """Return the score map of the image's size (H, W), at every n-th row and column of it.

        Raises:
            DataError: the image has pixels that no feature reaches.
        """
        bilinear = self.bilinear_to(coarse, size, every=every)
        if bilinear is not None:
            return bilinear.of(coarse)
        rows, columns = self._reached(coarse, size)
        return self.final(coarse, rows[::every], columns[::every])

    def bilinear_to(
        self, coarse: Tensor, size: tuple[int, int], *, every: int = 1
    ) -> Bilinear | None:
        """Return what `upsample_to` does to `coarse`; None where that is learned.

        Raises:
            DataError: the image has pixels that no feature reaches.
        """
        h, w = coarse.shape[-2:]
        if isinstance(self.final, StretchedUpsampling):
            return self.final.bilinear((h, w), size, every=every)
        if isinstance(self.final, LearnedUpsampling):
            return None
        assert isinstance(self.final, FixedUpsampling)
        rows, columns = self._reached(coarse, size)
        return self.final.bilinear((h, w), rows[::every], columns[::every])

    def upsampling_parameters(self) -> set[str]:
        """Return the names of the kernels that start bilinear and only upsample."""
        return {"final.weight"} if isinstance(self.final, LearnedUpsampling) else set()

    def _reached(self, coarse: Tensor, size: tuple[int, int]) -> tuple[range, range]:
        """Return all rows and columns of the image, which features must reach."""
        rows, columns = shared(self.final, coarse, size)
        if (rows, columns) != (range(size[0]), range(size[1])):
            raise DataError(
                f"an image of {size[0]}x{size[1]} pixels has pixels that no feature reaches "
                f"(rows {rows}, columns {columns} are reached); take larger images, or geometry "
                "`aligned`"
            )
        return rows, columns


def shared(
    upsampling: nn.Module, coarse: Tensor, fine_size: tuple[int, ...]
) -> tuple[range, range]:
    """Return the rows and columns of the fine grid on which both maps are defined."""
    step = upsampling.step
    assert isinstance(step, UpsamplingStep)
    h, w = coarse.shape[-2:]
    return step.shared(h, fine_size[0]), step.shared(w, fine_size[1])


def score_upsampling(
    step: UpsamplingStep | None, num_classes: int, *, is_learned: bool, channels: int | None = None
) -> FixedUpsampling | LearnedUpsampling | StretchedUpsampling:
    """Return upsampling of score maps; given `channels`, of feature maps that it scores itself.

    step: None stretches.
    """
    if step is None:
        return StretchedUpsampling()
    if channels is not None:
        return LearnedUpsampling(step, torch.zeros(num_classes, channels), with_bias=True)
    if is_learned:
        return LearnedUpsampling(step, torch.eye(num_classes))
    return FixedUpsampling(step)


def final_upsampling(
    head: Head, finest: StageShape, num_classes: int, *, clamps: bool
) -> FixedUpsampling | LearnedUpsampling | StretchedUpsampling:
    """Return the last step of a head whose score map lies on the grid of its finest stage."""
    step = UpsamplingStep.between(finest.coordinates, IMAGE, clamps=clamps)
    return score_upsampling(
        None if head.alignment == "stretch" else step,
        num_classes,
        is_learned=head.final_upsampling == "learned",
    )


class Onto(nn.Module):
    """Maps of several stages brought onto the grid of a finer one, by their coordinates or stretched."""

    def __init__(self, head: Head, stages: list[StageShape]) -> None:
        super().__init__()
        stretches = head.alignment == "stretch"
        places = [stage.coordinates for stage in stages]
        self.to_finest = nn.ModuleList(_between(c, places[-1], stretches) for c in places)
        self.to_next = nn.ModuleList(_between(*pair, stretches) for pair in pairwise(places))

    def finest(self, feature_maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Return all maps, coarse to fine, (N, D, h, w) on the grid of the last one."""
        pairs = zip(self.to_finest, feature_maps, strict=True)
        return [_brought(step, each, feature_maps[-1]) for step, each in pairs]

    def next(self, index: int, feature_map: Tensor, finer: Tensor) -> Tensor:
        """Return the map of stage `index` on the grid of the next finer one."""
        return _brought(self.to_next[index], feature_map, finer)


def _between(
    coarse: Coordinates, fine: Coordinates, stretches: bool
) -> FixedUpsampling | StretchedUpsampling | nn.Identity:
    if (coarse.stride, coarse.offset) == (fine.stride, fine.offset):
        return nn.Identity()
    if stretches:
        return StretchedUpsampling()
    return FixedUpsampling(UpsamplingStep.between(coarse, fine, clamps=True))


def _brought(step: nn.Module, feature_map: Tensor, finer: Tensor) -> Tensor:
    h, w = finer.shape[-2:]
    if isinstance(step, StretchedUpsampling):
        return step(feature_map, (h, w))
    return (
        step(feature_map, range(h), range(w)) if isinstance(step, FixedUpsampling) else feature_map
    )


def convolved(channels: int, made: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, without bias, with batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, made, kernel, 1, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU())


def score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 score layer whose weights start normal with deviation 0.01, as mmsegmentation's."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
