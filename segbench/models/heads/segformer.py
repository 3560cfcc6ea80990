"""SegFormer's head: one linear layer for each stage, all joined on the finest grid by another.

Source: Xie et al., SegFormer, NeurIPS 2021, section 3.2 and the authors' code: the layers of the stages
have a bias and no norm, the joining one has batch norm and ReLU. N images, C classes, D channels.
"""

import torch
from torch import Tensor, nn

from segbench.models.heads.base import (
    HeadModule,
    Onto,
    StageShape,
    convolved,
    final_upsampling,
    score_layer,
)
from segbench.schema.heads import Head

_CHANNELS = 256  # of MiT-B0 and B1; the larger ones take 768


class SegformerHead(HeadModule):
    """`linear` for each stage, coarse to fine -> the finest grid -> `join` -> dropout -> `score`."""

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for `stages`, coarse to fine."""
        super().__init__()
        width = head.channels or _CHANNELS
        self.linear = nn.ModuleList(nn.Conv2d(stage.channels, width, 1) for stage in stages)
        self.onto = Onto(head, stages)
        self.join = convolved(len(stages) * width, width)
        self.dropout = nn.Dropout2d(0.1 if head.dropout is None else head.dropout)
        self.score = score_layer(width, num_classes)
        self.final = final_upsampling(head, stages[-1], num_classes, clamps=clamps)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the finest stage."""
        seen = [layer(each) for layer, each in zip(self.linear, feature_maps, strict=True)]
        joined = torch.cat(self.onto.finest(tuple(seen)), 1)
        return self.score(self.dropout(self.join(joined))).contiguous()
