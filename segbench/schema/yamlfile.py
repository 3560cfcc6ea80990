"""Read one YAML file into one frozen record; report all its problems at once, each with its line.

Stricter than PyYAML: two equal keys are an error, `1e-3` is a number, only true and false are
booleans, nothing but plain data can be written. Knows nothing of any particular record.
"""

import difflib
import functools
import logging
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from segbench.errors import SegbenchError

AnySpec = TypeVar("AnySpec", bound=BaseModel)
Place = tuple[str | int, ...]
LOG = logging.getLogger(__name__)

_MAX_BYTES = 8 * 1024 * 1024  # a card of 1,000 classes has 100 kB; more is not a card
_MAX_DEPTH = 32


class Document(NamedTuple):
    """A YAML file as plain data, with the line of every key and item.

    settings: what changed the data since it was read, `key=value`, by place.
    """

    path: str
    data: Any
    lines: dict[Place, int]
    settings: Mapping[Place, str] = types.MappingProxyType({})

    def where(self, place: Place) -> str:
        """Return `file:line: key` for the nearest place that the file has a line for.

        A place that a setting has changed is the setting's: `--set key=value: key`.
        """
        for end in range(len(place), 0, -1):
            if place[:end] in self.settings:
                return f"--set {self.settings[place[:end]]}: {dotted(place)}"
        key = dotted(place)
        at = f"{self.path}:{self.line(place)}"
        return f"{at}: {key}" if key else at

    def line(self, place: Place) -> int:
        """Return the line of the nearest place that the file has a line for."""
        ends = range(len(place), -1, -1)
        return next((self.lines[place[:end]] for end in ends if place[:end] in self.lines), 1)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and numbers."""


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        list("-+0123456789."),
    ),
):
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
_StrictLoader.add_constructor(  # YAML 1.1 would read 012 as octal
    "tag:yaml.org,2002:int", lambda _, node: int(node.value)
)


def read_document(path: Path, error_type: type[SegbenchError]) -> Document:
    """Return the file as plain data with line numbers.

    Raises:
        SegbenchError: of `error_type`: unreadable, too large, not YAML, or equal keys; all at once.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_BYTES:
            raise error_type(f"{path}: is larger than {_MAX_BYTES} bytes; is it a YAML card?")
        text = raw.decode()
    except OSError as error:
        raise error_type(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise error_type(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    return parse_document(text, str(path), error_type)


def parse_document(text: str, name: str, error_type: type[SegbenchError]) -> Document:
    """Return `text`, called `name` in messages, as plain data with line numbers."""
    problems: list[str] = []
    lines: dict[Place, int] = {}
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        data = None if node is None else _construct(loader, node, (), lines, problems, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise error_type(f"{name}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise error_type(f"{name}:1: not valid YAML: {error}") from error
    if problems:
        raise error_type("\n".join(problems))
    return Document(name, data, lines)


def _construct(
    loader: _StrictLoader,
    node: yaml.Node,
    place: Place,
    lines: dict[Place, int],
    problems: list[str],
    name: str,
) -> Any:
    if len(place) > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
    if len(lines) > 200_000:  # aliases that multiply: a few hundred bytes can unfold to gigabytes
        raise ValueError("unfolds to more than 200,000 values")
    lines.setdefault(place, node.start_mark.line + 1)
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ValueError(
            f"line {node.start_mark.line + 1}: only plain data may stand here, not {node.tag}"
        )
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = (
                loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            )
            if not isinstance(key, str | int):
                problems.append(f"{name}:{line}: a key must be a word or a whole number")
                continue
            key = str(key)
            if key in mapping:
                problems.append(f"{name}:{line}: {dotted((*place, key))}: this key stands twice")
                continue
            lines[(*place, key)] = line
            mapping[key] = _construct(loader, value_node, (*place, key), lines, problems, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return tuple(
            _construct(loader, item, (*place, index), lines, problems, name)
            for index, item in enumerate(node.value)
        )
    return loader.construct_object(node)


def parse_value(text: str, name: str) -> Any:
    """Return the value that `text` has in a YAML file (`3`, `1e-3`, `[a, b]`, `true`, `word`).

    name: what it is called where it is not valid.
    """
    return parse_document(text, name, SegbenchError).data


def read(path: Path, spec: type[AnySpec], error_type: type[SegbenchError]) -> AnySpec:
    """Return the file as a `spec`.

    Raises:
        SegbenchError: of `error_type`, one line for each problem: `file:line: key: what`.
    """
    return validate(read_document(path, error_type), spec, error_type)


def validate(document: Document, spec: type[AnySpec], error_type: type[SegbenchError]) -> AnySpec:
    """Return the document as a `spec`; see `read`."""
    if not isinstance(document.data, Mapping):
        raise error_type(
            f"{document.path}:1: expected `key: value` lines, but got {_shown(document.data)}"
        )
    try:
        record = spec.model_validate(document.data)
    except ValidationError as error:
        problems = problems_of(error, spec, document)
        problems += _problems_without_unknown_keys(error, spec, document)
        raise error_type("\n".join(dict.fromkeys(problems))) from error
    for place, new in _old_keys(record, document.data):
        _warn_of_old_key(document.where(place), dotted((*place[:-1], new)))
    return record


def key_now(key: str, spec: type[BaseModel], where: str) -> str:
    """Return a dotted key of a `spec` by the names that its fields have now; say so if one is older."""
    steps = key.split(".")
    found: list[str] = []
    owner: object = spec
    for step in steps:
        fields = (
            owner.model_fields if isinstance(owner, type) and issubclass(owner, BaseModel) else {}
        )
        name = next((name for name, field in fields.items() if step in _old_names(field)), step)
        found.append(name)
        owner = fields[name].annotation if name in fields else None
    now = ".".join(found)
    if now != key:
        _warn_of_old_key(where, now)
    return now


def _old_names(field: FieldInfo) -> list[str]:
    names = field.validation_alias
    return list(map(str, names.choices[1:])) if isinstance(names, AliasChoices) else []


def _warn_of_old_key(where: str, now: str) -> None:
    _warn_once(f"{where} is called {now} now; the old name is read until the next release")


def _old_keys(record: BaseModel, data: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield the place of each key that stands under an older name, and its name now."""
    for name, field in type(record).model_fields.items():
        yield from (((old,), name) for old in _old_names(field) if old in data)
        value = getattr(record, name)
        if isinstance(value, BaseModel) and isinstance(data.get(name), Mapping):
            for place, new in _old_keys(value, data[name]):
                yield (name, *place), new


@functools.cache
def _warn_once(sentence: str) -> None:
    LOG.warning(sentence)


def _problems_without_unknown_keys(
    error: ValidationError, spec: type[BaseModel], document: Document
) -> list[str]:
    """Return what is wrong besides keys that nobody knows.

    A record with such a key is left before the rules between its fields are looked at.
    """
    unknown = [
        _place_in_file(detail["loc"], document)
        for detail in error.errors(include_url=False)
        if detail["type"] == "extra_forbidden"
    ]
    if not unknown:
        return []
    try:
        spec.model_validate(_without(document.data, unknown))
    except ValidationError as rest:
        return problems_of(rest, spec, document)
    return []


def _without(value: Any, places: list[Place]) -> Any:
    """Return plain data without what stands at these places."""
    below = [(place[0], place[1:]) for place in places]

    def rest(step: str | int, item: Any) -> Any:
        return _without(item, [place for first, place in below if first == step])

    if isinstance(value, Mapping):
        gone = {step for step, place in below if not place}
        return {key: rest(key, item) for key, item in value.items() if key not in gone}
    if isinstance(value, tuple | list):
        return tuple(rest(index, item) for index, item in enumerate(value))
    return value


def problems_of(error: ValidationError, spec: type[BaseModel], document: Document) -> list[str]:
    """Return one sentence for each problem that pydantic found, in the order of the lines."""
    details = error.errors(include_url=False)
    places = [_place_in_file(detail["loc"], document) for detail in details]
    found = []
    for detail, place in zip(details, places, strict=True):
        if not _only_follows(detail, place, list(zip(details, places, strict=True))):
            found.append(
                (document.line(place), f"{document.where(place)}: {_sentence(detail, spec)}")
            )
    return [sentence for _, sentence in sorted(dict.fromkeys(found), key=lambda pair: pair[0])]


_IN_YAML = {  # of types that the file's author does not know by pydantic's names
    "tuple_type": "should be a list",
    "dict_type": "should be `key: value` lines",
    "model_type": "should be `key: value` lines",
}
_WRONG_TYPES = ("_type", "_parsing", "literal_error")


def _only_follows(
    detail: ErrorDetails, place: Place, every: list[tuple[ErrorDetails, Place]]
) -> bool:
    """Return whether the problem says only that another one was found, below it or beside it.

    Broken items do not count, so their list is "too short". Of a union's members the one whose type
    was right tells what is wrong with the value; the others tell that it is not theirs.
    """
    if detail["type"] == "too_short":
        return any(len(other) > len(place) and other[: len(place)] == place for _, other in every)
    if detail["type"].endswith(_WRONG_TYPES):
        if any(len(other) > len(place) and other[: len(place)] == place for _, other in every):
            return True  # of a member whose type was right the items are wrong
        beside = [
            one["type"]
            for one, other in every
            if other == place and len(one["loc"]) == len(detail["loc"])
        ]
        if detail["type"] == "tuple_type" and len(beside) > 1:
            return True  # `three` is no number, which says more than that it is no list either
        return not all(kind.endswith(_WRONG_TYPES) for kind in beside)
    return False


def _place_in_file(loc: Place, document: Document) -> Place:
    """Return `loc` without the names of union members, which pydantic adds and no file has."""
    place: Place = ()
    value: Any = document.data
    for index, step in enumerate(loc):
        last = index == len(loc) - 1
        inside = _holds(value, step)
        if not inside and isinstance(value, Mapping) and step == value.get("kind"):
            continue  # the tag that says which of several records this is
        if inside or (last and isinstance(step, str) and _is_name(step)):
            place = (*place, step)
            value = value[step] if inside else None
    return place


def _holds(value: Any, step: str | int) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, tuple | list) and isinstance(step, int) and step < len(value)


def _is_name(step: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9_]*", step) is not None and step not in {
        "str",
        "int",
        "float",
        "bool",
    }


def _sentence(detail: ErrorDetails, spec: type[BaseModel]) -> str:
    kind = detail["type"]
    if kind == "missing":
        return "is missing" if isinstance(detail["loc"][-1], str) else "has too few values"
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(spec, detail["loc"][:-1]))
        return f"unknown key{did_you_mean(str(detail['loc'][-1]), allowed)}; allowed: {', '.join(allowed)}"
    if kind == "literal_error":
        expected = detail.get("ctx", {}).get("expected", "")
        words = re.findall(r"'([^']*)'", expected)
        return f"expected {expected}, but got {_shown(detail['input'])}{did_you_mean(str(detail['input']), words)}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _about_tag(detail)
    if kind in {"value_error", "assertion_error"}:
        return str(detail.get("ctx", {}).get("error", detail["msg"]))
    message = _IN_YAML.get(kind, detail["msg"][:1].lower() + detail["msg"][1:])
    return f"{message.replace('input should', 'should')}, but got {_shown(detail['input'])}"


def _about_tag(detail: ErrorDetails) -> str:
    """Return what is wrong with the key that says which of several records this is."""
    context = detail.get("ctx", {})
    key = context.get("discriminator", "").strip("'")
    if detail["type"] == "union_tag_not_found":
        return f"{key} is missing"
    tag, expected = context.get("tag", ""), context.get("expected_tags", "")
    near = did_you_mean(tag, re.findall(r"'([^']*)'", expected))
    return f"expected {key} to be one of {expected}, but got {tag!r}{near}"


def _fields_at(spec: Any, loc: Iterable[str | int]) -> set[str]:
    """Return the keys that the record at `loc` inside `spec` may have."""
    current = [spec]
    for step in loc:
        following: list[Any] = []
        for kind in current:
            if isinstance(kind, type) and issubclass(kind, BaseModel) and step in kind.model_fields:
                following += _members(kind.model_fields[str(step)].annotation)
            elif typing.get_origin(kind) in {tuple, list, dict}:
                following += [m for a in typing.get_args(kind) if a is not ... for m in _members(a)]
        current = following or current  # a step that names a union member leads nowhere
    return {
        field.alias or name
        for kind in current
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items()
    }


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        return [member for item in typing.get_args(annotation) for member in _members(item)]
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return [annotation]


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of the allowed words, or nothing."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def dotted(place: Iterable[str | int]) -> str:
    """Return a place as people write it: `train.stages[0].steps`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
