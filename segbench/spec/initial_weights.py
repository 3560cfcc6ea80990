"""Warn of a sweep whose backbones start from random weights on one side and trained ones on another.

Knows nothing of files.
"""

from segbench.spec.base import matches
from segbench.spec.experiment import Experiment
from segbench.spec.sweep import Cell, Plan

_KEY = "model.weights"


def random_by_default(plan: Plan) -> str:
    """Return one sentence if backbones without weights meet pretrained ones, all else alike.

    Only where nobody asked for it: a `model.weights` that the file sets for a cell is meant.
    """
    meets: dict[tuple[str, ...], list[Cell]] = {}
    for cell in plan.cells:
        if cell.trial is not None:
            others = tuple(v for axis, v in cell.axes.items() if axis != "backbone")
            meets.setdefault(others, []).append(cell)
    bare: dict[str, None] = {}
    trained: dict[str, None] = {}
    for cells in meets.values():
        without = [cell for cell in cells if _is_bare(plan.experiment, cell)]
        named = [f"{c.axes['backbone']} from {_weights(c)}" for c in cells if _weights(c) != "none"]
        if without and named:
            bare |= dict.fromkeys(cell.axes["backbone"] for cell in without)
            trained |= dict.fromkeys(named)
    if not bare:
        return ""
    verb = "starts" if len(bare) == 1 else "start"
    return (
        f"{', '.join(bare)} {verb} from random weights, {', '.join(trained)}: the comparison is of "
        f"weights, not of backbones; say `{_KEY}: none`, or give the card weights (such as "
        "`weights: torchvision:DEFAULT`)"
    )


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
