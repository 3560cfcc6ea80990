"""Copy a split's prepared files to a node's own disk, once per node, by one process, and verify them.

It saves a shared disk from many readers and can change no number; so whatever goes wrong with it is
a warning, and the shared disk is read instead.
"""

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from segbench.data.prepared import prepared_folder
from segbench.errors import DataError, ResultError
from segbench.files import sha256_of_file, write_atomically
from segbench.leases import claim
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 2**22
_PATIENCE_SECONDS = 3600.0
_MARK = "verified"


def staged(card: DatasetCard, split: str, machine: Machine) -> Machine:
    """Return the machine whose cache is the node's own disk, holding the split; else `machine`."""
    if machine.stage_data_to is None:
        return machine
    stage = os.path.expandvars(machine.stage_data_to)
    source = prepared_folder(card, split, machine, if_changed="pass_over")
    try:
        if "$" in stage or not Path(stage).is_absolute():
            raise DataError(f"{machine.stage_data_to}: is {stage} here, no absolute path")
        content = sha256_of_file(source / "about.json")[:16]  # what was converted again lies apart
        cache = Path(stage) / f"segbench-{os.getuid()}" / content
        _copy_once(source, cache / "arrow" / source.name)
    except (DataError, ResultError, OSError) as error:
        LOG.warning("launch.stage_data_to: %s; %s is read where it lies", error, source)
        return machine
    return machine.revised(cache=str(cache))


def _copy_once(source: Path, target: Path) -> None:
    """Copy unless another process of this node did, or does: then wait for it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (target / _MARK).exists():
        lease = claim(target.parent / f".{target.name}")  # a process of this node: known at once
        if lease is not None:
            with lease:
                if not (target / _MARK).exists():
                    _copy(source, target)
            return
        if time.monotonic() > deadline:
            raise DataError(f"{target}: another process copies to it since an hour")
        time.sleep(0.2)


def _copy(source: Path, target: Path) -> None:
    """Copy each file, read it again, and compare; the mark comes last.

    Raises:
        DataError: what was read again is not what was copied.
    """
    started = time.monotonic()
    shutil.rmtree(target, ignore_errors=True)  # half of a copy whose process was killed
    files = sorted(path for path in source.iterdir() if path.is_file())
    for path in files:
        copied = hashlib.sha256()
        with path.open("rb") as original:

            def write(file, original=original, copied=copied):
                while block := original.read(_BLOCK_BYTES):
                    copied.update(block)
                    file.write(block)

            write_atomically(target / path.name, write)
        if sha256_of_file(target / path.name) != copied.hexdigest():
            shutil.rmtree(target, ignore_errors=True)
            raise DataError(f"{target / path.name}: differs from {path} after copying")
    (target / _MARK).touch()
    LOG.info("staged %d files to %s in %.1f s", len(files), target, time.monotonic() - started)
