"""Which images of a converted split a trial uses, and the fingerprint of them. No torch here.

A run is compared with the files at hand before anything starts. Letters: N images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segbench.data.prepared import Contents, contents_here
from segbench.errors import DataError
from segbench.files import digest
from segbench.schema.cards import DatasetCard
from segbench.schema.groups import groups_of
from segbench.schema.machine import Machine


def stored_split(split: str) -> str:
    """Return the split whose files hold this one: `holdout` is a part of `train`."""
    return "train" if split == "holdout" else split


def chosen_names(
    card: DatasetCard,
    split: str,
    contents: Contents,
    *,
    max_images: int | None = None,
    subset_seed: int = 0,
) -> NDArray[np.int64]:
    """Return the indices of the split's images under the card's view; see `open_split`."""
    chosen = np.arange(len(contents.names))
    if card.view.holdout and stored_split(split) == "train":
        held = _held_out(contents, card)
        chosen = chosen[held if split == "holdout" else ~held]
    if split == "train" and card.view.thin:
        chosen = chosen[_stays(contents, card)[chosen]]
    if max_images is not None and max_images < len(chosen):
        order = np.random.default_rng(subset_seed).permutation(len(chosen))[:max_images]
        chosen = chosen[np.sort(order)]
    return chosen


def fingerprint_of(card: DatasetCard, contents: Contents, chosen: NDArray[np.int64]) -> str:
    """Return a digest of the chosen images, their labels and the card's view."""
    names = tuple(contents.names[index] for index in chosen)
    whole = len(chosen) == len(contents.names)
    return digest([contents.fingerprint, card.view.identity(), None if whole else names])


def fingerprint_here(
    card: DatasetCard, split: str, machine: Machine, *, max_images: int | None, subset_seed: int = 0
) -> str | None:
    """Return the fingerprint of what `open_split` would return, None where that is not known yet."""
    contents = contents_here(card, stored_split(split), machine)
    if contents is None:
        return None
    chosen = chosen_names(card, split, contents, max_images=max_images, subset_seed=subset_seed)
    return fingerprint_of(card, contents, chosen)


def _held_out(contents: Contents, card: DatasetCard) -> NDArray[np.bool_]:
    """Return (N,) which images of `train` the view holds out: the one place where that is drawn."""
    if card.view.holdout_by == "image":
        return _drawn_lots(contents.names, "holdout") < card.view.holdout
    groups = groups_of(card, contents.names)
    assert card.groups is not None  # the card says so
    assert groups is not None
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"{card.name}: view.holdout_by: all images of train are of one {card.groups.noun}, and a "
            "whole one is to be held out while others are trained on; hold out by image"
        )
    order = np.argsort(_drawn_lots(names.tolist(), "holdout"))
    held, left = [], card.view.holdout * len(groups)
    for index in order:
        if len(held) < len(names) - 1 and sizes[index] < 2 * left:  # nearer to the share with it
            held.append(names[index])
            left -= sizes[index]
    return np.isin(groups, held or [names[np.argmin(sizes)]])


def _stays(contents: Contents, card: DatasetCard) -> NDArray[np.bool_]:
    """Return (N,) which images stay: one leaves when the lot of any thinned class says so."""
    stays = np.ones(len(contents.names), dtype=bool)
    for name, share in card.view.thin.items():
        has = contents.pixels[:, card.classes.index(name)] > 0
        stays &= ~has | (_drawn_lots(contents.names, name) < share)
    return stays


def _drawn_lots(names: Sequence[str], what: str) -> NDArray[np.float64]:
    """Return (N,) numbers in [0, 1) that depend on a name alone, not on seed or order."""
    return np.array([int(digest([what, name], length=13), 16) / 16**13 for name in names])
