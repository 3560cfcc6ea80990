"""Where and how a trial runs: everything that must not change a number.

Kept out of the trial's identity; a test flips each field and compares the results' bytes.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from segbench.code.own import trusted_packages
from segbench.errors import DataError
from segbench.schema.base import Spec
from segbench.schema.catalog import Catalog


class Monitor(Spec):
    """How often a training speaks and saves: the `monitor:` part of an experiment.

    checkpoint_every_steps: how often it saves. log_every_steps: how often loss and rate are written down.
    validate_every_steps: how often the validation loss is measured; 0 at the end of each stage alone. It is
    drawn in the learning curves and decides nothing. validate_images: over how many images.
    """

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    log_every_steps: Annotated[int, Field(ge=1)] = 20
    validate_every_steps: Annotated[int, Field(ge=0)] = 0
    validate_images: Annotated[int, Field(ge=1)] = 16


class Machine(Spec):
    """Folders, device and habits of one machine. Paths are absolute, as text.

    data: folders in which data sets are looked for. cache: Arrow files, downloaded archives and
    weights, cached features. weights: folders in which cards' weights files are looked for.
    code_folders: where trusted modules are looked for, after Python's own path; trusted: the
    packages that may run (`segbench.code.own`). threads: CPU threads of a trial; equal bits need
    equal threads. stage_data_to: see `Launch`; may hold variables of the node, so it is the one path
    that is not absolute.
    """

    data: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    cache: str
    code_folders: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    loader_workers: Annotated[int, Field(ge=0)] = 0
    stage_data_to: str | None = None
    monitor: Monitor = Monitor()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] = os.environ,
        *,
        data: Sequence[Path] = (),
        weights: Sequence[Path] = (),
        cache: Path | None = None,
        **given: Any,
    ) -> Self:
        """Return the machine that flags and $SEGBENCH_DATA, _CACHE and _WEIGHTS describe.

        Flags come first; several folders in a variable are separated by `:`. given: other fields;
        trusted modules lie beside the cards that are found here unless `code_folders` is among them.

        Raises:
            CardError: a folder of $SEGBENCH_CARDS does not exist, or holds no cards.
            DataError: a folder that a flag names does not exist, or none of those of a variable does.
        """
        for flag, folders in (("--data", data), ("--weights", weights)):
            for folder in folders:
                if not folder.expanduser().is_dir():
                    raise DataError(f"{flag} {folder}: there is no such folder")

        def of_variable(name: str) -> list[Path]:
            folders = [Path(part) for part in environment.get(name, "").split(":") if part]
            if folders and not any(folder.expanduser().is_dir() for folder in folders):
                raise DataError(f"${name} {environment[name]}: there is no such folder")
            return folders

        if "code_folders" not in given:
            given["code_folders"] = Catalog.on_path(environment=environment).code_folders
        given.setdefault("trusted", trusted_packages())
        return cls(
            cache=_absolute(cache or environment.get("SEGBENCH_CACHE") or "~/.cache/segbench"),
            data=tuple(map(_absolute, (*data, *of_variable("SEGBENCH_DATA")))),
            weights=tuple(map(_absolute, (*weights, *of_variable("SEGBENCH_WEIGHTS")))),
            **given,
        )


def _absolute(folder: str | Path) -> str:
    return str(Path(folder).expanduser().resolve())
