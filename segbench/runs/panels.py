"""Pictures of a trial's predictions: which images are shown, and the files that hold them.

`panels/<trial id>/` in a run's folder holds panels.json and, for each image shown, four small
files: the photograph, the label, the prediction, and the errors. Whoever has the trained weights
has `segbench.work.panels` write them (`segbench report RUN --panels TRIAL`); readers need neither
torch nor data.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, StringConstraints

from segbench.errors import ResultError
from segbench.metrics.counts import Counts
from segbench.metrics.of_images import per_image_iou
from segbench.runs import trial_files
from segbench.schema.base import Spec
from segbench.schema.trial import TrialId

RULE = (
    "By the mean IoU of an image's labelled classes: the {n} best, the {n} nearest to the median, "
    "and the {n} worst of all {images} images; ties by name."
)
PARTS = ("image", "label", "prediction", "errors")
Kind = Literal["best", "typical", "worst"]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+\.(jpg|png)$")]
Colour = tuple[int, int, int]


class Panel(Spec):
    """One image. iou: fraction. files: by part. class_indices: classes labelled or predicted."""

    kind: Kind
    name: str
    iou: Annotated[float, Field(ge=0, le=1)]
    files: dict[Literal["image", "label", "prediction", "errors"], FileName]
    class_indices: tuple[int, ...]


class Panels(Spec):
    """What panels.json holds. rule: in words. colours: of each class."""

    trial_id: TrialId
    protocol: str
    rule: str
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    panels: tuple[Panel, ...]


class Chosen(NamedTuple):
    """An image that is to be shown. place: in the counts' order."""

    kind: Kind
    place: int
    name: str
    iou: float


def chosen_images(counts: Counts, number: int = 2) -> list[Chosen]:
    """Return the best, the most typical and the worst images, no image twice."""
    ious = per_image_iou(counts)
    known = sorted(
        (index for index in range(len(ious)) if not np.isnan(ious[index])),
        key=lambda index: (-ious[index], counts.names[index]),
    )
    if not known:
        return []
    median = float(np.median(ious[known]))
    taken: dict[int, Kind] = {}
    ends: list[tuple[Kind, list[int]]] = [
        ("best", known[:number]),
        ("worst", known[::-1][:number]),
    ]
    for kind, indices in ends:
        for index in indices:
            taken.setdefault(index, kind)
    middle = sorted(
        (index for index in known if index not in taken), key=lambda i: abs(ious[i] - median)
    )
    taken |= dict.fromkeys(middle[:number], "typical")
    order = {"best": 0, "typical": 1, "worst": 2}
    return [
        Chosen(taken[index], index, str(counts.names[index]), float(ious[index]))
        for index in sorted(taken, key=lambda i: (order[taken[i]], known.index(i)))
    ]


def panels_folder(run_folder: Path, trial_id: str) -> Path:
    """Return where a trial's pictures lie."""
    return run_folder / "panels" / trial_id


def load_panels(run_folder: Path) -> Iterator[tuple[Path, Panels]]:
    """Yield the folder and the record of every trial that has pictures, by its id.

    Raises:
        ResultError: a record is damaged, or names a file that is not there.
    """
    for path in sorted((run_folder / "panels").glob("*/panels.json")):
        try:
            panels = trial_files.load_record(path, Panels)
        except ResultError as error:
            raise ResultError(
                f"{error}; write it again with segbench report --panels, or delete its folder"
            ) from error
        if panels is None:  # deleted since it was found
            continue
        for panel in panels.panels:
            for name in panel.files.values():
                if not (path.parent / name).is_file():
                    raise ResultError(
                        f"{path.parent / name}: is not there, but panels.json names it; write the "
                        "panels again with segbench report --panels"
                    )
        yield path.parent, panels
