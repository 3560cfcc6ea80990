"""UPerNet's head: a feature pyramid, with pyramid pooling on the coarsest stage.

Source: Xiao et al., Unified Perceptual Parsing, ECCV 2018; widths and dropout as in mmsegmentation's
`UPerHead`, which the Swin and ConvNeXt papers use. N images, C classes, D channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segbench.models.heads.base import (
    HeadModule,
    Onto,
    StageShape,
    convolved,
    final_upsampling,
    score_layer,
)
from segbench.schema.heads import Head

_POOLS = (1, 2, 3, 6)
_CHANNELS = 512


class UpernetHead(HeadModule):
    """Pooled coarsest stage, lateral layers added from coarse to fine, all joined on the finest grid."""

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for `stages`, coarse to fine."""
        super().__init__()
        width = head.channels or _CHANNELS
        coarsest, *finer = stages
        self.pooled = nn.ModuleList(convolved(coarsest.channels, width) for _ in _POOLS)
        self.bottleneck = convolved(coarsest.channels + len(_POOLS) * width, width, 3)
        self.lateral = nn.ModuleList(convolved(stage.channels, width) for stage in finer)
        self.smooth = nn.ModuleList(convolved(width, width, 3) for _ in finer)
        self.onto = Onto(head, stages)
        self.join = convolved(len(stages) * width, width, 3)
        self.dropout = nn.Dropout2d(0.1 if head.dropout is None else head.dropout)
        self.score = score_layer(width, num_classes)
        self.final = final_upsampling(head, stages[-1], num_classes, clamps=clamps)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the finest stage."""
        coarsest, *finer = feature_maps
        fused = [self._with_pools(coarsest)]
        for index, (layer, feature_map) in enumerate(zip(self.lateral, finer, strict=True)):
            lateral = layer(feature_map)
            fused.append(lateral + self.onto.next(index, fused[-1], lateral))
        smooth = [layer(each) for layer, each in zip(self.smooth, fused[1:], strict=True)]
        joined = torch.cat(self.onto.finest((fused[0], *smooth)), 1)
        return self.score(self.dropout(self.join(joined))).contiguous()

    def _with_pools(self, coarsest: Tensor) -> Tensor:
        """Return the coarsest map joined with means over its 1, 4, 9 and 36 parts."""
        size = coarsest.shape[-2:]
        means = [
            F.interpolate(layer(F.adaptive_avg_pool2d(coarsest, parts)), size, mode="bilinear")
            for layer, parts in zip(self.pooled, _POOLS, strict=True)
        ]
        return self.bottleneck(torch.cat([coarsest, *means], 1))
