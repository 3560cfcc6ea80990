"""What each trial's trunk started from: random weights, a card's, or another trial's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segbench.runs import trial_files
from segbench.runs.record import Row
from segbench.schema.trial import Trial

RANDOM = "random"


class Start(NamedTuple):
    """name: `random`, the weights' name on the card, or the trial; empty where it is not on file.

    sha256: of the weights' file, as far as it is known.
    """

    name: str
    source: str = ""
    sha256: str = ""

    @property
    def in_words(self) -> str:
        """The name, with where the weights came from."""
        known = ", ".join(filter(None, (self.source, self.sha256 and f"sha256 {self.sha256}")))
        return f"{self.name} ({known})" if known else self.name


def starts_of(run_folder: Path, rows: Sequence[Row]) -> dict[str, Start]:
    """Return what each done trial started from, by its id."""
    axes = {row.cell.trial_id: row.cell.axes for row in rows}
    return {row.cell.trial_id: _start_of(run_folder, row, axes) for row in rows if row.is_done}


def names_of(starts: Iterable[Start]) -> str:
    """Return what the seeds of one cell started from: one name, but for trials that are not here."""
    return " / ".join(dict.fromkeys(start.name for start in starts))


def start_name(workdir: Path) -> str:
    """Return what the trial in a folder started from, whichever trial; empty if not on file."""
    trial = _trial_in(workdir)
    if trial is None:
        return ""
    if trial.start_from is not None:
        return "another trial's"
    return RANDOM if trial.weights is None else trial.model.weights


def _trial_in(workdir: Path) -> Trial | None:
    return trial_files.load_record(workdir / "trial.json", Trial, torn_is_missing=True)


def _start_of(run_folder: Path, row: Row, axes: Mapping[str, dict[str, str]]) -> Start:
    trial = _trial_in(trial_files.trial_folder(run_folder, row.cell.trial_id))
    if trial is None:
        return Start("")
    if trial.start_from is not None:
        taken = axes.get(trial.start_from, {})
        varied = [value for axis, value in taken.items() if row.cell.axes.get(axis) != value]
        name = f"trained {' '.join(varied)}" if varied else f"trial {trial.start_from}"
        return Start(name, source=f"trial {trial.start_from}" if varied else "")
    if trial.weights is None:
        return Start(RANDOM)
    measured = "" if row.provenance is None else row.provenance.weights_sha256
    return Start(trial.model.weights, trial.weights.source, measured or trial.weights.sha256)
