"""Unpack archives of strangers: nothing lands outside the folder, nothing but files and folders.

Bounded in files and bytes, so that a small archive cannot fill the disk.
"""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from segbench.errors import DataError
from segbench.fetch.bounds import Bounds

BOUNDS = Bounds(files=1_000_000, bytes=400 * 2**30)
_BLOCK = 1 << 20
_AGAIN = "delete it and fetch it again"
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, RuntimeError),  # names with zero bytes; encrypted or unknown compression
)


def unpack(archive: Path, folder: Path, bounds: Bounds = BOUNDS) -> int:
    """Unpack a zip or tar archive into `folder`; return the number of files.

    Raises:
        DataError: the disk is full, or the archive is damaged, or holds a link, a device, a path
            that leaves the folder, or more than the bounds allow. What was unpacked before that
            stays: it is on the caller not to use a folder whose unpacking did not end.
    """
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, folder, _Tally(archive, bounds))
        if tarfile.is_tarfile(archive):
            return _unpack_tar(archive, folder, _Tally(archive, bounds))
    except _DAMAGE as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # of the disk, not of the archive
            raise DataError(
                f"{archive}: cannot be unpacked to {folder} ({error.strerror}); free space or set --cache"
            ) from error
        raise DataError(f"{archive}: cannot be unpacked ({error}); {_AGAIN}") from error
    raise DataError(f"{archive}: is neither a zip nor a tar archive; {_AGAIN}")


class _Tally:
    """What of an archive is unpacked; ends in a DataError where that is too much."""

    def __init__(self, archive: Path, bounds: Bounds) -> None:
        self.archive = archive
        self.bounds = bounds
        self.files = self.bytes = 0

    def add(self, size: int, *, files: int = 1) -> None:
        self.files += files
        self.bytes += size
        if excess := self.bounds.excess(self.files, self.bytes):
            raise DataError(f"{self.archive}: unpacks to {excess}; it is not what the card means")


def _unpack_zip(archive: Path, folder: Path, unpacked: _Tally) -> int:
    with zipfile.ZipFile(archive) as opened:
        for item in opened.infolist():
            target = _target(archive, folder, item.filename)
            if item.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            if (item.external_attr >> 28) not in {0, 0o10}:  # the file type in Unix modes
                raise DataError(f"{archive}: holds {item.filename!r}, which is not a plain file")
            unpacked.add(item.file_size)
            with opened.open(item) as source:
                _copy(source, target, item.file_size)
    return unpacked.files


def _unpack_tar(archive: Path, folder: Path, unpacked: _Tally) -> int:
    with tarfile.open(archive) as opened:
        for item in opened:
            target = _target(archive, folder, item.name)
            if item.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = opened.extractfile(item) if item.isreg() else None
            if source is None:
                raise DataError(f"{archive}: holds {item.name!r}, which is not a plain file")
            unpacked.add(item.size)
            with source:
                _copy(source, target, item.size)
        _read_to_the_end(opened, unpacked)
    return unpacked.files


def _read_to_the_end(opened: tarfile.TarFile, unpacked: _Tally) -> None:
    """Read what follows the last member: the checksum of gzip, bzip2 and xz is looked at there."""
    assert opened.fileobj is not None
    while block := opened.fileobj.read(_BLOCK):
        unpacked.add(len(block), files=0)


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    if target.is_file() and target.stat().st_size == size:
        return  # unpacked before an interruption
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    with temporary.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
    temporary.replace(target)


def _target(archive: Path, folder: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    target = folder.joinpath(*path.parts)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not target.resolve().is_relative_to(folder.resolve())
    ):
        raise DataError(
            f"{archive}: holds {name!r}, a path that leaves its folder; nothing of it is used"
        )
    return target
