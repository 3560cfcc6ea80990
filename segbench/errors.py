"""Every exception that segbench raises on purpose.

SegbenchError              the command line prints its message, without a traceback, and exits with 2
|-- CardError              a backbone or data set card, or a name that no card has
|-- ExperimentError        an experiment file, or a flag that changes one
|-- DataError              missing, corrupt or mismatched images, labels, weights, archives
|-- ResultError            result files that cannot be read, written or joined
|-- LaunchError            the engine that starts workers refused (sbatch, Ray, an unusable option)
`-- TrialError             one trial cannot go on; it becomes a failed row, the sweep continues
    |-- DivergedError      the loss is not finite
    `-- OutOfMemoryError   the device has too little memory for the trial's batch

A message says where, what was found, what is allowed and what to do.
"""

from collections.abc import Sequence


class SegbenchError(Exception):
    """Base of all errors that a user can mend."""


class CardError(SegbenchError):
    """A card is wrong, or no card has the name that was asked for."""


class ExperimentError(SegbenchError):
    """An experiment file, or a flag that changes it, is wrong."""


class DataError(SegbenchError):
    """Images, labels, weights or archives are missing, corrupt or do not fit together."""


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


def first_of(problems: Sequence[str], most: int = 20) -> list[str]:
    """Return the first problems, and how many more there are: hundreds are read by nobody."""
    more = len(problems) - most
    return [*problems[:most], *([f"and {more} more"] if more > 0 else [])]


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names, and how many more there are, within a sentence."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
