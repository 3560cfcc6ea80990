"""Boundary IoU: mean IoU of the pixels near the borders of labels and predictions alone."""

from collections.abc import Iterator, Sequence

from segbench.metrics.counts import Floats
from segbench.metrics.mean_iou import MeanIou
from segbench.metrics.metric import ResampledMetric, Scored


class BoundaryIou(MeanIou):
    """Mean IoU of boundary pixels, which a protocol counts with `boundary: 0.02`.

    Source: Cheng et al., Boundary IoU, CVPR 2021.
    """

    name = "boundary_iou"
    title = "boundary IoU"
    words = "boundary IoU"
    about = "mean IoU of the pixels near borders alone"
    needs_boundary = True

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        return super().value(_on_boundary(model))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        return super().draws([_on_boundary(model) for model in models], chunks)

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`."""
        return super().left_out(_on_boundary(model))


def _on_boundary(model: Scored) -> Scored:
    if model.counts.boundary is None:
        raise ValueError("these counts have none of boundaries")
    return model._replace(counts=model.counts.boundary)
