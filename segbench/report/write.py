"""Rebuild all that a run's folder shows from the files in it."""

from pathlib import Path

from segbench.report.tables import write_tables
from segbench.run import load_rows, load_run


def write_report(run_folder: Path) -> list[Path]:
    """Write every table of the run; return the files. Equal results give equal bytes."""
    record = load_run(run_folder)
    rows = list(load_rows(run_folder, record))
    return write_tables(run_folder, record, rows)
