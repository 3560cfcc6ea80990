"""Pixel accuracy: the share of labelled pixels that are right."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats, ratio
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_sums import Columns, sums_left_out


class PixelAccuracy(Metric):
    """The share of labelled pixels that are right, whatever their class."""

    name = "pixel_accuracy"
    title = "pixel acc."
    words = "pixel accuracy"
    about = "the share of labelled pixels that are right"
    in_tables = True

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        sums = model.counts.sums
        return float(ratio(sums.tp.sum(), sums.label.sum(), empty=np.nan))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        columns = Columns(models, above=lambda s: s.tp, below=lambda s: s.label)
        summed = [columns.sums(weights) for weights in chunks]
        values = [above.sum(2) / np.maximum(below.sum(2), 1) for above, below, _ in summed]
        return ResampledMetric(np.concatenate(values).T.astype(np.float32))

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`."""
        sums = sums_left_out(model.counts)
        return sums.tp.sum(axis=1) / np.maximum(sums.label.sum(axis=1), 1)
