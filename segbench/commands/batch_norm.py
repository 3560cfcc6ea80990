"""Batch norm on tiny batches: said before anything is trained.

Loads no torch where a card says whether it has batch norm, but for batches of a single image.
"""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from segbench.errors import CardError, ResultError, listed
from segbench.files import digest, read_json, write_json
from segbench.schema.cards import BackboneCard
from segbench.schema.heads import Geometry
from segbench.schema.trial import Trial

FEWEST_IMAGES = 8  # Wu and He, Group Normalization, ECCV 2018, Figure 1: below, errors rise steeply


class TinyBatches(NamedTuple):
    """A warning, empty where there is nothing to warn of, and a sentence for each impossible batch."""

    warning: str
    problems: list[str]


class _Network(NamedTuple):
    """What decides how many values a layer of batch norm sees of one image."""

    backbone: BackboneCard
    strides: tuple[int, ...]
    geometry: Geometry
    size: tuple[int, int] | None


def tiny_batches(trials: Iterable[Trial], cache: Path) -> TinyBatches:
    """Return where batch norm trains on fewer than eight images at a time, or on a single value."""
    few: dict[str, None] = {}
    sizes: set[int] = set()
    problems: dict[str, None] = {}
    for trial in _distinct(trials):
        recipe = trial.train
        if recipe.batch_size >= FEWEST_IMAGES:
            continue
        network = _Network(
            trial.backbone,
            trial.head.strides,
            trial.model.geometry,
            recipe.images.crop or recipe.images.squash or _smallest_drawn(trial),
        )
        names = _layers(trial, network, cache)
        problem = _one_value(names, network, cache) if recipe.batch_size == 1 else None
        if problem is not None:
            problems[problem] = None
        elif names:
            few |= dict.fromkeys(names)
            sizes.add(recipe.batch_size)
    return TinyBatches(_warning(list(few), sizes), list(problems))


def _distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial for each combination of records that matters here."""
    records = {
        (id(t.backbone), id(t.head), id(t.model), id(t.train), id(t.dataset)): t for t in trials
    }
    return list(records.values())


def _smallest_drawn(trial: Trial) -> tuple[int, int] | None:
    """Return height and width of drawn images at their smallest; files are not looked at here."""
    drawn, least = trial.dataset.drawn, trial.train.images.scale[0]
    return None if drawn is None else (round(drawn.height * least), round(drawn.width * least))


def _layers(trial: Trial, network: _Network, cache: Path) -> dict[str, bool]:
    """Return the parts whose batch norm trains, by name, and whether each is the trunk."""
    found = {}
    trains = any(not {"backbone", "batch_norm"} & set(s.frozen) for s in trial.train.stages)
    if trains and trial.model.batch_norm == "keep" and _has_batch_norm(network, cache):
        found[trial.backbone.name] = True
    if trial.head.has_batch_norm:
        found[f"head {trial.head.name}"] = False
    return found


def _has_batch_norm(network: _Network, cache: Path) -> bool:
    card = network.backbone
    if card.has_batch_norm is not None:
        return card.has_batch_norm
    side = 8 * max(network.strides)
    smallest = _smallest(network._replace(size=(side, side)), cache)
    return smallest is not None and smallest[0] is not None


def _one_value(names: dict[str, bool], network: _Network, cache: Path) -> str | None:
    """Return why a batch of one image cannot be normalised, None where it can."""
    smallest = _smallest(network, cache) if names and network.size is not None else None
    if smallest is None:
        return None
    of_trunk, of_head = smallest
    for name, is_trunk in names.items():
        if (of_trunk if is_trunk else of_head) == 1:
            assert network.size is not None
            return (
                f"train.batch_size 1 with images of {network.size[0]}x{network.size[1]} pixels gives "
                f"batch norm of {name} one value per channel: take larger images, a larger "
                f"batch_size, or {_instead(is_trunk)}"
            )
    return None


def _warning(names: list[str], sizes: set[int]) -> str:
    if not names:
        return ""
    most = max(sizes)
    images = f"{most} image{'' if most == 1 else 's'}"
    only_heads = all(name.startswith("head ") for name in names)
    return (
        f"batch norm of {listed(names)} trains on {'at most ' if len(sizes) > 1 else ''}{images} at a "
        f"time: statistics of fewer than {FEWEST_IMAGES} are noisy, a handicap against networks "
        f"without batch norm; raise train.batch_size, or take {_instead(not only_heads)}"
    )


def _instead(is_trunk: bool) -> str:
    return "frozen: [batch_norm]" if is_trunk else "a head without batch norm"


def _smallest(network: _Network, cache: Path) -> tuple[int | None, int] | None:
    """Return the fewest features of one image in batch norm of the trunk and in a stage.

    None where the network cannot be asked, or is wrong, which is told elsewhere. The cache remembers
    answers of packages that have a version.
    """
    assert network.size is not None
    card = network.backbone
    is_known = card.builder.startswith("torchvision.models:")
    what = [card.identity(), *network[1:], version("torchvision")]
    path = cache / "smallest_maps" / f"{card.name}-{digest(what, length=16)}.json"
    if is_known and isinstance(kept := read_json(path), list):
        return kept[0], kept[1]
    from segbench.models.trunk import smallest_maps, trunk_without_memory

    try:
        trunk = trunk_without_memory(card, network.strides, padding=network.geometry)
        found = None if trunk is None else smallest_maps(trunk, network.size)
    except (CardError, RuntimeError):
        return None
    if found is not None and is_known:
        _keep(path, found)
    return found


def _keep(path: Path, found: tuple[int | None, int]) -> None:
    try:
        write_json(path, list(found))
    except ResultError:
        return  # what cannot be written is told with the rest
