"""The reference of everything that a file or the environment may say, as Markdown. Prints nothing.

`segbench schema reference` writes docs/reference.md with it; a test keeps the two equal.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segbench.errors import ExperimentError
from segbench.metrics import METRICS
from segbench.schema.base import Spec
from segbench.schema.claims import Fact
from segbench.schema.json_schema import (
    RECORDS,
    Kind,
    field_texts,
    file_schema,
    records_of,
    summary,
)
from segbench.schema.yamlfile import did_you_mean

REFERENCE = "reference"
ENVIRONMENT = {
    "SEGBENCH_DATA": "Folders in which data sets are looked for, separated by `:`; after `--data`.",
    "SEGBENCH_WEIGHTS": "Folders in which weights files are looked for; after `--weights`.",
    "SEGBENCH_CACHE": "Converted splits, downloads, cached features; `~/.cache/segbench` where unset.",
    "SEGBENCH_CARDS": "Folders with `backbones/` and `datasets/` of yours; after `--cards`.",
    "SEGBENCH_TRUSTED": "Packages of yours whose code cards and experiments may run.",
}
_HEADINGS: dict[Kind, str] = {
    "backbone": "Backbone card",
    "dataset": "Data set card",
    "experiment": "Experiment",
}


def schema_text(kind: str) -> str:
    """Return the JSON Schema of a kind of file, or the reference page.

    Raises:
        ExperimentError: there is no such kind.
    """
    if kind == REFERENCE:
        return reference_page()
    for known in RECORDS:
        if known == kind:
            return json.dumps(file_schema(known), indent=1) + "\n"
    kinds = (*RECORDS, REFERENCE)
    raise ExperimentError(
        f"no schema of {kind!r}{did_you_mean(kind, kinds)}; there are: {', '.join(kinds)}"
    )


def reference_page() -> str:
    """Return the Markdown page: every field of every record, and every variable."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield (
        "Every field of cards and experiments, and every environment variable. Written by "
        "`segbench schema reference` from the code's own descriptions; `segbench schema backbone`, "
        "`dataset` and `experiment` print JSON Schema, which editors use to complete and check "
        "(`docs/schema/`; the first line of each shipped file names it)."
    )
    told: set[type[BaseModel]] = set()
    for kind, heading in _HEADINGS.items():
        yield from ("", f"## {heading}")
        for record in records_of(RECORDS[kind]):
            if record not in told:
                told.add(record)
                yield from _record_lines(record, is_file=record is RECORDS[kind])
    yield from ("", "## Metrics", "", "Figures in [0, 1], computed in float64 from whole sums.", "")
    yield from ("| metric | what it says | `classes` | counts of boundaries |", "|---|---|---|---|")
    for name, metric in METRICS.items():
        fits = (
            "narrows it" if metric.takes_classes else "",
            "needed" if metric.needs_boundary else "",
        )
        yield f"| `{name}` | {_cell(metric.about)} | {' | '.join(fits)} |"
    facts = ", ".join(f"`{fact}`" for fact in get_args(Fact))
    yield from ("", f"A claim may ask for a fact instead: {facts}.")
    yield from ("", "## Environment", "", "| variable | what it says |", "|---|---|")
    for name, text in ENVIRONMENT.items():
        yield f"| `${name}` | {text} |"


def _record_lines(record: type[BaseModel], *, is_file: bool) -> Iterator[str]:
    if not is_file:
        yield from ("", f"### {_title(record)}")
    yield from ("", _cell(summary(record)), "")
    yield from ("| field | value | default | what it says |", "|---|---|---|---|")
    texts = field_texts(record)
    if is_file and record is not RECORDS["experiment"]:
        yield "| `base` | text | | The card whose fields hold where this one says nothing. |"
    for name, field in record.model_fields.items():
        value = "[metric](#metrics)" if name == "metric" else _cell(_type_text(field.annotation))
        yield f"| `{name}` | {value} | {_default(field)} | {_cell(texts.get(name, ''))} |"


def _title(record: type[BaseModel]) -> str:
    """Return a record's name; two records called alike are told apart by their module."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", record.__name__)
    return f"{words} ({record.__module__.rsplit('.', maxsplit=1)[-1]})"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*needed*"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), {}, ""):
        return ""
    if isinstance(value, Spec) or (isinstance(value, dict) and value):
        return "see there"
    return f"`{json.dumps(value)}`"


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


def _type_text(annotation: Any) -> str:
    """Return a type in words that a reader of YAML knows."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{_title(annotation)}](#{_anchor(annotation)})"
    if hasattr(annotation, "__metadata__"):  # Annotated: its limits are told when they are broken
        return _type_text(annotation.__origin__)
    return _several_text(get_origin(annotation), get_args(annotation))


def _several_text(origin: Any, parts: tuple[Any, ...]) -> str:
    """Return a list, a mapping, a choice of words or a choice of types."""
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return f"list of {_type_text(parts[0])}"
        return f"[{', '.join(_type_text(part) for part in parts)}]"
    if origin is dict:
        return f"{_type_text(parts[0])} -> {_type_text(parts[1])}"
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    return " or ".join(dict.fromkeys(_type_text(p) for p in parts if p is not type(None)))


def _anchor(record: type[BaseModel]) -> str:
    return re.sub(r"[^\w -]", "", _title(record).lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
