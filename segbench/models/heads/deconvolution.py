"""A head that is a chain of transposed convolutions, as the KTH study's.

Feature maps are added on the way, feature i on feature i: nothing is padded, cropped or aligned.
N images, C classes, D channels. Knows nothing of trunks but how many channels their stages have.
"""

import itertools

from torch import Tensor, nn

from segbench.models.heads.base import HeadModule, StageShape
from segbench.schema.deconvolutions import Deconvolution
from segbench.schema.heads import Head


class DeconvolutionHead(HeadModule):
    """Feature maps -> score map through every layer of `head.deconvolutions`.

    `upsample` has the layers by the stride that each ends at; `final` is the last one. Every kernel
    also mixes channels, so none of them only upsamples.
    """

    def __init__(
        self,
        head: Head,
        stages: list[StageShape],
        num_classes: int,
        *,
        clamps: bool,  # noqa: ARG002 - the chain meets its stages and the image feature on feature
    ) -> None:
        """Build the head for `stages`, coarse to fine; where their features lie is not asked."""
        super().__init__()
        assert head.chain is not None
        channels = [stage.channels for stage in stages]
        self._names = [str(stride) for stride in head.strides]
        self._scales = head.skip_scale or (1.0,) * len(channels)
        self.norm = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(width, affine=False)
                for name, width in zip(self._names, channels, strict=True)
                if head.feature_norm == "batch"
            }
        )
        widths = [channels[0], *(layer.channels or num_classes for layer in head.chain.layers)]
        *between, self.final = (
            _transposed(layer, *ends)
            for layer, ends in zip(head.chain.layers, itertools.pairwise(widths), strict=True)
        )
        reached = map(str, head.chain.reached[:-1])
        self.upsample = nn.ModuleDict(dict(zip(reached, between, strict=True)))

    def forward(self, feature_maps: tuple[Tensor, ...]) -> Tensor:
        """Return the fused feature map (N, D, h, w) that the last layer scores.

        The image's sides fit the chain: the segmenter has looked at them.
        """
        fused = self._stage(0, feature_maps[0])
        for name, layer in self.upsample.items():
            fused = layer(fused)
            if name in self._names:
                index = self._names.index(name)
                fused = fused + self._stage(index, feature_maps[index])
        return fused

    def upsample_to(self, coarse: Tensor, size: tuple[int, int], *, every: int = 1) -> Tensor:
        """Return the score map of the image's size (H, W), at every n-th row and column of it."""
        fine = self.final(coarse)  # (N, C, H, W)
        assert tuple(fine.shape[-2:]) == size
        return fine[..., ::every, ::every]

    def bilinear_to(self, coarse: Tensor, size: tuple[int, int], *, every: int = 1) -> None:
        """Return None: what `upsample_to` does is learned."""

    def _stage(self, index: int, feature_map: Tensor) -> Tensor:
        name = self._names[index]
        if name in self.norm:
            feature_map = self.norm[name](feature_map)
        return feature_map * self._scales[index] if self._scales[index] != 1 else feature_map


def _transposed(layer: Deconvolution, channels: int, made: int) -> nn.ConvTranspose2d:
    module = nn.ConvTranspose2d(channels, made, layer.kernel, layer.stride, bias=layer.bias)
    start = nn.init.xavier_uniform_ if layer.start == "xavier" else nn.init.zeros_
    start(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
