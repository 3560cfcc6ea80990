"""What a run's claims were registered as before their first verdicts, and what was changed since.

The registration stands in run.json: the claims, the seeds, and at how many looks they are judged.
`registered` compares each new command with it and notes what the first verdicts were about, where
that is no longer what is asked; `warnings_of` says it to the readers of the verdicts. Knows nothing
of how verdicts come about.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from segbench.runs import trial_files
from segbench.runs.record import RunRecord, axes_key, load_earlier_run
from segbench.schema.experiment import Experiment
from segbench.schema.groups import NotedGroups
from segbench.schema.sweep import Plan

_NO_TEST = "is no test. Run the file into another --results folder, on new seeds, to test it."


def registered(run_folder: Path, asked: RunRecord, whole: Plan) -> RunRecord:
    """Return the record of a command with what verdicts were about before it changed the question.

    Noted are seeds that are added by no rule, other claims, other cells that answer them, and other
    groups of images; each only after a verdict was seen. A narrower command (`--only`) changes nothing.
    """
    before = load_earlier_run(run_folder)
    if before is None or not any(cell.trial_id in whole.trials for cell in before.cells):
        return asked  # new, or another sweep, whose verdicts were about other trials
    noted: dict[str, object] = {
        name: getattr(before, name)
        for name in ("judged_at", "first_claims", "first_cells", "first_groups", "first_seeds")
    }
    by_rule = (*before.schedule[:1], *(top.seeds for top in before.top_ups))
    has_more_seeds = asked.most_seeds > max((before.most_seeds, *by_rule))
    has_other_claims = _questions(before) != _questions(asked)
    has_other_cells = _has_other_cells(before, asked, whole)
    has_other_groups = bool(_other_groups(before.groups, asked))
    if not (has_more_seeds or has_other_claims or has_other_cells or has_other_groups):
        return asked.model_copy(update=noted)
    if seen := seeds_judged(run_folder, before):
        if has_more_seeds:
            noted["judged_at"] = (*before.judged_at, seen)
        if has_other_claims and not before.first_claims:
            noted |= {"first_claims": before.experiment.claims, "first_seeds": seen}
        if has_other_cells and not before.first_cells:
            noted |= {"first_cells": before.asked_cells(), "first_seeds": seen}
        if has_other_groups and before.first_groups is None:
            noted |= {"first_groups": before.groups, "first_seeds": seen}
    return asked.model_copy(update=noted)


def warnings_of(record: RunRecord) -> tuple[str, ...]:
    """Return what a reader of the verdicts must know of how they came about."""
    sentences = (
        _early_looks(record),
        _edited_claims(record),
        _edited_sweep(record),
        _edited_groups(record),
    )
    return tuple(filter(None, sentences))


def merged(records: Sequence[RunRecord]) -> dict[str, object]:
    """Return the fields of the record that runs get as one: no look and no change is lost."""
    noted = next((record for record in records if record.first_seeds), records[0])
    return {
        "looks": max(record.looks for record in records),
        "rule": min(record.rule for record in records),
        "judged_at": tuple(sorted({seeds for record in records for seeds in record.judged_at})),
        "first_claims": noted.first_claims,
        "first_seeds": noted.first_seeds,
        "first_cells": noted.first_cells,
        "first_groups": noted.first_groups,
        "groups": {
            name: one for record in reversed(records) for name, one in record.groups.items()
        },
    }


def seeds_judged(run_folder: Path, record: RunRecord) -> int:
    """Return on how many seeds a verdict of the run was seen, 0 where none was.

    Also where trials are missing: whoever stopped a run has seen its page all the same.
    """
    if not record.experiment.claims or not (run_folder / "claims.md").exists():
        return 0
    done = Counter(
        tuple(cell.axes.values())
        for cell in record.cells
        if cell.trial_id
        and trial_files.load_result(trial_files.trial_folder(run_folder, cell.trial_id)) is not None
    )
    most = max(done.values(), default=0)
    return most if most >= seeds_of_a_verdict(record.experiment, record.rule) else 0


def seeds_of_a_verdict(experiment: Experiment, rule: int) -> int:
    """Return the fewest seeds with which any claim gets a verdict by the rule of this number."""
    from segbench.claims.rules import RULES  # statistics take long to load

    return min(RULES[rule].seeds_needed(claim) for claim in experiment.claims)


def _questions(record: RunRecord) -> dict[str, str]:
    """Return what each claim asks, and how its author says it."""
    return {claim.asks(): claim.says for claim in record.experiment.claims}


def _has_other_cells(before: RunRecord, asked: RunRecord, whole: Plan) -> bool:
    if _swept(before.experiment) == _swept(asked.experiment):
        return False  # fewer cells of the same sweep, at most
    now = {
        axes_key({**cell.axes, "protocol": name})
        for cell in whole.cells
        for name in asked.experiment.evaluate
        if cell.trial is not None
    }
    return {axes_key(axes) for axes in before.asked_cells()} != now


def _swept(experiment: Experiment) -> tuple[str, ...]:
    """Return what decides which cells there are, but for their seeds."""
    sweep = experiment.sweep.model_dump_json(exclude={"seeds"})
    return sweep, *sorted(experiment.evaluate)


def _other_groups(before: Mapping[str, NotedGroups], record: RunRecord) -> list[str]:
    """Return the data sets whose images the record groups in another way, or for the first time."""
    return [
        name
        for name, noted in record.groups.items()
        if name not in before or before[name].groups.identity() != noted.groups.identity()
    ]


def _early_looks(record: RunRecord) -> str:
    """Return a sentence on looks that no rule had fixed, empty where there were none."""
    if not record.judged_at:
        return ""
    seen = " and ".join(map(str, record.judged_at))
    looks = ", ".join(map(str, record.schedule))
    how = f"added than --settle had fixed ({looks} seeds)" if looks else "added, without --settle"
    return (
        f"Claims were judged at {seen} seeds before more were {how}: looking again is another "
        "test, so the chance of a false verdict is above the 5 % stated (9.5 % for three looks in "
        "simulation)."
    )


def _edited_claims(record: RunRecord) -> str:
    """Return a sentence on claims that were changed after verdicts, empty where none was."""
    if not record.first_claims:
        return ""
    before = {claim.asks(): claim.says for claim in record.first_claims}
    now = _questions(record)
    added = [says for asks, says in now.items() if asks not in before]
    dropped = [says for asks, says in before.items() if asks not in now]
    changes = [
        f"{what} {', '.join(map(repr, dict.fromkeys(said)))}"
        for what, said in (
            ("changed", [says for says in added if says in dropped]),
            ("added", [says for says in added if says not in dropped]),
            ("dropped", [says for says in dropped if says not in added]),
        )
        if said
    ]
    if not changes:
        return ""
    return (
        f"After verdicts on {record.first_seeds} seeds had been seen, claims were "
        f"{' and '.join(changes)}: what is asked after a look at the answer, or no longer asked, "
        f"{_NO_TEST}"
    )


def _edited_sweep(record: RunRecord) -> str:
    """Return a sentence on claims that other cells answer since verdicts were seen, or nothing."""
    if not record.first_cells:
        return ""
    before = {axes_key(axes) for axes in record.first_cells}
    now = {axes_key(axes) for axes in record.asked_cells()}
    moved = [
        repr(claim.says)
        for claim in record.experiment.claims
        if any(claim.asks_of(dict(axes)) for axes in before ^ now)
    ]
    if not moved:
        return ""
    return (
        f"After verdicts on {record.first_seeds} seeds had been seen, the sweep or the protocols "
        f"were changed, so that other cells answer {', '.join(moved)}: what is asked after a look "
        f"at the answer {_NO_TEST}"
    )


def _edited_groups(record: RunRecord) -> str:
    """Return a sentence on images that were grouped otherwise after verdicts, empty if none were."""
    regrouped = [] if record.first_groups is None else _other_groups(record.first_groups, record)
    if not regrouped:
        return ""
    return (
        f"After verdicts on {record.first_seeds} seeds had been seen, the groups of images of "
        f"{', '.join(regrouped)} were named or changed: what counts as independent was chosen after a "
        "look at the answer."
    )
