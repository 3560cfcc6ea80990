"""The prediction of a score map that is upsampled bilinearly, without ever making the large map.

A block of fine rows is upsampled and its best classes are kept before the next one. C classes, h w
coarse and H W fine size. Knows nothing of images and models.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.models.upsampling import Bilinear, row_blocks

# Scores of a block: on a CPU they are to stay in a core's cache, on a GPU to fill it with few launches.
_BLOCK = {"cpu": 2**17, "cuda": 2**25}
_STRIP = 128  # fine rows whose coarse rows are brought to all columns at once


def upsampled_prediction(coarse: Tensor, upsampling: Bilinear) -> Tensor:
    """Return `upsampling.of(coarse).argmax(0)`, (H, W) int64, by blocks of rows.

    coarse: (C, h, w). The first of several best classes is taken, as argmax takes it.
    """
    rows, columns = upsampling.rows, upsampling.columns.to(coarse)
    size = max(_BLOCK.get(coarse.device.type, 2**25) // (len(coarse) * len(columns)), 1)
    found = torch.empty(len(rows), len(columns), dtype=torch.int64, device=coarse.device)
    for strip in row_blocks(rows, max(_STRIP, size)):
        reached = coarse[:, strip.coarse].contiguous()  # one product, not one for each class
        wide = F.linear(reached, columns)  # (C, rows of the coarse map, W)
        predicted = found[strip.fine]
        for block in row_blocks(strip.shares, size):
            scores = block.shares.to(coarse) @ wide[:, block.coarse]  # (C, rows, W)
            predicted[block.fine] = scores.max(
                0
            ).indices  # argmax itself is slow along an outer axis
    return found
