"""Make segbench/schema/torchvision_weights.json from the torchvision that is installed.

`python tests/torchvision_table.py` writes it again, for a release that publishes other weights.
"""

import json
from pathlib import Path
from typing import Any

import torchvision

from segbench.schema.torchvision_weights import TABLE_PATH


def published() -> dict[str, dict[str, Any]]:
    """Return what torchvision says of the weights of each of its classifiers."""
    models = torchvision.models
    return {name: _of_model(name) for name in sorted(models.list_models(module=models))}


def _of_model(name: str) -> dict[str, Any]:
    enum: Any = torchvision.models.get_model_weights(name)
    return {
        "enum": enum.__name__,
        "default": enum.DEFAULT.name,
        "weights": {each.name: _of_weights(each) for each in enum},
    }


def _of_weights(weights: Any) -> dict[str, Any]:
    transforms = weights.transforms()
    found = {"url": weights.url, "mean": list(transforms.mean), "std": list(transforms.std)}
    licence = weights.meta.get("license")
    return found if licence is None else {**found, "licence": licence}


def as_text(table: dict[str, dict[str, Any]]) -> str:
    """Return the table as JSON with one line for each set of weights, so that changes are seen."""
    models = []
    for name, model in table.items():
        rows = [f"   {json.dumps(key)}: {json.dumps(w)}" for key, w in model["weights"].items()]
        head = f' {json.dumps(name)}: {{"enum": "{model["enum"]}", "default": "{model["default"]}"'
        models.append(f'{head}, "weights": {{\n' + ",\n".join(rows) + "}}")
    return "{\n" + ",\n".join(models) + "\n}\n"


if __name__ == "__main__":
    Path(TABLE_PATH).write_text(as_text(published()))
