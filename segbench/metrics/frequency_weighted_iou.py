"""Frequency-weighted IoU: the IoU of the classes, large ones counting more."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats, ratio
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_sums import Columns, sums_left_out


class FrequencyWeightedIou(Metric):
    """The IoU of the summed counts, averaged with each class's share of label pixels as weight."""

    name = "frequency_weighted_iou"
    title = "f.w. IoU"
    words = "frequency-weighted IoU"
    about = "the IoU averaged over classes with the share of label pixels as weight"
    in_tables = True

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        sums = model.counts.sums
        weighted = (ratio(sums.tp, sums.union) * sums.label).sum()
        return float(ratio(weighted, sums.label.sum(), empty=np.nan))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        columns = Columns(models, above=lambda s: s.tp, below=lambda s: s.union)
        values = []
        for weights in chunks:
            above, below, label = columns.sums(weights)
            share = label / np.maximum(label.sum(2, keepdims=True), 1)
            values.append((above / np.maximum(below, 1) * share).sum(2))
        return ResampledMetric(np.concatenate(values).T.astype(np.float32))

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`."""
        sums = sums_left_out(model.counts)
        of_classes = sums.tp / np.maximum(sums.union, 1)
        return (of_classes * sums.label).sum(axis=1) / np.maximum(sums.label.sum(axis=1), 1)
