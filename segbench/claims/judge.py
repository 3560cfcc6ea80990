"""Claims and observations in, verdicts out.

A claim says that an effect lies in a region: above a margin, below it, or between two bounds. p for it
and p against it are one-sided; both count, so the claim's p is twice the smaller, but for a band of
rule 2, which cannot be shown and refuted at once (`segbench.claims.rules`).
A claim over several combinations holds if it holds in every one (the largest p for it) and fails if
one contradicts it (the smallest p against it, times their number). A combination most of whose cells
score no better than one class predicted everywhere is shown and not judged: it counts as missing.
Holm corrects over the claims of the file; those that cannot be judged yet take part with p = 1, so
that verdicts do not weaken when they come in. One seed: the question is about these checkpoints, and
the verdict on the method is undecided. Fewer than the rule asks for: an interval, no verdict.
A class that one image alone shows leaves the mean with it, for all models alike; how many are is told.
"""

from collections.abc import Sequence
from dataclasses import replace

from segbench.claims.cells import Step, judgements, metric_in_words
from segbench.claims.kinds import changed_code, is_count, kind_of, usable
from segbench.claims.parts import Bench
from segbench.claims.rules import NEWEST, RULES, Rule, p_against, p_for
from segbench.claims.seeds import notes_on_seeds
from segbench.claims.verdict import QUESTIONS, Outcome, Part, Verdict
from segbench.metrics import metric_named
from segbench.schema.claims import AnyClaim
from segbench.statistics.inference import MIN_GROUPS, groups_in_words, holm, holm_counts
from segbench.statistics.observations import Observation, ObservedCell, cells_of, is_blank, scored
from segbench.statistics.pairwise import lone_classes, lone_in_words
from segbench.statistics.power import ALPHA, MOST_SEEDS, power_of_each


def judge(
    claims: Sequence[AnyClaim],
    observations: Sequence[Observation],
    *,
    resamples: int = 10_000,
    planned_seeds: int | None = None,
    looks: int = 1,
    rule: int = NEWEST.number,
) -> tuple[Verdict, ...]:
    """Return a verdict for each claim.

    rule: the number of the one that the claims were registered under (`segbench.claims.rules`).
    looks: how often the run may be judged in all (`segbench.statistics.power`); 1 without top-up.
    resamples: of classes, for `correlate`.
    """
    alpha = ALPHA / looks
    family = sum(not is_count(claim) for claim in claims)
    bench = Bench(cells_of(observations), alpha / max(1, family), RULES[rule], resamples=resamples)
    opened = [_open_verdict(claim, bench, alpha, planned_seeds) for claim in claims]
    tested = [v for v in opened if not is_count(v.claim)]
    p_values = [1.0 if v.p is None else v.p for v in tested]
    adjusted = dict(zip(map(id, tested), holm(p_values), strict=True))
    counts = dict(zip(map(id, tested), holm_counts(p_values), strict=True))
    return tuple(
        replace(
            _closed(verdict, adjusted.get(id(verdict))),
            decisive=_confidence(verdict, bench.rule, counts.get(id(verdict), 1)),
            confidence=_confidence(replace(verdict, alpha=ALPHA), bench.rule, 1),
        )
        for verdict in opened
    )


def _confidence(verdict: Verdict, rule: Rule, count: int) -> float:
    """Return the confidence of intervals that say the same as a p that counts so often."""
    is_one_sided = bool(verdict.parts) and rule.is_one_sided(verdict.parts[0].region)
    return 1 - verdict.alpha / count * (1 + is_one_sided)


def _open_verdict(
    claim: AnyClaim, bench: Bench, alpha: float, planned_seeds: int | None
) -> Verdict:
    """Return the verdict before the correction over the claims: its outcome is still undecided."""
    kind = kind_of(claim)
    parts, missing = _parts_of(claim, bench)
    notes = [claim.notes] if claim.notes else []
    if changed := changed_code(claim):
        notes.append(f"It is judged by other code than was registered: {changed}.")
    judged = [part for part in parts if not part.is_blank]
    missing += [f"{part.label}: did not learn" for part in parts if part.is_blank]
    fewest = min((part.seeds[0] for part in parts), default=0)
    needed = bench.rule.seeds_needed(claim)
    barred = _too_few_images(claim, parts)
    if planned_seeds is not None and 0 < fewest < planned_seeds:
        notes.append(f"{fewest} of {planned_seeds} planned seeds are there.")
    groups = [part for part in parts if part.num_groups is not None]
    if groups and not barred:
        few = min(groups, key=lambda part: part.num_groups or 0)
        notes.append(groups_in_words(few.num_groups or 0, _num_images(few.cells[0])))
    if lone := _lone_classes(claim, parts):
        notes.append(lone_in_words(lone))
    p = None
    if judged and fewest >= needed and not barred and not is_count(claim):
        p = bench.rule.p_of(judged)
    return Verdict(
        claim=claim,
        outcome="undecided",
        question=QUESTIONS["groups"] if barred else _question(claim, fewest, needed),
        reason="",
        unit=kind.unit(claim),
        parts=tuple(parts),
        missing=tuple(missing),
        p=p,
        alpha=alpha,
        notes=(
            *notes,
            *kind.notes(claim, parts),
            *notes_on_seeds(parts, needs_learning=kind.needs_learning(claim)),
            *(_untrained(parts) if kind.needs_learning(claim) else ()),
        ),
        barred=barred,
        seeds_asked=needed,
        rule=bench.rule.number,
    )


def _parts_of(claim: AnyClaim, bench: Bench) -> tuple[list[Part], list[str]]:
    """Return the parts of a claim, and a sentence for each that lacks something."""
    kind = kind_of(claim)
    cells, missing = usable(claim, bench.cells)
    found: list[tuple[str, Step]] = []
    for label, combinations in judgements(claim, cells):
        for step in kind.effects(claim, combinations):
            name = ", ".join(filter(None, (label, step.label)))
            if not (step.problem or step.weights):
                continue
            if problem := step.problem or kind.problem(claim, step, bench):
                missing.append(f"{name}: {problem}" if name else problem)
            else:
                found.append((name, step))
    power = power_of_each(len(found), two_sided_region=kind.is_band(claim))
    parts = [kind.part(claim, name, step, bench, power=power) for name, step in found]
    if kind.needs_learning(claim):
        parts = [replace(part, is_blank=_is_blank(part)) for part in parts]
    return _with_classes_corrected(parts), missing


def _is_blank(part: Part) -> bool:
    return 2 * sum(is_blank(cell) for cell in part.cells) > len(part.cells)


def _with_classes_corrected(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with p of classes corrected over all of the claim's tables together."""
    tested = [row for part in parts for row in part.per_class if row.has_p]
    adjusted = dict(zip(map(id, tested), holm([row.p for row in tested]), strict=True))
    return [
        replace(
            part,
            per_class=tuple(
                replace(row, p_adjusted=adjusted.get(id(row), 1.0)) for row in part.per_class
            ),
        )
        for part in parts
    ]


def _too_few_images(claim: AnyClaim, parts: Sequence[Part]) -> str:
    """Return why these images tell nothing of new ones, empty where they do."""
    kind = kind_of(claim)
    metric = kind.metric(claim)
    if metric is None or not kind.draws_images(claim):
        return ""
    known = [part.num_groups for part in parts if part.num_groups is not None]
    fewest = min(known, default=None)
    images = min((_num_images(cell) for part in parts for cell in part.cells), default=0)
    if fewest is not None and fewest < MIN_GROUPS:
        return groups_in_words(fewest, images)
    needed = metric_named(metric).fewest_images
    if not 0 < images < needed:
        return ""
    return (
        f"{images} images are too few to say of new ones what {metric_in_words(metric)} is: that takes "
        f"{needed}."
    )


def _num_images(cell: ObservedCell) -> int:
    return len(cell.observations[0].counts.names)


def _lone_classes(claim: AnyClaim, parts: Sequence[Part]) -> int:
    """Return how many classes one image alone shows, the most of any cell."""
    kind = kind_of(claim)
    if kind.metric(claim) is None or not kind.draws_images(claim):
        return 0
    cells = {cell.key: cell.observations[0] for part in parts for cell in part.cells}
    return max((lone_classes(scored(one, claim.classes)) for one in cells.values()), default=0)


def _question(claim: AnyClaim, fewest: int, needed: int) -> str:
    if fewest == 0:
        return QUESTIONS["none"]
    if is_count(claim):
        return QUESTIONS["count"]
    of_checkpoints, of_method = kind_of(claim).questions(claim)
    if fewest == 1:
        return of_checkpoints
    return QUESTIONS["few"] if fewest < needed else of_method


def _untrained(parts: Sequence[Part]) -> list[str]:
    """Return a warning of cells whose models did not learn."""
    cells = {cell.key: cell for part in parts for cell in part.cells}
    blank = [cell for cell in cells.values() if is_blank(cell)]
    if not blank:
        return []
    names = ", ".join(" ".join(filter(None, cell.axes.values())) for cell in blank[:3])
    return [
        f"{len(blank)} of the {len(cells)} cells compared did not learn ({names}"
        f"{', ...' if len(blank) > 3 else ''}): their loss ended above its start, they predict one "
        "class alone, or score no better than one class everywhere, so they say nothing about a "
        "trained model."
    ]


_DID_NOT_LEARN = (
    "The models compared did not learn: their loss ended above its start, they predict one class "
    "alone, or score no better than one class everywhere. So nothing can be said of trained ones, with "
    "however many seeds."
)


def _closed(verdict: Verdict, adjusted: float | None) -> Verdict:
    """Return the verdict with its outcome and the sentence that gives the reason."""
    if not verdict.parts:
        return replace(verdict, reason="There are no results to judge it by.")
    if is_count(verdict.claim):
        return _closed_count(verdict)
    if not verdict.judged:
        return replace(verdict, reason=_DID_NOT_LEARN)
    if verdict.barred:
        return replace(verdict, reason=verdict.barred)
    if verdict.p is None or adjusted is None:
        fewest = min(part.seeds[0] for part in verdict.parts)
        return replace(verdict, reason=_too_few(verdict, fewest))
    verdict = replace(verdict, p_adjusted=adjusted)
    outcome = _outcome(verdict, adjusted)
    return replace(verdict, outcome=outcome, reason=_reason(verdict, outcome))


def _outcome(verdict: Verdict, adjusted: float) -> Outcome:
    """Return what p value and intervals together show."""
    if adjusted > verdict.alpha:
        return "undecided"
    if p_for(verdict.judged) <= p_against(verdict.judged):
        leanings = {part.leaning for part in verdict.judged}
        return "holds" if leanings == {"for"} and not verdict.missing else "undecided"
    decides = min(verdict.judged, key=lambda part: part.p_against)
    return "fails" if decides.leaning == "against" else "undecided"


def _reason(verdict: Verdict, outcome: Outcome) -> str:
    count = len(verdict.judged)
    if outcome == "holds":
        where = f" in all {count} combinations" if count > 1 else ""
        return f"Shown{where}: the interval lies wholly where the claim puts it."
    if outcome == "fails":
        worst = min(verdict.judged, key=lambda part: part.p_against)
        return kind_of(verdict.claim).failed(verdict.claim, worst)
    leanings = [part.leaning for part in verdict.judged]
    if verdict.missing and set(leanings) == {"for"}:
        return "Shown where there are results, but some are missing."
    return _in_doubt(verdict, leanings)


def _closed_count(verdict: Verdict) -> Verdict:
    wrong = [part for part in verdict.parts if part.p_for > 0]
    if wrong:
        reason = f"The counts say otherwise{wrong[0].for_label}."
        return replace(verdict, outcome="fails", reason=reason)
    if verdict.missing:
        return replace(verdict, reason="Shown where there are results, but some are missing.")
    return replace(verdict, outcome="holds", reason="Counted.")


def _too_few(verdict: Verdict, fewest: int) -> str:
    leanings = {part.leaning for part in verdict.judged}
    if fewest == 1:
        words = {"for": "agree", "against": "disagree"}
        shown = words.get(leanings.pop()) if len(leanings) == 1 else None
        said = f"; these checkpoints {shown}" if shown else ""
        return f"One seed says nothing about the method{said}. A verdict takes at least {verdict.seeds_asked} seeds."
    said = f"{fewest} seeds give an interval but no verdict, which takes at least {verdict.seeds_asked}"
    if kind_of(verdict.claim).limit:
        return f"{said}."
    if verdict.seeds_needed is None:
        return f"{said}; {_no_seeds(verdict)}."
    return (
        f"{said}; if the effect is as it looks now, about {verdict.seeds_needed} seeds for each cell "
        "would settle it."
    )


def _in_doubt(verdict: Verdict, leanings: Sequence[str]) -> str:
    clear = len(leanings) - leanings.count("unclear")
    if clear == len(leanings):
        said = _corrected_away(verdict)
    elif len(leanings) > 1:
        said = f"Clear in {clear} of {len(leanings)} combinations"
    else:
        said = "The interval reaches across the margin"
    if verdict.seeds_needed is not None:
        most = max(part.seeds[0] for part in verdict.parts)
        seeds = max(verdict.seeds_needed, most + 1)
        return f"{said}; about {seeds} seeds for each cell would settle it."
    if limit := kind_of(verdict.claim).limit:
        return f"{said}; more seeds cannot settle it, {limit}."
    return f"{said}; {_no_seeds(verdict)}."


def _corrected_away(verdict: Verdict) -> str:
    """Return why clear intervals make no verdict."""
    assert verdict.p is not None
    level = f"{100 * verdict.alpha:.3g} %"
    if verdict.p <= verdict.alpha:
        return "Clear by itself, but not after correction for the other claims"
    if verdict.p <= ALPHA:
        return f"Clear at 5 %, but not at the {level} that each look of --settle may spend"
    return f"The intervals lie clear of the margin, but p is above {level}"


def _no_seeds(verdict: Verdict) -> str:
    """Return why no number of seeds settles the claim: the images, or an effect near the margin."""
    hopeless = [part for part in verdict.judged if part.seeds_needed is None]
    part = min(hopeless, key=lambda one: one.region.distance(one.effect))
    apart = f"this one lies {part.region.distance(part.effect):.2f} off{part.for_label}"
    said = f"no number of seeds up to {MOST_SEEDS} would settle it four times in five"
    if not part.image_limit:
        return f"{said}, so near the margin does the effect lie: {apart}"
    return (
        f"{said}: on {_images_of(part)} even endless seeds find so often only effects from "
        f"{part.image_limit:.2f} {verdict.unit} off the margin on, and {apart}"
    )


def _images_of(part: Part) -> str:
    """Return `these 321 images`, or how many of each split where there are several."""
    splits = {cell.observations[0].counts.images: cell for cell in part.cells}
    sizes = sorted(len(cell.observations[0].counts.names) for cell in splits.values())
    return f"these {' and '.join(map(str, sizes))} images"
