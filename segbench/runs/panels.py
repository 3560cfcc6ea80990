"""Pictures of a trial's predictions: which images are shown, and the files that hold them.

`panels/<trial id>/` in a run's folder holds panels.json and, for each image shown, four small
files: the photograph, the label, the prediction, and the errors. Whoever has the trained weights
writes them (`segbench report RUN --panels TRIAL`); readers need neither torch nor data.
`write_panels` loads torch when it is called; nothing else here does.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, StringConstraints

from segbench.errors import DataError, ResultError
from segbench.files import write_atomically
from segbench.metrics.counts import Counts, per_image_iou
from segbench.runs import trial_files
from segbench.runs.record import RunRecord, find_trial
from segbench.schema.base import Spec
from segbench.schema.machine import Machine
from segbench.schema.matched import matched_classes
from segbench.schema.trial import TrialId

if TYPE_CHECKING:
    from segbench.engine.panels import Pictures

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


def write_panels(
    run_folder: Path,
    record: RunRecord,
    prefix: str,
    machine: Machine,
    *,
    protocol_name: str | None = None,
    number: int = 2,
    on_image: Callable[[int, int], None] = lambda _, __: None,
) -> Path:
    """Predict a trial's best, most typical and worst images again and write their pictures.

    prefix: the first digits of the trial's id. protocol_name: the first of the run where left out.
    Needs the trial's weights and the data set's images.

    Raises:
        ResultError: no such trial or protocol, or no results or weights of it.
        DataError: the images are not here, or not those that were scored.
    """
    from segbench.data.split import open_scored
    from segbench.engine.device import chosen_device
    from segbench.engine.panels import pictures_of
    from segbench.work.scoring import load_segmenter

    workdir, trial = find_trial(run_folder, prefix)
    name = protocol_name or next(iter(record.experiment.evaluate))
    protocol = record.experiment.evaluate.get(name)
    evaluation = None if protocol is None else trial_files.load_evaluation(workdir, protocol)
    if protocol is None or evaluation is None:
        known = ", ".join(record.experiment.evaluate)
        raise ResultError(f"{workdir}: has no results of protocol {name!r}; the run has: {known}")
    if not (workdir / trial_files.WEIGHTS).is_file():
        raise ResultError(
            f"{workdir}: holds no {trial_files.WEIGHTS}; pictures are drawn where the weights are"
        )
    stored = trial_files.load_counts(trial_files.counts_path(workdir, protocol))
    counts = stored.as_counts(evaluation.background)
    scored = protocol.scored_card(trial.dataset)
    split = open_scored(trial.dataset, protocol, machine)
    if split.fingerprint != evaluation.split_fingerprint:
        raise DataError(
            f"{scored.name} {protocol.split}: is not what {workdir.name} was scored on "
            "(other files, or another version of them); name the right folder with --data"
        )
    _, segmenter = load_segmenter(workdir, machine)
    folder = panels_folder(run_folder, workdir.name)
    chosen, panels = chosen_images(counts, number), []
    for done, one in enumerate(chosen, start=1):
        pictures = pictures_of(
            segmenter,
            split.sample(one.place),
            protocol,
            scored.seen_palette,
            matched_classes(trial.dataset, scored),
            device=chosen_device(machine),
        )
        stem = f"{one.kind}_{sum(panel.kind == one.kind for panel in panels) + 1}"
        panels.append(_write_panel(folder, stem, one, pictures))
        on_image(done, len(chosen))
    written = Panels(
        trial_id=workdir.name,
        protocol=name,
        rule=RULE.format(n=number, images=len(counts.names)),
        class_names=scored.class_names,
        colours=scored.seen_palette,
        panels=tuple(panels),
    )
    written.write_to(folder / "panels.json")
    return folder


def _write_panel(folder: Path, stem: str, chosen: Chosen, pictures: "Pictures") -> Panel:
    files = {}
    for part, picture in pictures.parts.items():
        files[part] = f"{stem}_{part}.{'jpg' if part == 'image' else 'png'}"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG" if part == "image" else "PNG", quality=80, optimize=True)
        write_atomically(folder / files[part], lambda file, b=buffer: file.write(b.getbuffer()))
    return Panel(
        kind=chosen.kind,
        name=chosen.name,
        iou=chosen.iou,
        files=files,
        class_indices=pictures.classes,
    )
