"""Mean IoU of a class in an image: images are averaged within each class first."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats, mean_of, ratio
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_images import image_ious, means_left_out


class MeanIouPerClass(Metric):
    """mIoU-C: for each class over its images, then over the classes that occur.

    Source: as `image_ious`.
    """

    name = "mean_iou_per_class"
    title = "IoU per class and image"
    words = "mean IoU of a class in an image"
    about = "the mean over classes of their mean IoU in the images that show them"

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        ious = image_ious(model.counts, model.class_indices)
        return mean_of(ratio(np.nansum(ious, axis=0), (~np.isnan(ious)).sum(axis=0), empty=np.nan))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        values = np.stack(
            [image_ious(model.counts, model.class_indices) for model in models], axis=1
        )  # (N, K, C)
        shape = values.shape[1:]
        flat = np.nan_to_num(values).reshape(len(values), -1).astype(np.float32)
        known = (~np.isnan(values)).reshape(len(values), -1).astype(np.float32)
        occurs = known.any(axis=0).reshape(shape)
        rows, dropped = [], 0
        for weights in chunks:
            images = (weights @ known).reshape(-1, *shape)
            ratios = (weights @ flat).reshape(-1, *shape) / np.maximum(images, 1)
            rows.append(ratios.sum(2) / np.maximum((images > 0).sum(2), 1))
            dropped += int((occurs & (images == 0)).sum()) / len(models)
        joined = np.concatenate(rows).T.astype(np.float32)
        return ResampledMetric(joined, dropped / joined.shape[1])

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`."""
        return means_left_out(image_ious(model.counts, model.class_indices))
