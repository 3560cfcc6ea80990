"""A trunk's trained parameters: which file, and is it the right one. No torch here.

A publisher's few digits say less than a whole sha256, so the whole one of the first file that had
them is kept beside it, as `NAME.sha256`, and asked for from then on. Knows nothing of what is in a
file of weights.
"""

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segbench.errors import DataError, ResultError
from segbench.files import sha256_of_file, write_text
from segbench.schema.cards import BackboneCard, Weights
from segbench.schema.heads import Model, weights_name
from segbench.schema.hub import PREFIX as HUB
from segbench.schema.hub import hub_file
from segbench.schema.machine import Machine


def weights_named(backbone: BackboneCard, model: Model) -> Weights | None:
    """Return the weights that `model.weights` chooses on the card; None are random ones.

    Raises:
        CardError: the card has no weights of that name.
    """
    name = weights_name(backbone, model)
    return None if name is None else backbone.weights[name]


class WeightsFile(NamedTuple):
    """A verified file of weights, and its whole sha256."""

    path: Path
    sha256: str


def backbone_weights(backbone: BackboneCard, model: Model, machine: Machine) -> WeightsFile | None:
    """Return the verified file with the weights that `model.weights` chooses; None for random ones.

    Raises:
        CardError: the card has no such weights.
        DataError: the file is not here, is not the one that the card means, or is another one than
            was here first.
    """
    weights = weights_named(backbone, model)
    if weights is None:
        return None
    path = weights_file(weights, machine)
    if path is None:
        raise DataError(_missing(backbone, model, weights, machine))
    actual = sha256_of_file(path)
    if not actual.startswith(weights.sha256):
        mend = (
            "put the right one there; no address is known to fetch it from"
            if weights.url is None
            else f"delete it and run {_fetching(backbone, weights_name(backbone, model))}"
        )
        raise DataError(
            f"{path}: is not the file that the card {backbone.name} means (its sha256 begins "
            f"{actual[:12]}, expected {weights.sha256[:12]}); {mend}"
        )
    if len(weights.sha256) < len(actual):
        _compare_with_first(path, actual, machine)
    return WeightsFile(path, actual)


def backbone_weights_path(backbone: BackboneCard, model: Model, machine: Machine) -> Path | None:
    """Return the path of `backbone_weights`; raises as it does."""
    found = backbone_weights(backbone, model, machine)
    return None if found is None else found.path


def _compare_with_first(path: Path, actual: str, machine: Machine) -> None:
    """Compare the whole sha256 with that of the first file of this name; keep it if it is the first.

    Raises:
        DataError: they differ, or what is kept is no sha256.
    """
    records = _records(path, machine)
    kept = [record for record in records if record.is_file()]
    for record in kept:
        first = _first_sha256(record)
        if first != actual:
            raise DataError(
                f"{path}: is another file than was here first: its sha256 is {actual}, but {record} "
                f"holds {first or 'none'}; put the first file back, or delete {record} to take this "
                "one"
            )
    for record in () if kept else records:  # a folder of others may take no files
        with contextlib.suppress(ResultError):
            write_text(record, f"{actual}  {path.name}\n")  # as sha256sum writes it
            return


def sha256_here(weights: Weights, machine: Machine) -> str | None:
    """Return the whole sha256 of the file that is here; None where there is none."""
    path = weights_file(weights, machine)
    if path is None:
        return None
    kept = (_first_sha256(record) for record in _records(path, machine) if record.is_file())
    return next(kept, None) or sha256_of_file(path)


def _records(path: Path, machine: Machine) -> list[Path]:
    """Return where a file's sha256 may be kept: beside it, else in the cache."""
    cached = Path(machine.cache) / "weights" / path.name
    return [place.with_name(f"{place.name}.sha256") for place in dict.fromkeys((path, cached))]


def _first_sha256(record: Path) -> str | None:
    text = record.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"[0-9a-f]{64}(?=\s|$)", text)
    return None if found is None else found[0]


def missing_weights(backbones: Iterable[tuple[BackboneCard, Model]], machine: Machine) -> list[str]:
    """Return one sentence for each weights file that is needed and not here, or is another one.

    A file that several ask for is read once; half a gigabyte takes a second or two.
    """
    sentences, right = [], set()
    for backbone, model in backbones:
        weights = weights_named(backbone, model)
        if weights is None or weights in right:
            continue
        try:
            backbone_weights(backbone, model, machine)
            right.add(weights)
        except DataError as error:
            sentences.append(str(error))
    return list(dict.fromkeys(sentences))


def fetch_weights(
    backbone: BackboneCard,
    machine: Machine,
    *,
    name: str = "default",
    may_download: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path | None:
    """Download a card's weights into the cache unless they are here; return the verified file.

    Returns:
        None where the card has no weights to fetch.

    Raises:
        DataError: the download failed, or the file is not here and cannot, or may not, be fetched.
    """
    model = Model(weights=name)
    weights = weights_named(backbone, model)
    is_here = weights is None or weights_file(weights, machine) is not None
    if weights is not None and weights.url is not None and may_download and not is_here:
        if weights.url.startswith(HUB):
            from segbench.fetch.hub import fetch_from_hub

            fetch_from_hub(*hub_file(weights.url), _cached(weights, machine))
        else:
            from segbench.fetch.download import Expected, download

            download(
                weights.url, _cached(weights, machine), Expected(weights.sha256), progress=progress
            )
    return backbone_weights_path(backbone, model, machine)


def weights_file(weights: Weights, machine: Machine) -> Path | None:
    """Return the file of that name, whatever is in it; None where there is none."""
    places = [Path(folder) / _file_name(weights) for folder in machine.weights]
    places.append(_cached(weights, machine))
    return next((place for place in places if place.is_file()), None)


def _file_name(weights: Weights) -> str:
    if weights.url is not None and weights.url.startswith(HUB):
        return hub_file(weights.url).local_name
    return weights.file or PurePosixPath(weights.url or "").name


def _cached(weights: Weights, machine: Machine) -> Path:
    return Path(machine.cache) / "weights" / _file_name(weights)


def _missing(backbone: BackboneCard, model: Model, weights: Weights, machine: Machine) -> str:
    name = weights_name(backbone, model)
    what = f"{backbone.name}: the file {_file_name(weights)} of weights {name!r} is not here"
    if weights.url is not None:
        return (
            f"{what}: expected {_cached(weights, machine)}; name its folder with --weights, or run "
            f"{_fetching(backbone, name)} on a machine with a network"
        )
    folders = ", ".join((*machine.weights, str(Path(machine.cache) / "weights")))
    return (
        f"{what}, and no address is known to fetch it from: put it into one of {folders}, or name "
        "its folder with --weights"
    )


def _fetching(backbone: BackboneCard, name: str | None) -> str:
    """Return the command that fetches these weights: a backbone's name alone means its default."""
    return (
        f"`segbench prepare {backbone.name}`"
        if name == backbone.default_weights
        else "`segbench prepare FILE` with the experiment's file"
    )
