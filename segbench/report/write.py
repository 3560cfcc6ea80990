"""Rebuild all that a run's folder shows from the files in it."""

from collections.abc import Sequence
from pathlib import Path

from segbench.analysis.judge import Verdict
from segbench.files import write_text
from segbench.report.boards import boards
from segbench.report.exports import write_exports
from segbench.report.page import render_page
from segbench.report.tables import write_tables
from segbench.run import load_rows, load_run


def write_report(run_folder: Path, verdicts: Sequence[Verdict] = ()) -> list[Path]:
    """Write every table, their exports and the page; return the files.

    Equal results give equal bytes.

    Raises:
        ResultError: a file of the run is damaged.
    """
    record = load_run(run_folder)
    rows = list(load_rows(run_folder, record))
    written = write_tables(run_folder, record, rows)
    found = list(boards(run_folder, record, rows))
    written += write_exports(run_folder, record, found)
    page = run_folder / "report.html"
    write_text(page, render_page(run_folder, record, rows, found, verdicts=verdicts))
    return [*written, page]
