"""Our confusion matrix as a torchmetrics metric, for other people's loops.

Apart from counting.py, since torchmetrics takes seconds to load and workers do without it.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from segbench.engine.counting import confusion_matrix
from segbench.schema.cards import IGNORE_INDEX


class ConfusionMatrix(Metric):
    """`confusion_matrix` as a torchmetrics metric, for other people's loops.

    Sums over updates and over processes; `compute` returns the (C, C + 1) int64 matrix.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(
        self, num_classes: int, *, ignore_index: int = IGNORE_INDEX, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        zero = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        self.add_state("confusion", zero, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add a batch of integer maps; shapes as in `confusion_matrix`."""
        self.confusion += confusion_matrix(
            prediction, label, self.num_classes, ignore_index=self.ignore_index
        )

    def compute(self) -> Tensor:
        """Return the counts so far."""
        return self.confusion
