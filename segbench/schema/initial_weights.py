"""Warn of backbones that start from random weights unasked, above all beside pretrained ones.

Knows nothing of files.
"""

from collections.abc import Iterable

from segbench.schema.base import matches
from segbench.schema.experiment import Experiment
from segbench.schema.sweep import Cell, Plan

_KEY = "model.weights"
_MEND = "give the card weights (such as `weights: torchvision:DEFAULT`)"


def random_by_default(plan: Plan) -> str:
    """Return one sentence if backbones start from random weights because their cards name no others.

    Only where nobody asked for it: a `model.weights` that the file sets for a cell is meant. It says
    more where such a backbone meets a pretrained one, all else alike.
    """
    bare: dict[str, None] = {}  # names as ordered sets
    met: dict[str, None] = {}
    trained: dict[str, None] = {}
    for cells in _alike_but_for_backbones(plan):
        without = {c.axes["backbone"]: None for c in cells if _is_bare(plan.experiment, c)}
        named = {
            f"{c.axes['backbone']} from {w}": None for c in cells if (w := _weights(c)) != "none"
        }
        bare |= without
        if without and named:
            met |= without
            trained |= named
    if met:
        return (
            f"{_start(met)} from random weights, {', '.join(trained)}: the comparison is of weights, "
            f"not of backbones; say `{_KEY}: none`, or {_MEND}"
        )
    if bare:
        return (
            f"{_start(bare)} from random weights, since no others stand on the card as "
            f"`default_weights`; say `{_KEY}: none` if that is meant, or {_MEND}"
        )
    return ""


def _alike_but_for_backbones(plan: Plan) -> Iterable[list[Cell]]:
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in plan.cells:
        if cell.trial is not None:
            others = tuple(value for axis, value in cell.axes.items() if axis != "backbone")
            found.setdefault(others, []).append(cell)
    return found.values()


def _start(backbones: Iterable[str]) -> str:
    names = tuple(backbones)
    return f"{', '.join(names)} {'starts' if len(names) == 1 else 'start'}"


def _weights(cell: Cell) -> str:
    """Return the name of the weights that the cell's trunk starts from; `none` are random ones."""
    assert cell.trial is not None
    return cell.trial.model.weights


def _is_bare(experiment: Experiment, cell: Cell) -> bool:
    """Return whether the trunk is random only because its card names no weights as its default."""
    return _weights(cell) == "none" and not _is_set(experiment, cell.axes)


def _is_set(experiment: Experiment, axes: dict[str, str]) -> bool:
    """Return whether the file says what this cell's weights are."""
    own = [o.set for o in experiment.overrides if matches(axes, o.where)]
    variant = experiment.variants.get(axes.get("variant", ""), {})
    said = [experiment.model.weights, axes.get(_KEY), *(s.get(_KEY) for s in (*own, variant))]
    return not {None, "default"}.issuperset(said)
