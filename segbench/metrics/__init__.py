"""Metrics: counts of pixels, and one file for each number that is read off them. No torch here.

To add a metric, write a file like `mean_accuracy.py` and name its class in `METRICS`: files,
claims, `compare`, searches and tables know it from there. A user's own needs no place in it: a
protocol names it as `package.module:name`.
"""

from collections.abc import Sequence

from segbench.metrics.boundary_iou import BoundaryIou
from segbench.metrics.counts import AbsentClass, Counts
from segbench.metrics.frequency_weighted_iou import FrequencyWeightedIou
from segbench.metrics.mean_accuracy import MeanAccuracy
from segbench.metrics.mean_iou import MeanIou
from segbench.metrics.mean_iou_per_class import MeanIouPerClass
from segbench.metrics.mean_iou_per_image import MeanIouPerImage
from segbench.metrics.metric import Metric, Scored
from segbench.metrics.own import own_metric
from segbench.metrics.pixel_accuracy import PixelAccuracy
from segbench.metrics.worst_class_images_iou import WorstClassImagesIou
from segbench.metrics.worst_images_iou import WorstImagesIou

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        MeanIou(),
        PixelAccuracy(),
        MeanAccuracy(),
        FrequencyWeightedIou(),
        MeanIouPerImage(),
        MeanIouPerClass(),
        WorstImagesIou(),
        WorstClassImagesIou(),
        BoundaryIou(),
    )
}


def metric_named(name: str) -> Metric:
    """Return a metric of the table, or a user's own.

    Raises:
        CardError: a user's own is not trusted, or not there.
    """
    return own_metric(name) if ":" in name else METRICS[name]


def words_of(name: str) -> str:
    """Return what a sentence calls a metric, or anything else of that name."""
    plain = name.rpartition(":")[2].replace("_", " ")  # of a user's own, whose code is not run
    return METRICS[name].words if name in METRICS else plain


def title_of(name: str) -> str:
    """Return a metric's column in a table."""
    return METRICS[name].title if name in METRICS else words_of(name)


def values_of(
    counts: Counts,
    absent_class: AbsentClass = "skip",
    class_indices: Sequence[int] = (),
    own: Sequence[str] = (),
) -> dict[str, float]:
    """Return every metric that the counts allow, by name; NaN where nothing was labelled.

    own: names of the user's, which are computed too.
    """
    model = Scored(counts, absent_class, tuple(class_indices))
    return {
        name: metric.value(model)
        for name, metric in (METRICS | {name: own_metric(name) for name in own}).items()
        if counts.boundary is not None or not metric.needs_boundary
    }
