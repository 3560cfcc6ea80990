"""One record for every table, and its forms: Markdown, plain text, CSV and LaTeX.

A value keeps its parts until a form writes them, so that all forms of a table show the same. The
page's form stands in templates/table.html.jinja. Knows nothing of runs.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tabulate import tabulate

from segbench.report.cells import Summary


class Interval(NamedTuple):
    """A confidence interval, in per cent."""

    low: float
    high: float


class Shown(NamedTuple):
    """A value that people read as `text`, the page sorts by `key` and CSV holds as `parts`."""

    text: str
    key: float | str = ""
    parts: tuple[float | str, ...] = ()


class Link(NamedTuple):
    """Words that lead to a file of the run's folder."""

    text: str
    address: str


# A Summary holds fractions and is written in per cent; None says that there is nothing.
Value = str | int | Summary | Interval | Shown | Link | None


class Column(NamedTuple):
    """What stands above a column.

    key: what the column is chosen by. align: as LaTeX says it. fields: the columns of CSV that its
    parts become; those of a column without are named by its key.
    """

    key: str
    title: str
    align: Literal["l", "r", "c"] = "l"
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Columns and rows. legend: how its numbers are to be read, in a sentence or two."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    legend: str = ""

    def only(self, keys: Iterable[str]) -> "Table":
        """Return the table of these columns, in this order; keys that it lacks are left out."""
        places = {column.key: place for place, column in enumerate(self.columns)}
        order = [places[key] for key in keys if key in places]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in order),
            rows=tuple(tuple(row[place] for place in order) for row in self.rows),
        )

    def without_empty(self, key: str) -> "Table":
        """Return the table without this column, if nothing stands in it."""
        (place,) = (place for place, column in enumerate(self.columns) if column.key == key)
        if any(row[place] for row in self.rows):
            return self
        return self.only(column.key for column in self.columns if column.key != key)

    @property
    def keys(self) -> list[str]:
        """The columns' keys."""
        return [column.key for column in self.columns]


def table_of(
    titles: Sequence[str], rows: Iterable[Sequence[Value]], *, numbers: Sequence[str] = ()
) -> Table:
    """Return a table whose columns are named by their titles. numbers: those that hold numbers."""
    columns = (Column(title, title, "r" if title in numbers else "l") for title in titles)
    return Table(tuple(columns), tuple(map(tuple, rows)))


def markdown(table: Table) -> str:
    """Return the table in Markdown; names in it may come from strangers and cannot break it."""
    cells = [
        [
            f"**{_escaped(text_of(value))}**" if _is_marked(value) else _escaped(text_of(value))
            for value in row
        ]
        for row in table.rows
    ]
    titles = [_escaped(column.title) for column in table.columns]
    return tabulate(cells, titles, tablefmt="github", disable_numparse=True)


def plain(table: Table, widths: Sequence[int | None]) -> str:
    """Return the table for a terminal, its columns no wider than `widths`."""
    cells = [[text_of(value) for value in row] for row in table.rows]
    titles = [column.title for column in table.columns]
    return tabulate(cells, titles, tablefmt="simple", maxcolwidths=list(widths))


def csv_of(table: Table) -> str:
    """Return the table as CSV: mean and deviation, low and high each in a column of their own."""
    fields = [column.fields or (column.key,) for column in table.columns]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([name for names in fields for name in names])
    for row in table.rows:
        cells = zip(row, fields, strict=True)
        writer.writerow([part for value, names in cells for part in _parts(value, len(names))])
    return buffer.getvalue()


def latex(table: Table, note: str) -> str:
    """Return the table in LaTeX, under a comment, its legend below; needs the package booktabs."""
    body = "\n".join("  " + " & ".join(map(_latex_text, row)) + r" \\" for row in table.rows)
    legend = latex_escaped(table.legend)
    titles = [latex_escaped(column.title) for column in table.columns]
    return (
        f"% {' '.join(note.split())}\n"
        f"\\begin{{tabular}}{{{''.join(column.align for column in table.columns)}}}\n  \\toprule\n"
        f"  {' & '.join(titles)} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n\\end{{tabular}}\n"
        + (f"\\par\\smallskip{{\\footnotesize {legend}\\par}}\n" if legend else "")
    )


def _is_marked(value: Value) -> bool:
    return isinstance(value, Summary) and value.is_marked


def text_of(value: Value) -> str:
    """Return the value as people read it."""
    if value is None or isinstance(value, Summary):
        return percent(value)
    if isinstance(value, Interval):
        return f"[{value.low:.1f}, {value.high:.1f}]"
    return value.text if isinstance(value, Shown | Link) else str(value)


def percent(summary: Summary | None, *, is_signed: bool = False) -> str:
    """Return `56.02 ± 0.31` in per cent, `-` where there is nothing."""
    if summary is None:
        return "-"
    text = f"{100 * summary.mean:{'+' if is_signed else ''}.2f}"
    if summary.deviation is not None:
        text += f" ± {100 * summary.deviation:.2f}"
    return text


def _escaped(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return the text in one line, with what HTML would take for its own escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())


def _parts(value: Value, count: int) -> Sequence[float | str]:
    """Return what a value puts into its `count` columns of CSV."""
    if value is None:
        return [""] * count
    if isinstance(value, Summary):
        deviation = "" if value.deviation is None else f"{100 * value.deviation:.4f}"
        return f"{100 * value.mean:.4f}", deviation
    if isinstance(value, Interval):
        return [f"{end:.4f}" for end in value]
    return value.parts if isinstance(value, Shown) else [text_of(value)]


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}


def latex_escaped(text: str) -> str:
    """Return text with what LaTeX would take for its own escaped, and a thin space before per cent."""
    return "".join(_LATEX.get(character, character) for character in text).replace(r" \%", r"\,\%")


def _latex_text(value: Value) -> str:
    if value is None:
        return "--"
    if isinstance(value, Interval):
        return f"[{value.low:.2f}, {value.high:.2f}]"
    if not isinstance(value, Summary):
        return latex_escaped(text_of(value))
    text = f"{100 * value.mean:.2f}"
    if value.deviation is not None:
        text += f" $\\pm$ {100 * value.deviation:.2f}"
    return f"\\textbf{{{text}}}" if value.is_marked else text
