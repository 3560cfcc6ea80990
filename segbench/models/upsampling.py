"""Bilinear upsampling from one grid of features onto a finer one, by their coordinates.

Coarse feature i lies at fine index `factor * i + delta`; delta may be any fraction. Everything
follows from this one map: the weights of fixed upsampling, and the kernel, the crop and the padding
of the transposed convolution that learned upsampling starts as. Stretched upsampling alone asks for
the grids' sizes and not for coordinates. N images, C channels, h w coarse
sizes. Knows nothing of trunks and heads.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.errors import CardError
from segbench.models.geometry import Coordinates


@dataclass(frozen=True)
class UpsamplingStep:
    """From a coarse grid onto one that is `factor` times finer.

    clamps: places beyond the first and last coarse feature take its value; else the map fades to
    zero there, as a transposed convolution in Caffe does.
    """

    factor: int
    delta: float
    clamps: bool

    @classmethod
    def between(cls, coarse: Coordinates, fine: Coordinates, *, clamps: bool) -> "UpsamplingStep":
        """Return the step from one stage's grid to that of a finer one.

        Raises:
            CardError: the strides do not divide.
        """
        if coarse.stride % fine.stride:
            raise CardError(f"stride {coarse.stride} is not a multiple of stride {fine.stride}")
        delta = (coarse.offset - fine.offset) / fine.stride
        return cls(coarse.stride // fine.stride, delta, clamps)

    @property
    def centre(self) -> float:
        """Where the kernel peaks: in [factor - 1, factor), and a whole number away from delta."""
        return self.factor - 1 + (self.delta - math.floor(self.delta))

    @property
    def taps(self) -> int:
        """The kernel's size: 2 * factor, less the last tap where that is zero (63 for AlexNet)."""
        return 2 * self.factor - (self.centre == self.factor - 1)

    @property
    def first(self) -> int:
        """The fine index that the kernel's first tap on the first coarse feature falls on."""
        return round(self.delta - self.centre)

    def shared(self, coarse_size: int, fine_size: int) -> range:
        """Return the indices of the fine grid on which both maps are defined."""
        if self.clamps:
            return range(fine_size)
        end = self.first + self.factor * (coarse_size - 1) + self.taps
        return range(max(self.first, 0), min(end, fine_size))

    def kernel(self) -> Tensor:
        """Return the bilinear kernel along one axis, (taps,); every phase of it sums to 1."""
        away = (torch.arange(self.taps) - self.centre).abs()
        return (1 - away / self.factor).clamp(min=0)

    def shares(self, size: int, at: range) -> Tensor:
        """Return the share of each of `size` coarse features in the fine indices `at`."""
        places = torch.arange(at.start, at.stop, at.step, dtype=torch.float32)
        places = (places - self.delta) / self.factor  # in coarse features
        return _shares(places.clamp(0, size - 1) if self.clamps else places, size)


def _shares(places: Tensor, size: int) -> Tensor:
    """Return (places, size): the share of each of `size` features in what lies at these places."""
    features = torch.arange(size, dtype=places.dtype)
    return (1 - (places[:, None] - features).abs()).clamp(min=0)


class Bilinear(NamedTuple):
    """Bilinear upsampling of (h, w) to (H, W): the shares of the features, for each axis.

    rows: (H, h). columns: (W, w). float32, on the CPU.
    """

    rows: Tensor
    columns: Tensor

    def of(self, coarse: Tensor) -> Tensor:
        """Return the map (N, C, h, w) as (N, C, H, W), by two small matrix products."""
        wide = F.linear(coarse, self.columns.to(coarse))  # (N, C, h, W)
        return self.rows.to(wide) @ wide


class RowBlock(NamedTuple):
    """A block of fine rows, and the coarse rows that have a share in them; shares (fine, coarse)."""

    fine: slice
    coarse: slice
    shares: Tensor


def row_blocks(rows: Tensor, size: int) -> Iterator[RowBlock]:
    """Yield the blocks of `size` rows of (H, h) shares on the CPU."""
    for top in range(0, len(rows), size):
        fine = slice(top, top + size)
        reached = rows[fine].any(0).nonzero()
        coarse = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 1)
        yield RowBlock(fine, coarse, rows[fine, coarse])


class FixedUpsampling(nn.Module):
    """Bilinear upsampling by coordinates; `project` goes before it."""

    def __init__(self, step: UpsamplingStep, project: nn.Module | None = None) -> None:
        super().__init__()
        self.step = step
        self.project = project or nn.Identity()

    def forward(self, coarse: Tensor, rows: range, columns: range) -> Tensor:
        """Return the map (N, C, h, w) at the given rows and columns of the fine grid."""
        h, w = coarse.shape[-2:]
        return self.bilinear((h, w), rows, columns).of(self.project(coarse))

    def bilinear(self, size: tuple[int, int], rows: range, columns: range) -> Bilinear:
        """Return the shares of a coarse map's features of `size` (h, w) in these rows and columns."""
        h, w = size
        return Bilinear(self.step.shares(h, rows), self.step.shares(w, columns))


class StretchedUpsampling(nn.Module):
    """Bilinear upsampling from border to border, wherever the features lie; `project` goes first."""

    def __init__(self, project: nn.Module | None = None) -> None:
        super().__init__()
        self.project = project or nn.Identity()

    def forward(self, coarse: Tensor, size: tuple[int, int], *, every: int = 1) -> Tensor:
        """Return the map (N, C, h, w) at every n-th row and column of a grid of `size`."""
        h, w = coarse.shape[-2:]
        return self.bilinear((h, w), size, every=every).of(self.project(coarse))

    def bilinear(self, size: tuple[int, int], fine: tuple[int, int], *, every: int = 1) -> Bilinear:
        """Return the shares of features of `size` (h, w) in every n-th row and column of `fine`."""
        rows, columns = zip(size, fine, strict=True)
        return Bilinear(self._shares(*rows, every), self._shares(*columns, every))

    def _shares(self, size: int, fine_size: int, every: int) -> Tensor:
        fine = torch.arange(0, fine_size, every, dtype=torch.float32)
        places = (fine + 0.5) * (size / fine_size) - 0.5
        return _shares(places.clamp(0, size - 1), size)


class LearnedUpsampling(nn.Module):
    """A transposed convolution with a full matrix of kernels, one for each pair of channels.

    Not one kernel a channel: the FCN paper's code trains the full matrix too (its `Deconvolution`
    has no groups, and `surgery.interp` fills the diagonal alone). `mix` (out, in) is what each
    kernel's bilinear start is multiplied by: the identity, a projection, or zeros.
    """

    def __init__(self, step: UpsamplingStep, mix: Tensor, *, with_bias: bool = False) -> None:
        super().__init__()
        self.step = step
        kernel = torch.outer(step.kernel(), step.kernel())
        self.weight = nn.Parameter(mix.T[:, :, None, None] * kernel)  # (in, out, taps, taps)
        self.bias = nn.Parameter(torch.zeros(len(mix))) if with_bias else None

    def forward(self, coarse: Tensor, rows: range, columns: range) -> Tensor:
        """Return the map (N, in, h, w) as (N, out, rows, columns) of the fine grid."""
        top, bottom = self._missing(coarse.shape[-2], rows)
        left, right = self._missing(coarse.shape[-1], columns)
        if self.step.clamps:
            coarse = F.pad(coarse, (left, right, top, bottom), mode="replicate")
        fine = F.conv_transpose2d(coarse, self.weight, self.bias, stride=self.step.factor)
        y, x = -self.step.first + self.step.factor * top, -self.step.first + self.step.factor * left
        return fine[..., _moved(rows, y), _moved(columns, x)]

    def _missing(self, size: int, at: range) -> tuple[int, int]:
        """Return how many coarse features more, before and after, have all of `at` between them."""
        if not self.step.clamps:
            return 0, 0
        before = math.ceil((self.step.delta - at[0]) / self.step.factor)
        after = math.ceil((at[-1] - self.step.delta) / self.step.factor) - (size - 1)
        return max(before, 0), max(after, 0)


def _moved(indices: range, by: int) -> slice:
    return slice(indices.start + by, indices.stop + by, indices.step)
