"""How the raw values of prediction files read as classes: as labels, as indices, by a mapping file.

Letters: C classes under the card's view. Knows nothing of files of predictions, or of scores.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.data.labels import class_lookup
from segbench.data.split import view_lookup
from segbench.errors import DataError, listed
from segbench.runs.predicted import ABOUT, load_predicted_by
from segbench.schema import yamlfile
from segbench.schema.cards import IGNORE_INDEX, OTHERS, DatasetCard

IGNORE = "ignore"  # in a mapping file: the raw values that stand for no class
_RESERVED = ("void", IGNORE)  # what a raw value may stand for, where no class is called so
_NO_CLASS = 256
_NUM_VALUES = 65536
Colours = tuple[tuple[int, int, int], ...]


class Reading(NamedTuple):
    """What each raw value means, in tables of 65536.

    classes: uint8 index under the view, 255 is no class. is_foreign: whether nobody said that the
    value means anything; the labels' ignored values are foreign too, unless they are a class.
    named: index into names and colours of the card, or what is not below their length. encoding and
    mapping: as in a method's record.
    """

    classes: NDArray[np.uint8]
    is_foreign: NDArray[np.bool_]
    named: NDArray[np.uint16]
    names: tuple[str, ...]
    colours: Colours
    encoding: Literal["label", "index"] = "label"
    mapping: Mapping[str, str] = MappingProxyType({})


class NamedValues(NamedTuple):
    """A mapping file. classes: raw value -> class name. ignored: raw values, or the word `others`."""

    classes: dict[int, str]
    ignored: tuple[int | str, ...] = ()

    def as_record(self) -> dict[str, str]:
        """Return it as it is kept in a method's record."""
        ignored = {IGNORE: ", ".join(map(str, self.ignored))} if self.ignored else {}
        return {str(raw): name for raw, name in self.classes.items()} | ignored


def chosen_reading(folder: Path, dataset: DatasetCard, encoding: str | None) -> Reading:
    """Return how the values of the folder's files read.

    encoding: `label`, `index` or a mapping file; None: as the folder's own record says, or `label`.

    Raises:
        DataError: no such encoding or file, or the folder's record speaks of other classes.
        ResultError: the folder's record is damaged.
    """
    if encoding is None:
        about = load_predicted_by(folder)
        if about is None:
            return as_labels(dataset)
        if about.class_names != dataset.class_names:
            raise DataError(
                f"{folder / ABOUT}: speaks of indices of {_shortened(about.class_names)}, but the "
                f"classes of {dataset.name} are {_shortened(dataset.class_names)}; name the data set "
                "of that model, or give --encoding FILE with a line for each value"
            )
        return as_indices(dataset)
    if encoding in {"label", "index"}:
        return as_labels(dataset) if encoding == "label" else as_indices(dataset)
    if not Path(encoding).is_file():
        near = yamlfile.did_you_mean(encoding, ("label", "index"))
        raise DataError(
            f"--encoding {encoding}: expected label, index or a file that is there{near}"
        )
    return as_mapped(dataset, read_mapping(Path(encoding), dataset))


def _shortened(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({listed(names, 6)})"


def as_labels(dataset: DatasetCard) -> Reading:
    """Return the reading of files that are encoded as the data set's labels."""
    return _of_card(dataset, class_lookup(dataset), means_to_ignore=False)


def as_indices(dataset: DatasetCard) -> Reading:
    """Return the reading of files that hold the indices of the classes under the view."""
    classes = np.full(_NUM_VALUES, IGNORE_INDEX, dtype=np.uint8)
    classes[: dataset.num_classes] = np.arange(dataset.num_classes)
    is_foreign = np.arange(_NUM_VALUES) >= dataset.num_classes
    named = np.where(is_foreign, _NO_CLASS, classes).astype(np.uint16)
    return Reading(
        classes, is_foreign, named, dataset.class_names, dataset.seen_palette, encoding="index"
    )


def as_card_indices(dataset: DatasetCard) -> Reading:
    """Return the reading of files that hold the card's class indices, as if it had no view."""
    raw = np.full(_NUM_VALUES, _NO_CLASS, dtype=np.uint16)
    raw[: len(dataset.classes)] = np.arange(len(dataset.classes))
    return _of_card(dataset, raw, means_to_ignore=False)


def shifted(reading: Reading, by: int) -> Reading:
    """Return the reading of files that hold each value of `reading` plus `by`."""
    meant = np.arange(_NUM_VALUES) - by
    is_value = (meant >= 0) & (meant < _NUM_VALUES)
    meant = np.where(is_value, meant, 0)
    return reading._replace(
        classes=np.where(is_value, reading.classes[meant], IGNORE_INDEX).astype(np.uint8),
        is_foreign=np.where(is_value, reading.is_foreign[meant], True),
        named=np.where(is_value, reading.named[meant], _NO_CLASS).astype(np.uint16),
    )


def as_mapped(dataset: DatasetCard, mapping: NamedValues) -> Reading:
    """Return the reading of files whose values a mapping file names."""
    rest = IGNORE_INDEX if OTHERS in mapping.ignored else _NO_CLASS
    raw = np.full(_NUM_VALUES, rest, dtype=np.uint16)
    raw[[int(value) for value in mapping.ignored if value != OTHERS]] = IGNORE_INDEX
    for value, name in mapping.classes.items():
        raw[value] = dataset.classes.index(name)
    reading = _of_card(dataset, raw, means_to_ignore=True)
    return reading._replace(mapping=mapping.as_record())


def _of_card(dataset: DatasetCard, raw: NDArray[np.uint16], *, means_to_ignore: bool) -> Reading:
    """Return the reading by raw value -> class index of the card, 255 ignored, 256 no class.

    means_to_ignore: whether whoever made the files said that ignored values stand for no class.
    """
    is_ignored, is_none = raw == IGNORE_INDEX, raw == _NO_CLASS
    classes = view_lookup(dataset)[np.where(is_none, 0, raw)]
    classes[is_none] = IGNORE_INDEX  # also where void is a class: it is not a hit of that
    is_told = means_to_ignore or dataset.view.void_as_class
    return Reading(
        classes=classes,
        is_foreign=is_none if is_told else is_none | is_ignored,
        named=np.where(is_ignored, _NO_CLASS, raw).astype(np.uint16),
        names=dataset.classes,
        colours=dataset.palette,
    )


def read_mapping(path: Path, dataset: DatasetCard) -> NamedValues:
    """Return the content of a YAML file such as `{0: background, 15: person, ignore: [255]}`.

    `ignore` takes raw values and the word `others`. `255: void` says the same where no class is
    called `void`.

    Raises:
        DataError: not such a file, or a name that is no class of the data set; all problems at once.
    """
    document = yamlfile.read_document(path, DataError)
    if not isinstance(document.data, dict):
        raise DataError(f"{path}: expected lines such as `15: person`")
    classes: dict[int, str] = {}
    ignored: list[int | str] = []
    problems: list[str] = []
    for key, value in document.data.items():
        where = document.where((key,))
        if key == IGNORE:
            ignored += _ignored(value, where, problems)
        elif (raw := _raw_value(key, where, problems)) is None:
            continue
        elif value in dataset.classes:
            classes[raw] = value
        elif value in _RESERVED:
            ignored.append(raw)
        else:
            problems.append(_no_such_class(value, where, dataset))
    twice = sorted(set(classes) & set(ignored))
    problems += [f"{document.where((IGNORE,))}: {raw} is a class too" for raw in twice]
    if problems:
        raise DataError("\n".join(problems))
    return NamedValues(classes, tuple(dict.fromkeys(ignored)))


def _ignored(value: object, where: str, problems: list[str]) -> list[int | str]:
    values: Iterable[object] = value if isinstance(value, tuple) else (value,)
    found: list[int | str] = []
    for item in values:
        raw = OTHERS if item == OTHERS else _raw_value(str(item), where, problems)
        found += [] if raw is None else [raw]
    return found


def _raw_value(text: str, where: str, problems: list[str]) -> int | None:
    if text.isascii() and text.isdigit() and int(text) < _NUM_VALUES:
        return int(text)
    problems.append(
        f"{where}: a raw value must lie in 0..65535, but is {text!r} (`{IGNORE}: [255]` names values "
        "that stand for no class)"
    )
    return None


def _no_such_class(value: object, where: str, dataset: DatasetCard) -> str:
    near = yamlfile.did_you_mean(str(value), (*dataset.classes, *_RESERVED))
    return f"{where}: no class {value!r} in {dataset.name}{near}"
