"""The tables for papers and notebooks: CSV and LaTeX of each, and one Parquet file of all numbers.

Figures are per cent in CSV and LaTeX, as in the leaderboard, and fractions in Parquet, as
`segbench.load_results` returns them. The same files give the same bytes.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segbench.files import write_atomically, write_text
from segbench.report.boards import Board, weights_differ
from segbench.report.cells import Summary, mean_over_seeds
from segbench.report.tables import shown_metrics
from segbench.runs.record import RunRecord
from segbench.runs.table import LEADING, TRAILING, tidy_rows

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def write_exports(run_folder: Path, record: RunRecord, boards: Sequence[Board]) -> list[Path]:
    """Write exports/ in the run's folder; return the files."""
    folder = run_folder / "exports"
    texts = {"leaderboard.csv": leaderboard_csv(record, boards)}
    for number, board in enumerate(boards):
        stem = f"{board.protocol_name}_{board.dataset}"
        twins = [b for b in boards[:number] if f"{b.protocol_name}_{b.dataset}" == stem]
        stem += f"_{len(twins) + 1}" if twins else ""
        texts[f"leaderboard_{stem}.tex"] = leaderboard_latex(board)
        texts[f"per_class_{stem}.csv"] = per_class_csv(board)
        texts[f"per_class_{stem}.tex"] = per_class_latex(board)
    for name, text in texts.items():
        write_text(folder / name, text)
    parquet = folder / "results.parquet"
    write_parquet(parquet, run_folder, record)
    return [*(folder / name for name in texts), parquet]


def leaderboard_csv(record: RunRecord, boards: Sequence[Board]) -> str:
    """Return all boards as CSV: one line for each complete cell, figures in per cent."""
    axes = record.axis_names
    shows_weights = weights_differ(model for board in boards for model in board.models)
    shown = shown_metrics(model.figures for board in boards for model in board.models)
    figures = [f"{figure}{part}" for figure in shown for part in ("", "_sd")]
    header = [
        "protocol",
        "protocol_digest",
        *axes,
        *(["weights"] if shows_weights else []),
        *("num_images", "num_classes", "seeds", "first_place", "last_place", "group"),
        *figures,
        *("mean_iou_low", "mean_iou_high", "parameters"),
    ]
    lines = [
        [
            board.protocol_name,
            board.protocol.digest(),
            *model.axes.values(),
            *([model.initial_weights] if shows_weights else []),
            board.num_images,
            len(board.class_names),
            model.standing.num_seeds,
            model.standing.first,
            model.standing.last,
            model.standing.letters,
            *(value for figure in shown for value in _numbers(model.figures.get(figure))),
            f"{model.standing.low:.4f}",
            f"{model.standing.high:.4f}",
            f"{model.costs['parameters']:.0f}" if "parameters" in model.costs else "",
        ]
        for board in boards
        for model in board.models
    ]
    return _csv(header, lines)


def per_class_csv(board: Board) -> str:
    """Return the IoU of each class (mean over seeds, per cent) for each model, as CSV."""
    header = ["class", *(f"{m.name}{part}" for m in board.models for part in ("", " sd"))]
    lines = [
        [name, *(v for m in board.models for v in _numbers(m.class_iou[index]))]
        for index, name in enumerate(board.class_names)
    ]
    return _csv(header, lines)


def leaderboard_latex(board: Board) -> str:
    """Return a board as a LaTeX table; needs the package booktabs."""
    axes = board.telling_axes
    shows_weights = weights_differ(board.models)
    shown = shown_metrics(model.figures for model in board.models)
    header = [
        *map(latex, axes),
        *(["weights"] if shows_weights else []),
        *shown.values(),
        *("95\\,\\% interval", "seeds", "group"),
    ]
    best = {key: max(mean_over_seeds(m.figures.get(key)) for m in board.models) for key in shown}
    lines = [
        [
            *(latex(model.axes[axis]) for axis in axes),
            *([latex(model.initial_weights or "--")] if shows_weights else []),
            *(_latex_number(model.figures.get(key), best[key]) for key in shown),
            f"[{model.standing.low:.2f}, {model.standing.high:.2f}]",
            str(model.standing.num_seeds),
            model.standing.letters or "--",
        ]
        for model in board.models
    ]
    note = f"{board.title} ({board.protocol.digest()}): {board.protocol.description()}"
    words = "l" * (len(axes) + shows_weights)
    return _latex(note, words + "r" * len(shown) + "crl", header, lines)


def per_class_latex(board: Board) -> str:
    """Return the IoU of each class as a LaTeX table; needs the package booktabs."""
    header = ["class", *(latex(model.name) for model in board.models)]
    lines = []
    for index, name in enumerate(board.class_names):
        best = max(mean_over_seeds(model.class_iou[index]) for model in board.models)
        cells = (_latex_number(model.class_iou[index], best) for model in board.models)
        lines.append([latex(name), *cells])
    note = f"IoU in per cent, {board.title} ({board.protocol.digest()})"
    return _latex(note, "l" + "r" * len(board.models), header, lines)


def write_parquet(path: Path, run_folder: Path, record: RunRecord) -> None:
    """Write the tidy table of `segbench.load_results` for one run."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [*LEADING, *record.axis_names, *TRAILING]
    kinds = {"seed": pa.int64(), "value": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    table = pa.Table.from_pylist(list(tidy_rows(run_folder)), schema=schema)
    write_atomically(path, lambda file: parquet.write_table(table, file, compression="zstd"))


def latex(text: str) -> str:
    """Return text with what LaTeX would take for its own escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def _csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return buffer.getvalue()


def _numbers(summary: Summary | None) -> Iterator[str]:
    yield "" if summary is None else f"{100 * summary.mean:.4f}"
    deviation = None if summary is None else summary.deviation
    yield "" if deviation is None else f"{100 * deviation:.4f}"


def _latex_number(summary: Summary | None, best: float) -> str:
    if summary is None:
        return "--"
    text = f"{100 * summary.mean:.2f}"
    if summary.deviation is not None:
        text += f" $\\pm$ {100 * summary.deviation:.2f}"
    return f"\\textbf{{{text}}}" if summary.mean == best else text


def _latex(note: str, columns: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = "\n".join("  " + " & ".join(line) + r" \\" for line in lines)
    return (
        f"% {' '.join(note.split())}\n"
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n"
        f"  {' & '.join(header)} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n\\end{{tabular}}\n"
    )
