"""Records of options: a command takes one, the terminal knows its fields."""

from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from command_line import invoked
from typer.testing import CliRunner

from segbench.cli.flags import GridOptions
from segbench.cli.records import takes_records


@dataclass(frozen=True)
class _Colours:
    front: Annotated[str, typer.Option("--front", help="The letters.")] = "black"
    names: Annotated[list[str] | None, typer.Argument(help="Who is greeted.")] = None


@pytest.fixture
def app():
    app = typer.Typer()

    @app.command()
    @takes_records
    def greet(
        word: Annotated[str, typer.Argument()],
        times: Annotated[int, typer.Option(min=1)] = 1,
        *,
        colours: _Colours,
    ) -> None:
        """Greet."""
        typer.echo(f"{word} {colours.names} {times} {colours.front}")

    return app


def test_a_record_is_made_of_its_options_and_arguments(app):
    done = CliRunner().invoke(app, ["hello", "ada", "bo", "--front", "red", "--times", "2"])
    assert done.output == "hello ['ada', 'bo'] 2 red\n"
    assert CliRunner().invoke(app, ["hello"]).output == "hello None 1 black\n"


def test_options_of_a_record_have_their_help_and_their_errors(app):
    said = CliRunner().invoke(app, ["--help"]).output
    assert "The letters." in said
    assert "Greet." in said
    assert CliRunner().invoke(app, ["hello", "--colours", "red"]).exit_code == 2


@pytest.mark.parametrize("option", [field.name for field in fields(GridOptions)])
def test_plan_and_run_take_the_same_options(option):
    name = {"settings": "set"}.get(option, option)
    for command in ("run", "plan"):
        assert f"--{name}" in invoked(command, "--help").output
