"""How much an archive of strangers may hold, so that a small one cannot fill the disk."""

from typing import NamedTuple


class Bounds(NamedTuple):
    """The most files and bytes of an archive, unpacked."""

    files: int
    bytes: int

    def excess(self, files: int, size: int) -> str:
        """Return what these files and bytes are more than, empty where they are within the bounds."""
        if files <= self.files and size <= self.bytes:
            return ""
        return f"more than {self.files} files or {self.bytes} bytes"
