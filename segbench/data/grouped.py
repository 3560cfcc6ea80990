"""The groups of a data set's images, as far as its images are here. No torch here."""

from collections.abc import Iterable

from segbench.data.prepared import contents_here
from segbench.data.sources import source_of
from segbench.schema.cards import DatasetCard
from segbench.schema.groups import GroupedSplit, NotedGroups, grouped_split, named_groups
from segbench.schema.machine import Machine


def noted_groups(cards: Iterable[DatasetCard], machine: Machine) -> dict[str, NotedGroups]:
    """Return by data set what is to be noted of its groups; nothing of data sets without any.

    Raises:
        CardError: a card gives no group to an image that is here.
        DataError: the names of a split's images cannot be read.
    """
    return {
        card.name: NotedGroups(groups=card.groups, splits=_splits(card, machine))
        for card in cards
        if card.groups is not None
    }


def _splits(card: DatasetCard, machine: Machine) -> dict[str, GroupedSplit]:
    assert card.groups is not None
    named = {split: _names_here(card, split, machine) for split in card.split_names}
    return {
        split: grouped_split(names, named_groups(card.groups, names, of=f"{card.name} {split}"))
        for split, names in named.items()
        if names
    }


def _names_here(card: DatasetCard, split: str, machine: Machine) -> list[str]:
    """Return the names of the split's images; none where it is not here, or not known unread."""
    contents = contents_here(card, split, machine)
    if contents is not None:
        return list(contents.names)
    source = source_of(card, split, machine)
    return (source.names() or []) if source.is_here() else []
