"""Mean IoU of the worst tenth of the images."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_images import (
    drawn_means_of_worst,
    influences_of_worst,
    mean_of_worst,
    per_image_iou,
)


class WorstImagesIou(Metric):
    """mIoU-I over the tenth of the images that score lowest, at least one of them."""

    name = "worst_images_iou"
    title = "worst images"
    words = "mean IoU of the worst tenth of the images"
    about = "the mean IoU of an image over the worst tenth of the images"
    fewest_images = 100

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        return mean_of_worst(per_image_iou(model.counts, model.class_indices))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        values = [per_image_iou(model.counts, model.class_indices) for model in models]
        rows = [
            np.stack([drawn_means_of_worst(own, weights) for own in values], axis=1)
            for weights in chunks
        ]
        return ResampledMetric(np.concatenate(rows).T.astype(np.float32))

    def influences(self, model: Scored) -> Floats:
        """See `Metric`."""
        return influences_of_worst(per_image_iou(model.counts, model.class_indices))
