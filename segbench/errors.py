"""Every exception that segbench raises on purpose.

SegbenchError              the command line prints its message, without a traceback, and exits with 2
|-- CardError              a backbone or data set card, or a name that no card has
|-- ExperimentError        an experiment file, or a flag that changes one
|-- DataError              missing, corrupt or mismatched images, labels, weights, archives
|   `-- FileError          one file of many; `by_cause` tells of all that have the same fault at once
|       `-- DamagedError   it cannot be read at all
|-- ResultError            result files that cannot be read, written or joined
|-- LaunchError            the engine that starts workers refused (sbatch, Ray, an unusable option)
`-- TrialError             one trial cannot go on; it becomes a failed row, the sweep continues
    |-- DivergedError      the loss is not finite
    `-- OutOfMemoryError   the device has too little memory for the trial's batch

A message says where, what was found, what is allowed and what to do.
"""

import re
from collections import Counter
from collections.abc import Sequence

_ONE_OR_MORE = re.compile(r"\[([^][|]*)\|([^][|]*)\]")


class SegbenchError(Exception):
    """Base of all errors that a user can mend."""


class CardError(SegbenchError):
    """A card is wrong, or no card has the name that was asked for."""


class ExperimentError(SegbenchError):
    """An experiment file, or a flag that changes it, is wrong."""


class DataError(SegbenchError):
    """Images, labels, weights or archives are missing, corrupt or do not fit together."""


class FileError(DataError):
    """One file of many is wrong.

    cause: what is wrong, in words that other files may share. `{}` in it stands for `found`, what
    this file alone has, and `[is|are]` for the word for one file and that for several.
    """

    def __init__(self, place: object, cause: str, *found: object) -> None:
        self.place = str(place)
        self.cause = cause
        self.found = tuple(map(str, found))
        super().__init__(_told([self], ""))


class DamagedError(FileError):
    """One file of many cannot be read at all."""

    mend = "mend or replace the file[|s]"


class ResultError(SegbenchError):
    """Result files cannot be read, written or joined."""


class LaunchError(SegbenchError):
    """Workers cannot be started or followed."""


class TrialError(SegbenchError):
    """A trial cannot go on. `kind` is the word that tables and `status` show."""

    kind = "error"


class DivergedError(TrialError):
    """The training loss became NaN or infinite."""

    kind = "diverged"


class OutOfMemoryError(TrialError):
    """The device has too little memory for the trial as declared."""

    kind = "out_of_memory"


def by_cause(problems: Sequence[DataError], *, mend: str = DamagedError.mend) -> list[str]:
    """Return a line for each cause: the first file, how many more there are, what is wrong.

    mend: what to do about damaged files.
    """
    alike: dict[str, list[FileError]] = {}
    lines: list[str] = []
    for problem in problems:
        if isinstance(problem, FileError):
            alike.setdefault(f"{type(problem).__name__} {problem.cause}", []).append(problem)
        else:
            lines += str(problem).splitlines()
    return first_of([*lines, *(_told(errors, mend) for errors in alike.values())])


def _told(errors: Sequence[FileError], mend: str) -> str:
    first, more = errors[0], len(errors) - 1
    found = Counter(each for error in errors for each in error.found)
    mends = f"; {mend or first.mend}" if isinstance(first, DamagedError) else ""
    cause, mends = (
        _ONE_OR_MORE.sub(r"\2" if more else r"\1", text) for text in (first.cause, mends)
    )
    what = cause.replace("{}", listed([each for each, _ in found.most_common()], 5))
    return f"{first.place}{f' and {more} more' if more else ''}: {what}{mends}"


def first_of(problems: Sequence[str], most: int = 20) -> list[str]:
    """Return the first problems, and how many more there are: hundreds are read by nobody."""
    more = len(problems) - most
    return [*problems[:most], *([f"and {more} more"] if more > 0 else [])]


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names, and how many more there are, within a sentence."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, one: str) -> str:
    """Return a number with its noun, `1 trial` or `2 trials`."""
    return f"{number} {one}{'' if number == 1 else 's'}"
