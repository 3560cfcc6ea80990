"""From cards to networks: trunks, heads, and the geometry that aligns them.

Knows nothing of data sets, training or files of results.
"""

from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.weights import backbone_weights_path

__all__ = ["Segmenter", "backbone_weights_path", "build_segmenter"]
