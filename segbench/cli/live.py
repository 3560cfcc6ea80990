"""Start a run's work and show how it goes: a live view on a terminal, a line for each event elsewhere."""

from collections import Counter
from typing import TYPE_CHECKING

from segbench.cli import console
from segbench.cli.app import OUT
from segbench.errors import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from segbench.commands.run import PreparedRun
    from segbench.launch.base import Event
    from segbench.runs.record import RunRecord
    from segbench.schema.trial import Trial


def start_and_show(prepared: "PreparedRun", record: "RunRecord", left: dict[str, "Trial"]) -> None:
    """Hand the trials to the launcher; return when it does, which is at once on a cluster."""
    if OUT.is_terminal and prepared.launcher.place != "process":
        _with_a_view(prepared, record, left)
    else:  # trials of this process write on the terminal themselves
        _with_lines(prepared, left)


def _labels(prepared: "PreparedRun") -> dict[str, str]:
    from segbench.runs.status import label

    cells = prepared.asked.cells
    return {cell.trial_id: label(cell.axes, cell.seed) for cell in cells if cell.trial}


def _with_lines(prepared: "PreparedRun", left: dict[str, "Trial"]) -> None:
    from segbench.commands.run import start

    labels = _labels(prepared)
    ended: Counter[str] = Counter()
    submitted: Counter[str] = Counter()

    def say(event: "Event") -> None:
        ended[event.kind] += 1
        if event.kind == "submitted":
            submitted[event.message] += 1
            return
        progress = f"[{ended['done'] + ended['failed']}/{len(left)}]"
        OUT.print(f"{progress} {event.kind}: {labels[event.trial_id]} {event.message}".rstrip())

    try:
        start(prepared, left, say)
    finally:
        for job, number in submitted.items():
            OUT.print(f"submitted: {job} ({counted(number, 'trial')})")


def _with_a_view(prepared: "PreparedRun", record: "RunRecord", left: dict[str, "Trial"]) -> None:
    from rich.live import Live

    from segbench.commands.run import start
    from segbench.runs import status

    labels = _labels(prepared)
    notes: list[str] = []

    class View:
        def __rich__(self) -> "RenderableType":
            return console.grid_view(status.statuses(prepared.run_folder, record))

    def keep(event: "Event") -> None:
        if event.kind == "done" and event.message:
            notes.append(f"{labels[event.trial_id]}: {event.message}")

    try:
        with Live(View(), console=OUT, refresh_per_second=2, transient=True):
            start(prepared, left, keep)
    finally:
        for note in notes:
            OUT.print(note)
