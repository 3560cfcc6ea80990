"""Arguments and options that several commands have, with their words for `--help`."""

from pathlib import Path
from typing import Annotated

import typer

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
