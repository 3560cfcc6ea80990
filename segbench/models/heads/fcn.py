"""FCN heads: feature maps of several strides -> one coarse score map -> the image's size.

Each stage is aligned with the next finer one by the coordinates of both, or stretched over it where
the head says so. Layers are named by stride, so that a finer head starts from the trained layers of a
coarser one. N images, C classes, D channels. Knows nothing of trunks but the shapes of their stages.
"""

import itertools
from typing import Literal

from torch import Tensor, nn

from segbench.models.heads.base import IMAGE, HeadModule, StageShape, score_upsampling, shared
from segbench.models.upsampling import (
    FixedUpsampling,
    LearnedUpsampling,
    StretchedUpsampling,
    UpsamplingStep,
)
from segbench.schema.heads import Head


class FusionHead(HeadModule):
    """The head of an FCN, for either kind of fusion.

    fuse `scores`: `score` has a 1x1 layer for each stage; score maps are added.
    fuse `features`: maps are brought to the next finer stage's channels and added; `score` has one
    1x1 layer at the end, or none where the final upsampling is learned and scores itself.
    """

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for `stages`, coarse to fine, with zero score layers."""
        super().__init__()
        names = [str(stage.coordinates.stride) for stage in stages]
        self._names = names
        self._scales = head.skip_scale or (1.0,) * len(stages)
        self._fuses_scores = head.fuse == "scores"
        self.norm = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(stage.channels, affine=False)
                for name, stage in zip(names, stages, strict=True)
                if head.feature_norm == "batch"
            }
        )
        scored = dict(zip(names, stages, strict=True)) if self._fuses_scores else {}
        self._final_scores = not self._fuses_scores and head.final_upsampling == "learned"
        if not self._fuses_scores and not self._final_scores:
            scored[names[-1]] = stages[-1]
        self.score = nn.ModuleDict(
            {name: _zero_convolution(s.channels, num_classes) for name, s in scored.items()}
        )
        *between, last = _steps(stages, clamps=clamps)
        stretches = head.alignment == "stretch"
        self.upsample = nn.ModuleDict()
        for (coarse, fine), step in zip(itertools.pairwise(stages), between, strict=True):
            placed = None if stretches else step
            self.upsample[str(fine.coordinates.stride)] = (
                score_upsampling(placed, num_classes, is_learned=head.upsampling == "learned")
                if self._fuses_scores
                else _feature_upsampling(placed, head.upsampling, coarse.channels, fine.channels)
            )
        self.final = score_upsampling(
            None if stretches else last,
            num_classes,
            is_learned=head.final_upsampling == "learned",
            channels=stages[-1].channels if self._final_scores else None,
        )

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the finest stage.

        Where the final upsampling scores itself it is the fused feature map (N, D, h, w).
        """
        fused = self._stage(0, feature_maps[0])
        for index in range(1, len(feature_maps)):
            fine = self._stage(index, feature_maps[index])
            upsample = self.upsample[self._names[index]]
            height, width = fine.shape[-2:]
            if isinstance(upsample, StretchedUpsampling):
                fused = fine + upsample(fused, (height, width))
                continue
            rows, columns = shared(upsample, fused, (height, width))
            cropped = fine[..., rows.start : rows.stop, columns.start : columns.stop]
            fused = cropped + upsample(fused, rows, columns)
        if self._fuses_scores or self._final_scores:
            return fused
        return self.score[self._names[-1]](fused)

    def upsampling_parameters(self) -> set[str]:
        """Return the names of the kernels that start bilinear and only upsample.

        Those of fused features also project them to other channels: they are the head's.
        """
        kernels = [(f"upsample.{name}", module) for name, module in self.upsample.items()]
        return {
            f"{name}.weight"
            for name, module in (*kernels, ("final", self.final))
            if self._fuses_scores and isinstance(module, LearnedUpsampling)
        }

    def _stage(self, index: int, feature_map: Tensor) -> Tensor:
        name = self._names[index]
        if name in self.norm:
            feature_map = self.norm[name](feature_map)
        if self._scales[index] != 1:
            feature_map = feature_map * self._scales[index]
        stage = self.score[name](feature_map) if self._fuses_scores else feature_map
        return stage.contiguous()  # upsampling multiplies along rows, the trunk has channels last


def _zero_convolution(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a score layer that starts at zero (Long et al., CVPR 2015, section 4.3)."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _steps(stages: list[StageShape], *, clamps: bool) -> list[UpsamplingStep]:
    """Return the steps from each stage to the next finer one, and from the finest to the image."""
    here, steps = stages[0].coordinates, []
    for fine in stages[1:]:
        steps.append(UpsamplingStep.between(here, fine.coordinates, clamps=clamps))
        here = fine.coordinates.shifted(0 if clamps else max(steps[-1].first, 0))
    return [*steps, UpsamplingStep.between(here, IMAGE, clamps=clamps)]


def _feature_upsampling(
    step: UpsamplingStep | None,
    kind: Literal["fixed", "learned"],
    channels: int,
    finer_channels: int,
) -> nn.Module:
    """Return upsampling of feature maps to other channels, through a random projection."""
    projection = nn.Conv2d(channels, finer_channels, 1)
    if step is None:
        return StretchedUpsampling(projection)
    if kind == "learned":
        return LearnedUpsampling(step, projection.weight.detach()[:, :, 0, 0])
    return FixedUpsampling(step, projection)
