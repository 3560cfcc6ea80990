"""Write files so that no reader ever sees half of one; read what was cut off; hash what was written.

Knows nothing of what the files mean. A file is written under a temporary name in the same folder,
flushed to the disk, and renamed: rename is atomic on POSIX file systems, NFS included.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from segbench.errors import DataError, ResultError

# Control characters, line ends of Unicode, and what Python makes of bytes that are not UTF-8.
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` on a temporary file beside `path`, then give it that name.

    A failure (full disk, folder not writable) leaves the file that was there untouched.

    Raises:
        ResultError: the folder cannot be written to; names it and the reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResultError(
            f"{path}: cannot be written ({error.strerror or error}); free space, or choose a "
            "folder that can be written (--results for a run's)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder that a user has named, where it is not there yet.

    Raises:
        ResultError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot be made ({error.strerror}); name another folder"
        ) from error


def check_file_names(where: Path | str, names: Iterable[str]) -> None:
    """Refuse names that cannot stand in a file of names, one a line.

    Raises:
        DataError: says how many there are, and the first.
    """
    wrong = [name for name in names if _NOT_IN_NAMES.search(name)]
    if wrong:
        raise DataError(
            f"{where}: has file names with control characters or that are not UTF-8 ({len(wrong)}, the "
            f"first is {wrong[0]!r}); rename these files, since results list images by name"
        )


def remove_leftovers(folder: Path, *names: str) -> None:
    """Delete what writers of these files that were killed have left half-written beside them."""
    for path in [left for name in names for left in folder.glob(f".{name}.*.tmp")]:
        with contextlib.suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON in a file; None where it is missing or torn."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value` that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any, *, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the sha256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a file with one JSON text a line, none where there is no file.

    What follows a line that was cut off by a kill is not read.
    """
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of the file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
