"""Write claims.md: what papers say, and what these runs make of it, for readers without statistics.

The same verdicts give the same bytes. Knows nothing of how verdicts are computed.
"""

import math
from collections.abc import Iterator, Sequence

from segbench.claims.cells import number_in_words, side_in_words
from segbench.claims.kinds import is_count, kind_of
from segbench.claims.planning import PlannedClaim
from segbench.claims.verdict import QUESTIONS, Part, Verdict
from segbench.report.numbers import p_equals, p_value, signed_in_short
from segbench.report.table import markdown, one_line, plain, table_of
from segbench.runs.starts import RANDOM
from segbench.schema.claims import AnyClaim
from segbench.statistics.inference import groups_in_words
from segbench.statistics.observations import is_blank
from segbench.statistics.pairwise import ClassDifference, Comparison, lone_in_words
from segbench.statistics.power import ALPHA

_INTRODUCTION = """\
# Claims

A claim **holds** or **fails** where a test at 5 %, corrected for the number of claims on this page,
says so; otherwise it is **undecided**, which is not the same as *no difference*. No test rules chance
out: with this one, at most one page in twenty gives a false verdict. An interval such as
+3.1 [+1.2, +5.0] means: measured 3.1, and values from 1.2 to 5.0 are compatible with what was seen
(95 % confidence interval). Points are percentage points of mean IoU, or of the metric that the claim
names.
"""
_READING = """\
## How to read the details

- *Asked* is the claim in figures, with its margin; the interval is held against it.
- *p* is how easily models whose true difference lies at the margin (at 0 where there is none) would
  come out as far beyond it as these, on either side: Student's t, with the variances of seeds and of
  images added. It is corrected for the number of claims on this page (Holm) and compared with
  {alpha}. Where a claim names a band, p is of the nearer end alone, and the interval has 90 %.
- A verdict speaks of training again with new seeds, and of new images like these, unless the claim says
  `on: these_images`; the interval for the other population stands beside. *Seeds' share* says how much
  of the error the seeds make.
- *Paired* sides were trained with the same seeds on the same data in the same order, and are compared
  seed by seed. *Independent* ones are not; where their seeds go together all the same, differences are
  found too seldom, and where they go against each other too often.
- Intervals of two models may overlap although the difference is significant: both are scored on the
  same images, and what makes an image hard for both is no part of the difference.
- *Detectable* is the distance from the margin that a design like this one finds four times in five,
  in all combinations at once; where a claim names a band, the narrowest that could be shown.
- *Judged again*: verdicts follow the rule that the claims were registered under; what the newest rule
  makes of the same results stands beside. Rule 1 takes sides as independent, asks for four seeds, and
  holds each end of a band against 2.5 %. Rule 2 pairs sides that differ in head or protocol alone, asks
  for three seeds, and holds each end of a band against 5 %.
- A class that fewer than three images show has no interval: how such images vary is not known. Where
  one image carries most of a class, its row in a table of classes errs more often than 5 % (up to 9 %
  on resampled real images); means over classes do not.
"""


def render_claims(verdicts: Sequence[Verdict], origin: Sequence[str] = ()) -> str:
    """Return the page as Markdown. origin: sentences on where the results come from."""
    if not verdicts:
        return "# Claims\n\nThis experiment makes no claims.\n"
    headers = ["", "claim", "verdict", "effect", "seeds", "the source's figures"]
    rows = [_row(number, verdict) for number, verdict in enumerate(verdicts, start=1)]
    alphas = sorted({_level(verdict.alpha) for verdict in verdicts})
    return "\n".join(
        [
            _INTRODUCTION,
            *(f"{sentence}\n" for sentence in origin),
            markdown(table_of(headers, rows)),
            "",
            _READING.format(alpha=" and ".join(alphas)),
            *(_details(number, verdict) for number, verdict in enumerate(verdicts, start=1)),
        ]
    )


def _level(alpha: float) -> str:
    looks = round(ALPHA / alpha)
    if looks == 1:
        return f"{100 * alpha:.3g} %"
    return (
        f"{100 * alpha:.3g} % (5 % shared by the {looks} times that a run under --settle may be "
        "judged)"
    )


def render_comparison(found: Comparison, left: str, right: str, notes: Sequence[str] = ()) -> str:
    """Return what `segbench compare` prints: the difference, how sure it is, and each class."""
    low, high = signed_in_short(found.low), signed_in_short(found.high)
    return (
        f"{one_line(left)} against {one_line(right)}, {found.metric} in per cent, "
        f"{found.num_images} images, {found.seeds[0]} and {found.seeds[1]} seeds\n\n"
        f"{found.left:.2f} - {found.right:.2f} = {signed_in_short(found.difference)} percentage points, "
        f"{100 * found.level:g} % confidence interval [{low}, {high}], {p_equals(found.p)} "
        f"({found.test})\n"
        f"Question answered: {QUESTIONS[found.question]}.\n"
        + "".join(f"{one_line(note)}\n" for note in (*_of_comparison(found), *notes))
        + f"\n{_class_table(found.per_class, _SIDES)}\n"
    )


def _of_comparison(found: Comparison) -> Iterator[str]:
    """Yield what a reader of the difference must know, in sentences."""
    if found.is_equivalence or found.margin:
        yield _margin_in_words(found)
    if found.num_groups is not None:
        yield groups_in_words(found.num_groups, found.num_images)
    if found.other is not None:
        low, high = map(signed_in_short, found.other)
        images = "these very images" if found.on == "new_images" else "new images like these"
        level = f"{100 * found.level:g} % confidence interval"
        yield f"Retrained with new seeds and tested on {images}: {level} [{low}, {high}]."
    if found.resampled is not None:
        low, high = map(signed_in_short, found.resampled)
        yield f"As a check, by drawing seeds and images at random: [{low}, {high}] on new images."
    if found.lone_classes and found.on == "new_images":
        yield lone_in_words(found.lone_classes)


def _margin_in_words(found: Comparison) -> str:
    """Return what was asked of a margin, what p is against, and what came out."""
    margin = f"{found.margin:g}"
    if found.is_equivalence:
        asked = f"both lie within {margin} percentage points of each other"
        against = (
            f"p is against a true difference of {margin} percentage points, by two one-sided tests at "
            "5 % each; the interval that decides has 90 %"
        )
    else:
        asked = f"left lies above right by more than {margin} percentage points"
        against = (
            f"p is against a true difference of {signed_in_short(found.margin)} percentage points"
        )
    if found.question in {"few", "groups"}:
        return f"Asked whether {asked}: not tested, see the question answered; {against}."
    return f"Asked whether {asked}: {found.outcome}; {against}."


def render_plan(planned: Sequence[PlannedClaim], at_last_look: Sequence[PlannedClaim] = ()) -> str:
    """Return what `segbench plan` says of claims: what each could show, and what it cannot.

    at_last_look: the same with the seeds of the last look of `run --settle`, where there is one.
    """
    rows = [
        [
            one.claim.says,
            _planned_effect(one),
            *(_planned_effect(last) for last in at_last_look if last.claim == one.claim),
            "" if one.spread is None else f"{one.spread.seed_sd:.2f} / {one.spread.image_sd:.2f}",
            "" if one.spread is None else "measured" if one.is_measured else "stated",
            one.sides,
            one.warning,
        ]
        for one in planned
    ]
    last = ["at the last look"] if at_last_look else []
    headers = [
        "claim",
        "found 4 times in 5",
        *last,
        "sd: seeds / images",
        "sd are",
        "sides",
        "warning",
    ]
    widths = [40, 18, *(18 for _ in last), None, None, None, 50]
    return (
        f"{plain(table_of(headers, rows), widths)}\n\n"
        "found 4 times in 5: an effect this far off the margin. sd: standard deviation in points, of "
        "a cell over seeds, and of a difference over images; measured on this claim or its like in "
        "this run, else stated (--seed-sd, --image-sd, or values from other studies).\n"
    )


def _planned_effect(planned: PlannedClaim) -> str:
    if planned.detectable == 0:
        return "any"
    if planned.detectable is None:
        return "" if planned.warning else "not known before launch"
    return f"{planned.detectable:.2f} {kind_of(planned.claim).unit(planned.claim)}"


def _row(number: int, verdict: Verdict) -> list[str]:
    return [
        f"[{number}](#claim-{number})",
        verdict.claim.says,
        f"**{verdict.outcome}**",
        _headline(verdict),
        _seeds(verdict.parts),
        _published(verdict),
    ]


def _headline(verdict: Verdict) -> str:
    part = verdict.weakest
    if part is None:
        return "no results"
    said = caveats(verdict, part)
    return effect_in_words(verdict, part) + (f" ({'; '.join(said)})" if said else "")


def caveats(verdict: Verdict, part: Part) -> list[str]:
    """Return what must stand beside the effect for whoever reads no further."""
    said = []
    if len(verdict.parts) > 1:
        said.append(f"weakest of {len(verdict.parts)} comparisons")
    kind = kind_of(verdict.claim)
    if part.seeds[0] == 1 and part.low < part.high and kind.draws_images(verdict.claim):
        said.append("one seed: the interval knows of images alone")
    blank = sum(is_blank(cell) for cell in part.cells)
    if blank and kind.needs_learning(verdict.claim):
        some = f"{blank} of the {len(part.cells)} compared did not learn"
        said.append(some if blank < len(part.cells) else "those compared did not learn")
    if weights := _weights_caveat(verdict, part):
        said.append(weights)
    if verdict.claim.classes and part.per_class:
        alone = sum(_is_shown_alone(row, part) for row in part.per_class)
        said.append(f"{alone} of the {len(part.per_class)} classes significant by itself")
    return said


def _weights_caveat(verdict: Verdict, part: Part) -> str:
    """Return what the sides started from, where that differs in this part or in another one."""
    if not part.initial_weights:
        others = sum(bool(each.initial_weights) for each in verdict.parts)
        return f"initial weights differ in {others} of {len(verdict.parts)}" if others else ""
    said = f"initial weights differ: {part.initial_weights}"
    sides = [side.split(", ") for side in part.initial_weights.split(" against ")]
    is_random_alone = len({RANDOM in side for side in sides}) > 1
    backbones = {cell.axes.get("backbone") for cell in part.cells}
    if is_random_alone and len(backbones) > 1:
        said += ", so weights are compared as much as backbones"
    return said


def _is_shown_alone(row: ClassDifference, part: Part) -> bool:
    inside = part.region.lower < row.difference < part.region.upper
    return inside and row.p_adjusted <= ALPHA


def effect_in_words(verdict: Verdict, part: Part) -> str:
    """Return the effect with its interval and unit; for a published figure what was measured too."""
    measured = kind_of(verdict.claim).measured(verdict.claim, part)
    return f"{measured}: " * bool(measured) + f"{_effect(part)} {verdict.unit}"


def asked(claim: AnyClaim) -> str:
    """Return the claim in figures: what is held against the interval, and where."""
    return kind_of(claim).asked(claim) + _where(claim)


def _where(claim: AnyClaim) -> str:
    """Return `; asked where backbone is vgg16 or alexnet`, empty where it is asked everywhere."""
    places = [f"{axis} is {' or '.join(values)}" for axis, values in claim.where.items()]
    return f"; asked where {' and '.join(places)}" if places else ""


def _effect(part: Part) -> str:
    value = signed_in_short(part.effect)
    if part.low == part.high == part.effect:
        return value
    return f"{value} {interval_in_words((part.low, part.high))}"


def _seeds(parts: Sequence[Part]) -> str:
    if not parts:
        return "0"
    fewest, most = min(p.seeds[0] for p in parts), max(p.seeds[1] for p in parts)
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def _published(verdict: Verdict) -> str:
    source = verdict.claim.source
    figures = source.published if source else {}
    listed = ", ".join(f"{name} {number_in_words(figure)}" for name, figure in figures.items())
    listed = listed or kind_of(verdict.claim).published(verdict.claim)
    where = ", ".join(filter(None, (source.paper, source.table))) if source else ""
    return f"{listed} ({where})" if listed and where else listed or where


def _details(number: int, verdict: Verdict) -> str:
    claim = verdict.claim
    lines = [
        f'<a id="claim-{number}"></a>',
        f"## {number}. {one_line(claim.says)}: {verdict.outcome}",
        "",
        verdict.reason,
        "",
        *([f"- {judged_again(verdict)}"] if verdict.again is not None else []),
        f"- Asked: {one_line(asked(claim))}.",
        f"- Question answered: {verdict.question}.",
        *([f"- Source: {one_line(_published(verdict))}."] if _published(verdict) else []),
        *([f"- {_p_values(verdict)}"] if verdict.p is not None else []),
        *_would_take(verdict),
        *(f"- Missing: {one_line(sentence)}." for sentence in missing_in_words(verdict)),
        *(f"- {one_line(note)}" for note in verdict.notes),
    ]
    if verdict.parts:
        lines += ["", _part_table(verdict)]
    if values := [(part, told) for part in verdict.parts if (told := seeds_in_words(part))]:
        lines += ["", "Each seed, in the order of their numbers:", ""]
        lines += [
            f"- {f'{part.label}: ' * bool(part.label)}{one_line(told)}" for part, told in values
        ]
    for part in verdict.parts:
        if part.per_class:
            lines += ["", f"Per class, IoU in per cent{f' ({part.label})' if part.label else ''}:"]
            heads = [side_in_words(side) for _, side in claim.sides()]
            lines += ["", _class_table(part.per_class, heads)]
    return "\n".join(lines) + "\n"


def judged_again(verdict: Verdict) -> str:
    """Return what the newest rule makes of a claim that was registered under another one."""
    again = verdict.again
    assert again is not None
    part = again.weakest
    effect = f", {effect_in_words(again, part)}" if part is not None else ""
    p = "" if again.p is None else f", {p_equals(again.p)}"
    if again.p_adjusted is not None:
        p += f", corrected {p_value(again.p_adjusted)}"
    return (
        f"Registered under rule {verdict.rule}. *Judged again* by rule {again.rule}: "
        f"**{again.outcome}**{effect}{p}."
    )


def seeds_in_words(part: Part) -> str:
    """Return the values of the seeds on both sides, empty where more than two cells are compared."""
    sides = [
        f"{name} {', '.join(f'{value:.4g}' for value in values)}"
        for name, values in part.seeds_values
        if len(values) > 1
    ]
    how = "paired" if part.estimate is not None and part.estimate.paired else "independent"
    return f"{' against '.join(sides)} ({how})" if len(sides) == 2 else ""


def missing_in_words(verdict: Verdict) -> list[str]:
    """Return what is missing, with places that lack the same told in one sentence."""
    places: dict[str, list[str]] = {}
    for sentence in verdict.missing:
        place, _, what = sentence.rpartition(": ")
        places.setdefault(what, []).append(place)
    return [
        f"{what} in {len(where)} combinations, such as {where[0]}"
        if len(where) > 2
        else "; ".join(filter(None, (": ".join(filter(None, (place, what))) for place in where)))
        for what, where in places.items()
    ]


def _p_values(verdict: Verdict) -> str:
    assert verdict.p is not None
    assert verdict.p_adjusted is not None
    tests = " / ".join(sorted({part.test for part in verdict.parts}))
    return f"{p_equals(verdict.p)} ({tests}), corrected {p_value(verdict.p_adjusted)}."


def _would_take(verdict: Verdict) -> list[str]:
    if verdict.outcome != "undecided" or not verdict.judged or is_count(verdict.claim):
        return []
    smallest = verdict.smallest_detectable
    if smallest is None:
        return [
            "- The smallest effect that this design could have found: none, however large; one seed "
            "shows no spread over seeds."
        ]
    if (
        smallest < 0.005 or smallest == math.inf
    ):  # nothing varies, or too few classes: the reason says so
        return []
    shown = f"{smallest:.2f} {verdict.unit}"
    if kind_of(verdict.claim).is_band(verdict.claim):
        return [f"- The narrowest band that this design could have shown: within ±{shown}."]
    return [f"- The smallest effect that this design could have found: {shown} off the margin."]


def _part_table(verdict: Verdict) -> str:
    mixes = any(part.initial_weights for part in verdict.parts)
    has_other = any(part.other is not None for part in verdict.parts)
    is_corrected = not math.isclose(verdict.confidence, verdict.decisive)
    rows = [
        [
            part.label or "all",
            *([part.initial_weights or "alike"] if mixes else []),
            effect_in_words(verdict, part).removesuffix(f" {verdict.unit}"),
            *([interval_in_words(part.interval(verdict.decisive))] if is_corrected else []),
            *([interval_in_words(part.other)] if has_other else []),
            "not judged" if part.is_blank else _LEANINGS[part.leaning],
            _seeds([part]),
            "" if part.seed_share is None else f"{100 * part.seed_share:.0f} %",
            _detectable(part),
            part.note,
        ]
        for part in verdict.parts
    ]
    headers = [
        "where",
        *(["initial weights"] if mixes else []),
        f"effect, {verdict.unit} [{100 * verdict.confidence:.3g} % interval]",
        *([f"at {100 * verdict.decisive:.4g} %, as corrected"] if is_corrected else []),
        *([f"95 % on {other_population(verdict)}"] if has_other else []),
        "speaks",
        "seeds",
        "seeds' share",
        "detectable",
        "",
    ]
    return markdown(table_of(headers, rows))


def other_population(verdict: Verdict) -> str:
    """Return which images the verdict does not speak of."""
    is_new = kind_of(verdict.claim).draws_images(verdict.claim)
    return "these very images" if is_new else "new images"


def interval_in_words(interval: tuple[float, float] | None) -> str:
    """Return `[+0.91, +2.02]`; empty without an interval, and in words where it is not known."""
    if interval is None:
        return ""
    if not all(map(math.isfinite, interval)):
        return "[interval not known]"
    low, high = map(signed_in_short, interval)
    return f"[{low}, {high}]"


def _detectable(part: Part) -> str:
    if part.detectable is None or part.is_blank or not 0.005 <= part.detectable < math.inf:
        return ""
    return f"{part.detectable:.2f}"


_LEANINGS = {"for": "for it", "against": "against it", "unclear": "unclear"}
_SIDES = ("left", "right")


def _class_table(per_class: Sequence[ClassDifference], sides: Sequence[str]) -> str:
    rows = [
        [
            row.name,
            str(row.images),
            f"{row.left:.1f}",
            f"{row.right:.1f}",
            signed_in_short(row.difference) + _class_interval(row),
            p_value(row.p_adjusted) if row.has_p else "too few images",
        ]
        for row in per_class
    ]
    headers = ["class", "images", *sides, "difference", "p, corrected over classes"]
    return markdown(table_of(headers, rows))


def _class_interval(row: ClassDifference) -> str:
    return f" [{signed_in_short(row.low)}, {signed_in_short(row.high)}]" if row.has_p else ""
