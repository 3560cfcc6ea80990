"""Gather rows of seeds into cells: mean and standard deviation, complete or not. No torch here.

A cell is one point of the sweep without its seed, under one protocol.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from segbench.runs.record import Row
from segbench.runs.trial_files import Evaluation


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (of the seeds, n - 1; None for one seed) of a figure.

    is_marked: whether tables show it in bold: it is significantly above all others of its table.
    """

    mean: float
    deviation: float | None
    num_seeds: int
    is_marked: bool = False


@dataclass
class TableCell:
    """A cell and the rows of the seeds that the run asked for; without all it is incomplete."""

    axes: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    skipped: str = ""

    @property
    def planned(self) -> int:
        """How many seeds the run asked for."""
        return len(self.rows)

    @property
    def is_complete(self) -> bool:
        """Whether every planned seed has figures."""
        return self.planned > 0 and len(self.evaluations) == self.planned

    def summary(self, figure: str) -> Summary | None:
        """Return the figure over the seeds at hand."""
        return summarised([e.figures.get(figure) for e in self.evaluations])


def summarised(values: Iterable[float | None]) -> Summary | None:
    """Return mean and standard deviation of the values that are there; None without any."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return Summary(statistics.fmean(found), deviation, len(found))


def gather(rows: Sequence[Row], protocol: str) -> list[TableCell]:
    """Return one table cell per point of the sweep, in the run's order."""
    cells: dict[tuple[str, ...], TableCell] = {}
    for row in rows:
        key = tuple(row.cell.axes.values())
        cell = cells.setdefault(key, TableCell(row.cell.axes))
        if row.cell.skipped:
            cell.skipped = row.cell.skipped
            continue
        cell.rows.append(row)
        if row.status == "failed":
            cell.failures.append(row)
        elif protocol in row.evaluations and row.is_done:
            cell.evaluations.append(row.evaluations[protocol])
    return list(cells.values())
