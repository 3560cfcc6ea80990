"""The losses of a training, read from its log.jsonl. No torch here; knows nothing of charts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbench.files import read_json_lines


class Curve(NamedTuple):
    """Values after optimizer steps, counted from 1; finite values alone."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def thinned(self, points: int) -> "Curve":
        """Return about `points` of them, evenly, the last always."""
        every = max(1, math.ceil(len(self.steps) / points))
        return Curve(self.steps[::-1][::every][::-1], self.values[::-1][::every][::-1])


class Curves(NamedTuple):
    """loss: of training batches. validation: of the reported split; it decides nothing."""

    loss: Curve
    validation: Curve


def load_curves(workdir: Path) -> Curves:
    """Return the curves of a trial's folder, empty where there is no log."""
    lines = [
        line
        for line in read_json_lines(workdir / "log.jsonl")
        if isinstance(line, dict) and isinstance(line.get("step"), int)
    ]
    return Curves(_curve(lines, "loss"), _curve(lines, "validation_loss"))


def _curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    found = [
        (line["step"], float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    return Curve(tuple(step for step, _ in found), tuple(value for _, value in found))
