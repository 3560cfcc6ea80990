"""What the methods of a run are made of, and what is known of the run.

A sentence names a reference as `[@key]` and code as `code`; text.py writes both as Markdown and as
LaTeX. Knows nothing of what is said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from segbench.claims.verdict import Verdict
from segbench.report.boards import Board, BoardModel
from segbench.runs import trial_files
from segbench.runs.record import Row, RunRecord
from segbench.schema.trial import Trial


class Reference(NamedTuple):
    """A BibTeX entry. fields: as BibTeX calls them, plain text; `url` is an address."""

    key: str
    kind: str
    fields: dict[str, str]


class Paragraph(NamedTuple):
    """A titled paragraph."""

    title: str
    sentences: tuple[str, ...]


class Answer(NamedTuple):
    """An item of a checklist with its answer. points: the guidelines that it speaks to, each in a word."""

    item: str
    question: str
    answer: Literal["Yes", "No", "NA"]
    points: tuple[tuple[str, str], ...]


class Methods(NamedTuple):
    """All that is said. references: those that sentences may name."""

    name: str
    paragraphs: tuple[Paragraph, ...]
    answers: tuple[Answer, ...]
    references: tuple[Reference, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the references."""
        return frozenset(reference.key for reference in self.references)


@dataclass(frozen=True)
class Known:
    """What the files of a run hold. rows: all cells of the sweep. boards: models that are complete."""

    run_folder: Path
    record: RunRecord
    rows: Sequence[Row]
    boards: Sequence[Board]
    verdicts: Sequence[Verdict]

    @cached_property
    def done(self) -> list[Row]:
        """The trials that ended well, each once."""
        found = {row.cell.trial_id: row for row in self.rows if row.is_done}
        return list(found.values())

    @cached_property
    def trials(self) -> list[Trial]:
        """One trial for each backbone and data set that has one, with its cards."""
        found: dict[tuple[str, str], Trial] = {}
        for row in self.done:
            key = (row.cell.axes["backbone"], row.cell.axes["dataset"])
            if key not in found:
                folder = trial_files.trial_folder(self.run_folder, row.cell.trial_id)
                found[key] = trial_files.load_trial(folder)
        return list(found.values())

    @cached_property
    def models(self) -> list[BoardModel]:
        """The models that were trained here and are complete, once for each board that they are on."""
        return [m for board in self.boards for m in board.models if not m.is_external]

    @property
    def seeds(self) -> str:
        """How many training seeds a model has: `4`, or `2 to 4`."""
        return between(model.standing.num_seeds for model in self.models)

    @property
    def fewest_seeds(self) -> int:
        """The fewest training seeds of a model, 0 where no model is complete."""
        return min((model.standing.num_seeds for model in self.models), default=0)


def between(numbers: Iterable[int]) -> str:
    """Return `4`, or `2 to 4` where the numbers differ; `no` where there are none."""
    found = sorted(set(numbers))
    if not found:
        return "no"
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def joined(words: Iterable[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`, each word once."""
    *first, last = dict.fromkeys(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last
