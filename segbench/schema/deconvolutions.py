"""A head's chain of transposed convolutions: its record, and which sides of an image it fits.

Features are counted and never placed: nothing is padded or cropped, so the chain must meet each
stage that it adds, and the image, feature on feature. Knows nothing of tensors and trunks.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from segbench.schema.base import Spec

Sizes = Callable[[int], Mapping[int, int]]  # side of an image -> features of each stride


class Deconvolution(Spec):
    """One transposed convolution of a chain: nothing padded, no activation.

    n features become (n - 1) * stride + kernel.

    kernel: its side. stride: its stride. channels: how many it makes; the last one of a chain has none,
    because it makes the classes. bias: whether it has one. start: of the kernel, `xavier` (uniform, as
    TF-slim) or `zeros`; a bias starts at 0.
    """

    kernel: Annotated[int, Field(ge=2, le=512)]
    stride: Annotated[int, Field(ge=2, le=128)]
    channels: Annotated[int, Field(ge=1)] | None = None
    bias: bool = True
    start: Literal["xavier", "zeros"] = "xavier"

    @model_validator(mode="after")
    def _gapless(self) -> Self:
        if self.kernel < self.stride:
            raise ValueError(
                f"a kernel of {self.kernel} leaves gaps at stride {self.stride}; take "
                f"{self.stride} or more"
            )
        return self


class Chain(NamedTuple):
    """The layers of a head, and the strides of the stages that it reads, coarse to fine."""

    strides: tuple[int, ...]
    layers: tuple[Deconvolution, ...]

    @property
    def reached(self) -> tuple[int, ...]:
        """The stride of what each layer makes; 1 is the image."""
        made = [
            math.prod(layer.stride for layer in self.layers[: n + 1]) for n in range(self.depth)
        ]
        return tuple(self.strides[0] // factor for factor in made)

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def problems(self) -> list[str]:
        """Return what is wrong with the chain by itself, whatever trunk it is put on."""
        problems = []
        if [layer.channels is None for layer in self.layers] != [False] * (self.depth - 1) + [True]:
            problems.append(
                "each layer needs `channels`, but the last one, which makes the classes"
            )
        factors = [layer.stride for layer in self.layers]
        if math.prod(factors) != self.strides[0]:
            return [
                *problems,
                f"strides {factors} multiply to {math.prod(factors)}, but the head begins at stride "
                f"{self.strides[0]}",
            ]
        missed = [stride for stride in self.strides[1:] if stride not in self.reached[:-1]]
        if missed:
            problems.append(f"no layer ends at stride {missed[0]}, whose stage is to be added")
        return problems

    def fits(self, side: int, sizes: Sizes) -> bool:
        """Return whether the chain meets every stage that it adds, and ends at the side itself."""
        found = sizes(side)
        here = found[self.strides[0]]
        for layer, stride in zip(self.layers, self.reached, strict=True):
            if here < 1:
                return False
            here = (here - 1) * layer.stride + layer.kernel
            if stride in self.strides and here != found[stride]:
                return False
        return here == side

    def next_below(self, side: int, sizes: Sizes) -> int | None:
        """Return the largest side up to this one that fits, or None."""
        last = (side - self._end(0)) // self.strides[0]
        sides = map(self._end, range(last, max(last - _TRIES, 0), -1))
        return next((fitting for fitting in sides if self.fits(fitting, sizes)), None)

    def next_above(self, side: int, sizes: Sizes) -> int | None:
        """Return the least side from this one on that fits, or None."""
        first = max(-((self._end(0) - side) // self.strides[0]), 1)
        sides = map(self._end, range(first, first + _TRIES))
        return next((fitting for fitting in sides if self.fits(fitting, sizes)), None)

    def misfit(self, sides: tuple[int, ...], sizes: Sizes) -> str | None:
        """Return what to do about sides that do not fit, or None where all do."""
        wrong = [side for side in sides if not self.fits(side, sizes)]
        if not wrong:
            return None
        near = {
            fitting
            for side in wrong
            for fitting in (self.next_below(side, sizes), self.next_above(side, sizes))
            if fitting is not None
        }
        return (
            f"the next sides that do are {', '.join(map(str, sorted(near)))}"
            if near
            else "none does"
        )

    def _end(self, features: int) -> int:
        """Return the pixels that so many features of the deepest stage end at."""
        for layer in self.layers:
            features = (features - 1) * layer.stride + layer.kernel
        return features


_TRIES = 8  # a trunk's padding may spoil the first few
