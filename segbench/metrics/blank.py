"""Whether predictions show that a model did not learn."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from segbench.metrics.counts import AbsentClass, Sums, labelled_alone
from segbench.metrics.mean_iou import mean_iou

Blank = Literal["", "one_class", "no_better"]


def why_blank(
    sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> Blank:
    """Return how a model's predictions show that it did not learn, empty where they do not.

    `one_class`: it predicts one class alone. `no_better`: its mean IoU is at most a tenth of a point
    above that of the largest class everywhere. Labels of one class alone tell nothing.
    """
    if np.count_nonzero(sums.label) < 2:
        return ""
    if np.count_nonzero(sums.pred) < 2:
        return "one_class"
    largest = np.arange(len(sums.label)) == sums.label.argmax()
    constant = Sums(largest * sums.label, sums.label, largest * sums.label.sum())
    # under `skip` a class that is predicted and never labelled would lower one of the two alone
    rule = labelled_alone(absent_class)
    reached, least = (mean_iou(each, rule, class_indices) for each in (sums, constant))
    return "no_better" if reached <= least + 0.001 else ""
