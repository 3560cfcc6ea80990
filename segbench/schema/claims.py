"""Claims: sentences of papers made testable, as they stand in an experiment file.

Units: IoUs and accuracies are in per cent here, as papers print them (`margin: 1` is one point of
mean IoU, `published: 56.0`); facts such as parameters or forward_ms are in their own unit.
Selectors name any axis of the sweep, and `protocol`. A claim is judged in every combination of the
axes that its selectors leave open, unless it says `within` (only these axes; over the others it is
averaged) or `average: true` (over all of them). Knows nothing of how claims are judged.

    claims:
      - kind: compare                 # left above right by more than the margin
        says: VGG16 segments better than GoogLeNet
        left: {backbone: vgg16}
        right: {backbone: googlenet}
        margin: 1
        where: {head: fcn32s}
        within: [dataset]
        source: {paper: FCN (CVPR 2015), table: Table 1, published: {vgg16: 56.0, googlenet: 42.5}}
      - kind: order                   # each above the one before
        says: finer strides are better
        rising: [{head: fcn32s}, {head: fcn16s}, {head: fcn8s}]
      - kind: equivalent              # apart by less than the margin
        says: learned upsampling makes no difference
        left: {head: fcn8s_learned}
        right: {head: fcn8s}
        margin: 0.5
      - kind: trend                   # over an axis or a fact whose values are numbers
        says: more classes are harder
        along: num_classes
        direction: falls
      - kind: correlate               # over the classes of a data set
        says: classes with more training pixels are easier
        by: training_pixels
        direction: rises
      - kind: value                   # a published number, within a tolerance
        says: our FCN-32s reaches the published figure
        where: {backbone: vgg16, head: fcn32s, dataset: voc2011}
        published: 59.4
        tolerance: 1
"""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from segbench.schema.base import Spec, matches
from segbench.schema.cards import Argument, Function, Source, Text
from segbench.schema.metric_names import (
    in_json_schema,
    is_own,
    known_metric,
    metrics_with_classes,
    needs_boundary,
)
from segbench.schema.yamlfile import Place, did_you_mean, dotted

Fact = Literal[
    "parameters",
    "flops",
    "num_classes",
    "forward_ms",
    "training_s",
    "peak_memory_mib",
]
EXACT_FACTS = frozenset({"parameters", "flops", "num_classes"})  # counts: no seed changes them
TIMED_FACTS = {  # and what measures them: trials run beside each other, so their own times are no costs
    "forward_ms": "segbench time RUN",
    "training_s": "segbench time RUN --training",
}


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _words(value: Any) -> Any:
    return tuple(map(_word, value)) if isinstance(value, tuple | list) else (_word(value),)


_Written = str | int | float
# `train.batch_size: 3` is the axis value "3"
Word = Annotated[str, BeforeValidator(_word, json_schema_input_type=_Written)]
Side = Annotated[dict[str, Word], Field(min_length=1)]
Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_words, json_schema_input_type=_Written | tuple[_Written, ...]),
    Field(min_length=1),
]
Where = dict[str, Words]
Margin = Annotated[float, Field(ge=0)]


class ClaimSource(Source):
    """Where the sentence stands, and the figures it rests on.

    published: name -> figure, as printed.
    """

    published: dict[str, float] = Field(default_factory=dict)


class PlannedCell(NamedTuple):
    """A cell that will run: its axes, `protocol` among them, and the classes that it scores.

    has_boundary: whether its protocol counts boundaries. metrics: the user's own that it computes.
    """

    axes: dict[str, str]
    class_names: Sequence[str]
    has_boundary: bool = False
    metrics: tuple[str, ...] = ()


class BaseClaim(Spec):
    """What all kinds share.

    kind: which of the kinds of claims. says: the claim in plain words. source: where it stands. where:
    the cells it speaks of, axis -> value or values. within: the axes whose values are judged apart; all
    that the claim does not compare, where it is left out. average: whether they are averaged instead.
    classes: the means run over these classes alone; empty means all. min_seeds: that a verdict takes; left
    out, 3. notes: what a reader must know to read the verdict rightly.
    """

    says: Text
    source: ClaimSource | None = None
    where: Where = Field(default_factory=dict)
    within: tuple[str, ...] | None = None
    average: bool = False
    classes: tuple[str, ...] = ()
    min_seeds: Annotated[int, Field(ge=2)] | None = None
    notes: str = ""

    @model_validator(mode="after")
    def _each_class_once(self) -> Self:
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise ValueError(f"classes: named twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _one_way_to_combine(self) -> Self:
        if self.average and self.within is not None:
            raise ValueError("give either `within` or `average: true`")
        return self

    def sides(self) -> tuple[tuple[Place, Side], ...]:
        """Return the fields that select the things compared, each with its place in the file."""
        return ()

    def asks(self) -> str:
        """Return what makes it another claim if it changes: all but words, tables and order."""
        asked = self.model_dump(mode="json", exclude={"says", "source", "notes", "per_class"})
        return json.dumps({**asked, "classes": sorted(self.classes)}, sort_keys=True)

    def asks_of(self, axes: Mapping[str, str]) -> bool:
        """Return whether a cell with these axes, `protocol` among them, is one that it speaks of."""
        sides = [side for _, side in self.sides()]
        return _is_in(axes, self.where) and (
            not sides or any(matches(axes, side) for side in sides)
        )

    def fixed_axes(self) -> frozenset[str]:
        """Return the axes along which the claim itself compares."""
        return frozenset(axis for _, side in self.sides() for axis in side)

    def facts(self) -> tuple[str, ...]:
        """Return the facts that a trial must have recorded to be asked."""
        return ()

    def unfit(self, axes: Mapping[str, Sequence[str]]) -> Iterable[tuple[Place, str]]:
        """Yield place and sentence for what the kind's own fields ask in vain of these axes."""
        del axes
        return ()

    def lacking(self, cells: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
        """Yield place and sentence for what the kind misses in the cells that it speaks of.

        That each side has cells is looked at for all kinds alike.
        """
        del cells
        return ()

    @model_validator(mode="after")
    def _sides_are_comparable(self) -> Self:
        places = self.sides()
        if not places:
            return self
        first_place, first = places[0]
        for place, side in places[1:]:
            if set(side) != set(first):
                raise ValueError(
                    f"`{dotted(first_place)}` and `{dotted(place)}` must name the same axes, but name "
                    f"{', '.join(first)} and {', '.join(side)}"
                )
        texts = [str(sorted(side.items())) for _, side in places]
        if len(set(texts)) < len(texts):
            raise ValueError("the sides of a claim must differ, but two are the same")
        if both := sorted(set(first) & (set(self.where) | set(self.within or ()))):
            raise ValueError(
                f"{', '.join(both)}: stands on both sides of the claim and again in `where` or "
                "`within`; leave it out there"
            )
        return self


_FACTS = tuple(get_args(Fact))
_Measurable = Annotated[
    str,
    AfterValidator(lambda name: known_metric(name, _FACTS)),
    Field(json_schema_extra=in_json_schema(_FACTS)),
]


class MeasuredClaim(BaseClaim):
    """A claim about one number for each trial.

    metric: one that is read off the counts, or a fact. on: which images the verdict speaks of, new ones
    like those that were scored, or these very ones; models are retrained with new seeds either way.
    seeds: whether both sides are compared seed by seed; left out, `paired` where they share all but head
    or protocol. target: what is compared of the seeds: their mean, median or interquartile mean.
    """

    metric: _Measurable = "mean_iou"
    on: Literal["new_images", "these_images"] = "new_images"
    seeds: Literal["paired", "independent"] | None = None
    target: Literal["mean", "median", "iqm"] = "mean"

    def facts(self) -> tuple[str, ...]:
        """See `BaseClaim`."""
        return (self.metric,) if is_fact(self.metric) else ()

    @model_validator(mode="after")
    def _figures_are_per_cent(self) -> Self:
        """Figures lie between 0 and 100, so what lies beyond can never be reached."""
        if self.metric in _FACTS:
            return self
        for name in ("margin", "published", "tolerance"):
            value = getattr(self, name, 0.0)
            if not 0 <= value <= 100:
                raise ValueError(
                    f"{name}: {self.metric} lies between 0 and 100, but this is {value:g}"
                )
        return self

    @model_validator(mode="after")
    def _classes_enter_a_mean(self) -> Self:
        fit = metrics_with_classes()
        if self.classes and self.metric not in fit and not is_own(self.metric):
            raise ValueError(
                f"`classes` needs metric {' or '.join(fit)}, but metric is {self.metric}"
            )
        return self


class Compare(MeasuredClaim):
    """Left lies above (or below) right by more than the margin.

    left and right: axis -> value. relation: which way. margin: in points, or in the fact's unit.
    per_class: also compare class by class, in a table.
    """

    kind: Literal["compare"] = "compare"
    left: Side
    right: Side
    relation: Literal["above", "below"] = "above"
    margin: Margin = 0.0
    per_class: bool = False

    @model_validator(mode="after")
    def _classes_have_iou(self) -> Self:
        if self.per_class and self.metric != "mean_iou":
            raise ValueError("`per_class` needs metric mean_iou")
        return self

    def asks(self) -> str:
        """See `BaseClaim`; A below B asks what B above A does."""
        if self.relation == "above":
            return super().asks()
        return self.revised(left=self.right, right=self.left, relation="above").asks()

    def sides(self) -> tuple[tuple[Place, Side], ...]:
        """See `BaseClaim`."""
        return (("left",), self.left), (("right",), self.right)


class Order(MeasuredClaim):
    """Each of several lies above the one before it by more than the margin.

    rising: axis -> value of each, from low to high. margin: in points, or in the fact's unit.
    """

    kind: Literal["order"] = "order"
    rising: Annotated[tuple[Side, ...], Field(min_length=2)]
    margin: Margin = 0.0

    def sides(self) -> tuple[tuple[Place, Side], ...]:
        """See `BaseClaim`."""
        return tuple((("rising", index), side) for index, side in enumerate(self.rising))


class Equivalent(MeasuredClaim):
    """Left and right are apart by less than the margin.

    left and right: axis -> value. margin: in points, or in the fact's unit.
    """

    kind: Literal["equivalent"] = "equivalent"
    left: Side
    right: Side
    margin: Annotated[float, Field(gt=0)]

    def sides(self) -> tuple[tuple[Place, Side], ...]:
        """See `BaseClaim`."""
        return (("left",), self.left), (("right",), self.right)


class Trend(MeasuredClaim):
    """The metric falls or rises along an axis or a fact, by more than the margin for each unit.

    along: the axis or the fact. direction: which way. scale: `log` measures the slope for each doubling,
    `linear` for each unit. margin: of the slope. monotone: every step must go the same way too.
    """

    kind: Literal["trend"] = "trend"
    along: str
    direction: Literal["falls", "rises"]
    scale: Literal["log", "linear"] = "log"
    margin: Margin = 0.0
    monotone: bool = False

    def fixed_axes(self) -> frozenset[str]:
        """See `BaseClaim`: a trend over a fact crosses data sets and variants."""
        return frozenset({"dataset", "variant"}) if is_fact(self.along) else frozenset({self.along})

    def facts(self) -> tuple[str, ...]:
        """See `BaseClaim`."""
        return (self.along, *super().facts()) if is_fact(self.along) else super().facts()

    def unfit(self, axes: Mapping[str, Sequence[str]]) -> Iterable[tuple[Place, str]]:
        """See `BaseClaim`: a trend runs along numbers."""
        if not is_fact(self.along):
            for sentence in _no_axis(self.along, [*axes, *_FACTS]):
                yield ("along",), sentence
        for value in axes.get(self.along, ()):
            if sentence := self._unfit_level(value):
                yield ("along",), sentence

    def lacking(self, cells: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
        """See `BaseClaim`: a trend needs two levels."""
        if len(levels := self._most_levels(cells)) < 2:
            yield (
                ("along",),
                f"wherever this is judged {self.along} has one level ({', '.join(levels)}), and a trend "
                "needs two; `average: true` or `within` judge it over more cells at once",
            )

    def _unfit_level(self, value: str) -> str:
        """Return why a value of an axis is no level, empty where it is one."""
        try:
            level = float(value)
        except ValueError:
            level = math.nan
        if not math.isfinite(level):
            return f"{self.along} has the value {value!r}, not a number"
        if self.scale == "log" and level <= 0:
            return f"{self.along} has the value {value}, which no doubling reaches; say `scale: linear`"
        return ""

    def _most_levels(self, cells: Sequence[PlannedCell]) -> Sequence[str]:
        """Return the levels in that of the claim's judgements that has most of them."""
        fixed = self.fixed_axes()
        judgements: dict[tuple[str, ...], set[str]] = {}
        for cell in cells:
            outer = [axis for axis in cell.axes if axis not in fixed]
            if self.within is not None:
                outer = [axis for axis in outer if axis in self.within]
            key = () if self.average else tuple(cell.axes[axis] for axis in outer)
            judgements.setdefault(key, set()).add(self._level(cell))
        return sorted(max(judgements.values(), key=len))

    def _level(self, cell: PlannedCell) -> str:
        """Return the cell's level on the axis; a fact that is not known yet is its own."""
        if self.along == "num_classes":
            return str(len(cell.class_names))
        if is_fact(self.along):
            return " ".join(value for axis, value in cell.axes.items() if axis != "protocol")
        return f"{float(cell.axes[self.along]):g}"


class Correlate(BaseClaim):
    """Per-class IoU rises or falls with how much of the class there was to train on.

    by: pixels or images of the class. direction: which way. margin: how far beyond 0 Spearman's rank
    correlation over the classes of a data set lies.
    """

    kind: Literal["correlate"] = "correlate"
    by: Literal["training_pixels", "training_images"]
    direction: Literal["rises", "falls"] = "rises"
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Value(MeasuredClaim):
    """The metric lies within a tolerance of a published number, on the images that we scored.

    published: the number, in per cent or in the fact's unit. tolerance: how far apart is still the same.
    """

    kind: Literal["value"] = "value"
    # that the published number is of
    on: Literal["these_images"] = "these_images"  # pyright: ignore[reportIncompatibleVariableOverride]
    published: float
    tolerance: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _per_cent(self) -> Self:
        if self.metric not in _FACTS and 0 < self.published < 1:
            raise ValueError(
                f"published: figures are per cent, as papers print them; did you mean "
                f"{100 * self.published:g}?"
            )
        return self


class OwnClaim(MeasuredClaim):
    """A claim of a kind of the user's own.

    kind: `package.module:name`, a kind in a module that the user has declared trusted
    ($SEGBENCH_TRUSTED): one that is installed, or that lies beside a card or in the current folder.
    compared: axis -> value of each of the things that are compared, if any are. arguments: what else
    the kind reads. code: what the kind is made of; segbench notes it, since another code is another
    claim.
    """

    kind: Function
    compared: tuple[Side, ...] = ()
    arguments: dict[str, Argument] = {}
    code: dict[str, str] = {}

    def sides(self) -> tuple[tuple[Place, Side], ...]:
        """See `BaseClaim`."""
        return tuple((("compared", index), side) for index, side in enumerate(self.compared))


def _whose(claim: Any) -> str:
    kind = claim.get("kind", "") if isinstance(claim, Mapping) else getattr(claim, "kind", "")
    return "own" if ":" in str(kind) else "built-in"


BuiltIn = Compare | Order | Equivalent | Trend | Correlate | Value
AnyClaim = BuiltIn | OwnClaim
Claim = Annotated[
    Annotated[BuiltIn, Field(discriminator="kind"), Tag("built-in")]
    | Annotated[OwnClaim, Tag("own")],
    Discriminator(_whose),
]


def is_fact(metric: str) -> bool:
    """Return whether the metric is a fact about a trial and not a figure of its evaluation."""
    return metric in _FACTS


def check_selectors(
    claims: Sequence[AnyClaim],
    axes: dict[str, tuple[str, ...]],
    at_hand: Mapping[str, Container[str]] = MappingProxyType({}),
) -> list[tuple[Place, str]]:
    """Return place and sentence for each selector that matches nothing in a sweep with these axes.

    axes: the values of every axis, those of `protocol` among them. at_hand: names that exist
    outside this sweep, if a setting has narrowed it.
    """
    problems = _asked_twice(claims)
    for index, claim in enumerate(claims):
        for place, selector in _selectors(claim):
            for axis, values in selector.items():
                unmatched = _unmatched(axis, values, axes, at_hand.get(axis, ()))
                problems += [(("claims", index, *place), problem) for problem in unmatched]
        for axis in claim.within or ():
            problems += [(("claims", index, "within"), p) for p in _no_axis(axis, axes)]
        unfit = claim.unfit(axes)
        problems += [(("claims", index, *place), sentence) for place, sentence in unfit]
    return problems


def _asked_twice(claims: Sequence[AnyClaim]) -> list[tuple[Place, str]]:
    """Return a sentence for each claim that asks what one before it asks.

    Each claim of a file is paid for in the correction of all others.
    """
    first: dict[str, int] = {}
    problems: list[tuple[Place, str]] = []
    for index, claim in enumerate(claims):
        asks = claim.asks()
        if first.setdefault(asks, index) != index:
            problems.append(
                (
                    ("claims", index, "says"),
                    f"asks the same as claims[{first[asks]}]; every claim makes the correction of "
                    "the others stricter, so ask once",
                )
            )
    return problems


def check_cells(
    claims: Sequence[AnyClaim],
    cells: Sequence[PlannedCell],
    *,
    is_narrowed: bool = False,
    but: Container[object] = (),
) -> list[tuple[Place, str]]:
    """Return place and sentence for each claim that these cells can never answer.

    Its values may all occur in the sweep and never together: excluded, or served by no head.
    is_narrowed: a setting has changed the sweep, so cells may be missing without the file being
    wrong; its classes must be there all the same. but: the places in the file of claims that are
    known to be wrong already.
    """
    problems: list[tuple[Place, str]] = []
    for index, claim in enumerate(claims):
        if index in but:
            continue
        found = [cell for cell in cells if _is_in(cell.axes, claim.where)]
        unmet = [] if is_narrowed else list(_without_cells(claim, found))
        for place, sentence in unmet or [
            *_without_classes(claim, found),
            *_without_boundary(claim, found),
            *_without_metric(claim, found),
        ]:
            problems.append((("claims", index, *place), sentence))
    return problems


def _without_cells(claim: AnyClaim, found: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
    """Yield what a claim lacks among the cells that it speaks of."""
    if not found:
        yield ("where",), f"no cell of the sweep is {_said(claim.where)}"
        return
    sides = claim.sides()
    lacking = [one for one in sides if not any(matches(c.axes, one[1]) for c in found)]
    limits = f" where {_said(claim.where)}" if claim.where else ""
    for place, side in lacking:
        yield place, f"no cell of the sweep is {_said(_one_value_each(side))}{limits}"
    if sides and not lacking and not _has_a_combination(claim, found):
        yield (
            (),
            f"{' and '.join(_said(_one_value_each(side)) for _, side in sides)} never occur in cells that agree in all "
            "other axes, so there is nothing to compare",
        )
    yield from claim.lacking(found)


def _has_a_combination(claim: AnyClaim, found: Sequence[PlannedCell]) -> bool:
    """Return whether some cells on all the sides agree in the axes that the claim leaves open."""
    sides, fixed = claim.sides(), claim.fixed_axes()
    combinations: dict[tuple[str, ...], set[int]] = {}
    for cell in found:
        key = tuple(value for axis, value in cell.axes.items() if axis not in fixed)
        on = (index for index, (_, side) in enumerate(sides) if matches(cell.axes, side))
        combinations.setdefault(key, set()).update(on)
    return any(len(on) == len(sides) for on in combinations.values())


def _without_classes(claim: AnyClaim, found: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
    """Yield each class that cells on the claim's sides, or all where it has none, do not score."""
    compared = [cell for cell in found if claim.asks_of(cell.axes)]
    for name in claim.classes:
        lacking = [cell for cell in compared if name not in cell.class_names]
        if lacking:
            known = {known for cell in lacking for known in cell.class_names}
            datasets = dict.fromkeys(cell.axes["dataset"] for cell in lacking)
            yield (
                ("classes",),
                f"no class {name!r} in {', '.join(datasets)}{did_you_mean(name, known)}",
            )


def _without_boundary(claim: AnyClaim, found: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
    """Yield why cells have no number for a metric of boundaries."""
    if not isinstance(claim, MeasuredClaim) or not needs_boundary(claim.metric):
        return
    lacking = [cell for cell in found if claim.asks_of(cell.axes) and not cell.has_boundary]
    for protocol in dict.fromkeys(cell.axes["protocol"] for cell in lacking):
        yield (
            ("metric",),
            f"{claim.metric} needs counts of boundaries, and protocol {protocol} counts none; give it "
            "`boundary: 0.02`, or narrow the claim with `where: {protocol: NAME}` to one that does",
        )


def _without_metric(claim: AnyClaim, found: Sequence[PlannedCell]) -> Iterable[tuple[Place, str]]:
    """Yield the protocols that do not compute a claim's own metric: their digest has its code."""
    if not isinstance(claim, MeasuredClaim) or not is_own(claim.metric):
        return
    compared = [cell for cell in found if claim.asks_of(cell.axes)]
    lacking = [cell for cell in compared if claim.metric not in cell.metrics]
    for protocol in dict.fromkeys(cell.axes["protocol"] for cell in lacking):
        yield (
            ("metric",),
            f"protocol {protocol} does not compute {claim.metric}; give it "
            f"`metrics: [{claim.metric}]`, or narrow the claim with `where: {{protocol: NAME}}`",
        )
    if compared and not lacking and claim.classes and not _takes_classes(claim.metric):
        yield ("classes",), f"{claim.metric} does not take classes"


def _takes_classes(own: str) -> bool:
    from segbench.metrics.own import own_metric  # numpy, which `segbench --help` can spare

    return own_metric(own).takes_classes


def _one_value_each(side: Side) -> Where:
    return {axis: (value,) for axis, value in side.items()}


def _is_in(axes: Mapping[str, str], where: Where) -> bool:
    """Return whether a cell's axes have one of the values that `where` gives for each axis."""
    return all(axes.get(axis) in values for axis, values in where.items())


def _said(where: Where) -> str:
    return ", ".join(f"{axis} {' or '.join(values)}" for axis, values in where.items())


def _selectors(claim: AnyClaim) -> Iterable[tuple[Place, Where]]:
    yield ("where",), claim.where
    for place, side in claim.sides():
        yield place, _one_value_each(side)


def _unmatched(
    axis: str, values: tuple[str, ...], axes: dict[str, tuple[str, ...]], at_hand: Container[str]
) -> Iterable[str]:
    if axis not in axes:
        yield from _no_axis(axis, axes)
        return
    for value in values:
        if value not in axes[axis]:
            narrowed = (
                f"; --only {axis}={','.join(axes[axis])} narrows a sweep and keeps its claims, "
                "--set 'claims=[]' drops them"
            )
            yield (
                f"no {axis} {value!r} in this sweep{did_you_mean(value, axes[axis])}; "
                f"it has: {', '.join(axes[axis])}{narrowed if value in at_hand else ''}"
            )


def _no_axis(axis: str, known: Iterable[str]) -> Iterable[str]:
    known = list(known)
    if axis not in known:
        yield f"no axis {axis!r}{did_you_mean(axis, known)}; there are: {', '.join(sorted(known))}"
