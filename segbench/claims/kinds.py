"""The kinds of claims, by the name that a file gives them."""

from collections.abc import Sequence
from typing import Any

from segbench.claims.cells import compared
from segbench.claims.compare import CompareKind
from segbench.claims.correlate import CorrelateKind
from segbench.claims.equivalent import EquivalentKind
from segbench.claims.kind import Kind
from segbench.claims.order import OrderKind
from segbench.claims.trend import TrendKind
from segbench.claims.value import ValueKind
from segbench.schema.claims import AnyClaim
from segbench.statistics.observations import Cell

KINDS: dict[str, Kind[Any]] = {
    "compare": CompareKind(),
    "order": OrderKind(),
    "equivalent": EquivalentKind(),
    "trend": TrendKind(),
    "correlate": CorrelateKind(),
    "value": ValueKind(),
}


def kind_of(claim: AnyClaim) -> Kind[Any]:
    """Return the kind that answers for the claim."""
    return KINDS[claim.kind]


def is_count(claim: AnyClaim) -> bool:
    """Return whether the claim is about a number that no seed and no image changes."""
    return kind_of(claim).is_count(claim)


def usable(claim: AnyClaim, cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Return the cells that have what the claim asks of them, and why the others are left out."""
    usable, problems = [], []
    for cell in compared(claim, cells):
        names = cell.observations[0].class_names
        absent = [name for name in claim.classes if name not in names]
        lacks = f"has no class {', '.join(absent)}" if absent else kind_of(claim).lacks(claim, cell)
        if lacks:
            problems.append(f"{' '.join(filter(None, cell.axes.values()))}: {lacks}")
        else:
            usable.append(cell)
    return usable, problems
