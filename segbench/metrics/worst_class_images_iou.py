"""Mean over classes of their IoU in the worst tenth of each class's own images."""

from collections.abc import Iterator, Sequence

import numpy as np

from segbench.metrics.counts import Floats, mean_of
from segbench.metrics.metric import Metric, ResampledMetric, Scored
from segbench.metrics.of_images import (
    drawn_means_of_worst,
    image_ious,
    influences_of_worst,
    mean_of_worst,
)


class WorstClassImagesIou(Metric):
    """mIoU-C over the tenth of each class's own images that score lowest, at least one for each."""

    name = "worst_class_images_iou"
    title = "worst images per class"
    words = "mean IoU of a class in the worst tenth of its images"
    about = "the mean over classes of their mean IoU in the worst tenth of their images"
    fewest_images = 100

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        columns = image_ious(model.counts, model.class_indices).T
        return mean_of(np.array([mean_of_worst(column) for column in columns]))

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        every = [image_ious(model.counts, model.class_indices) for model in models]
        rows, dropped = [], 0
        for weights in chunks:
            row = []
            for ious in every:
                known = ~np.isnan(ious)
                occurs = known.any(axis=0)
                there = (weights @ known.astype(np.float32))[:, occurs] > 0  # (b, classes)
                means = [drawn_means_of_worst(column, weights) for column in ious.T[occurs]]
                total = (np.stack(means, axis=1) * there).sum(axis=1)
                row.append(total / np.maximum(there.sum(axis=1), 1))
                dropped += int((~there).sum()) / len(models)
            rows.append(np.stack(row, axis=1))
        joined = np.concatenate(rows).T.astype(np.float32)
        return ResampledMetric(joined, dropped / joined.shape[1])

    def influences(self, model: Scored) -> Floats:
        """See `Metric`; a class of one image leaves the mean with it."""
        ious = image_ious(model.counts, model.class_indices)
        known = ~np.isnan(ious)
        images = known.sum(axis=0)  # (C,)
        classes = np.count_nonzero(images)
        of_classes = influences_of_worst(ious).sum(axis=1) / max(1, classes)
        alone = known & (images == 1)
        leaving = np.where(alone, np.nan_to_num(ious) - self.value(model), 0.0).sum(axis=1)
        every = of_classes + leaving / max(1, classes - 1)
        return every - every.mean()
