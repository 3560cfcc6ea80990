"""Rebuild all that a run's folder shows from the files in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segbench.claims.judge import judge
from segbench.claims.planning import with_settle_note
from segbench.claims.rules import NEWEST
from segbench.claims.verdict import Verdict
from segbench.files import write_text
from segbench.report.boards import Board, boards
from segbench.report.claims_page import render_claims
from segbench.report.exports import write_exports
from segbench.report.page import render_page
from segbench.report.tables import write_tables
from segbench.runs.observed import observations
from segbench.runs.record import Row, RunRecord, load_rows, load_run
from segbench.runs.registration import warnings_of
from segbench.runs.spreads import write_spreads


class ReportInputs(NamedTuple):
    """What a run's files hold, and what is concluded from them."""

    record: RunRecord
    rows: list[Row]
    boards: list[Board]
    verdicts: tuple[Verdict, ...]


def write_report(run_folder: Path) -> list[Path]:
    """Write every table, their exports and the page; return the files.

    Equal results give equal bytes.

    Raises:
        ResultError: a file of the run is damaged.
    """
    found = read_run(run_folder)
    written = write_tables(run_folder, found.record, found.rows, found.boards)
    written += write_exports(run_folder, found.record, found.boards)
    pages = {"report.html": page_of(run_folder, found)}
    if found.verdicts:
        written.append(write_spreads(run_folder, found.verdicts))
        pages["claims.md"] = render_claims(found.verdicts, origin_in_words(found.record))
    for name, text in pages.items():
        write_text(run_folder / name, text)
    return [*written, *(run_folder / name for name in pages)]


def read_run(run_folder: Path, *, judged: bool = True) -> ReportInputs:
    """Return all that reports are made of; the verdicts are what takes time.

    Raises:
        ResultError: a file of the run is damaged.
    """
    record = load_run(run_folder)
    rows = list(load_rows(run_folder, record))
    verdicts = judged_claims(run_folder, record, rows) if judged else ()
    return ReportInputs(record, rows, list(boards(run_folder, record, rows)), verdicts)


def origin_in_words(record: RunRecord) -> list[str]:
    """Return the sentences that say what was typed and how it was scored."""
    told = {
        name: f"`{name}`, split {protocol.split}: {protocol.description(with_split=False)}"
        for name, protocol in record.protocols.items()
    }
    planned = [told.pop(name) for name in record.experiment.evaluate]
    added = f"Added by `segbench evaluate`, and part of no claim: {'; '.join(told.values())}."
    return [
        f"Made by `{record.command}` (with `--data` and `--weights` where the files lie), rebuilt by "
        "`segbench report`; a run that was narrowed by flags speaks of what was run and no more.",
        f"Scored by {'; '.join(planned)}.",
        *([added] if told else []),
        *_groups_in_words(record),
        *(f"**{warning}**" for warning in warnings_of(record)),
    ]


def _groups_in_words(record: RunRecord) -> list[str]:
    """Return a sentence for each scored split whose images come in groups."""
    trained = record.experiment.train.split
    scored = {
        (protocol.scored_name(cell.axes["dataset"]), protocol.split): None
        for protocol in record.experiment.evaluate.values()
        for cell in record.cells
    }
    told = (
        f"{dataset}: {record.groups[dataset].in_words(split, trained=trained)}"
        for dataset, split in scored
        if dataset in record.groups and split in record.groups[dataset].splits
    )
    return [
        f"{sentence} Images of one group are alike and no independent witnesses."
        for sentence in told
    ]


def judged_claims(run_folder: Path, record: RunRecord, rows: Sequence[Row]) -> tuple[Verdict, ...]:
    """Return the verdicts on the experiment's claims.

    Raises:
        ResultError: a file of counts is damaged.
    """
    if not record.experiment.claims:
        return ()
    planned = record.experiment.evaluate
    # protocols that were added came after a look
    seen = [o for o in observations(run_folder, record, rows) if o.protocol in planned]
    verdicts, newest = (
        judge(
            record.experiment.claims,
            seen,
            planned_seeds=len(record.experiment.sweep.seed_values),
            looks=record.looks,
            rule=rule,
        )
        for rule in (record.rule, NEWEST.number)
    )
    if record.rule != NEWEST.number:
        verdicts = tuple(
            replace(one, again=again) for one, again in zip(verdicts, newest, strict=True)
        )
    return tuple(with_settle_note(verdict, record.schedule) for verdict in verdicts)


def page_of(run_folder: Path, found: ReportInputs, *, live: str = "") -> str:
    """Return the page; live: see `render_page`."""
    return render_page(
        run_folder, found.record, found.rows, found.boards, verdicts=found.verdicts, live=live
    )
