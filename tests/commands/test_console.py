"""What the terminal shows while trials run, on a screen of the usual width."""

import contextlib
import importlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from segbench.cli.console import grid_view, new_console, plain_table, status_table
from segbench.runs.status import TrialStatus


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")


def test_the_steps_and_the_time_left_of_a_running_trial_are_seen_at_80_columns(screen):
    running = TrialStatus(
        "ab12", "resnet18 fcn8s shapes seed 0", "running",
        phase="training", step=40, steps=60, eta_seconds=75.0,
    )  # fmt: skip
    screen.print(grid_view([running, running._replace(state="waiting")]))
    shown = Text.from_ansi(screen.file.getvalue()).plain
    lines = shown.splitlines()
    assert lines[0].startswith("0 of 2 trials")
    (line,) = (line for line in lines if "resnet18" in line)
    assert line.startswith("resnet18 fcn8s shapes seed 0")
    assert "training 40/60" in line
    assert "1 min 15 s left" in line
    assert max(map(len, lines)) <= 80


def _printed(*renderables) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        new_console().print(*renderables)
    return output.getvalue()


_words = st.lists(
    st.sampled_from([":", "100", "dog", "[", "]", "red", "/", "\\", "e.yaml", " ", "x", "@", "'"]),
    max_size=12,
).map("".join)


@settings(deadline=None)
@given(_words)
@example("e.yaml:100: train.lr: expected [red]more than 0[/red]")
@example(":dog:/e.yaml:1234: cuda:x:0 https://a.b/c 'word' " + 30 * "long/path/")
def test_a_message_is_printed_as_it_is(message):
    assert _printed(message) == f"{message}\n"


@settings(deadline=None)
@given(_words)
@example(":100:[bold]x[/bold]")
def test_the_cells_of_a_table_are_printed_as_they_are(word):
    status = TrialStatus("ab12", word, "failed", kind="data", message=word, log_path=word)
    assert word.strip() in _printed(plain_table(("name:dog:",), [(word,)]))
    assert "name:dog:" in _printed(plain_table(("name:dog:",), [(word,)]))
    assert f"data: {word} ({word})" in _printed(status_table([status]))


def test_the_name_of_a_progress_bar_is_printed_as_it_is(monkeypatch):
    screen = io.StringIO()
    app = importlib.import_module("segbench.cli.app")  # the package has a name `app` of its own
    console = Console(file=screen, width=120, force_terminal=True, emoji=False, markup=False)
    monkeypatch.setattr(app, "ERR", console)
    with app.progress_bars() as progress:
        progress("downloading :100:[red]a.zip", 1, 2)
    assert "downloading :100:[red]a.zip" in Text.from_ansi(screen.getvalue()).plain
