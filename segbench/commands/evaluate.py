"""From the flags of `segbench evaluate` to work: which protocol, which trials, which predictions.

Prints nothing. No torch until something is scored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segbench.code.own import code_of, difference, look_in
from segbench.errors import CardError, ExperimentError, ResultError, counted
from segbench.runs import trial_files
from segbench.runs.external import write_external
from segbench.runs.predicted import ABOUT, load_predicted_by
from segbench.runs.record import RunRecord, add_protocol, find_trial, load_run
from segbench.runs.trial_files import Evaluation
from segbench.schema import yamlfile
from segbench.schema.cards import checked_name
from segbench.schema.catalog import Catalog
from segbench.schema.experiment import with_code_of_metrics, with_scored_card, with_setting
from segbench.schema.machine import Machine
from segbench.schema.matched import check_classes
from segbench.schema.protocol import Protocol

Progress = Callable[[str, int, int], None]  # (what, done, of)


@dataclass(frozen=True)
class EvaluateFlags:
    """What the flags say about the protocol.

    start: the name of one of the run's. cards: where a card that it names is looked for first.
    """

    settings: tuple[str, ...] = ()
    split: str | None = None
    start: str | None = None
    name: str | None = None
    with_other_code: bool = False
    cards: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """A folder of PNGs of anybody, and how to read it. encoding: label, index or a file."""

    folder: Path
    dataset: str
    encoding: str | None = None
    cards: tuple[Path, ...] = ()


class Done(NamedTuple):
    """Sentences for the user, and the run whose tables have changed."""

    lines: tuple[str, ...]
    run_folder: Path | None


def score_run(
    run_folder: Path,
    prefixes: tuple[str, ...],
    asked: EvaluateFlags,
    machine: Machine,
    progress: Progress,
) -> Done:
    """Score trained trials of a run by another protocol, and add it to the run's record.

    Raises:
        CardError: a scored class is unknown to a trial's model.
        ExperimentError: the protocol's settings are wrong.
        ResultError: no such trial, or one that is not trained.
    """
    record = load_run(run_folder)
    protocol = _protocol_of_run(record, asked)
    workdirs = _trained(run_folder, prefixes, protocol)
    for workdir in workdirs:
        trained = trial_files.load_trial(workdir).dataset
        check_classes(trained, protocol.scored_card(trained))
    lines = []
    if not prefixes and not asked.with_other_code:
        workdirs, lines = _of_this_code(workdirs, machine)
    from segbench.work.predictions import score_trial

    for workdir in workdirs:
        found = score_trial(
            workdir, protocol, machine, lambda done, of, w=workdir: progress(w.name, done, of),
            with_other_code=asked.with_other_code,
        )  # fmt: skip
        lines.append(f"{workdir.name}: {figures_in_words(found)}")
    name = add_protocol(run_folder, protocol)
    return Done(
        (f"protocol {name} ({protocol.digest()}): {protocol.description()}", *lines), run_folder
    )


def score_external(
    source: Predictions,
    asked: EvaluateFlags,
    machine: Machine,
    run_folder: Path | None,
    results_folder: Path,
    progress: Progress,
) -> Done:
    """Score a folder of predictions; its row joins the run's leaderboard where one is named.

    Raises:
        CardError: no such data set.
        DataError: the folder does not hold one prediction for each image.
        ExperimentError: the protocol's settings are wrong.
        ResultError: the name stands for another method.
    """
    method_name = _given_name(asked.name or source.folder.resolve().name.lower())
    start = _start(run_folder, asked.start)
    protocol = protocol_of_predictions(
        source.folder, asked.settings, asked.split, start, source.cards
    )
    dataset = Catalog.on_path(source.cards).dataset(source.dataset)
    from segbench.work.predictions import PredictionFolder, score_predictions
    from segbench.work.reading import chosen_reading

    reading = chosen_reading(source.folder, dataset, source.encoding)
    predicted = score_predictions(
        PredictionFolder(source.folder, method_name, dataset, reading),
        protocol,
        machine,
        lambda done, of: progress(method_name, done, of),
    )
    scored = predicted.scored
    folder = write_external(run_folder or results_folder, predicted.method, *scored)
    said = f"protocol {protocol.digest()}: {protocol.description()}"
    figures = f"{method_name}: {figures_in_words(scored.evaluation)}"
    return Done((said, figures, *predicted.remarks(method_name), f"written: {folder}"), run_folder)


def _start(run_folder: Path | None, name: str | None) -> Protocol | None:
    """Return the run's protocol that --protocol names, None where it names none."""
    record = None if run_folder is None else load_run(run_folder)  # says where there is no run
    if name is None:
        return None
    if record is None:
        raise ExperimentError(f"--protocol {name}: name the --run that has it")
    return _named(record, name)


def protocol_of_predictions(
    folder: Path,
    settings: tuple[str, ...],
    split: str | None,
    start: Protocol | None = None,
    cards: tuple[Path, ...] = (),
) -> Protocol:
    """Return the protocol that a folder of predictions is scored by.

    It is `start`, else the one that segbench.json in the folder says, else the plain one; changed by
    the flags. cards: see `changed`.

    Raises:
        ExperimentError: a setting is wrong, or segbench.json says that it was predicted otherwise.
        ResultError: segbench.json is damaged.
    """
    about = load_predicted_by(folder)
    if start is None:
        start = Protocol() if about is None else about.protocol
    protocol = changed(start, settings, split, cards)
    if about is not None and (why := about.contradiction(protocol)):
        raise ExperimentError(f"{folder / ABOUT}: {why}")
    return protocol


def said_encoding(encoding: str | None, mapping: Path | None) -> str | None:
    """Return what `--encoding`, or `--mapping` as its older name for a file, says.

    Raises:
        ExperimentError: both are given.
    """
    if encoding is not None and mapping is not None:
        raise ExperimentError("--mapping FILE is --encoding FILE; give one of the two")
    return encoding if mapping is None else str(mapping)


def figures_in_words(evaluation: Evaluation) -> str:
    """Return the main figures in per cent, and on what."""
    shown = {name: evaluation.figures.get(name) for name in ("mean_iou", "pixel_accuracy")}
    figures = ", ".join(
        f"{name.replace('_', ' ')} {'-' if value is None else f'{100 * value:.2f}'}"
        for name, value in shown.items()
    )
    seen = f", {evaluation.num_trained_on} of them trained on" if evaluation.num_trained_on else ""
    return (
        f"{figures} on {counted(evaluation.num_images, 'image')} of "
        f"{evaluation.protocol.split_in_words}{seen}"
    )


def _trained(run_folder: Path, prefixes: tuple[str, ...], protocol: Protocol) -> list[Path]:
    """Return the folders of the trials that are asked for, or of all that can be scored.

    Those are the ones that have their weights, or counts of another protocol that serve this one.

    Raises:
        ResultError: one that is asked for has none, or none at all has.
    """
    workdirs = [find_trial(run_folder, prefix)[0] for prefix in prefixes]
    workdirs = workdirs or list(trial_files.trial_folders(run_folder))
    without = [
        w.name
        for w in workdirs
        if not (w / trial_files.WEIGHTS).exists() and trial_files.counted_alike(w, protocol) is None
    ]
    if len(without) == len(workdirs) or (prefixes and without):
        which = ", ".join(without) if prefixes else "any trial"
        raise ResultError(
            f"{run_folder}: no {trial_files.WEIGHTS} in {which}: a trial has it from the end of its "
            "training on, and a folder that was handed on without models never has; evaluate where "
            "the trials were trained"
        )
    return [w for w in workdirs if w.name not in without]


def _of_this_code(workdirs: list[Path], machine: Machine) -> tuple[list[Path], list[str]]:
    """Return the trials whose code is that which is here, and a line on the others.

    All trials where no trial's is, so that the first says what has changed.
    """
    look_in(machine.code_folders)
    changes: dict[str, str] = {}
    for workdir in workdirs:
        trial = trial_files.load_trial(workdir)
        if changed := difference(trial.code, code_of(trial.functions)):
            changes[workdir.name] = changed
    if not changes or len(changes) == len(workdirs):
        return workdirs, []
    first = next(iter(changes))
    are, them = ("was", "it") if len(changes) == 1 else ("were", "them")
    line = (
        f"{counted(len(changes), 'trial')} {are} made from other code than is here and left out (trials/"
        f"{first}: {changes[first]}); --other-code scores {them} too"
    )
    return [w for w in workdirs if w.name not in changes], [line]


def _protocol_of_run(record: RunRecord, asked: EvaluateFlags) -> Protocol:
    start = next(iter(record.experiment.evaluate)) if asked.start is None else asked.start
    protocol = changed(_named(record, start), asked.settings, asked.split, asked.cards)
    if asked.name is not None:
        return protocol.revised(name=_given_name(asked.name))
    name = "-".join((start, *map(_word, asked.settings)))
    return protocol.revised(name=name if len(name) <= 64 else f"{name[:55]}-{protocol.digest()}")


def _given_name(name: str) -> str:
    try:
        return checked_name(name)
    except ValueError as error:
        raise ExperimentError(f"--name {name!r}: {error}") from error


def _word(setting: str) -> str:
    return re.sub(r"[^a-z0-9._]", "-", setting.lower()).strip("-")


def _named(record: RunRecord, name: str) -> Protocol:
    if name not in record.protocols:
        raise ExperimentError(
            f"--protocol {name}: no such protocol{yamlfile.did_you_mean(name, record.protocols)}; "
            f"the run has: {', '.join(record.protocols)}"
        )
    return record.protocols[name]


def changed(
    protocol: Protocol,
    settings: tuple[str, ...],
    split: str | None = None,
    cards: tuple[Path, ...] = (),
) -> Protocol:
    """Return the protocol with `key=value` settings, and with another split.

    cards: where the card of `dataset=NAME` is looked for before the folder's and the built-in ones.

    Raises:
        ExperimentError: a setting is wrong.
    """
    data = protocol.model_dump()
    for setting in settings:
        data = with_setting(data, setting, example="flip=true")
    if split is not None:
        data["split"] = split
    if isinstance(data["dataset"], str):
        try:
            data = with_scored_card(data, Catalog.on_path(cards))
        except CardError as error:
            raise ExperimentError(f"--set dataset={data['dataset']}: {error}") from error
    if data["metrics"]:
        try:
            data = with_code_of_metrics(data, Catalog.on_path(cards))
        except CardError as error:
            raise ExperimentError(f"--set metrics: {error}") from error
    said: dict[yamlfile.Place, str] = {
        tuple(setting.partition("=")[0].split(".")): setting for setting in settings
    }
    document = yamlfile.Document("--set", data, {}, said)
    found = yamlfile.validate(document, Protocol, ExperimentError)
    if found.sliding is not None and found.sliding.gap:
        raise ExperimentError(f"{document.where(('sliding',))}: {found.sliding.gap}")
    return found
