"""Addresses of files on the Hugging Face Hub, `hf://ORG/NAME@REVISION/FILE`, as cards write them."""

import re
from typing import NamedTuple

PREFIX = "hf://"


class HubFile(NamedTuple):
    """A file of one revision of a repository on the hub."""

    repository: str
    revision: str
    file: str

    @property
    def local_name(self) -> str:
        """What the file is called in a weights folder: its repository tells it from others."""
        return "--".join([*self.repository.split("/"), *self.file.split("/")])


def hub_file(url: str) -> HubFile:
    """Return what an address `hf://ORG/NAME@REVISION/FILE` says.

    Raises:
        ValueError: it is none; a sentence.
    """
    found = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)@([\w.-]+)/([\w./-]+)", url)
    if found is None or ".." in found[3].split("/"):
        raise ValueError(f"expected hf://ORG/NAME@REVISION/FILE, but got {url!r}")
    return HubFile(*found.groups())
