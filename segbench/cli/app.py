"""The application that commands join: its errors, its exit codes, its two consoles.

Exit codes: 0 well, 1 trials failed, 2 the user's mistake, 130 interrupted with ctrl-C.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from segbench.cli import console
from segbench.errors import SegbenchError

OUT = console.new_console()
ERR = console.new_console(stderr=True)
_ORDER = (
    *("run", "time", "report", "methods", "plot", "serve", "bundle", "import"),
    *("plan", "status", "watch", "cancel", "logs"),
    *("list", "show", "check", "prepare", "schema"),
    *("evaluate", "compare", "crf-search", "export", "predict"),
)  # of `segbench --help`


def fail(message: str) -> NoReturn:
    """Say what the user has to mend, and leave with exit code 2."""
    ERR.print(message)
    raise typer.Exit(2)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function (what, done, of) that moves a bar for each `what` on a terminal.

    What begins with `downloading` counts bytes.
    """
    from rich.filesize import decimal
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    def amount(what: str, number: int) -> str:
        return decimal(number) if what.startswith("downloading") else str(number)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def moved(what: str, done: int, of: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, amount="")
            limit = "" if of is None else f"/{amount(what, of)}"
            bars.update(
                tasks[what], completed=done, total=of, amount=f"{amount(what, done)}{limit}"
            )

        yield moved


class _Group(TyperGroup):
    """Turns our errors into one message without a traceback, exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SegbenchError as error:
            fail(str(error))
        except KeyboardInterrupt:
            ERR.print("Interrupted. What was done is kept; the same command goes on from there.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    name="segbench",
    help="Benchmark semantic segmentation with answers you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    if version:
        from segbench.code.version import code_version

        OUT.print(code_version())
        raise typer.Exit
