"""The linear probe of the DINO papers: maps side by side, batch norm, one 1x1 score layer.

Source: Oquab et al., DINOv2, TMLR 2024, section 7.4 (its `BNHead`: batch norm, then a 1x1 convolution that
starts normal with deviation 0.01); four layers side by side are its `+ms` without the image scales.
N images, C classes, D channels.
"""

import torch
from torch import Tensor, nn

from segbench.models.heads.base import HeadModule, Onto, StageShape, final_upsampling, score_layer
from segbench.schema.heads import Head


class LinearHead(HeadModule):
    """Maps on the finest grid, concatenated coarse to fine -> `norm` -> dropout -> `score`."""

    def __init__(
        self, head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
    ) -> None:
        """Build the head for `stages`, coarse to fine."""
        super().__init__()
        width = sum(stage.channels for stage in stages)
        self.onto = Onto(head, stages)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(head.dropout or 0.0)
        self.score = score_layer(width, num_classes)
        self.final = final_upsampling(head, stages[-1], num_classes, clamps=clamps)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the coarse score map (N, C, h, w) on the grid of the finest stage."""
        joined = torch.cat(self.onto.finest(feature_maps), 1)
        return self.score(self.dropout(self.norm(joined))).contiguous()
