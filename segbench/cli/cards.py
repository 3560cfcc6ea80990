"""`segbench list`, `show`, `check`, `prepare`: cards and experiments, before anything runs."""

from pathlib import Path
from typing import Annotated

import typer

from segbench.cli import console
from segbench.cli.app import ERR, OUT, app, fail, progress_bars
from segbench.cli.flags import Cache, Cards, Data, Weights


@app.command("list")
def list_command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="backbones, datasets, heads or experiments.")
    ],
    cards: Cards = None,
) -> None:
    """List the cards, heads or experiments at hand."""
    from segbench.commands import listing

    table = listing.listing_of(kind, tuple(cards or ()))
    OUT.print(console.plain_table(table.headers, table.rows))
    if table.problems:
        fail("\n".join(table.problems))


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A backbone, data set or head, or an experiment file."),
    ],
    cards: Cards = None,
) -> None:
    """Show a card, a head or an experiment, as it is after `base` and defaults are filled in."""
    from segbench.commands import listing

    OUT.print(listing.description_of(name, tuple(cards or ())), end="")


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Cards and experiments (YAML).")
    ],
    cards: Cards = None,
) -> None:
    """Check cards and experiments; report all problems of all files at once."""
    from segbench.commands import listing

    found = [listing.checked(file, tuple(cards or ())) for file in files]
    for warning in (warning for each in found for warning in each.warnings):
        ERR.print(warning)
    problems = [problem for each in found for problem in each.problems]
    if problems:
        fail("\n".join(problems))
    OUT.print("the file is in order" if len(files) == 1 else f"{len(files)} files are in order")


@app.command()
def prepare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Data sets or backbones (for their weights), or experiment files.",
        ),
    ],
    data: Data = None,
    weights: Weights = None,
    cache: Cache = None,
    cards: Cards = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Convert what is here; download nothing.")
    ] = False,
) -> None:
    """Download, verify, unpack and convert data sets, and fetch weights, once."""
    from segbench.commands import listing
    from segbench.schema.machine import Machine

    machine = Machine.from_environment(data=data or (), weights=weights or (), cache=cache)
    with progress_bars() as progress:
        for name, summary in listing.prepare_all(
            names,
            machine,
            cards=tuple(cards or ()),
            download=not offline,
            progress=progress,
        ):
            OUT.print(f"{name}: {summary}")


@app.command("schema")
def schema_command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="backbone, dataset, experiment, or reference.")
    ],
) -> None:
    """Print the JSON Schema of a kind of file, for editors; or the reference of all fields."""
    from segbench.commands.reference import schema_text

    typer.echo(schema_text(kind), nl=False)


@app.command("new")
def new_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="backbone.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="timm:NAME or torchvision:NAME.")],
    cards: Annotated[
        Path, typer.Option("--cards", metavar="DIR", help="The folder above `backbones/`.")
    ] = Path("my_cards"),
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub: leave timm's weights out.")
    ] = False,
) -> None:
    """Write the card of a network that timm or torchvision names."""
    from segbench.commands.new_card import new_card

    path = new_card(kind, name, cards, with_weights=not offline)
    OUT.print(f"written: {path}")
