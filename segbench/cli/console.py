"""What the terminal shows while trials run, and lists of cards, as rich renderables. Prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # its files are read with numpy, which `segbench --help` does not need
    from segbench.runs.status import TrialStatus

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "waiting": "dim",
    "queued": "dim",
    "starting": "dim",
    "silent": "yellow",
    "failed": "red",
    "skipped": "dim",
}
_MOST_ROWS = 12


def grid_view(found: Sequence[TrialStatus]) -> RenderableType:
    """Return the live view: one bar for the grid, one line for each trial that runs or failed."""
    counts = Counter(status.state for status in found)
    total = len(found) - counts["skipped"]
    ended = counts["done"] + counts["failed"]
    header = Text.assemble(
        (f"{ended} of {total} trials", "bold"),
        *(
            (f"   {number} {state}", _COLOURS[state])
            for state, number in counts.items()
            if state != "done"
        ),
    )
    table = Table.grid(padding=(0, 2))
    shown = [s for s in found if s.state in {"running", "silent"}]
    shown += [s for s in found if s.state == "failed"]
    for status in shown[:_MOST_ROWS]:
        table.add_row(*_line(status))
    if len(shown) > _MOST_ROWS:
        table.add_row(f"and {len(shown) - _MOST_ROWS} more")
    bar = Table.grid()  # a bar ends without a newline; as a row it gets one
    bar.add_row(ProgressBar(total=max(total, 1), completed=ended, width=60))
    return Group(header, bar, table)


def _line(status: TrialStatus) -> tuple[RenderableType, ...]:
    colour = _COLOURS[status.state]
    if status.state == "failed":
        return (
            Text(status.label, colour),
            Text(f"failed: {status.kind}", colour),
            Text(status.message),
        )
    progress = f"{status.phase} {status.step}/{status.steps}" if status.steps else status.state
    eta = f"{_duration(status.eta_seconds)} left in this phase" if status.eta_seconds else ""
    return Text(status.label, colour), Text(progress), Text(eta, "dim")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min"
        if hours
        else f"{minutes} min {rest:02d} s"
        if minutes
        else f"{rest} s"
    )


def status_table(found: Sequence[TrialStatus]) -> Table:
    """Return every trial on a line of its own: state, progress, what it failed of, its log."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "cell", "state", "progress", "left", "about"):
        table.add_column(name, overflow="fold")
    for status in found:
        progress = f"{status.phase} {status.step}/{status.steps}" if status.steps else ""
        if progress and status.state == "waiting":
            progress = f"stopped: {progress}"
        about = status.message
        if status.state == "failed":
            about = f"{status.kind}: {status.message} ({status.log_path})"
        table.add_row(
            status.trial_id,
            Text(status.label),
            Text(status.state, _COLOURS[status.state]),
            "" if status.state == "done" else progress,
            _duration(status.eta_seconds) if status.eta_seconds else "",
            Text(about),
        )
    return table


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a borderless table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def shown_path(path: Path) -> str:
    """Return the path as people would type it here: relative where that is shorter."""
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative)


def new_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, colours of numbers, emoji codes."""
    console = Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,  # else line 100 in `e.yaml:100:` is a picture
        soft_wrap=True,
    )
    if not console.is_terminal:
        console.width = 200  # files and pipes have no edge to wrap at
    return console
