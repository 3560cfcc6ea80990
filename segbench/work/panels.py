"""Predict the images that show a trial best, and write their pictures into the run's folder."""

import io
from collections.abc import Callable
from pathlib import Path

from segbench.data.split import open_scored
from segbench.engine.device import chosen_device
from segbench.engine.pictures import Pictures, pictures_of
from segbench.errors import DataError, ResultError
from segbench.files import write_atomically
from segbench.runs import trial_files
from segbench.runs.panels import RULE, Chosen, Panel, Panels, chosen_images, panels_folder
from segbench.runs.record import find_trial, load_run
from segbench.schema.machine import Machine
from segbench.schema.matched import matched_classes
from segbench.work.scoring import load_segmenter


def write_panels(
    run_folder: Path,
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
    record = load_run(run_folder)
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


def _write_panel(folder: Path, stem: str, chosen: Chosen, pictures: Pictures) -> Panel:
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
