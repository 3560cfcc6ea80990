"""Sources of data: one file for each kind, behind the protocol `SplitSource`."""

from segbench.data.sources.base import SplitSource
from segbench.data.sources.drawn import DrawnSource
from segbench.data.sources.files import FilesSource
from segbench.data.sources.own import OwnSource
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

SOURCE_KINDS: dict[str, type[SplitSource]] = {  # by `DatasetCard.source_kind`
    "files": FilesSource,
    "drawn": DrawnSource,
    "own": OwnSource,
}


def source_of(card: DatasetCard, split: str, machine: Machine) -> SplitSource:
    """Return the source of one of the card's splits; nothing is read."""
    return SOURCE_KINDS[card.source_kind](card, split, machine)
