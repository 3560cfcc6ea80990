"""Score what exists: a trained trial under another protocol, a folder of predictions from anywhere.

Letters: C classes, H W image size. Knows nothing of tables.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.code.own import code_in_use, difference
from segbench.data.chosen import fingerprint_here, stored_split
from segbench.data.labels import image_label, palette_problem
from segbench.data.prepared import changed_since
from segbench.data.split import SegmentationSplit, open_scored
from segbench.engine.device import make_repeatable
from segbench.engine.evaluate import count_predictions, reindexed, scored_label
from segbench.errors import DataError, FileError, by_cause, counted, listed
from segbench.files import check_file_names, sha256_of_file
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.external import ExternalMethod
from segbench.runs.predicted import prediction_files
from segbench.runs.trial_files import Evaluation
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.matched import check_classes, matched_classes
from segbench.schema.protocol import Protocol
from segbench.work.other_readings import Other, Tally, far_better
from segbench.work.reading import Reading
from segbench.work.scoring import load_segmenter, scored_on

_ENCODINGS = {"label": "the labels", "index": "indices of the classes"}
MOST = 0.9  # of the objects' pixels: so many values that are no class are another encoding
_NOT_READ = {".npy", ".tif", ".tiff", ".bmp", ".gif", ".mat"}  # yet another answer beside a PNG
Progress = Callable[[int, int], None]  # (done, of)


class ScoredPredictions(NamedTuple):
    """Figures, and the counts that they were read off."""

    evaluation: Evaluation
    counts: Counted


class Predicted(NamedTuple):
    """Who predicted, the figures, what was predicted that is no class, and what may have been meant.

    foreign: raw value -> how many labelled pixels hold it; they count as errors. other: a reading
    of the files that agrees far better.
    """

    method: ExternalMethod
    scored: ScoredPredictions
    foreign: dict[int, int]
    other: Other | None

    def remarks(self, name: str) -> tuple[str, ...]:
        """Return what whoever reads the figures must know, a sentence each."""
        found = []
        if self.foreign:
            found.append(
                f"{name}: {counted(sum(self.foreign.values()), 'labelled pixel')} with a value that is "
                f"no class ({_listed(self.foreign)}), counted as errors"
            )
        if self.other is not None:
            found.append(f"{name}: {self.other.in_words()}")
        return tuple(found)


def score_trial(
    workdir: Path,
    protocol: Protocol,
    machine: Machine,
    progress: Progress = lambda *_: None,
    *,
    with_other_code: bool = False,
) -> Evaluation:
    """Return a trained trial's figures under a protocol; nothing is computed twice.

    Where a protocol is stored that differs only in what is done with counts, they are copied, and
    the trained weights are not needed.
    with_other_code: see `segbench.work.scoring.load_segmenter`.

    Raises:
        CardError: the user's code has changed since the training.
        DataError: the trial has no trained weights, or the split's files are not here; or they were
            changed since they were converted, or since the trial was scored.
    """
    known = trial_files.load_evaluation(workdir, protocol)
    if known is not None:
        _check_same_files(workdir, known, machine)
        return known
    dataset = trial_files.load_trial(workdir).dataset
    source = trial_files.counted_alike(workdir, protocol)
    if source is not None:
        _check_same_files(workdir, source, machine)
        return trial_files.copy_evaluation(workdir, source, protocol, dataset)
    split = open_scored(dataset, protocol, machine)
    trial, segmenter = load_segmenter(workdir, machine, with_other_code=with_other_code)
    make_repeatable(machine, trial.seed)
    evaluation, counted = scored_on(split, segmenter, trial, protocol, machine, progress)
    changed = difference(trial.code, code_in_use(trial.functions))
    evaluation = evaluation.revised(other_code=changed)
    trial_files.write_evaluation(workdir, evaluation, counted)
    return evaluation


def _check_same_files(workdir: Path, known: Evaluation, machine: Machine) -> None:
    """Refuse figures of other files than are here; where none are here, nothing is known."""
    protocol = known.protocol
    card = protocol.scored_card(trial_files.load_trial(workdir).dataset)
    if changed := changed_since(card, stored_split(protocol.split), machine):
        raise DataError(changed)
    here = fingerprint_here(
        card, protocol.split, machine,
        max_images=protocol.max_images, subset_seed=protocol.subset_seed,
    )  # fmt: skip
    if here not in {None, known.split_fingerprint}:
        raise DataError(
            f"{trial_files.evaluation_path(workdir, protocol)}: was scored on other files of {card.name} "
            f"{protocol.split} than are here now; name the folder of those files with --data, or "
            "delete that file to score the trial again"
        )


class PredictionFolder(NamedTuple):
    """A folder with `<image name>.png` for every image of a split, and how it is read.

    name: of the method. dataset: the card whose classes `reading` speaks of; the protocol may score
    another, which it is matched with by name.
    """

    folder: Path
    name: str
    dataset: DatasetCard
    reading: Reading


def score_predictions(
    theirs: PredictionFolder,
    protocol: Protocol,
    machine: Machine,
    progress: Progress = lambda *_: None,
) -> Predicted:
    """Return the figures of a folder of palette or grey PNGs.

    A pixel whose value is no class is a false negative where it is labelled; a method may leave
    pixels out, so these are counted and reported. Where more than nine tenths of the pixels labelled
    as anything but background hold such values, the files are encoded in another way and no figure is
    given.

    Raises:
        CardError: a scored class is none of `theirs.dataset`.
        DataError: files are missing, surplus, unreadable or of another size: all of them listed;
            or they are encoded in another way.
    """
    scored = protocol.scored_card(theirs.dataset)
    check_classes(theirs.dataset, scored)
    split = open_scored(theirs.dataset, protocol, machine)
    every = protocol.revised(max_images=None)
    whole = open_scored(theirs.dataset, every, machine, if_changed="pass_over")
    files = _by_name(theirs.folder, prediction_files(theirs.folder))
    problems = _missing_and_surplus(split.names, whole.names, files)
    found = _Found(files, Tally(theirs.dataset.num_classes), problems)
    pairs = _pairs(theirs, split, protocol, found, progress)
    counted = count_predictions(pairs, num_classes=scored.num_classes, protocol=protocol)
    if problems:
        raise DataError(
            f"{theirs.folder}: does not hold one prediction for each of the {len(split)} images of "
            f"{scored.name} {protocol.split}:\n" + "\n".join(by_cause(problems))
        )
    other = far_better(found.tally, theirs.reading, theirs.dataset, protocol)
    foreign = _foreign_values(theirs, found.tally, other)
    scored_predictions = _evaluated(theirs, protocol, counted, split.fingerprint)
    return Predicted(_method(theirs, files), scored_predictions, foreign, other)


def _method(theirs: PredictionFolder, files: Mapping[str, Path]) -> ExternalMethod:
    return ExternalMethod(
        name=theirs.name,
        dataset=theirs.dataset.name,
        predictions_digest=_digest_of(files),
        encoding=theirs.reading.encoding,
        mapping=dict(theirs.reading.mapping),
    )


def _evaluated(
    theirs: PredictionFolder, protocol: Protocol, counted: Counted, split_fingerprint: str
) -> ScoredPredictions:
    evaluation = trial_files.evaluation_of(
        counted,
        trial_id=f"external-{theirs.name}",
        protocol=protocol,
        dataset=theirs.dataset,
        split_fingerprint=split_fingerprint,
    )
    return ScoredPredictions(evaluation, counted)


class _Found(NamedTuple):
    """The files by their images' names; the values that they hold, and what is wrong with them."""

    files: Mapping[str, Path]
    tally: Tally
    problems: list[DataError]


def _pairs(
    theirs: PredictionFolder,
    split: SegmentationSplit,
    protocol: Protocol,
    found: _Found,
    progress: Progress,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (name, prediction (H, W), label (H, W)) of the images that have a sound file.

    Fills in the tally and the problems of `found`.
    """
    scored = protocol.scored_card(theirs.dataset)
    scored_classes = matched_classes(theirs.dataset, scored)
    own_classes = matched_classes(scored, theirs.dataset)
    for index, name in enumerate(split.names):
        path = found.files.get(name)
        label = scored_label(split.label(index), protocol)
        values = (
            None
            if path is None
            else _values(path, tuple(label.shape), theirs.reading, found.problems)
        )
        if values is not None:
            found.tally.add(values, reindexed(label, own_classes).numpy())
            classes = torch.from_numpy(theirs.reading.classes[values])
            yield name, reindexed(classes, scored_classes), label
        progress(index + 1, len(split))


def _foreign_values(theirs: PredictionFolder, tally: Tally, other: Other | None) -> dict[int, int]:
    """Return how many labelled pixels hold each value that is no class.

    Raises:
        DataError: most pixels of objects do: the files are encoded in another way.
    """
    dataset, reading = theirs.dataset, theirs.reading
    foreign = tally.labelled(reading.is_foreign)  # (C, V)
    by_value = {int(v): int(foreign[:, v].sum()) for v in np.flatnonzero(foreign.any(0))}
    lost = _share_of_objects(foreign, tally, dataset)
    if lost > MOST:
        raise DataError(
            f"{theirs.folder}: is not encoded as {_ENCODINGS[reading.encoding]} of {dataset.name}: "
            f"{100 * lost:.0f} % of the pixels of objects hold values that are no class "
            f"({_listed(by_value)}); {_advice(other, by_value, dataset)}"
        )
    return by_value


def _share_of_objects(foreign: NDArray[np.int64], tally: Tally, dataset: DatasetCard) -> float:
    """Return the share of foreign values among the pixels labelled as anything but background."""
    is_object = np.arange(dataset.num_classes) != dataset.seen_background
    objects = tally.table[: dataset.num_classes][is_object].sum()
    return float(foreign[is_object].sum() / objects) if objects else 0.0


def _advice(other: Other | None, foreign: dict[int, int], dataset: DatasetCard) -> str:
    if other is not None:
        return other.in_words()
    example = max(foreign, key=foreign.__getitem__)
    return (
        "give --encoding FILE with a line for each value, such as "
        f"`{example}: {dataset.classes[0]}`"
    )


def _by_name(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Return predictions by the names of their images.

    Raises:
        DataError: a name that no result can hold; or two files that may be the prediction of one
            image, though one of them is of a kind that is not read.
    """
    others = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _NOT_READ]
    found: dict[str, list[Path]] = {}
    for path in (*paths, *others):
        found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    check_file_names(folder, found)
    png = {name: alike for name, alike in found.items() if alike[0].suffix.lower() not in _NOT_READ}
    if twice := [alike for alike in png.values() if len(alike) > 1]:
        shown = [" or ".join(path.name for path in alike) for alike in twice]
        several = "1 image has" if len(twice) == 1 else f"{len(twice)} images have"
        raise DataError(
            f"{folder}: holds surplus predictions: {several} more than one; which is meant: "
            f"{listed(shown, 3)}? Keep one of each"
        )
    return {name: alike[0] for name, alike in png.items()}


def _missing_and_surplus(
    scored: Sequence[str], known: Sequence[str], files: Mapping[str, Path]
) -> list[DataError]:
    """Return what is wrong with the names of predictions; those of images not scored are in order."""
    missing = [FileError(f"{name}.png", "[is|are] missing") for name in scored if name not in files]
    surplus = [
        FileError(f"{name}.png", "[is|are] surplus: the split has no such image[|s]")
        for name in sorted(set(files) - set(known))
    ]
    return [*missing, *surplus]


def _digest_of(files: Mapping[str, Path]) -> str:
    hashed = hashlib.sha256()
    for name, path in files.items():
        hashed.update(f"{name}\n{sha256_of_file(path)}\n".encode())
    return hashed.hexdigest()


def _listed(foreign: dict[int, int]) -> str:
    """Return the most frequent values with their pixels."""
    most = Counter(foreign).most_common(4)
    more = ", ..." if len(foreign) > len(most) else ""
    return ", ".join(f"{value}: {counted(pixels, 'pixel')}" for value, pixels in most) + more


def _values(
    path: Path, size: tuple[int, ...], reading: Reading, problems: list[DataError]
) -> NDArray[np.uint16] | None:
    """Return the file's raw values, or None after a problem."""
    try:
        label = image_label(path.read_bytes(), str(path))
    except FileError as error:
        problems.append(type(error)(f"unreadable: {path}", error.cause, *error.found))
        return None
    except OSError as error:
        problems.append(FileError(f"unreadable: {path}", "{}", error.strerror))
        return None
    values = label.values
    if told := palette_problem(label, reading.named, reading.colours, reading.names):
        hint = "; class indices are read by --encoding index" * (reading.encoding == "label")
        problems.append(FileError(path, "{}" + hint, told))
        return None
    if values.shape != size:
        found, expected = (f"{w}x{h}" for h, w in (values.shape, size))
        sizes = f"{found} pixels, the label {expected}"
        problems.append(FileError(f"wrong size: {path}", "{}", sizes))
        return None
    return values
