"""Fetch one file: resumes where it stopped, verifies, takes its name only when it is whole."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from segbench.errors import DataError

Progress = Callable[[int, int | None], None]  # (bytes so far, bytes in all if known)
_BLOCK = 1 << 20
_TRIES = 4
_TIMEOUT_SECONDS = 60
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}


class Expected(NamedTuple):
    """What is known of a file before it is fetched. sha256: may be leading digits. size: bytes."""

    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


ANYTHING = Expected()


def download(
    url: str,
    path: Path,
    expected: Expected = ANYTHING,
    *,
    progress: Progress | None = None,
    pause_seconds: float = 2.0,
) -> Path:
    """Return `path` with the file at `url` in it; at once where it is there already and is right.

    A part that an earlier try left in `path`.part is continued.

    Raises:
        DataError: the address cannot be reached, or what came is not the expected file.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise DataError(f"{url}: only http and https addresses are downloaded")
    if path.exists():
        _verify(path, url, expected)
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, progress, pause_seconds)
    except OSError as error:
        if error.errno in _DISK:
            raise DataError(
                f"{path}: cannot be written ({error.strerror}); free space or set --cache"
            ) from error
        raise DataError(
            f"{url}: cannot be fetched ({_reason(error)}); check the network, or fetch it on "
            f"another machine and put it at {path}"
        ) from error
    try:
        _verify(part, url, expected)
    except DataError:
        part.unlink()
        raise
    part.replace(path)
    return path


def _fetch(url: str, part: Path, progress: Progress | None, pause_seconds: float) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            _continue(url, part, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            final = isinstance(error, OSError) and error.errno in _DISK
            if isinstance(error, urllib.error.HTTPError):
                final = error.code < 500
                error.close()
            if final or attempt == _TRIES:
                raise error if isinstance(error, OSError) else OSError(str(error)) from error
            time.sleep(pause_seconds * attempt)


def _continue(url: str, part: Path, progress: Progress | None) -> None:
    """Append what is missing; a server that cannot continue sends all of it again."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "segbench"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        whole = error.headers.get("Content-Range", "").rpartition("/")[2]  # bytes */WHOLE
        error.close()
        if whole.isdigit() and int(whole) != have:
            part.unlink()
            raise OSError(f"{have} bytes were here, but the file has {whole}") from error
        return
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    found = part.stat().st_size  # more than `have` where two commands wrote at once
    if total is not None and found != total:
        raise OSError(f"{found} of {total} bytes came")


def _verify(path: Path, url: str, expected: Expected) -> None:
    found_size = path.stat().st_size
    if expected.size is not None and found_size != expected.size:
        raise DataError(
            f"{url}: has {found_size} bytes, but the card says {expected.size}; delete {path} if it exists "
            "and fetch it again"
        )
    for kind in ("sha256", "md5"):
        digits = getattr(expected, kind)
        if digits is None:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind)
        if not found.hexdigest().startswith(digits):
            raise DataError(
                f"{url}: has the {kind} {found.hexdigest()}, but the card says {digits}; it was "
                f"changed or damaged on the way; delete {path} if it exists and fetch it again"
            )


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error)
