"""What a search tried, on the search's own page; and what a run took from one, on the run's page.

So that a reader sees that every backbone was given the same number of samples. Scores are per cent.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segbench.errors import listed
from segbench.metrics import words_of
from segbench.report.table import Table, table_of
from segbench.runs.record import Row, RunRecord
from segbench.runs.tuning import Tried, best_of, in_words, tried_samples, unequal_in_words
from segbench.schema.search import Search
from segbench.schema.searched import Tuned, is_search


def settings_tables(record: RunRecord, rows: Sequence[Row]) -> list[Table]:
    """Return the table of what was tried, or of what was taken; none for most runs."""
    search = record.experiment.search
    tables = []
    if search is not None and is_search(record.experiment):
        groups = tried_samples(record, rows, search)
        if groups:
            tables.append(_tried_table(search, groups))
    if record.tuned:
        tables.append(_taken_table(record.tuned))
    return tables


def _tried_table(search: Search, groups: Sequence[Sequence[Tried]]) -> Table:
    keys = list(search.parameters)
    table = [
        (
            *sample.where.values(),
            sample.sample,
            *(_shown(sample.settings[key]) for key in keys),
            _score_in_words(sample, search),
            f"{len(sample.scores)} of {sample.cells}",
            "taken" if sample is best_of(group) else "",
        )
        for group in groups
        for sample in group
    ]
    headers = (*search.per, "sample", *keys, words_of(search.metric), "cells done", "best")
    notes = _tried_in_words(search, groups)
    return replace(table_of(headers, table), title="What the search tried", notes=notes)


def _tried_in_words(search: Search, groups: Sequence[Sequence[Tried]]) -> tuple[str, ...]:
    equal = (
        f"Each of the {len(groups)} values of {' x '.join(search.per)} was tried with the same "
        f"{len(groups[0])} samples and gets a best one of its own."
    )
    uneven = unequal_in_words(groups)
    how_many = f"Tuning was not equal: {uneven}." if uneven else equal
    return (
        *([how_many] if len(groups) > 1 else []),
        f"A sample's score is the mean over its cells of {words_of(search.metric)} in per cent, on the "
        f"{100 * search.holdout:g} % of the training images that are held out; the reported split is "
        "never opened. The highest score is taken, of equal ones the first. A sample that did not "
        "end well in all its cells cannot be taken.",
    )


def _score_in_words(sample: Tried, search: Search) -> str:
    if sample.score is not None:
        return f"{100 * sample.score:.2f}"
    if sample.failed:
        return "failed"
    return "stopped or not done" if search.method == "asha" else "not done"


def _taken_table(tuned: Sequence[Tuned]) -> Table:
    keys = list(dict.fromkeys(key for one in tuned for key in one.settings))
    table = tuple(
        (
            in_words(one.where),
            *(_shown(one.settings.get(key, "-")) for key in keys),
            one.sample,
            f"{100 * one.score:.2f}",
            str(one.cells),
            f"{one.tried}" if one.done == one.tried else f"{one.tried}, {one.done} done",
        )
        for one in tuned
    )
    searches = listed(list(dict.fromkeys(one.search for one in tuned)))
    metric = words_of(tuned[0].metric)
    sentence = (
        f"The settings of these cells were found by the run {searches} on held-out training images, "
        "by the score given here in per cent; they stand in place of the file's own. "
        + _effort_in_words(tuned)
    )
    warnings = dict.fromkeys(f"{one.warning}." for one in tuned if one.warning)
    headers = (
        "cells",
        *keys,
        "sample",
        f"{metric} held out",
        "cells in the search",
        "samples tried",
    )
    notes = (sentence, *warnings)
    return replace(table_of(headers, table), title="Settings from a search", notes=notes)


def _effort_in_words(tuned: Sequence[Tuned]) -> str:
    counts = sorted({one.tried for one in tuned})
    if len(counts) > 1:
        return f"The effort was not equal: {counts[0]} to {counts[-1]} samples were tried."
    each = "for each row" if len(tuned) > 1 else "in all"
    return f"{counts[0]} samples were tried {each}."


def _shown(value: Any) -> str:
    """Return a setting with four significant digits: a drawn one has sixteen, run.json has all."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
