"""What the terminal shows while trials run, on a screen of the usual width."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from segbench.console import grid_view
from segbench.status import TrialStatus


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
