"""A trunk's trained parameters: which file, and is it the right one. No torch here.

Knows nothing of what is in a file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from segbench.errors import DataError
from segbench.files import sha256_of_file
from segbench.spec.cards import BackboneCard, Weights
from segbench.spec.heads import Model, weights_name
from segbench.spec.machine import Machine


def weights_named(backbone: BackboneCard, model: Model) -> Weights | None:
    """Return the weights that `model.weights` chooses on the card; None are random ones.

    Raises:
        CardError: the card has no weights of that name.
    """
    name = weights_name(backbone, model)
    return None if name is None else backbone.weights[name]


def backbone_weights_path(backbone: BackboneCard, model: Model, machine: Machine) -> Path | None:
    """Return the verified file with the weights that `model.weights` chooses; None for random ones.

    Raises:
        CardError: the card has no such weights.
        DataError: the file is not here, or is not the one that the card means.
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
    return path


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
            backbone_weights_path(backbone, model, machine)
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
        from segbench.data.download import download

        download(weights.url, _cached(weights, machine), sha256=weights.sha256, progress=progress)
    return backbone_weights_path(backbone, model, machine)


def weights_file(weights: Weights, machine: Machine) -> Path | None:
    """Return the file of that name, whatever is in it; None where there is none."""
    places = [Path(folder) / _file_name(weights) for folder in machine.weights]
    places.append(_cached(weights, machine))
    return next((place for place in places if place.is_file()), None)


def _file_name(weights: Weights) -> str:
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
