"""The reference page and the JSON Schema of files say what the code says."""

import json
from pathlib import Path

import pytest
from command_line import invoked
from jsonschema import Draft202012Validator

from segbench.commands.reference import ENVIRONMENT, schema_text
from segbench.errors import CardError
from segbench.schema.json_schema import RECORDS, field_texts, file_schema, records_of
from segbench.schema.yamlfile import read_document

ROOT = Path(__file__).parents[2]
FOLDERS = {"backbone": "backbones", "dataset": "datasets", "experiment": "experiments"}
FILES = [(kind, path) for kind in FOLDERS for path in sorted((ROOT / FOLDERS[kind]).glob("*.yaml"))]


def as_json(value):
    """YAML's lists are tuples here, and the schema speaks of JSON's."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_is_described(kind):
    for record in records_of(RECORDS[kind]):
        assert not set(record.model_fields) - set(field_texts(record)), record


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_shipped_file_keeps_its_schema_and_names_it(kind, path):
    validator = Draft202012Validator(file_schema(kind))
    data = as_json(read_document(path, CardError).data)
    assert [error.message for error in validator.iter_errors(data)] == []
    first_line = path.read_text().splitlines()[0]
    assert first_line == f"# yaml-language-server: $schema=../docs/schema/{kind}.json"


def test_one_value_stands_for_a_list_of_one():
    validator = Draft202012Validator(file_schema("experiment"))
    data = as_json(read_document(ROOT / "experiments" / "quickstart.yaml", CardError).data)
    one = {**data["sweep"], "backbone": "resnet18"}
    assert validator.is_valid({**data, "sweep": one})


@pytest.mark.parametrize("kind", RECORDS)
def test_a_wrong_key_and_a_wrong_value_break_the_schema(kind):
    validator = Draft202012Validator(file_schema(kind))
    path = next(path for one, path in FILES if one == kind and "base" not in path.read_text())
    data = as_json(read_document(path, CardError).data)
    assert not validator.is_valid({**data, "no_such_key": 1})
    assert not validator.is_valid({**data, "title" if kind != "experiment" else "question": 3})


@pytest.mark.parametrize("kind", [*RECORDS, "reference"])
def test_the_committed_files_are_what_the_command_prints(kind):
    name = "reference.md" if kind == "reference" else f"schema/{kind}.json"
    assert (ROOT / "docs" / name).read_text() == schema_text(kind), "run `make reference`"


def test_the_reference_names_every_variable_that_the_code_reads():
    page = schema_text("reference")
    code = "".join(path.read_text() for path in (ROOT / "segbench").rglob("*.py"))
    for name in ENVIRONMENT:
        assert f"`${name}`" in page
        assert name in code.replace((ROOT / "segbench/commands/reference.py").read_text(), "")


def test_the_command_prints_json_and_suggests_a_kind():
    assert json.loads(invoked("schema", "dataset").stdout)["properties"]["classes"]
    wrong = invoked("schema", "datasets")
    assert wrong.exit_code == 2
    assert "did you mean 'dataset'" in wrong.output
