"""DeepLabv3's head: atrous spatial pyramid pooling over the finest stage that it reads.

Source: Chen et al., Rethinking Atrous Convolution, 2017 (arXiv 1706.05587), section 3.3; layers, widths and
dropout as in torchvision's `DeepLabHead`. N images, C classes, D channels.
"""

import torch
from torch import Tensor, nn

from segbench.models.heads.base import HeadModule, StageShape, convolved, final_upsampling
from segbench.schema.heads import Head

_RATES = (12, 24, 36)  # for stride 8; torchvision's
_CHANNELS = 256


class AsppHead(HeadModule):
    """A 1x1 branch, one 3x3 branch for each rate, and the image's mean; `join`, `last`, `score`."""

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for the last of `stages`; the schema lets it read one."""
        super().__init__()
        reads, width = stages[-1].channels, head.channels or _CHANNELS
        rates = head.rates or _RATES
        self.branches = nn.ModuleList(
            [convolved(reads, width), *(convolved(reads, width, 3, rate) for rate in rates)]
        )
        self.pooled = convolved(reads, width)
        self.join = convolved((len(rates) + 2) * width, width)
        self.dropout = nn.Dropout(0.5 if head.dropout is None else head.dropout)
        self.last = convolved(width, width, 3)
        self.score = nn.Conv2d(width, num_classes, 1)
        self.final = final_upsampling(head, stages[-1], num_classes, clamps=clamps)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the stage."""
        feature_map = feature_maps[-1]
        mean = self.pooled(feature_map.mean((2, 3), keepdim=True))
        seen = [branch(feature_map) for branch in self.branches]
        joined = torch.cat([*seen, mean.expand_as(seen[0])], 1)
        return self.score(self.last(self.dropout(self.join(joined)))).contiguous()
