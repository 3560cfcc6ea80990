"""Arguments and options that several commands have, with their words for `--help`, and records of them.

A record is a parameter of a command under `takes_records`; its fields are the command's options.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segbench.schema.launching import LAUNCHERS

if TYPE_CHECKING:  # numpy is loaded by what they import, and `segbench --help` needs none
    from segbench.commands.run import Flags
    from segbench.schema.machine import Machine

File = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file (YAML).")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as results/quickstart.")
]
Trial = Annotated[str, typer.Argument(metavar="TRIAL", help="The first digits of a trial's id.")]
Cards = Annotated[
    list[Path] | None,
    typer.Option(
        "--cards",
        metavar="DIR",
        help="A folder with backbones/ or datasets/ that is read before the built-in cards. Repeatable.",
    ),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data", metavar="DIR", help="Where data sets lie (else $SEGBENCH_DATA). Repeatable."
    ),
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        metavar="DIR",
        help="Where weights files lie (else $SEGBENCH_WEIGHTS). Repeatable.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Arrow files, downloads, features (else $SEGBENCH_CACHE, ~/.cache/segbench).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the experiment, e.g. train.batch_size=4 or sweep.head=[fcn8s]. Repeatable.",
    ),
]
ProtocolSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the protocol, e.g. flip=true. Repeatable."
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME", help="The data set that was predicted."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="AXIS=VALUE",
        help="Take the matching cells alone, e.g. backbone=vgg16. Repeatable.",
    ),
]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="The run goes to DIR/<experiment>.")
]
Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A trial's folder, or one that segbench export wrote."),
]
OtherCode = Annotated[
    bool,
    typer.Option(
        "--other-code", help="Go on where your own network's code has changed since the training."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="label|index|FILE",
        help="How values read: as the data set's labels, as indices of its classes, or by a file with "
        "lines `raw value: class`. Else what segbench.json in the folder says, or label.",
    ),
]
Mapping = Annotated[
    Path | None, typer.Option("--mapping", metavar="FILE", help="The same as --encoding FILE.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")]


@dataclass(frozen=True)
class Places:
    """Where data sets and cards lie."""

    data: Data = None
    cache: Cache = None
    cards: Cards = None

    def machine(self, **given: Any) -> "Machine":
        """Return the machine with these folders, and with the user's code beside these cards.

        given: fields of `Machine`.
        """
        from segbench.schema.catalog import Catalog
        from segbench.schema.machine import Machine

        folders = Catalog.on_path(tuple(self.cards or ())).code_folders
        return Machine.from_environment(
            data=self.data or (), cache=self.cache, code_folders=folders, **given
        )


@dataclass(frozen=True)
class Computer(Places):
    """Where data sets and cards lie, and what computes."""

    device: Device = "auto"
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; as many processes for a CRF.")
    ] = 1

    def machine(self, **given: Any) -> "Machine":
        """Return the machine, see `Places`, with its device and its threads."""
        return super().machine(device=self.device, threads=self.threads, **given)


@dataclass(frozen=True)
class GridOptions:
    """What `run` and `plan` take: which cells of the grid, with which settings, where."""

    data: Data = None
    weights: Weights = None
    cache: Cache = None
    cards: Cards = None
    settings: Settings = None
    only: Only = None
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="N seeds: the first N, or more than the file says."),
    ] = None
    device: Device = "auto"
    launcher: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(LAUNCHERS)} or your own, module:name (else the file's launch.launcher)."
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time on this machine.")
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="The Ray to join, or `auto` (else one is started here)."
        ),
    ] = None
    results: Results = Path("results")
    search: Annotated[
        bool,
        typer.Option("--search", help="Take the file's `search:`, into DIR/<experiment>-search."),
    ] = False
    best: Annotated[
        bool, typer.Option("--best", help="With the settings that were best in that search.")
    ] = False
    settle: Annotated[
        bool,
        typer.Option(
            "--settle",
            help="Judge the claims up to three times, each at a third of 5 %; in between add seeds "
            "where one is undecided.",
        ),
    ] = False

    def flags(self) -> "Flags":
        """Return what the work behind the command takes."""
        from segbench.commands.run import Flags

        return Flags(
            cards=tuple(self.cards or ()),
            settings=(*(self.settings or ()), *self._launch_settings()),
            only=tuple(self.only or ()),
            seeds=self.seeds,
            data=tuple(self.data or ()),
            weights=tuple(self.weights or ()),
            cache=self.cache,
            device=self.device,
            results=self.results,
            search=self.search,
            best=self.best,
            settle=self.settle,
        )

    def _launch_settings(self) -> list[str]:
        """Return the settings that the flags stand for; an address names a Ray, unless told."""
        launcher = self.launcher or ("ray" if self.address is not None else None)
        given = {"launcher": launcher, "workers": self.workers, "address": self.address}
        return [f"launch.{name}={value}" for name, value in given.items() if value is not None]
