"""Mean accuracy: over classes, the share of label pixels that are found."""

from collections.abc import Sequence

from numpy.typing import NDArray

from segbench.metrics.counts import AbsentClass, Sums, labelled_alone
from segbench.metrics.of_sums import MeanOverClasses


class MeanAccuracy(MeanOverClasses):
    """The mean over classes of the share of label pixels that are found.

    A class without label pixels has no accuracy and is left out, or is 0 under the rule `zero`.
    """

    name = "mean_accuracy"
    title = "mean acc."
    words = "mean accuracy"
    about = "the mean over classes of the share of label pixels that are found"
    in_tables = True

    def above(self, pixels: Sums) -> NDArray:
        """See `MeanOverClasses`."""
        return pixels.tp

    def below(self, pixels: Sums) -> NDArray:
        """See `MeanOverClasses`."""
        return pixels.label

    def of_sums(
        self, sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
    ) -> float:
        """See `MeanOverClasses`."""
        return super().of_sums(sums, labelled_alone(absent_class), class_indices)
