"""Two result sets of anybody, read and compared: `segbench compare A B`. Prints nothing.

A side is the seeds of one method, one or several:

  preds/                       predictions as PNGs, one for each image of --split of --dataset
  counts.npz                   counts per image and class: of segbench, or arrays `names` (N,) and
                               `tp`, `label`, `pred` (N, C) of anybody
  results/run/trials/ab12...   a trial's folder
  results/run:head=fcn8s       the trials of a run whose axes match; several with commas

A folder whose subfolders or files are seeds is named with --seeds. Knows nothing of how a
difference is tested.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from pydantic import ValidationError

from segbench.commands.evaluate import changed, protocol_of_predictions
from segbench.errors import CardError, ExperimentError, ResultError
from segbench.metrics import metric_named
from segbench.metrics.counts import Counts, foreground_of
from segbench.metrics.metric import Metric
from segbench.runs import trial_files
from segbench.runs.observed import counts_of_evaluation
from segbench.runs.record import Row, load_rows, load_run
from segbench.runs.starts import start_name
from segbench.runs.trial_files import Evaluation
from segbench.schema.cards import DatasetCard, Groups
from segbench.schema.catalog import Catalog
from segbench.schema.groups import named_groups, read_members
from segbench.schema.machine import Machine
from segbench.schema.metric_names import known_metric
from segbench.schema.protocol import Protocol
from segbench.schema.sweep import chosen_values
from segbench.statistics.pairwise import Comparison, Population, compare_two

Progress = Callable[[str, int, int], None]  # (what, done, of)


@dataclass(frozen=True)
class CompareFlags:
    """What the flags of `segbench compare` say.

    encoding: label, index or a mapping file. settings and split: how predictions are scored.
    protocol_name: which of a trial's or run's protocols. groups: which images belong together, as a
    pattern with a named part or a file of names and groups; else as cards and runs say. on: the images
    that p and the interval speak of; where images come from too few groups it is best `these_images`.
    margin: in percentage points, what left must exceed right by. equivalent: within how many both are
    asked to lie of each other; one of the two.
    """

    dataset: str | None = None
    encoding: str | None = None
    settings: tuple[str, ...] = ()
    split: str | None = None
    protocol_name: str | None = None
    metric: str = "mean_iou"
    has_seeds: bool = False
    cards: tuple[Path, ...] = ()
    groups: str | None = None
    on: Population = "new_images"
    margin: float = 0.0
    equivalent: float | None = None

    @property
    def protocol(self) -> Protocol:
        """How results are scored that say nothing of it themselves."""
        return changed(Protocol(), self.settings, self.split, self.cards)


class Compared(NamedTuple):
    """The comparison and what a reader must know besides."""

    comparison: Comparison
    notes: tuple[str, ...]


class _Seed(NamedTuple):
    """One seed of a side.

    training: names its weights, where that is known. start: what they were trained from, where that
    is known. note: what a reader must know of it. groups: which images belong together, where that is
    known.
    """

    counts: Counts
    protocol: Protocol | None = None
    class_names: tuple[str, ...] = ()
    class_indices: tuple[int, ...] = ()
    training: str = ""
    start: str = ""
    note: str = ""
    groups: Groups | None = None


def compare_results(
    left: str, right: str, asked: CompareFlags, machine: Machine, progress: Progress
) -> Compared:
    """Return how two result sets differ on the same images.

    Raises:
        CardError: no such data set, or an image is in no group.
        DataError: a folder does not hold one prediction for each image.
        ExperimentError: a side is none of the forms above, or a flag is missing or wrong.
        ResultError: damaged counts; other images or classes on one side than on the other.
    """
    metric = _metric(asked.metric)
    plain = asked.protocol  # says at once what is wrong with a flag
    _check_margins(asked)
    said_groups = None if asked.groups is None else _said_groups(asked.groups)
    card = None if asked.dataset is None else Catalog.on_path(asked.cards).dataset(asked.dataset)
    sides = [_side(text, asked, card, machine, progress) for text in (left, right)]
    if metric.needs_boundary:
        _check_boundaries(asked.metric, dict(zip((left, right), sides, strict=True)))
    first = sides[0][0]
    shared = _is_one_training(sides)
    rule = first.protocol.absent_class if first.protocol else plain.absent_class
    groups = said_groups or _known_groups(sides)
    comparison = compare_two(
        [seed.counts for seed in sides[0]],
        [seed.counts for seed in sides[1]],
        first.class_names or None,
        metric=asked.metric,
        absent_class=rule,
        class_indices=first.class_indices,
        paired=shared,
        groups=() if groups is None else named_groups(groups, first.counts.names, of="compare"),
        on=asked.on,
        margin=asked.margin if asked.equivalent is None else asked.equivalent,
        equivalent=asked.equivalent is not None,
    )
    notes = _notes(sides, shared)
    if comparison.question == "groups" and comparison.other is not None:
        notes.append("`--on these_images` asks of these very images.")
    return Compared(comparison, tuple(notes))


def _is_one_training(sides: Sequence[Sequence[_Seed]]) -> bool:
    """Return whether both sides are the same trained models, seed for seed."""
    trainings = [[seed.training for seed in side] for side in sides]
    return trainings[0] == trainings[1] and all(trainings[0])


def _metric(name: str) -> Metric:
    try:
        return metric_named(known_metric(name))
    except (ValueError, CardError) as error:
        raise ExperimentError(f"--metric {name}: {error}") from error


def _known_groups(sides: Sequence[Sequence[_Seed]]) -> Groups | None:
    known = (seed.groups for side in sides for seed in side if seed.groups is not None)
    return next(known, None)


def _check_margins(asked: CompareFlags) -> None:
    if asked.equivalent is None:
        return
    if asked.margin:
        raise ExperimentError("--margin asks for a difference and --equivalent for none; give one")
    if not asked.equivalent > 0:
        raise ExperimentError(
            f"--equivalent {asked.equivalent:g}: no two methods lie within that; give percentage points "
            "above 0"
        )


def known_population(text: str) -> Population:
    """Return what --on says; ExperimentError where it says something else."""
    for population in get_args(Population):
        if text == population:
            return population
    raise ExperimentError(f"--on {text}: expected {' or '.join(get_args(Population))}")


def _said_groups(text: str) -> Groups:
    """Return what --groups says: a pattern with a named part, else a file.

    Raises:
        CardError: the file cannot be read or is not clear.
        ExperimentError: the pattern is none.
    """
    if "(?P<" not in text:
        return Groups(file=Path(text).name, members=read_members(Path(text)))
    try:
        return Groups(pattern=text)
    except ValidationError as error:
        told = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ExperimentError(f"--groups: {told}") from error


def _check_boundaries(metric: str, sides: Mapping[str, Sequence[_Seed]]) -> None:
    for text, side in sides.items():
        if any(seed.counts.boundary is None for seed in side):
            raise ExperimentError(
                f"--metric {metric}: {text} has no counts of boundaries; a protocol with "
                "`boundary: 0.02` counts them, for predictions --set boundary=0.02"
            )


def counts_of(text: str, asked: CompareFlags, machine: Machine) -> list[Counts]:
    """Return the counts of every seed of a side; raises as `compare_results` does."""
    card = None if asked.dataset is None else Catalog.on_path(asked.cards).dataset(asked.dataset)
    return [seed.counts for seed in _side(text, asked, card, machine, lambda *_: None)]


def _notes(sides: Sequence[Sequence[_Seed]], shared: bool) -> list[str]:
    every = [seed.protocol for side in sides for seed in side if seed.protocol is not None]
    protocols = {protocol.digest(): protocol for protocol in every}
    notes = [f"Protocol: {p.description()}" for p in protocols.values()]
    if len(protocols) > 1:
        notes.append(
            "The two sides were scored by different protocols; the difference is theirs too."
        )
    starts = [dict.fromkeys(seed.start for seed in side) for side in sides]
    if starts[0].keys() != starts[1].keys() and all(all(side) for side in starts):
        left, right = (", ".join(side) for side in starts)
        notes.append(f"Initial weights differ: {left} against {right}.")
    notes += [seed.note for side in sides for seed in side if seed.note]
    for name, side in zip(("left", "right"), sides, strict=True):
        if twice := _twice(side):
            notes.append(
                f"{twice} of the {len(side)} seeds on the {name} have the very counts of another: "
                "the same model given twice makes the interval too narrow."
            )
    if shared:
        notes.append("Both sides are the same trained weights, so their seeds are paired.")
    a, b = (side[0].counts for side in sides)
    if set(a.names) == set(b.names) and a.sums.label.tolist() != b.sums.label.tolist():
        notes.append("The two sides saw different label pixels of these images.")
    return notes


def _twice(side: Sequence[_Seed]) -> int:
    """Return how many seeds equal one before them, image by image."""
    known = {
        (tuple(seed.counts.names), seed.counts.tp.tobytes(), seed.counts.pred.tobytes())
        for seed in side
    }
    return len(side) - len(known)


def _side(
    text: str, asked: CompareFlags, card: DatasetCard | None, machine: Machine, progress: Progress
) -> list[_Seed]:
    path = Path(text)
    if not path.exists() and ":" in text:
        folder, _, selector = text.rpartition(":")
        return _cells_of_run(Path(folder), selector, asked)
    if not path.exists():
        raise ExperimentError(
            f"{text}: there is no such file or folder; expected a folder of predictions, a file of "
            "counts, a trial's folder, or RUN:axis=value"
        )
    if (path / "run.json").exists():
        raise ExperimentError(
            f"{text}: is a whole run; say which of its trials: {text.rstrip('/')}:axis=value"
        )
    members = [path]
    if asked.has_seeds and path.is_dir():
        members = sorted(p for p in path.iterdir() if p.is_dir() or p.suffix == ".npz")
    if not members:
        raise ExperimentError(f"{text}: --seeds expects a folder or .npz file for each seed in it")
    return [_one(member, asked, card, machine, progress) for member in members]


def _one(
    path: Path, asked: CompareFlags, card: DatasetCard | None, machine: Machine, progress: Progress
) -> _Seed:
    if path.is_file():
        return _of_file(path, asked, card)
    if (path / "trial.json").exists():
        return _of_trial(path, asked)
    if card is None:
        raise ExperimentError(f"{path}: to score a folder of predictions, name its --dataset")
    from segbench.work.predictions import PredictionFolder, score_predictions
    from segbench.work.reading import chosen_reading

    protocol = protocol_of_predictions(path, asked.settings, asked.split, cards=asked.cards)
    reading = chosen_reading(path, card, asked.encoding)
    shown = path.resolve().name  # any name that a folder can have; the method's own is not kept
    found = score_predictions(
        PredictionFolder(path, "compared", card, reading),
        protocol,
        machine,
        lambda done, of: progress(shown, done, of),
    )
    seed = _seed(found.scored.counts.as_counts(), found.scored.evaluation)
    return seed._replace(note="; ".join(found.remarks(shown)), groups=card.groups)


def _of_file(path: Path, asked: CompareFlags, card: DatasetCard | None) -> _Seed:
    """Return counts of segbench with the figures' file beside them, or counts of anybody."""
    counts = _foreign_counts(path)
    if counts is None:
        counts = trial_files.load_counts(path).as_counts()
    beside = path.with_suffix(".json")
    if beside.exists():
        found = next(
            (e for e in trial_files.load_evaluations(path.parent.parent) if e.protocol.digest() == path.stem),
            None,
        )  # fmt: skip
        if found is not None:
            return _seed(counts, found)._replace(groups=card and card.groups)
    if card is None:
        return _Seed(counts)
    if card.num_classes != counts.tp.shape[1]:
        raise ResultError(
            f"{path}: has {counts.tp.shape[1]} classes, but {card.name} has {card.num_classes}"
        )
    counts = replace(counts, foreground=foreground_of(card.seen_background))
    indices = trial_files.scored_classes(card, asked.protocol)
    return _Seed(counts, None, card.class_names, indices, groups=card.groups)


def _foreign_counts(path: Path) -> Counts | None:
    """Return dense counts of anybody, None where the file is one of segbench's own."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "shape" in file:
                return None
            arrays = {key: file[key] for key in ("names", "tp", "label", "pred") if key in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ResultError(
            f"{path}: is no file of counts; expected an .npz with the plain arrays `names` (N,) and "
            "`tp`, `label`, `pred` (N, C)"
        ) from error
    if missing := [key for key in ("names", "tp", "label", "pred") if key not in arrays]:
        raise ResultError(f"{path}: lacks the arrays {', '.join(missing)}")
    names = tuple(map(str, arrays.pop("names").tolist()))
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ResultError(f"{path}: names {twice[0]!r} twice; each image once")
    try:
        tp, label, pred = (_whole(path, key, arrays[key]) for key in ("tp", "label", "pred"))
        counts = Counts(tp, label, pred, names)
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error
    if not counts.label.any():
        raise ResultError(f"{path}: `label` holds no pixel of any class, so nothing can be scored")
    return counts


def _whole(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Return pixel counts as int64."""
    if array.dtype.kind not in "iuf":
        raise ResultError(f"{path}: {key} holds {array.dtype}, expected numbers of pixels")
    wrong = array[~np.isfinite(array) | (array < 0) | (array != np.floor(array))]
    if wrong.size:
        raise ResultError(
            f"{path}: {key} holds {wrong.flat[0]:g}; expected numbers of pixels, whole and from 0 up"
        )
    return array.astype(np.int64)


def _of_trial(workdir: Path, asked: CompareFlags) -> _Seed:
    trial = trial_files.load_trial(workdir)
    found = {e.protocol.name: e for e in trial_files.load_evaluations(workdir)}
    name = _protocol_name(str(workdir), tuple(found), asked)
    evaluation = found[name]
    stored = trial_files.load_counts(trial_files.counts_path(workdir, evaluation.protocol))
    return _seed(stored.as_counts(), evaluation)._replace(
        training=trial.id(),
        start=start_name(workdir),
        groups=evaluation.protocol.scored_card(trial.dataset).groups,
    )


def _cells_of_run(folder: Path, selector: str, asked: CompareFlags) -> list[_Seed]:
    record = load_run(folder)
    axes = {a: sorted({cell.axes[a] for cell in record.cells}) for a in record.axis_names}
    wanted = dict(
        chosen_values(part, axes, prefix=f"{folder}:", where="run") for part in selector.split(",")
    )
    name = _protocol_name(str(folder), tuple(record.protocols), asked)
    rows = [
        row
        for row in load_rows(folder, record)
        if row.cell.trial_id and all(row.cell.axes[a] in values for a, values in wanted.items())
    ]
    cells = {tuple(row.cell.axes.items()) for row in rows}
    if len(cells) != 1:
        told = {axis: sorted({dict(c)[axis] for c in cells}) for axis in record.axis_names}
        several = "; ".join(f"{a}: {', '.join(v)}" for a, v in told.items() if len(v) > 1)
        raise ExperimentError(
            f"{folder}:{selector}: matches {len(cells)} cells, name one"
            + (f" (they differ in {several})" if several else "; segbench status lists them")
        )
    done = [row for row in rows if row.is_done and name in row.evaluations]
    if not done:
        raise ResultError(f"{folder}:{selector}: none of its trials is done under {name}")
    noted = record.groups.get(record.protocols[name].scored_name(done[0].cell.axes["dataset"]))
    groups = noted and noted.groups
    return [_of_row(folder, row, name)._replace(groups=groups) for row in done]


def _of_row(folder: Path, row: Row, name: str) -> _Seed:
    counts = counts_of_evaluation(folder, row, name).as_counts()
    start = start_name(trial_files.trial_folder(folder, row.cell.trial_id))
    return _seed(counts, row.evaluations[name])._replace(training=row.cell.trial_id, start=start)


def _protocol_name(where: str, known: tuple[str, ...], asked: CompareFlags) -> str:
    if asked.protocol_name is None and len(known) == 1:
        return known[0]
    if asked.protocol_name in known:
        return asked.protocol_name
    raise ExperimentError(
        f"{where}: say with --protocol which figures to compare: {', '.join(known) or 'there are none'}"
    )


def _seed(counts: Counts, evaluation: Evaluation) -> _Seed:
    counts = replace(counts, foreground=foreground_of(evaluation.background))
    return _Seed(counts, evaluation.protocol, evaluation.class_names, evaluation.scored_classes)
