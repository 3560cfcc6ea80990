"""What a worker must know besides its trials, as one JSON file, and what its exit codes say.

No torch here.
"""

from pathlib import Path
from typing import Self

from pydantic import ValidationError

from segbench.errors import LaunchError
from segbench.files import digest, write_json
from segbench.schema.base import Spec
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol

# Exit codes besides 0 (ended) and 1 (a trial failed), of all processes that do trials.
UNRECORDED = 2  # the trial's folder takes no files, or the code is another
UNAVAILABLE = 69  # sysexits' EX_UNAVAILABLE: what it waits for is not there
INTERRUPTED = 75  # sysexits' EX_TEMPFAIL: the state is saved, to be continued
RANK_LOST = 76  # another rank of the trial is gone


class Job(Spec):
    """A run's folder, the machine's settings, the protocols, and the code that planned it."""

    run_folder: str
    machine: Machine
    protocols: tuple[Protocol, ...]
    code_version: str

    def write(self) -> Path:
        """Write the job under its digest in the run's folder; return the file."""
        fields = self.model_dump(mode="json")
        path = Path(self.run_folder) / "jobs" / f"{digest(fields, length=12)}.json"
        write_json(path, fields)
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the job in the file.

        Raises:
            LaunchError: the file is missing or damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise LaunchError(f"{path}: is not a job's file ({error})") from error
