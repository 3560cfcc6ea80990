"""The `search:` part of an experiment: which settings to try, and how they are judged.

Samples are drawn here, with a seed of their own, so the same file always gives the same samples.
Knows nothing of how they are trained.
"""

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from segbench.schema.base import Spec
from segbench.schema.cards import HoldoutBy
from segbench.schema.metric_names import MetricName

Range = tuple[float, float]


class Distribution(Spec):
    """The values of one setting: exactly one of the fields.

    choice: any of these. uniform, log_uniform: [low, high]. integer, log_integer: whole numbers of
    [low, high], both ends included.
    """

    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    uniform: Range | None = None
    log_uniform: Range | None = None
    integer: Range | None = None
    log_integer: Range | None = None

    @model_validator(mode="after")
    def _one_of_five(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        if self.choice is None:
            low, high = getattr(self, given[0])
            if not low < high or (given[0].startswith("log") and low <= 0):
                above = " above 0" if given[0].startswith("log") else ""
                raise ValueError(f"{given[0]}: expected [low, high]{above}, found [{low}, {high}]")
        return self

    def drawn(self, draw: random.Random) -> Any:
        """Return one value."""
        if self.choice is not None:
            return draw.choice(self.choice)
        if self.uniform is not None:
            return draw.uniform(*self.uniform)
        if self.log_uniform is not None:
            return math.exp(draw.uniform(*map(math.log, self.log_uniform)))
        if self.integer is not None:
            return draw.randint(*map(int, self.integer))
        low, high = map(int, self.log_integer or (1, 1))
        drawn = math.exp(draw.uniform(math.log(low), math.log(high + 1)))
        return min(int(drawn), high)


class Search(Spec):
    """How good settings are looked for, without ever seeing the split that is reported.

    method: `grid` tries every combination of `choice`s; `random` draws `samples`; `asha` too, and stops the
    worse of them early (on Ray): at grace_steps, then at reduction times as many, and so on, one in
    `reduction` goes on. parameters: dotted key, as in an override -> its values. samples: how many are
    drawn. metric: what they are judged by. holdout: the share of the training images that samples are
    judged by and not trained on. holdout_by: single images of these, or whole groups where the data set's
    card has `groups`. seed: of the drawing. per: axes of the sweep whose values each get a best
    sample of their own, such as `[backbone]`; none: one for all cells. Every value is tried with the same
    samples. grace_steps: no sample is stopped before (asha). reduction: one in so many goes on (asha).
    """

    method: Literal["grid", "random", "asha"] = "random"
    parameters: Annotated[dict[str, Distribution], Field(min_length=1)]
    samples: Annotated[int, Field(ge=1)] = 20
    metric: MetricName = "mean_iou"
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    holdout_by: HoldoutBy = "image"
    seed: int = 0
    per: tuple[str, ...] = ()
    grace_steps: Annotated[int, Field(ge=1)] | None = None
    reduction: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        open_ended = [key for key, values in self.parameters.items() if values.choice is None]
        if self.method == "grid" and open_ended:
            raise ValueError(f"a grid needs `choice` for {', '.join(open_ended)}")
        if self.method == "asha" and self.grace_steps is None:
            raise ValueError("asha needs grace_steps: no sample is stopped before")
        if len(set(self.per)) < len(self.per):
            raise ValueError(f"per: an axis stands twice in {list(self.per)}")
        return self

    def selector_of(self, axes: Mapping[str, str]) -> dict[str, str]:
        """Return the axes and values that choose the cells tuned together with this one."""
        return {axis: axes.get(axis, "") for axis in self.per}

    def selectors_of(self, cells: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return `selector_of` each cell's axes, equal ones once."""
        found = {tuple(self.selector_of(axes).items()): None for axes in cells}
        return [dict(pairs) for pairs in found]

    def drawn_samples(self) -> list[dict[str, Any]]:
        """Return the samples: dotted key -> value; equal ones once."""
        if self.method == "grid":
            lists = [values.choice or () for values in self.parameters.values()]
            return [
                dict(zip(self.parameters, chosen, strict=True))
                for chosen in itertools.product(*lists)
            ]
        draw = random.Random(self.seed)
        found: list[dict[str, Any]] = []
        for _ in range(self.samples):
            sample = {key: values.drawn(draw) for key, values in self.parameters.items()}
            if sample not in found:
                found.append(sample)
        return found
