"""Heads: from the feature maps of a trunk's stages to a score map of the image's size.

One file for each kind behind the protocol `HeadModule`. The records that configure them, such as
`fcn8s`, are in schema/heads.py.
"""

from segbench.models.heads.aspp import AsppHead
from segbench.models.heads.base import HeadModule, StageShape
from segbench.models.heads.deconvolution import DeconvolutionHead
from segbench.models.heads.fcn import FusionHead
from segbench.models.heads.linear import LinearHead
from segbench.models.heads.own import OwnHead
from segbench.models.heads.segformer import SegformerHead
from segbench.models.heads.upernet import UpernetHead
from segbench.schema.heads import Head

HEAD_KINDS: dict[str, type[HeadModule]] = {  # by `Head.kind`
    "fcn": FusionHead,
    "deconvolution": DeconvolutionHead,
    "own": OwnHead,
    "linear": LinearHead,
    "aspp": AsppHead,
    "upernet": UpernetHead,
    "segformer": SegformerHead,
}


def build_head(
    head: Head, stages: list[StageShape], num_classes: int, *, clamps: bool
) -> HeadModule:
    """Return the head that a record describes, for `stages`, coarse to fine; see `HeadModule`.

    Raises:
        CardError: a builder of the user's cannot be used.
    """
    return HEAD_KINDS[head.kind](head, stages, num_classes, clamps=clamps)
