"""The tables for papers and notebooks: CSV and LaTeX of each, and one Parquet file of all numbers.

Figures are per cent in CSV and LaTeX, as in the leaderboard, and fractions in Parquet, as
`segbench.load_results` returns them. The same files give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from segbench.files import write_atomically, write_text
from segbench.report.boards import Board
from segbench.report.table import csv_of, latex
from segbench.report.tables import axis_keys, class_table, leaderboard, metric_keys
from segbench.runs.record import RunRecord
from segbench.runs.table import LEADING, TRAILING, tidy_rows


def write_exports(run_folder: Path, record: RunRecord, boards: Sequence[Board]) -> list[Path]:
    """Write exports/ in the run's folder; return the files."""
    folder = run_folder / "exports"
    texts = {"leaderboard.csv": leaderboard_csv(record, boards)}
    for number, board in enumerate(boards):
        stem = f"{board.protocol_name}_{board.dataset}"
        twins = [b for b in boards[:number] if f"{b.protocol_name}_{b.dataset}" == stem]
        stem += f"_{len(twins) + 1}" if twins else ""
        texts[f"leaderboard_{stem}.tex"] = leaderboard_latex(board)
        texts[f"per_class_{stem}.csv"] = csv_of(class_table(board))
        texts[f"per_class_{stem}.tex"] = per_class_latex(board)
    for name, text in texts.items():
        write_text(folder / name, text)
    parquet = folder / "results.parquet"
    write_parquet(parquet, run_folder, record)
    return [*(folder / name for name in texts), parquet]


def leaderboard_csv(record: RunRecord, boards: Sequence[Board]) -> str:
    """Return all boards as CSV: one line for each complete cell, figures in per cent."""
    whole = leaderboard(boards, record.axis_names)
    first = ("protocol", "protocol_digest", *axis_keys(whole), "weights", "num_images")
    standing = ("num_classes", "num_seeds", "place", "letters")
    return csv_of(whole.only((*first, *standing, *metric_keys(whole), "interval", "parameters")))


def leaderboard_latex(board: Board) -> str:
    """Return a board as a LaTeX table; needs the package booktabs."""
    whole = leaderboard([board], board.telling_axes)
    keys = (*axis_keys(whole), "weights", *metric_keys(whole), "interval", "num_seeds", "letters")
    note = (
        f"{board.title} ({board.protocol.digest()}): {board.protocol.description(with_split=False)}"
    )
    return latex(whole.only(keys), note)


def per_class_latex(board: Board) -> str:
    """Return the IoU of each class as a LaTeX table; needs the package booktabs."""
    return latex(class_table(board), f"IoU in per cent, {board.title} ({board.protocol.digest()})")


def write_parquet(path: Path, run_folder: Path, record: RunRecord) -> None:
    """Write the tidy table of `segbench.load_results` for one run."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [*LEADING, *record.axis_names, *TRAILING]
    kinds = {"seed": pa.int64(), "value": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    table = pa.Table.from_pylist(list(tidy_rows(run_folder)), schema=schema)
    write_atomically(path, lambda file: parquet.write_table(table, file, compression="zstd"))
