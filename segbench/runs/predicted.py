"""A folder that `segbench predict` writes: what its files hold, and what may be written there. No torch.

    segbench.json                 who predicted, how values read, what was labelled
    NAME.png                      class indices, with the palette of the model's data set
    overlays/NAME.png             the photograph under the colours, with a legend
    NAME_probabilities.npz        if asked for

Knows nothing of images or models.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from segbench.errors import DataError, counted
from segbench.runs import trial_files
from segbench.schema.base import Spec
from segbench.schema.cards import DatasetCard
from segbench.schema.protocol import Protocol

ABOUT = "segbench.json"
OVERLAYS = "overlays"
_WITH_PREDICTIONS: dict[str, Any] = {  # fields of a protocol that change no prediction
    field: Protocol.model_fields[field].default
    for field in (
        *("name", "title", "dataset", "split", "max_images", "subset_seed", "absent_class"),
        *("with_background", "false_positives", "void", "boundary", "metrics"),
    )
}


class PredictedBy(Spec):
    """Who predicted a folder's files, and how their values read.

    encoding: index: a value is a place in class_names. images: each prediction's name -> 16 digits
    that tell its photograph from others.
    """

    encoding: Literal["index"] = "index"
    trial_id: str
    dataset: str
    class_names: tuple[str, ...]
    protocol: Protocol
    images: dict[str, str] = {}

    def in_words(self) -> str:
        """Return who predicted, what and how."""
        of = f"{self.dataset} {self.protocol.split}"
        return f"trial {self.trial_id} for {of}, {self.protocol.description()}"

    def contradiction(self, protocol: Protocol) -> str:
        """Return why the files cannot be scored by the protocol, empty if they can.

        They can where only what is done with predictions differs: which images, classes and errors
        count.
        """
        before, wanted = (p.revised(**_WITH_PREDICTIONS) for p in (self.protocol, protocol))
        if before.digest() == wanted.digest():
            return ""
        if (
            protocol.score_at == "input"
            and before.digest() == wanted.revised(score_at="label").digest()
        ):
            return (
                f"these maps have their photographs' own size, and score_at: input compares maps of "
                f"the model's; --set score_at=label scores them, and `segbench evaluate RUN "
                f"{self.trial_id}` the model itself"
            )
        return (
            f"these were predicted under another protocol ({before.description()}) than the one "
            f"to score by ({wanted.description()}); leave --protocol and --set of these out, or "
            "predict again under that one"
        )


def load_predicted_by(folder: Path) -> PredictedBy | None:
    """Return who predicted the folder's files; None where segbench did not.

    Raises:
        ResultError: the file that says so is damaged.
    """
    return trial_files.load_record(folder / ABOUT, PredictedBy)


def prediction_files(folder: Path) -> list[Path]:
    """Return the label maps of a folder of predictions, sorted; segbench's own overlays are none.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of predictions")
    is_ours = (folder / ABOUT).is_file()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".png"
        and not (is_ours and path.is_relative_to(folder / OVERLAYS))
    ]


def label_map_path(folder: Path, name: str) -> Path:
    """Return the file of an image's class indices."""
    return folder / f"{name}.png"


def overlay_path(folder: Path, name: str) -> Path:
    """Return the file that shows the image under its prediction."""
    return folder / OVERLAYS / f"{name}.png"


def probabilities_path(folder: Path, name: str) -> Path:
    """Return the file of an image's probabilities."""
    return folder / f"{name}_probabilities.npz"


def open_folder(folder: Path, about: PredictedBy, photographs: Iterable[Path]) -> None:
    """Write what the folder's files are, before the first of them.

    Nothing is written over but predictions of the same photographs by the same model.

    Raises:
        DataError: a photograph would be written over or lies among predictions, or the folder holds
            something else of these names.
    """
    _check_photographs(folder, list(photographs))
    if hidden := [name for name in about.images if name.startswith(f"{OVERLAYS}/")]:
        raise DataError(
            f"{hidden[0]}: a prediction of this name would lie among the overlays; rename the folder "
            f"{OVERLAYS!r} of the photographs"
        )
    known = load_predicted_by(folder) or about.revised(images={})
    if known.revised(images={}) != about.revised(images={}):
        raise DataError(
            f"{folder}: holds predictions of {known.in_words()}; name another folder with -o"
        )
    other = [
        name for name, digest in about.images.items() if known.images.get(name, digest) != digest
    ]
    if other:
        raise DataError(
            f"{folder}: holds predictions of other photographs of the same names ({len(other)}, the "
            f"first is {other[0]}); name another folder with -o"
        )
    _check_free(folder, about.images.keys() - known.images)
    about.revised(images={**known.images, **about.images}).write_to(folder / ABOUT)


def _check_photographs(folder: Path, photographs: list[Path]) -> None:
    """Refuse photographs that lie where predictions are written, or that are predictions."""
    out = folder.resolve()
    inside = [path for path in photographs if path.resolve().is_relative_to(out)]
    if inside:
        raise DataError(
            f"-o {folder}: photographs lie in this folder ({len(inside)}, the first is {inside[0]}), "
            "and predictions would be written over them or be labelled next time; name a folder of "
            "its own"
        )
    holds_predictions: dict[Path, bool] = {}
    for path in photographs:
        for parent in path.absolute().parents:
            if parent not in holds_predictions:
                holds_predictions[parent] = (parent / ABOUT).is_file()
            if holds_predictions[parent]:
                raise DataError(
                    f"{path}: is a prediction, as {parent / ABOUT} says; name the photographs alone"
                )


def _check_free(folder: Path, names: Iterable[str]) -> None:
    ours = (label_map_path, overlay_path, probabilities_path)
    paths = [path(folder, name) for name in sorted(names) for path in ours]
    if taken := [path for path in paths if path.exists()]:
        raise DataError(
            f"{taken[0]}: is there already ({counted(len(taken), 'such file')}) and is no prediction of segbench; "
            "name an empty folder with -o"
        )


def names_of_split(photographs: Mapping[str, Path], dataset: DatasetCard) -> dict[str, Path]:
    """Return the photographs by the names that the data set's splits give them.

    None are the data set's where any of them lies elsewhere than the card's patterns say.
    """
    patterns = [_pattern(split.images) for split in dataset.splits.values()]
    named: dict[str, Path] = {}
    for path in photographs.values():
        found = (pattern.search(path.absolute().as_posix()) for pattern in patterns)
        match = next((m for m in found if m is not None), None)
        if match is None or named.setdefault(match["name"], path) != path:
            return {}
    return named


def _pattern(images: str) -> re.Pattern[str]:
    """Return what finds an image's name in its path by a card's pattern such as `photos/{name}`."""
    before, _, after = images.partition("{name}")
    if not before:
        return re.compile(r"(?!)")  # where the root is cannot be seen in a path
    ending = "" if Path(after).suffix else r"\.\w+"
    return re.compile(rf".*/{re.escape(before)}(?P<name>.+){re.escape(after)}{ending}$")
