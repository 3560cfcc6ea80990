"""The groups that a data set's images come in, by their names: frames of a drive, slices of a patient.

Knows nothing of where images lie, and of what statistics make of groups.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segbench.errors import CardError, listed
from segbench.files import digest
from segbench.schema.base import Spec
from segbench.schema.cards import DatasetCard, Groups


class GroupedSplit(Spec):
    """The groups of one split.

    num_images: of the split. sizes: group -> how many of its images are in the split. digest: of every
    image's name with its group.
    """

    num_images: int
    sizes: dict[str, int]
    digest: str

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(self.sizes)


class NotedGroups(Spec):
    """What a run notes of a data set's groups before its claims are judged.

    groups: as the card says. splits: those whose images were at hand, whole, whatever the view keeps.
    """

    groups: Groups
    splits: dict[str, GroupedSplit] = {}

    def in_words(self, split: str, *, trained: str = "train") -> str:
        """Return of what groups a split's images are, and which of these were trained on; or nothing."""
        part = self.splits.get(split)
        if part is None:
            return ""
        told = f"The {part.num_images} images of {split} are of {counted_groups(part.num_groups, self.groups.noun)}"
        in_training = (
            {} if split == trained or trained not in self.splits else self.splits[trained].sizes
        )
        shared = [group for group in part.sizes if group in in_training]
        if not shared:
            return f"{told}."
        images = sum(in_training[group] for group in shared)
        which = "which" if part.num_groups == 1 else f"of which {len(shared)}"
        return f"{told}, {which} {'has' if len(shared) == 1 else 'have'} {images} images in {trained} too."


def groups_of(card: DatasetCard, names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the group of each image, in the order of the names; None where the card has no groups.

    Raises:
        CardError: the card gives an image no group.
    """
    return None if card.groups is None else named_groups(card.groups, names, of=card.name)


def named_groups(groups: Groups, names: Sequence[str], *, of: str) -> tuple[str, ...]:
    """Return the group of each image, in the order of the names. of: what the images are of.

    Raises:
        CardError: an image has no group.
    """
    found = [groups.of(name) for name in names]
    without = [name for name, group in zip(names, found, strict=True) if not group]
    if without:
        rule = groups.pattern if groups.file is None else groups.file
        raise CardError(
            f"{of}: groups: {rule!r} gives no {groups.noun} for {len(without)} of {len(names)} images "
            f"({listed(without, 3)}); mend the {'pattern' if groups.file is None else 'file'}"
        )
    return tuple(group for group in found if group)


def grouped_split(names: Sequence[str], groups: Sequence[str]) -> GroupedSplit:
    """Return what is noted of a split."""
    pairs = sorted(zip(names, groups, strict=True))
    return GroupedSplit(
        num_images=len(names), sizes=dict(sorted(Counter(groups).items())), digest=digest(pairs)
    )


def counted_groups(number: int, noun: str) -> str:
    """Return `1 drive`, `4 drives`, `2 cities`."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"
    return f"{number} {plural}"


def read_members(path: Path) -> dict[str, str]:
    """Return image name -> group as a file says, which has both on each line.

    Raises:
        CardError: the file cannot be read, a line has no two columns, or a name has two groups.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: the groups of images cannot be read ({error})") from error
    members: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        columns = line.strip().rsplit(maxsplit=1)  # a name may have spaces
        if len(columns) != 2:
            raise CardError(
                f"{path}:{number}: expected an image's name and its group, got {line!r}"
            )
        name, group = columns
        if members.setdefault(name, group) != group:
            raise CardError(f"{path}:{number}: {name!r} is in {members[name]!r} and in {group!r}")
    return members
