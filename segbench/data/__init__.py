"""Pairs of image and label: found, checked and converted once, then read fast. Knows no models.

Letters: N images, H W image size, C classes.
"""

from segbench.data.batches import TrainingBatch, training_batches, training_positions
from segbench.data.prepare import preflight, prepare
from segbench.data.split import Sample, SegmentationSplit, fingerprint_here, open_split

__all__ = [
    "Sample",
    "SegmentationSplit",
    "TrainingBatch",
    "fingerprint_here",
    "open_split",
    "preflight",
    "prepare",
    "training_batches",
    "training_positions",
]
