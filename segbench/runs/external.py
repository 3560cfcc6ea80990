"""Methods that ran elsewhere: the files of their scores, as rows that a leaderboard can show. No torch.

`<run>/external/<name>/`: method.json, and evaluations/ as in a trial's folder. Knows nothing of how
predictions are read.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from segbench.errors import ResultError
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.trial_files import Evaluation
from segbench.schema.base import Spec
from segbench.schema.cards import Name


class ExternalMethod(Spec):
    """A folder of predictions, by the name that its author or scorer gave it.

    predictions_digest: over the names and bytes of all files of the folder. encoding: label:
    values are those of the data set's labels; index: they are places in its classes; mapping: raw
    value in the files -> class name, where they are neither.
    """

    name: Name
    dataset: str
    predictions_digest: str
    encoding: Literal["label", "index"] = "label"
    mapping: dict[str, str] = {}


class External(NamedTuple):
    """A method and its figures, one protocol each."""

    method: ExternalMethod
    evaluations: tuple[Evaluation, ...]


def external_folder(run_folder: Path, name: str) -> Path:
    """Return the folder of an external method's scores."""
    return run_folder / "external" / name


def write_external(
    run_folder: Path, method: ExternalMethod, evaluation: Evaluation, counts: Counted
) -> Path:
    """Write one protocol's score of a method; return its folder.

    Raises:
        ResultError: the name stands for other predictions or another data set already.
    """
    folder = external_folder(run_folder, method.name)
    known = _load(folder)
    if known is not None and not _is_same(known, method):
        what = (
            "these predictions, read another way,"
            if known.predictions_digest == method.predictions_digest
            else "other predictions"
        )
        raise ResultError(
            f"{folder}: holds the scores of {what} under the name {method.name!r}; give these "
            "another --name, or delete that folder"
        )
    trial_files.write_evaluation(folder, evaluation, counts)
    method.write_to(folder / "method.json")
    return folder


def load_externals(run_folder: Path) -> list[External]:
    """Return the external methods of a run, by name.

    Raises:
        ResultError: a method's file is damaged.
    """
    found = []
    for folder in sorted((run_folder / "external").glob("*")):
        method = _load(folder)
        if method is not None:
            found.append(External(method, tuple(trial_files.load_evaluations(folder))))
    return found


def _is_same(known: ExternalMethod, method: ExternalMethod) -> bool:
    """Return whether two records speak of the same predictions, read the same way."""
    return known == method


def _load(folder: Path) -> ExternalMethod | None:
    return trial_files.load_record(folder / "method.json", ExternalMethod)
