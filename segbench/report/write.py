"""Rebuild all that a run's folder shows from the files in it."""

from pathlib import Path
from typing import NamedTuple

from segbench.analysis.judge import Verdict
from segbench.files import write_text
from segbench.report.boards import Board, boards
from segbench.report.exports import write_exports
from segbench.report.page import render_page
from segbench.report.tables import write_tables
from segbench.run import Row, RunRecord, load_rows, load_run


class Found(NamedTuple):
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
    written = write_tables(run_folder, found.record, found.rows)
    written += write_exports(run_folder, found.record, found.boards)
    page = run_folder / "report.html"
    write_text(page, page_of(run_folder, found))
    return [*written, page]


def read_run(run_folder: Path) -> Found:
    """Return all that reports are made of.

    Raises:
        ResultError: a file of the run is damaged.
    """
    record = load_run(run_folder)
    rows = list(load_rows(run_folder, record))
    return Found(record, rows, list(boards(run_folder, record, rows)), ())


def page_of(run_folder: Path, found: Found, *, live: str = "") -> str:
    """Return the page; live: see `render_page`."""
    return render_page(
        run_folder, found.record, found.rows, found.boards, verdicts=found.verdicts, live=live
    )
