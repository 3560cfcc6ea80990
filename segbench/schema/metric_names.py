"""What a file may call a metric: the names of the table, and of facts where these are asked too.

The table is looked at inside functions, since it loads numpy, which `segbench --help` can spare.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from segbench.schema.yamlfile import did_you_mean

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

if TYPE_CHECKING:
    from segbench.metrics.metric import Metric


def known_metric(name: str, facts: Sequence[str] = ()) -> str:
    """Return the name of a metric or a fact. A user's own is not looked for: records stay readable.

    Raises:
        ValueError: it is none; the sentence says what there is.
    """
    known = [*_table(), *facts]
    if name not in known and not _OWN.fullmatch(name):
        raise ValueError(
            f"no metric {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}, or your "
            "own as package.module:name"
        )
    return name


def metrics_with_classes() -> list[str]:
    """Return the names of the metrics that some of the classes may be chosen for."""
    return [name for name, metric in _table().items() if metric.takes_classes]


def needs_boundary(name: str) -> bool:
    """Return whether a metric of the table reads counts of boundaries."""
    return name in _table() and _table()[name].needs_boundary


def is_own(name: str) -> bool:
    """Return whether it is a metric of the user's own."""
    return _OWN.fullmatch(name) is not None


def in_json_schema(facts: Sequence[str] = ()) -> Callable[[dict[str, Any]], None]:
    """Return what adds the names to a field's JSON Schema."""
    own = {"type": "string", "pattern": f"^{_OWN.pattern}$"}
    return lambda schema: schema.update(anyOf=[{"enum": [*_table(), *facts]}, own])


def _table() -> "Mapping[str, Metric]":
    from segbench.metrics import METRICS

    return METRICS


MetricName = Annotated[str, AfterValidator(known_metric), Field(json_schema_extra=in_json_schema())]
