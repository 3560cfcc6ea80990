"""What a worker must know besides its trials; travels as one JSON file. No torch here."""

from pathlib import Path
from typing import Self

from pydantic import ValidationError

from segbench.errors import LaunchError
from segbench.files import digest, write_json
from segbench.spec.base import Spec
from segbench.spec.machine import Machine
from segbench.spec.protocol import Protocol


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
