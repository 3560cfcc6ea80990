"""What metrics of summed counts share: draws as one matrix product, and means over classes.

Letters: N images, C classes, K models, b draws in a chunk.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segbench.metrics.counts import AbsentClass, Counts, Floats, Sums, kept_classes, mean_of, ratio
from segbench.metrics.metric import Metric, ResampledMetric, Scored, replace_draws


def sums_left_out(counts: Counts) -> Sums:
    """Return the sums without one image each, (N, C) float64."""
    parts = ("tp", "label", "pred")
    return Sums(
        *(getattr(counts.sums, part) - getattr(counts, part).astype(np.float64) for part in parts)
    )


class Columns:
    """The count columns of K models side by side, for one matrix product with the weights.

    above, below: the numerators and denominators of pixels (N, C).
    """

    def __init__(
        self,
        models: Sequence[Scored],
        *,
        above: Callable[[Sums], NDArray],
        below: Callable[[Sums], NDArray],
    ) -> None:
        every = [model.counts for model in models]
        self.shape = (len(every), every[0].tp.shape[1])  # (K, C)
        is_shared = all(np.array_equal(one.label, every[0].label) for one in every[1:])
        labelled = every[:1] if is_shared else every
        parts = [Sums(one.tp, one.label.astype(np.int64), one.pred) for one in every]
        self.table = np.concatenate(
            [
                *(above(part).astype(np.float32) for part in parts),
                *(below(part).astype(np.float32) for part in parts),
                *(one.label.astype(np.float32) for one in labelled),
            ],
            axis=1,
        )  # (N, 2 K C + labels)

    def sums(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return numerators and denominators (b, K, C), and label pixels, (b, 1, C) where shared."""
        models, classes = self.shape
        summed = weights @ self.table
        split = models * classes
        return (
            summed[:, :split].reshape(-1, models, classes),
            summed[:, split : 2 * split].reshape(-1, models, classes),
            summed[:, 2 * split :].reshape(len(weights), -1, classes),
        )

    def ratios(self, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return (b, K, C) ratios, 0 where 0/0, and which classes are there, (b, 1 or K, C)."""
        above, below, label = self.sums(weights)
        return above / np.maximum(below, 1), label > 0


class MeanOverClasses(Metric):
    """The mean over classes of a ratio of summed counts; a subclass says above and below what."""

    takes_classes = True

    @abstractmethod
    def above(self, pixels: Sums) -> NDArray:
        """Return the numerators (..., C), whole numbers that add up over images."""

    @abstractmethod
    def below(self, pixels: Sums) -> NDArray:
        """Return the denominators likewise."""

    def of_sums(
        self, sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
    ) -> float:
        """Return the mean of the ratios over the classes that enter it."""
        kept = kept_classes(sums, absent_class, class_indices)
        return mean_of(self.of_classes(sums)[kept])

    def of_classes(self, sums: Sums) -> Floats:
        """Return (C,) the ratio of each class, 0 where it has no pixel below."""
        return ratio(self.above(sums), self.below(sums))

    def value(self, model: Scored) -> float:
        """See `Metric`."""
        return self.of_sums(model.counts.sums, model.absent_class, model.class_indices)

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """See `Metric`."""
        columns = Columns(models, above=self.above, below=self.below)
        kept = np.stack([model.kept() for model in models])  # (K, C)
        labelled = np.stack([model.counts.sums.label > 0 for model in models])
        values, empty, dropped = [], [], 0
        for weights in chunks:
            of_classes, present = columns.ratios(weights)
            # A class of the split that this draw missed is 0/0: it says nothing of any model.
            entering = kept & (present | ~labelled)
            values.append((of_classes * entering).sum(2) / np.maximum(entering.sum(2), 1))
            empty.append((~entering.any(axis=2)).any(axis=-1))
            dropped += int((kept & ~entering).sum()) / len(models)
        joined = np.concatenate(values).T.astype(np.float32)
        replace_draws(joined, np.concatenate(empty))
        return ResampledMetric(joined, dropped / joined.shape[1])

    def left_out(self, model: Scored) -> Floats:
        """See `Metric`: what the mean loses with the few classes that each image shows."""
        counts, kept = model.counts, model.kept()
        whole = self.of_classes(counts.sums)  # (C,)
        parts = Sums(counts.tp, counts.label, counts.pred)
        above, below = self.above(parts), self.below(parts)
        images, classes = np.nonzero((below > 0) & kept)
        at = images, classes
        left = self.below(counts.sums)[classes] - below[at]
        without = (self.above(counts.sums)[classes] - above[at]) / np.maximum(left, 1)
        labels = counts.sums.label[classes]
        # a class that loses its last label pixels leaves the mean, for all models alike
        leaves = (labels > 0) & (counts.label[at] == labels)
        lost = whole[classes] - np.where(leaves, 0.0, without)
        num_images = len(counts.names)
        rest = (whole * kept).sum() - np.bincount(images, lost, num_images)
        return rest / np.maximum(kept.sum() - np.bincount(images, leaves, num_images), 1)
