"""Segmenter: a trunk, a head, and the way from an image to a score map of its size.

N images, C classes, D channels, H W input size, h w feature size. Knows nothing of training.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from segbench.errors import CardError, DataError
from segbench.models.declared import DeclaredTrunk
from segbench.models.geometry import stage_sizes
from segbench.models.heads import build_head
from segbench.models.heads.base import HeadModule, StageShape
from segbench.models.trunk import Trunk, build_trunk
from segbench.models.trunk_weights import load_trunk_weights
from segbench.models.upsampling import Bilinear
from segbench.models.weights import weights_named
from segbench.schema.cards import BackboneCard, Input
from segbench.schema.deconvolutions import Chain
from segbench.schema.heads import Head, Model, why_unsupported

Kind = Literal["backbone", "head", "upsampling"]


def build_segmenter(
    backbone: BackboneCard,
    head: Head,
    model: Model,
    num_classes: int,
    *,
    weights_path: Path | None = None,
) -> "Segmenter":
    """Return the model that the cards describe, in training mode.

    Parameters are drawn from torch's global generator, score layers are zero, and the trunk's come
    from the file `weights_path` where one is given. The image is
    normalised as the weights that `model.weights` names want it, whether or not they are loaded
    here: a trained model that is built again to take a checkpoint must see the same input.

    Raises:
        CardError: the trunk cannot serve the head, or is not what its card says.
        DataError: the weights do not fit the trunk.
    """
    reason = why_unsupported(backbone, head, model)
    if reason is not None:
        raise CardError(f"{reason}; choose another head (segbench list heads)")
    trunk = _trunk(backbone, head, model, weights_path)
    stages = backbone.stages_read(head.strides)
    shapes = [StageShape(stage.channels, trunk.coordinates[stage.name]) for stage in stages]
    weights = weights_named(backbone, model)
    segmenter = Segmenter(
        trunk.network,
        build_head(head, shapes, num_classes, clamps=model.geometry != "caffe"),
        stage_names=tuple(stage.name for stage in stages),
        image_input=model.input or (weights and weights.input) or backbone.input,
        minimum_side=max(*head.strides, trunk.smallest_side),
        chain=head.chain,
    )
    if not segmenter.takes_images():
        raise CardError(
            f"the kernels of {head.name} meet the stages of {backbone.name} at no side of an image"
        )
    return segmenter


def _trunk(backbone: BackboneCard, head: Head, model: Model, weights_path: Path | None) -> Trunk:
    trunk = build_trunk(
        backbone,
        head.strides,
        padding=model.geometry,
        dropout=model.dropout,
        batch_norm=model.batch_norm,
    )
    if weights_path is not None:
        load_trunk_weights(trunk, weights_path)
    return trunk


class Segmenter(nn.Module):
    """Images -> score maps. Build it with `build_segmenter`.

    minimum_side: the smallest height and width, in pixels: one feature of the coarsest stage, and
    of every layer before it. chain: the head's transposed convolutions, which not every side fits.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        head: HeadModule,
        *,
        stage_names: tuple[str, ...],
        image_input: Input,
        minimum_side: int,
        chain: Chain | None = None,
    ) -> None:
        super().__init__()
        self._memory_format = _faster_memory_format(trunk)
        self.trunk = trunk.to(memory_format=self._memory_format)
        self.head = head
        self.minimum_side = minimum_side
        self._chain = chain
        self._sizes: dict[int, dict[int, int]] = {}
        self._stage_names = stage_names
        self._is_bgr = image_input.order == "BGR"
        scale, shift = _normalisation(image_input)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the score map (N, C, H, W) of RGB images (N, 3, H, W) in [0, 1]."""
        height, width = image.shape[-2:]
        return self.score_map(self.feature_maps(image), (height, width))

    def feature_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the stages that the head reads, (N, D, h, w) each, coarse to fine.

        Raises:
            DataError: the image is smaller than `minimum_side`, or its sides do not fit the chain.
        """
        if min(image.shape[-2:]) < self.minimum_side:
            height, width = image.shape[-2:]
            raise DataError(
                f"an image of {height}x{width} pixels is too small: this model needs at least "
                f"{self.minimum_side} pixels a side; pad or enlarge it"
            )
        sides = (int(image.shape[-2]), int(image.shape[-1]))
        misfit = self._chain.misfit(sides, self._sizes_at) if self._chain else None
        if misfit is not None:
            raise DataError(
                f"an image of {sides[0]}x{sides[1]} pixels does not fit the head's transposed "
                f"convolutions; {misfit}: squash, crop or pad it to these"
            )
        if self._is_bgr:
            image = image.flip(1)
        image = image * self._scale + self._shift
        maps = self.trunk(image.contiguous(memory_format=self._memory_format))
        return tuple(maps[name] for name in self._stage_names)

    def takes_images(self) -> bool:
        """Return whether any image fits the model."""
        return self._chain is None or self._chain.next_above(1, self._sizes_at) is not None

    def fitting_side(self, side: int) -> int:
        """Return the least side of an image, from this one on, that the model takes."""
        if self._chain is None:
            return max(side, self.minimum_side)
        fitting = self._chain.next_above(max(side, self.minimum_side), self._sizes_at)
        assert fitting is not None  # build_segmenter looked
        return fitting

    def _sizes_at(self, side: int) -> dict[int, int]:
        """Return the features of each stage along a side, by stride; each side is counted once."""
        if side not in self._sizes:
            assert self._chain is not None
            assert isinstance(self.trunk, fx.GraphModule | DeclaredTrunk)
            found = (
                stage_sizes(self.trunk, side)
                if isinstance(self.trunk, fx.GraphModule)
                else self.trunk.sizes(side)
            )
            sizes = (found[name] for name in self._stage_names)
            self._sizes[side] = dict(zip(self._chain.strides, sizes, strict=True))
        return self._sizes[side]

    def score_map(self, feature_maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Return the score map (N, C, H, W) of images of `size` (H, W)."""
        coarse = self.head(feature_maps)  # (N, C, h, w) on the finest stage's grid
        return self.head.upsample_to(coarse, size)

    def coarse_score_map(self, image: Tensor) -> tuple[Tensor, Bilinear | None]:
        """Return the score map of images before it is upsampled, (N, C, h, w), and what upsamples it.

        Where upsampling is learned: the score map (N, C, H, W), and None.
        """
        size = int(image.shape[-2]), int(image.shape[-1])
        coarse = self.head(self.feature_maps(image))
        bilinear = self.head.bilinear_to(coarse, size)
        return (self.head.upsample_to(coarse, size) if bilinear is None else coarse), bilinear

    def parameter_kinds(self) -> dict[str, Kind]:
        """Return, for each parameter's name, the part of the model that it belongs to.

        fc6 and fc7 are the backbone's. `upsampling` kernels are those that start bilinear.
        """
        upsampling = {f"head.{name}" for name in self.head.upsampling_parameters()}
        return {
            name: "backbone"
            if name.startswith("trunk.")
            else "upsampling"
            if name in upsampling
            else "head"
            for name, _ in self.named_parameters()
        }


def _faster_memory_format(trunk: nn.Module) -> torch.memory_format:
    """Return channels last for a trunk of whose convolutions a third or more are 1x1.

    Those are plain matrix products then: GoogLeNet, SqueezeNet, Inception-v3 and ResNet-50 gain a
    fifth to two fifths on a CPU (benchmarks/loss.py). Trunks of 3x3 kernels (ResNet-18, VGG16) gain
    nothing or lose. The rule looks at the trunk alone, so that numbers do not depend on the machine.
    """
    kernels = [layer.kernel_size for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    is_mostly_thin = 3 * kernels.count((1, 1)) >= max(len(kernels), 1)
    return torch.channels_last if is_mostly_thin else torch.contiguous_format


def _normalisation(image_input: Input) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (3, 1, 1) each, with x * scale + shift what the trunk expects."""
    std = torch.tensor(image_input.std, dtype=torch.float64).view(3, 1, 1)
    mean = torch.tensor(image_input.mean, dtype=torch.float64).view(3, 1, 1)
    return (image_input.range / std).float(), (-mean / std).float()
