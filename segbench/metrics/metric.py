"""What a metric is: a number in [0, 1] that is read off counts, and how it varies with the images.

A metric is one file that says everything about it, as a subclass of `Metric`. `value` is enough:
left-out images and draws are then recomputed one by one, which takes seconds for a thousand images.
The metrics of segbench override both by sums that give the same at once.
Letters: N images, C classes, K models, B draws, b draws in a chunk.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.metrics.counts import AbsentClass, Counts, Floats, kept_classes, labelled_alone


class Scored(NamedTuple):
    """The counts of one model, and the rules that its metrics follow."""

    counts: Counts
    absent_class: AbsentClass = "skip"
    class_indices: tuple[int, ...] = ()

    def compared(self) -> "Scored":
        """Return it with the rule of comparisons for absent classes."""
        return self._replace(absent_class=labelled_alone(self.absent_class))

    def kept(self) -> NDArray[np.bool_]:
        """Return (C,) which classes enter means."""
        return kept_classes(self.counts.sums, self.absent_class, self.class_indices)

    def of_images(self, rows: NDArray[np.integer]) -> "Scored":
        """Return it on these images; a class that they lose their last label pixels of is left out."""
        counts = self.counts.of_images(rows)
        if self.absent_class != "zero":
            return self._replace(counts=counts)
        gone = (self.counts.sums.label > 0) & (counts.sums.label == 0)
        kept = np.flatnonzero(self.kept() & ~gone)
        return self._replace(counts=counts, class_indices=tuple(kept.tolist()))


class ResampledMetric(NamedTuple):
    """A metric in every draw of images.

    values: (K, B) float32 fractions. dropped: the mean number of classes for each draw that had
    label pixels in the split and none in the draw; they leave the means of all models alike.
    """

    values: NDArray[np.float32]
    dropped: float = 0.0


class Metric(ABC):
    """A number that is read off one model's counts.

    name: how files and flags call it; a user's own is called `package.module:name` there.
    title: its column in a table. words: what a sentence calls it. about: what it says, in one line.
    takes_classes: whether a claim may narrow it to some classes. needs_boundary: whether it reads
    `Counts.boundary`. in_tables: whether the tables of models show it. fewest_images: with fewer
    nothing is said of new images.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    words: ClassVar[str] = ""
    about: ClassVar[str] = ""
    takes_classes: ClassVar[bool] = False
    needs_boundary: ClassVar[bool] = False
    in_tables: ClassVar[bool] = False
    fewest_images: ClassVar[int] = 2

    @abstractmethod
    def value(self, model: Scored) -> float:
        """Return the metric on the model's images, a fraction, NaN where nothing is labelled."""

    def draws(self, models: Sequence[Scored], chunks: Iterator[Floats]) -> ResampledMetric:
        """Return the metric in every draw of images; a draw without a value is drawn again.

        models: all on the same images, with the rule of comparisons. chunks: (b, N) weights, how
        often each image was drawn.
        """
        images = np.arange(len(models[0].counts.names))
        found, dropped = [], 0.0
        for weights in chunks:
            for row in weights.astype(np.int64):
                drawn = [model.of_images(np.repeat(images, row)) for model in models]
                found.append([self.value(one) for one in drawn])
                dropped += np.mean([_lost(*pair) for pair in zip(models, drawn, strict=True)])
        values = np.array(found, dtype=np.float32).T
        replace_draws(values, np.asarray(np.isnan(values).any(axis=0)))
        return ResampledMetric(values, float(dropped) / values.shape[1])

    def left_out(self, model: Scored) -> Floats:
        """Return (N,) the metric without one image each.

        A class that loses its last label pixels with the image leaves the mean, as in draws.
        """
        images = np.arange(len(model.counts.names))
        return np.array([self.value(model.of_images(images[images != one])) for one in images])

    def influences(self, model: Scored) -> Floats:
        """Return (N,) what each image adds to the metric; they add up to 0.

        What the metric loses without the image, less the mean of these losses: the error that the
        choice of images makes is, squared, N / (N - 1) times the sum of their squares.
        Source: Efron and Stein, The jackknife estimate of variance, Annals of Statistics 1981.
        """
        without = self.left_out(model)
        lost = np.nan_to_num(np.nanmean(without) - without)  # no value without the image: no matter
        return lost * (len(lost) - 1) / len(lost)


def _lost(model: Scored, drawn: Scored) -> int:
    """Return how many of the classes that enter means the draw has no label pixel of."""
    is_lost = (model.counts.sums.label > 0) & (drawn.counts.sums.label == 0)
    return int((model.kept() & is_lost).sum())


def replace_draws(values: Floats, without: NDArray[np.bool_]) -> None:
    """Put draws that have a value in place of those that have none: as if redrawn.

    values: (K, B), changed in place. without: (B,).
    """
    having = np.flatnonzero(~without)
    if len(having):
        lacking = np.flatnonzero(without)
        values[:, lacking] = values[:, having[np.arange(len(lacking)) % len(having)]]
