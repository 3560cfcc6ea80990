"""A split under a card's view: samples with class indices, a chosen subset, counts per class.

Knows nothing of how files were found or converted.
"""

import io
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segbench.data.chosen import chosen_names, fingerprint_of, stored_split
from segbench.data.prepared import IfChanged, PreparedSplit, open_prepared
from segbench.data.resize import resized_label  # noqa: F401 - readers of labels alone look here
from segbench.schema.cards import IGNORE_INDEX, DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol


class Sample(NamedTuple):
    """image: (3, H, W) uint8 RGB; label: (H, W) uint8 class indices, 255 = counts nowhere."""

    name: str
    image: Tensor
    label: Tensor


class SegmentationSplit:
    """The images of a split, or the chosen ones, in the split's order."""

    def __init__(
        self, prepared: PreparedSplit, card: DatasetCard, chosen: NDArray[np.int64]
    ) -> None:
        self._prepared = prepared
        self._chosen = chosen
        self._card = card
        self._lookup = view_lookup(card).tobytes()
        self.names = tuple(prepared.contents.names[index] for index in chosen)
        self.fingerprint = fingerprint_of(card, prepared.contents, chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def num_classes(self) -> int:
        """How many classes the labels have under the view."""
        return self._card.num_classes

    def sample(self, index: int) -> Sample:
        """Return image `index` in the split's order."""
        row = self._prepared.table[int(self._chosen[index])]
        return Sample(row["name"], decoded_image(row["image"]), self._label(row["label"]))

    def share(self, rank: int, ranks: int) -> "SegmentationSplit":
        """Return the part of one of several processes: every `ranks`-th image from `rank` on."""
        return SegmentationSplit(self._prepared, self._card, self._chosen[rank::ranks])

    def label(self, index: int) -> Tensor:
        """Return the (H, W) uint8 label of image `index`; the image is not decoded."""
        return self._label(self._prepared.table[int(self._chosen[index])]["label"])

    def class_pixels(self) -> NDArray[np.int64]:
        """Return (C,) labelled pixels of each class under the view."""
        return self._pixels().sum(0)

    def class_images(self) -> NDArray[np.int64]:
        """Return (C,) how many images have each class under the view."""
        return (self._pixels() > 0).sum(0)

    def _pixels(self) -> NDArray[np.int64]:
        """Return (N, C) labelled pixels of each image and class under the view."""
        raw = self._prepared.contents.pixels[self._chosen]
        seen = np.zeros((len(self._chosen), self._card.num_classes), dtype=np.int64)
        for index, target in enumerate(self._card.class_map):
            if target is not None:
                seen[:, target] += raw[:, index]
        if self._card.view.void_as_class:
            table = self._prepared.table.data
            height, width = (table.column(name).to_numpy() for name in ("height", "width"))
            sizes = height.astype(np.int64) * width
            seen[:, -1] = sizes[self._chosen] - raw.sum(1)
        return seen

    def _label(self, stored: bytes) -> Tensor:
        with Image.open(io.BytesIO(stored)) as label:
            height, width = label.height, label.width
            classes = bytearray(label.tobytes().translate(self._lookup))
        return torch.frombuffer(classes, dtype=torch.uint8).view(height, width)


def open_split(
    card: DatasetCard,
    split: str,
    machine: Machine,
    *,
    max_images: int | None = None,
    subset_seed: int = 0,
    if_changed: IfChanged = "refuse",
) -> SegmentationSplit:
    """Return a split of a data set, under the card's view.

    `train` leaves out what the view thins and holds out; `holdout` is what it holds out of `train`.
    max_images: the first n in a shuffled order that `subset_seed` fixes, in the split's order.
    if_changed: see `open_prepared`.

    Raises:
        DataError: the files are not here, something is wrong with them (all problems at once), or
            they were changed since they were converted.
    """
    prepared = open_prepared(card, stored_split(split), machine, if_changed=if_changed)
    chosen = chosen_names(
        card, split, prepared.contents, max_images=max_images, subset_seed=subset_seed
    )
    return SegmentationSplit(prepared, card, chosen)


def open_scored(
    card: DatasetCard, protocol: Protocol, machine: Machine, *, if_changed: IfChanged = "refuse"
) -> SegmentationSplit:
    """Return the images that the protocol scores; raises as `open_split` does.

    card: that of the model's training; the protocol may name another.
    """
    return open_split(
        protocol.scored_card(card),
        protocol.split,
        machine,
        max_images=protocol.max_images,
        subset_seed=protocol.subset_seed,
        if_changed=if_changed,
    )


def view_lookup(card: DatasetCard) -> NDArray[np.uint8]:
    """Return (256,) class index of the card -> class index under its view; 255 counts nowhere."""
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for raw, target in enumerate(card.class_map):
        lookup[raw] = IGNORE_INDEX if target is None else target
    if card.view.void_as_class:
        lookup[IGNORE_INDEX] = card.num_classes - 1
    return lookup


def decoded_image(stored: bytes) -> Tensor:
    """Return the (3, H, W) uint8 RGB image of stored bytes; grey becomes three equal channels.

    The channels of a pixel lie side by side in memory, as they are decoded.
    """
    with Image.open(io.BytesIO(stored)) as image:
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))  # (H, W, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)
