"""`segbench time`: how long a run's models take, measured one after another."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from segbench.cli import console
from segbench.cli.app import OUT, app, fail, progress_bars
from segbench.cli.flags import Cards, Device, Only, RunFolder
from segbench.cli.pages import show_report
from segbench.cli.records import takes_records

if TYPE_CHECKING:
    from segbench.work.time_cells import TimeFlags


@dataclass(frozen=True)
class TimeOptions:
    """What `time` measures, and how often."""

    only: Only = None
    training: Annotated[
        bool, typer.Option("--training", help="Measure an optimizer step too, which takes longer.")
    ] = False
    size: Annotated[
        str, typer.Option(metavar="HxW", help="The image that is labelled, in pixels.")
    ] = "500x500"
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds over all models; at least one for each seed.")
    ] = 5
    passes: Annotated[int, typer.Option(min=1, help="Images in each round.")] = 10

    def flags(self) -> "TimeFlags":
        """Return what the work behind the command takes."""
        from segbench.work.time_cells import TimeFlags

        sides = re.fullmatch(r"([0-9]+)x([0-9]+)", self.size)
        if sides is None or not (int(sides[1]) and int(sides[2])):
            fail(f"--size {self.size}: expected height and width in pixels, such as 500x500")
        return TimeFlags(
            only=tuple(self.only or ()),
            rounds=self.rounds,
            passes=self.passes,
            size=(int(sides[1]), int(sides[2])),
            with_training=self.training,
        )


@app.command("time")
@takes_records
def time_command(
    run: RunFolder,
    measured: TimeOptions,
    cards: Cards = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure how long a run's models take, one after another; nothing else should run meanwhile.

    Times that trials measure beside each other are no costs; only these enter the page's costs and
    the claims.
    """
    from segbench.schema.catalog import Catalog
    from segbench.schema.machine import Machine
    from segbench.work.time_cells import time_run

    asked = measured.flags()
    machine = Machine.from_environment(
        device=device, threads=threads,
        code_folders=Catalog.on_path(tuple(cards or ())).code_folders,
    )  # fmt: skip
    with progress_bars() as progress:
        found = time_run(run, asked, machine, lambda done, of: progress("measuring", done, of))
    OUT.print(f"measured {found.timings.described()}")
    rows = [
        (
            " ".join(filter(None, cell.axes.values())),
            f"{cell.medians()['forward_ms']:.2f}",
            "{:.2f} to {:.2f}".format(*cell.quartiles_ms),
            f"{cell.medians()['step_ms']:.2f}" if cell.step_ms else "-",
            cell.weights,
        )
        for cell in found.timings.cells
    ]
    headers = ("model", "forward, ms", "half of the passes", "training step, ms", "weights")
    OUT.print(console.plain_table(headers, rows))
    for note in found.notes:
        OUT.print(note)
    show_report(run)
