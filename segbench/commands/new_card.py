"""`segbench new backbone NAME`: a card for a network that timm or torchvision names."""

from pathlib import Path
from typing import Any

import yaml

from segbench.errors import CardError
from segbench.files import write_text
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, built_in_root, read_card


def new_card(kind: str, name: str, cards: Path, *, with_weights: bool) -> Path:
    """Write the card into `cards`/backbones and return its path; it is read again before that.

    Raises:
        CardError: there is no such network, no stage of it is found, or the card is there already.
        DataError: the hub cannot be asked for the hash of its weights.
    """
    if kind != "backbone":
        raise CardError(f"expected `new backbone NAME`, but got {kind!r}")
    from segbench.models.named import named_card

    data = named_card(name, with_weights=with_weights)
    path = cards / "backbones" / f"{data['name']}.yaml"
    if path.exists():
        raise CardError(f"{path}: is there already; delete it to have it written again")
    write_text(path, card_text(data))
    read_card(path, BackboneCard, catalog=Catalog((built_in_root(),)))
    return path


def card_text(data: dict[str, Any]) -> str:
    """Return the data of a card as YAML, without what is empty or a default."""
    defaults = {"layout": "NCHW"}
    filled = {
        key: [_without(stage, defaults) for stage in value] if key == "stages" else value
        for key, value in data.items()
        if value not in ({}, None, "")
    }
    return yaml.safe_dump(
        _plain(filled), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )


def _without(stage: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stage.items() if v is not None and defaults.get(k) != v}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
