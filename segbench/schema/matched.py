"""The classes of two cards matched by name: a model trained on the one is scored on the other.

Classes are those under each card's view. Letters: C classes. Knows nothing of predictions.
"""

from segbench.errors import CardError, listed
from segbench.schema.cards import IGNORE_INDEX, DatasetCard

ClassIndices = tuple[int, ...]


def unknown_classes(trained: DatasetCard, scored: DatasetCard) -> str:
    """Return a sentence on classes of `scored` that a model of `trained` cannot predict, or none.

    A class of the model that `scored` lacks is no problem: predictions of it are wrong.
    """
    known = set(trained.class_names)
    unknown = [name for name in scored.class_names if name not in known]
    if not unknown:
        return ""
    verb = "classes" if len(unknown) > 1 else "a class"
    return (
        f"{scored.name} has {verb} that a model trained on {trained.name} does not know: "
        f"{listed(unknown, 6)}; classes are matched by name, so give one of the cards a view that "
        "drops or merges them, or rename them there"
    )


def matched_classes(own: DatasetCard, other: DatasetCard) -> ClassIndices:
    """Return (C,): for each class of `own` its index in `other`, IGNORE_INDEX where it has none."""
    index = {name: place for place, name in enumerate(other.class_names)}
    return tuple(index.get(name, IGNORE_INDEX) for name in own.class_names)


def check_classes(trained: DatasetCard, scored: DatasetCard) -> None:
    """Raise CardError where a model of `trained` does not know every class of `scored`."""
    if told := unknown_classes(trained, scored):
        raise CardError(told)
