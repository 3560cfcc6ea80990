"""Mean IoU, the field's metric: over classes, the IoU of the counts of the whole split."""

from collections.abc import Sequence

from numpy.typing import NDArray

from segbench.metrics.counts import AbsentClass, Sums
from segbench.metrics.of_sums import MeanOverClasses


class MeanIou(MeanOverClasses):
    """Pixels right over pixels labelled or predicted, summed over images, averaged over classes.

    Also called mIoU-D.
    """

    name = "mean_iou"
    title = "mean IoU"
    words = "mean IoU"
    about = "the mean over classes of the IoU of the summed counts"
    in_tables = True

    def above(self, pixels: Sums) -> NDArray:
        """See `MeanOverClasses`."""
        return pixels.tp

    def below(self, pixels: Sums) -> NDArray:
        """See `MeanOverClasses`."""
        return pixels.union


def mean_iou(
    sums: Sums, absent_class: AbsentClass = "skip", class_indices: Sequence[int] = ()
) -> float:
    """Return the mean IoU of summed counts; NaN where no class enters it."""
    return MeanIou().of_sums(sums, absent_class, class_indices)
