"""Predict the images that show a trial best, and write their pictures into the run's folder."""

import io
from collections.abc import Callable
from pathlib import Path

from segbench.data.split import Sample, SegmentationSplit, open_scored
from segbench.engine.device import chosen_device
from segbench.engine.pictures import Pictures, pictures_of
from segbench.errors import DataError, ResultError
from segbench.files import write_atomically
from segbench.metrics.counts import Counts
from segbench.runs import trial_files
from segbench.runs.panels import RULE, Chosen, Panel, Panels, chosen_images, panels_folder
from segbench.runs.record import RunRecord, find_trial, load_run
from segbench.runs.trial_files import Evaluation
from segbench.schema.machine import Machine
from segbench.schema.matched import matched_classes
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial
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
    workdir, trial = find_trial(run_folder, prefix)
    name, evaluation = _evaluation(workdir, load_run(run_folder), protocol_name)
    protocol, scored = evaluation.protocol, evaluation.protocol.scored_card(trial.dataset)
    counts = _counts(workdir, evaluation)
    split = _scored_split(trial, evaluation, machine)
    draw = _artist(workdir, trial, protocol, machine)
    folder = panels_folder(run_folder, workdir.name)
    chosen, panels = chosen_images(counts, number), []
    for one in chosen:
        stem = f"{one.kind}_{sum(panel.kind == one.kind for panel in panels) + 1}"
        panels.append(_write_panel(folder, stem, one, draw(split.sample(one.place))))
        on_image(len(panels), len(chosen))
    Panels(
        trial_id=workdir.name,
        protocol=name,
        rule=RULE.format(n=number, images=len(counts.names)),
        class_names=scored.class_names,
        colours=scored.seen_palette,
        panels=tuple(panels),
    ).write_to(folder / "panels.json")
    return folder


def _evaluation(workdir: Path, record: RunRecord, name: str | None) -> tuple[str, Evaluation]:
    """Return a protocol's name, the first's if None is given, and the trial's figures under it.

    The trial has its weights too.
    """
    name = name or next(iter(record.experiment.evaluate))
    protocol = record.experiment.evaluate.get(name)
    evaluation = None if protocol is None else trial_files.load_evaluation(workdir, protocol)
    if evaluation is None:
        known = ", ".join(record.experiment.evaluate)
        raise ResultError(f"{workdir}: has no results of protocol {name!r}; the run has: {known}")
    if not (workdir / trial_files.WEIGHTS).is_file():
        raise ResultError(
            f"{workdir}: holds no {trial_files.WEIGHTS}; pictures are drawn where the weights are"
        )
    return name, evaluation


def _counts(workdir: Path, evaluation: Evaluation) -> Counts:
    path = trial_files.counts_path(workdir, evaluation.protocol)
    return trial_files.load_counts(path).as_counts(evaluation.background)


def _scored_split(trial: Trial, evaluation: Evaluation, machine: Machine) -> SegmentationSplit:
    """Return the split that gave the figures.

    Raises:
        DataError: the files that are here are others.
    """
    protocol = evaluation.protocol
    split = open_scored(trial.dataset, protocol, machine)
    if split.fingerprint != evaluation.split_fingerprint:
        raise DataError(
            f"{protocol.scored_card(trial.dataset).name} {protocol.split}: is not what "
            f"{evaluation.trial_id} was scored on (other files, or another version of them); name the "
            "right folder with --data"
        )
    return split


def _artist(
    workdir: Path, trial: Trial, protocol: Protocol, machine: Machine
) -> Callable[[Sample], Pictures]:
    """Return what predicts an image with the trial's weights and draws it."""
    scored = protocol.scored_card(trial.dataset)
    classes = matched_classes(trial.dataset, scored)
    _, segmenter = load_segmenter(workdir, machine)
    device = chosen_device(machine)
    return lambda sample: pictures_of(
        segmenter, sample, protocol, scored.seen_palette, classes, device=device
    )


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
