"""JSON Schema of the files that a user writes, so that an editor completes and checks them.

Made from the records, whose docstrings describe their fields. A schema knows the form of a file alone:
what depends on other files (names of cards, cells of the sweep) is checked by `segbench check`.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from segbench.schema.base import Spec
from segbench.schema.cards import BackboneCard, DatasetCard
from segbench.schema.experiment import Experiment

Kind = Literal["backbone", "dataset", "experiment"]
RECORDS: dict[Kind, type[Spec]] = {
    "backbone": BackboneCard,
    "dataset": DatasetCard,
    "experiment": Experiment,
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}


def file_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of a card's or an experiment's file."""
    schema = RECORDS[kind].model_json_schema(mode="validation")
    parts = {"": schema, **schema.get("$defs", {})}
    for record in records_of(RECORDS[kind]):
        part = parts["" if record is RECORDS[kind] else record.__name__]
        part.pop("description", None)
        part["description"] = summary(record)
        for name, text in field_texts(record).items():
            if name in part.get("properties", {}):
                part["properties"][name]["description"] = text
    if kind == "experiment":
        _let_names_stand_outside(schema, parts)
    else:
        _let_a_base_fill_in(schema)
    if kind == "backbone":
        _let_weights_give_the_input(schema)
        # `torchvision:NAME` for one entry or for all of them
        weights = schema["properties"]["weights"]
        schema["properties"]["weights"] = {
            "description": weights.get("description", ""),
            "anyOf": [
                _TEXT,
                {**weights, "additionalProperties": {"anyOf": [_TEXT, _ref("Weights")]}},
            ],
        }
    return {"$schema": DIALECT, **schema}


def _let_names_stand_outside(schema: dict[str, Any], parts: dict[str, Any]) -> None:
    """A file's stem, and the key under which a head or protocol stands, are their names."""
    for part in (schema, parts["Head"], parts["Protocol"]):
        part["required"] = [name for name in part.get("required", ()) if name != "name"]
    named = parts["Protocol"]["properties"]["dataset"]
    parts["Protocol"]["properties"]["dataset"] = {
        **_TEXT, "description": named.get("description", "")
    }  # fmt: skip


def _let_a_base_fill_in(schema: dict[str, Any]) -> None:
    schema["properties"]["base"] = {
        **_TEXT, "description": "The card whose fields hold where this one says nothing."
    }  # fmt: skip
    schema["anyOf"] = [{"required": ["base"]}, {"required": schema.pop("required")}]


def _let_weights_give_the_input(schema: dict[str, Any]) -> None:
    """A card without `input` has that of its torchvision weights."""
    needed = schema["anyOf"][-1]["required"]
    others = [name for name in needed if name != "input"]
    schema["anyOf"].append({"required": [*others, "weights"]})


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def records_of(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a record and all records inside it, once each, from outside to inside."""
    seen: set[type[BaseModel]] = set()
    waiting = [record]
    while waiting:
        one = waiting.pop(0)
        if one not in seen:
            seen.add(one)
            yield one
            waiting += [
                inner
                for field in one.model_fields.values()
                for inner in _records_in(field.annotation)
            ]


def _records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _records_in(inner)


def summary(record: type[BaseModel]) -> str:
    """Return the first paragraph of a record's docstring as one line."""
    paragraph = (record.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def field_texts(record: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a record and its bases say of each field.

    They say it as `name: text.` or `a and b: text.`, each at the beginning of a sentence.
    """
    names = "|".join(sorted(map(re.escape, record.model_fields), key=len, reverse=True))
    if not names:
        return {}
    group = rf"`?(?:{names})`?(?:(?:, | and |, and )`?(?:{names})`?)*"
    texts: dict[str, str] = {}
    for one in record.__mro__:
        text = " ".join((one.__doc__ or "").split()) if issubclass(one, Spec) else ""
        found = list(re.finditer(rf"(?:^|(?<=[.;)] ))({group}): ", text))
        ends = [match.start() for match in found[1:]] + [len(text)]
        for match, end in zip(found, ends, strict=False):
            for name in re.findall(names, match[1]):
                texts.setdefault(name, text[match.end() : end].strip())
    return texts
