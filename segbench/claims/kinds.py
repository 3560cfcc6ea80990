"""The kinds of claims, by the name that a file gives them; a user's own by `package.module:name`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segbench.claims.cells import compared
from segbench.claims.compare import CompareKind
from segbench.claims.correlate import CorrelateKind
from segbench.claims.equivalent import EquivalentKind
from segbench.claims.kind import Kind
from segbench.claims.order import OrderKind
from segbench.claims.trend import TrendKind
from segbench.claims.value import ValueKind
from segbench.code.own import code_in_use, difference, look_in, trusted_function
from segbench.errors import CardError
from segbench.schema.claims import AnyClaim, OwnClaim
from segbench.statistics.observations import ObservedCell

KINDS: dict[str, Kind[Any]] = {
    "compare": CompareKind(),
    "order": OrderKind(),
    "equivalent": EquivalentKind(),
    "trend": TrendKind(),
    "correlate": CorrelateKind(),
    "value": ValueKind(),
}


def kind_of(claim: AnyClaim) -> Kind[Any]:
    """Return the kind that answers for the claim.

    Raises:
        CardError: it is one of the user's, which is not trusted, cannot be found, or is no kind.
    """
    return KINDS.get(claim.kind) or _own_kind(claim.kind)


def _own_kind(name: str) -> Kind[Any]:
    look_in([Path.cwd()])
    found = trusted_function(name)
    try:
        kind = found() if isinstance(found, type) else found
    except TypeError as error:  # it leaves out what a kind must answer
        raise CardError(f"{name} is no kind of claims: {error}") from error
    if not isinstance(kind, Kind):
        raise CardError(
            f"{name} is no kind of claims: expected a segbench.claims.kind.Kind, got {kind!r}"
        )
    return kind


def wrong_kinds(claims: Iterable[AnyClaim]) -> list[str]:
    """Return a sentence for each kind of the user's that is none."""
    sentences: dict[str, None] = {}
    for claim in claims:
        try:
            kind_of(claim)
        except CardError as error:
            sentences[str(error)] = None
    return list(sentences)


def changed_code(claim: AnyClaim) -> str:
    """Return how the kind's code differs from what was registered, empty where it does not."""
    if not isinstance(claim, OwnClaim) or not claim.code:
        return ""
    return difference(claim.code, code_in_use([claim.kind]))


def is_count(claim: AnyClaim) -> bool:
    """Return whether the claim is about a number that no seed and no image changes."""
    return kind_of(claim).is_count(claim)


def usable(claim: AnyClaim, cells: Sequence[ObservedCell]) -> tuple[list[ObservedCell], list[str]]:
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
