"""Whether files of predictions agree far better with the labels when their values are read otherwise.

Letters: C classes under the card's view, V raw values. Knows nothing of files.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.runs.trial_files import scored_classes
from segbench.schema.cards import IGNORE_INDEX, DatasetCard, View
from segbench.schema.protocol import Protocol
from segbench.work.reading import Reading, as_card_indices, as_indices, as_labels, shifted

_FAR_BETTER = 0.1  # mean IoU; and twice as good
_LEAST_VALUES = 256


class Other(NamedTuple):
    """Another reading: its name, what to do if it is meant, its mean IoU and that of the chosen one."""

    name: str
    advice: str
    mean_iou: float
    chosen: float

    def in_words(self) -> str:
        """Return both scores, and what to do."""
        return (
            f"read as {self.name} the same files score {100 * self.mean_iou:.2f} mean IoU, not "
            f"{100 * self.chosen:.2f}: {self.advice}"
        )


class Tally:
    """How many pixels of each label class hold each raw value; the last row is of ignored pixels."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.table = np.zeros((num_classes + 1, _LEAST_VALUES), dtype=np.int64)  # (C + 1, V)

    def add(self, values: NDArray[np.uint16], label: NDArray[np.uint8]) -> None:
        """Count one image's (H, W) raw values and label, 255 is ignored."""
        width = max(self.table.shape[1], 1 << int(values.max(initial=0)).bit_length())
        if width > self.table.shape[1]:
            self.table = np.pad(self.table, ((0, 0), (0, width - self.table.shape[1])))
        rows = np.where(label == IGNORE_INDEX, self.num_classes, label).astype(np.int64)
        found = np.bincount((rows * width + values).ravel(), minlength=self.table.size)
        self.table += found.reshape(self.table.shape)

    def labelled(self, of_values: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return (C, V) labelled pixels with these values; `of_values` has 65536 entries."""
        table = self.table[: self.num_classes]
        return np.where(of_values[: table.shape[1]], table, 0)

    def mean_iou(self, reading: Reading, dataset: DatasetCard, protocol: Protocol) -> float:
        """Return the protocol's mean IoU of the files under a reading; see `segbench.metrics.counts`."""
        classes = reading.classes[: self.table.shape[1]]
        by_class = np.zeros((256, self.num_classes + 1), dtype=np.int64)
        np.add.at(by_class, classes, self.table.T)
        confusion = by_class[: self.num_classes].T  # (C + 1, C), the last row of ignored pixels
        labelled = confusion[: self.num_classes]
        counted = confusion if protocol.void == "false_positive" else labelled
        sums = Sums(
            tp=np.diagonal(labelled),
            label=self.table[: self.num_classes].sum(1),
            pred=counted.sum(0),
        )
        return mean_iou(sums, protocol.absent_class, scored_classes(dataset, protocol))


def far_better(
    tally: Tally, chosen: Reading, dataset: DatasetCard, protocol: Protocol
) -> Other | None:
    """Return the best other reading, where it is far better; None where none is.

    A mapping file says what each value means, so it has no other reading.
    """
    if chosen.mapping:
        return None
    score = tally.mean_iou(chosen, dataset, protocol)
    others = [
        Other(name, advice, tally.mean_iou(reading, dataset, protocol), score)
        for name, advice, reading in _candidates(dataset, chosen)
    ]
    best = max(others, key=lambda other: other.mean_iou)
    is_far = best.mean_iou >= max(score + _FAR_BETTER, 2 * score)
    return best if is_far else None


def _candidates(dataset: DatasetCard, chosen: Reading) -> Iterator[tuple[str, str, Reading]]:
    labels, indices = as_labels(dataset), as_indices(dataset)
    if chosen.encoding == "label":
        yield "class indices (train ids)", "--encoding index reads them so", indices
    else:
        yield "label values", "--encoding label reads them so", labels
    by_file = "--encoding FILE, with a line for each value, reads them so"
    if dataset.view != View():
        whole = as_card_indices(dataset)
        yield "indices of the card's classes before its view", by_file, whole
    own = "label values" if chosen.encoding == "label" else "class indices"
    yield f"{own} plus 1", by_file, shifted(chosen, 1)
    yield f"{own} minus 1", by_file, shifted(chosen, -1)
