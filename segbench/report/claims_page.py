"""Write claims.md: what papers say, and what these runs make of it, for readers without statistics.

The same verdicts give the same bytes. Knows nothing of how verdicts are computed.
"""

from collections.abc import Sequence

from tabulate import tabulate

from segbench.analysis.contrasts import unit_of
from segbench.analysis.pairwise import ClassDifference, Comparison
from segbench.analysis.planning import PlannedClaim
from segbench.analysis.power import Spread
from segbench.analysis.verdict import QUESTIONS, Part, Verdict
from segbench.spec.claims import Value

_INTRODUCTION = """\
# Claims

A claim **holds** or **fails** where chance is ruled out as far as stated; otherwise it is
**undecided**, which is not the same as *no difference*. An interval such as +3.1 [+1.2, +5.0]
means: measured 3.1, and with other seeds and other images of the same kind values from 1.2 to 5.0
are compatible with what was seen (95 % interval). Points are per cent of mean IoU, or of the figure
that the claim names.
"""
_READING = """\
## How to read the details

- *p* is how easily chance alone would give such a difference. It is corrected for the number of
  claims on this page (Holm) and compared with {alpha}.
- Both sources of chance are in the interval: seeds (the same training again) and images (another
  sample of the same size). *Seeds' share* says how much of the error the seeds make.
- *Detectable* is the distance from the margin that a design like this one finds four times in five.
"""


def render_claims(verdicts: Sequence[Verdict]) -> str:
    """Return the page as Markdown."""
    if not verdicts:
        return "# Claims\n\nThis experiment makes no claims.\n"
    headers = ["", "claim", "verdict", "effect", "seeds", "the source's figures"]
    rows = [_row(number, verdict) for number, verdict in enumerate(verdicts, start=1)]
    alphas = sorted({f"{100 * verdict.alpha:.3g} %" for verdict in verdicts})
    return "\n".join(
        [
            _INTRODUCTION,
            tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True),
            "",
            _READING.format(alpha=" and ".join(alphas)),
            *(_details(number, verdict) for number, verdict in enumerate(verdicts, start=1)),
        ]
    )


def render_comparison(found: Comparison, left: str, right: str, notes: Sequence[str] = ()) -> str:
    """Return what `segbench compare` prints: the difference, how sure it is, and each class."""
    low, high = _signed(found.low), _signed(found.high)
    dropped = (
        f"On average {found.dropped_classes:.1f} classes had no pixel in a draw of images and left "
        "that draw's mean, for both alike.\n"
        if found.dropped_classes >= 0.05
        else ""
    )
    return (
        f"{_line(left)} against {_line(right)}, {found.metric} in per cent, "
        f"{found.num_images} images, {found.seeds[0]} and {found.seeds[1]} seeds\n\n"
        f"{found.left:.2f} - {found.right:.2f} = {_signed(found.difference)} [{low}, {high}] points"
        f", p = {_p(found.p)} ({found.test})\n"
        f"Question answered: {QUESTIONS[found.question]}.\n"
        + "".join(f"{_line(note)}\n" for note in notes)
        + f"{dropped}\n{_class_table(found.per_class)}\n"
    )


def render_plan(planned: Sequence[PlannedClaim], spread: Spread, how: str) -> str:
    """Return what `segbench plan` says of claims: what each could show, and what it cannot.

    how: where the spreads come from.
    """
    rows = [
        [
            one.claim.says,
            "any" if one.detectable == 0 else _planned_effect(one),
            one.warning,
        ]
        for one in planned
    ]
    headers = ["claim", "found 4 times in 5 if this far off the margin", "warning"]
    return (
        f"{tabulate(rows, headers=headers, tablefmt='simple', maxcolwidths=[48, 24, 60])}\n\n"
        f"Standard deviation over seeds {spread.seed_sd:.2f} points, of a difference over images "
        f"{spread.image_sd:.2f} ({how}).\n"
    )


def _planned_effect(planned: PlannedClaim) -> str:
    if planned.detectable is None:
        return "" if planned.warning else "not known before launch"
    return f"{planned.detectable:.2f} {unit_of(planned.claim)}"


def _row(number: int, verdict: Verdict) -> list[str]:
    return [
        f"[{number}](#claim-{number})",
        _cell(verdict.claim.says),
        f"**{verdict.outcome}**",
        _headline(verdict),
        _seeds(verdict.parts),
        _cell(_published(verdict)),
    ]


def _headline(verdict: Verdict) -> str:
    part = verdict.weakest
    if part is None:
        return "no results"
    text = f"{_effect(part)} {verdict.unit}"
    if len(verdict.parts) > 1:
        text += f" (least favourable of {len(verdict.parts)})"
    return text


def _effect(part: Part) -> str:
    value = _signed(part.effect)
    if part.low == part.high == part.effect:
        return value
    return f"{value} [{_signed(part.low)}, {_signed(part.high)}]"


def _signed(value: float) -> str:
    """Return the value with its sign and three significant digits, two decimals at most."""
    magnitude = abs(value)
    if magnitude >= 1e6:
        return f"{value / 1e6:+.1f} M"
    decimals = 2 if magnitude < 10 else 1 if magnitude < 1000 else 0
    return f"{round(value, decimals) + 0.0:+,.{decimals}f}"


def _seeds(parts: Sequence[Part]) -> str:
    if not parts:
        return "0"
    fewest, most = min(p.seeds[0] for p in parts), max(p.seeds[1] for p in parts)
    return str(fewest) if fewest == most else f"{fewest} to {most}"


def _published(verdict: Verdict) -> str:
    source = verdict.claim.source
    figures = source.published if source else {}
    listed = ", ".join(f"{name} {_plain(figure)}" for name, figure in figures.items())
    if isinstance(verdict.claim, Value) and not listed:
        listed = _plain(verdict.claim.published)
    where = ", ".join(filter(None, (source.paper, source.table))) if source else ""
    return f"{listed} ({where})" if listed and where else listed or where


def _plain(figure: float) -> str:
    return f"{figure / 1e6:g} M" if figure >= 1e6 else f"{figure:g}"


def _details(number: int, verdict: Verdict) -> str:
    claim = verdict.claim
    lines = [
        f'<a id="claim-{number}"></a>',
        f"## {number}. {_line(claim.says)}: {verdict.outcome}",
        "",
        verdict.reason,
        "",
        f"- Question answered: {verdict.question}.",
        *([f"- Source: {_line(_published(verdict))}."] if _published(verdict) else []),
        *([f"- {_p_values(verdict)}"] if verdict.p is not None else []),
        *_would_take(verdict),
        *(f"- Missing: {_line(sentence)}." for sentence in verdict.missing),
        *(f"- {_line(note)}" for note in verdict.notes),
    ]
    if verdict.parts:
        lines += ["", _part_table(verdict)]
    for part in verdict.parts:
        if part.per_class:
            lines += ["", f"Per class, IoU in per cent{f' ({part.label})' if part.label else ''}:"]
            lines += ["", _class_table(part.per_class)]
    return "\n".join(lines) + "\n"


def _p_values(verdict: Verdict) -> str:
    assert verdict.p is not None
    assert verdict.p_adjusted is not None
    tests = " / ".join(sorted({part.test for part in verdict.parts}))
    return f"p = {_p(verdict.p)}, corrected {_p(verdict.p_adjusted)} ({tests})."


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _would_take(verdict: Verdict) -> list[str]:
    if verdict.outcome != "undecided" or verdict.smallest_detectable is None:
        return []
    smallest = f"{verdict.smallest_detectable:.2f} {verdict.unit}"
    return [f"- The smallest effect that this design could have found: {smallest} off the margin."]


def _part_table(verdict: Verdict) -> str:
    rows = [
        [
            _cell(part.label) or "all",
            _effect(part),
            {"for": "agrees", "against": "contradicts", "unclear": "unclear"}[part.leaning],
            _seeds([part]),
            "" if part.seed_share is None else f"{100 * part.seed_share:.0f} %",
            "" if part.detectable is None else f"{part.detectable:.2f}",
            part.note,
        ]
        for part in verdict.parts
    ]
    headers = [
        "where",
        f"effect, {verdict.unit}",
        "interval",
        "seeds",
        "seeds' share",
        "detectable",
        "",
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _class_table(per_class: Sequence[ClassDifference]) -> str:
    rows = [
        [
            _cell(row.name),
            f"{row.left:.1f}",
            f"{row.right:.1f}",
            f"{_signed(row.difference)} [{_signed(row.low)}, {_signed(row.high)}]",
            _p(row.p_adjusted),
        ]
        for row in per_class
    ]
    headers = ["class", "left", "right", "difference", "p, corrected over classes"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _cell(text: str) -> str:
    """Return text that cannot break a table or become markup."""
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())
