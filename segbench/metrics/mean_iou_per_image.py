"""Mean IoU of an image: classes are averaged within each image first."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats, mean_of
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_images import means_left_out, per_image_iou


class MeanIouPerImage(Metric):
    """mIoU-I: the mean over images of the mean IoU of their classes. Source: as `image_ious`."""

    name = "mean_iou_per_image"
    title = "IoU per image"
    words = "mean IoU of an image"
    about = "the mean over images of the mean IoU of the classes that each shows"

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        return mean_of(per_image_iou(model.counts, model.class_indices))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        values = np.stack(
            [per_image_iou(model.counts, model.class_indices) for model in models], axis=1
        )  # (N, K)
        known = (~np.isnan(values)).astype(np.float32)
        filled = np.nan_to_num(values).astype(np.float32)
        means = [(weights @ filled) / (weights @ known) for weights in chunks]  # (b, K) each
        return ResampledMetric(np.concatenate(means).T.astype(np.float32))

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`."""
        return means_left_out(per_image_iou(model.counts, model.class_indices)[:, None])
