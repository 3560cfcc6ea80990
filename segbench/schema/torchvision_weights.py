"""What `torchvision:NAME` on a backbone card stands for: the weights' address, digits and input.

torchvision's own lists take torch to read, so they stand in a table beside this file;
tests/torchvision_table.py makes it and a test compares it with the torchvision that is installed.
Knows nothing of files and their lines.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segbench.schema.cards import Input
from segbench.schema.yamlfile import Place, did_you_mean

TABLE_PATH = Path(__file__).with_suffix(".json")
ONLY_WEIGHTS = "imagenet"  # the name of weights that stand alone on a card, as on our own cards
_PREFIX, _BUILDER = "torchvision:", "torchvision.models:"
_LICENCE = (
    "BSD-3-Clause (torchvision); trained on ImageNet, whose own terms allow non-commercial research"
)
_TRAINED_ON = "ImageNet-1k (ILSVRC 2012)"
_SWAG = f"3.6 billion public images of Instagram, then {_TRAINED_ON}"
# Ported from TensorFlow. torchvision normalises images for them as for the others and undoes it
# inside the network (`transform_input`), which a card's network does only if its arguments say so.
_UNDOES_NORMALISATION = {"googlenet", "inception_v3"}
_TENSORFLOW_INPUT = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def with_only_weights(data: dict[str, Any]) -> dict[str, Any]:
    """Return a card's data with `weights: NAME` as a mapping of one entry, the card's default."""
    if not isinstance(data.get("weights"), str):
        return data
    return {"default_weights": ONLY_WEIGHTS, **data, "weights": {ONLY_WEIGHTS: data["weights"]}}


def with_published_weights(data: dict[str, Any]) -> tuple[dict[str, Any], dict[Place, str]]:
    """Return a card's data with the fields of the weights that it only names, and what is wrong.

    Such weights bring their `input`. The card's own is what random weights see; where it has none,
    it becomes that of its default weights. A wrong name stands for others' fields, so that the rest
    of the card can be looked at.
    """
    weights = data.get("weights")
    if not isinstance(weights, dict):
        return data, {}
    found, problems = {}, {}
    for name, text in weights.items():
        if isinstance(text, str):
            try:
                found[name] = _published(text, str(data.get("builder")), data.get("arguments"))
            except ValueError as error:
                problems[("weights", name)] = str(error)
                found[name] = _published(f"{_PREFIX}DEFAULT", f"{_BUILDER}resnet18", {})
    if not found:
        return data, {}
    default = found.get(data.get("default_weights"), next(iter(found.values())))
    own_input = data.get("input", default["input"])
    for fields in found.values():
        if _is_same_input(fields["input"], own_input):
            del fields["input"]
    return {**data, "input": own_input, "weights": {**weights, **found}}, problems


def _published(text: str, builder: str, arguments: object) -> dict[str, Any]:
    """Return the fields of the weights that the text names for a card of this builder.

    Raises:
        ValueError: torchvision has no such classifier, or no such weights of it; a sentence.
    """
    table, model_name = _table(), builder.removeprefix(_BUILDER)
    if not text.startswith(_PREFIX):
        raise ValueError(
            f"expected `{_PREFIX}DEFAULT`, another name of torchvision's, or the weights' own "
            f"`key: value` lines, but got {text!r}"
        )
    if model_name == builder or model_name not in table:
        raise ValueError(
            f"{text} needs a builder among torchvision's classifiers, but it is {builder!r}"
            f"{did_you_mean(builder, (_BUILDER + name for name in table))}; for others give the "
            "weights' own `key: value` lines"
        )
    model, wanted = table[model_name], text.removeprefix(_PREFIX)
    name = model["default"] if wanted == "DEFAULT" else wanted
    if name not in model["weights"]:
        names = ("DEFAULT", *model["weights"])
        raise ValueError(
            f"torchvision has no weights {wanted!r} for {model_name}"
            f"{did_you_mean(wanted.upper(), names)}; it has: {', '.join(names)}"
        )
    undoes = isinstance(arguments, Mapping) and arguments.get("transform_input") is True
    own_input = None if undoes or model_name not in _UNDOES_NORMALISATION else _TENSORFLOW_INPUT
    return _fields(f"{model['enum']}.{name}", model["weights"][name], own_input)


def _fields(
    name: str, published: Mapping[str, Any], own_input: dict[str, Any] | None
) -> dict[str, Any]:
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", published["url"])
    assert digits is not None, "a test reads the digits of the whole table"
    return {
        "source": f"torchvision {name}",
        "url": published["url"],
        "sha256": digits[1],
        "trained_on": _SWAG if "SWAG" in name else _TRAINED_ON,
        "licence": published.get("licence", _LICENCE),
        "input": own_input or {key: tuple(published[key]) for key in ("mean", "std")},
    }


def _is_same_input(published: dict[str, Any], on_card: object) -> bool:
    try:
        return Input.model_validate(published) == Input.model_validate(on_card)
    except ValidationError:  # the card's is told of when the card is validated
        return False


@cache
def _table() -> dict[str, dict[str, Any]]:
    return json.loads(TABLE_PATH.read_text(encoding="utf-8"))
