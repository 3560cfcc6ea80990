"""What a segmenter asks of a head, and how a coarse score map is brought to the image's size.

N images, C classes, D channels, H W image size, h w coarse size. Knows nothing of any one head.
"""

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
        return set()

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
