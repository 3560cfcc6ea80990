"""Score a model on a split: exact counts per image and one confusion matrix, by one protocol.

Letters: N images, C classes. Knows nothing of where results are kept.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.data.resize import resized_label
from segbench.data.split import Sample, SegmentationSplit
from segbench.engine.counting import (
    boundary_counts,
    boundary_width_px,
    pixel_table,
)
from segbench.engine.crf import Unrefined, refined_predictions
from segbench.engine.predict import predict, unrefined
from segbench.errors import DivergedError
from segbench.metrics.counts import Counted
from segbench.models.segmenter import Segmenter
from segbench.schema.cards import IGNORE_INDEX
from segbench.schema.matched import ClassIndices
from segbench.schema.protocol import Crf, Protocol


def evaluate(
    segmenter: Segmenter,
    split: SegmentationSplit,
    protocol: Protocol,
    *,
    classes: ClassIndices,
    device: torch.device,
    on_image: Callable[[int], None] = lambda _: None,
) -> Counted:
    """Return the counts of `segmenter` on every image of `split`, in the split's order.

    classes: the split's index of each of the model's classes, see `matched_classes`.
    A CRF runs in as many processes as torch has threads: it is ten times slower than most models.

    Raises:
        DivergedError: a score map is not finite; names the image.
    """
    segmenter.eval()
    labels: dict[int, tuple[str, Tensor]] = {}

    def unrefined_maps(crf: Crf) -> Iterator[tuple[Unrefined, Crf]]:
        for index, sample in enumerate(samples_ahead(split)):
            labels[index] = sample.name, sample.label
            with naming(sample.name):
                yield unrefined(segmenter, sample.image.to(device), protocol), crf

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        if protocol.crf is not None:
            processes = min(torch.get_num_threads(), max(len(split), 1))
            found = refined_predictions(unrefined_maps(protocol.crf), processes=processes)
            for index, prediction in enumerate(found):
                name, label = labels.pop(index)
                predicted = reindexed(torch.from_numpy(prediction), classes)
                yield name, predicted, scored_label(label, protocol)
                on_image(index + 1)
            return
        for index, sample in enumerate(samples_ahead(split)):
            with naming(sample.name):
                prediction = predict(segmenter, sample.image.to(device), protocol)
            predicted = reindexed(prediction.to(torch.int16).cpu(), classes)  # one transfer
            yield sample.name, predicted, scored_label(sample.label, protocol)
            on_image(index + 1)

    return count_predictions(pairs(), num_classes=split.num_classes, protocol=protocol)


def samples_ahead(split: SegmentationSplit) -> Iterator[Sample]:
    """Yield the samples in order, each decoded by a thread while the one before is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        following: Future[Sample] | None = None
        for index in range(len(split)):
            sample = split.sample(index) if following is None else following.result()
            if index + 1 < len(split):
                following = pool.submit(split.sample, index + 1)
            yield sample


def reindexed(values: Tensor, classes: ClassIndices) -> Tensor:
    """Return an integer map of one card's classes as those of another; what is no class stays so."""
    if classes == tuple(range(len(classes))):
        return values
    table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX, device=values.device)
    table[: len(classes)] = torch.tensor(classes, device=values.device)
    return table[values.long()]


@contextlib.contextmanager
def naming(image: str) -> Iterator[None]:
    """Put an image's name before what is wrong with its score map."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"{image}: {error}") from error


def merged(shares: Sequence[Counted]) -> Counted:
    """Return the counts of a whole split from those of `SegmentationSplit.share`, in its order."""
    if len(shares) == 1:
        return shares[0]
    ranks, total = len(shares), sum(len(share.names) for share in shares)

    def rows(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        whole = np.zeros((total, *parts[0].shape[1:]), dtype=np.int64)
        for rank, part in enumerate(parts):
            whole[rank::ranks] = part
        return whole

    # where there are few images the last ranks have none
    edges = [s.boundary.swapaxes(0, 1) for s in shares if s.boundary is not None]  # (N, 3, C)
    edges += [edges[0][:0]] * (ranks - len(edges)) if edges else []
    return Counted(
        tuple(shares[index % ranks].names[index // ranks] for index in range(total)),
        rows([share.tp for share in shares]),
        rows([share.label for share in shares]),
        rows([share.pred for share in shares]),
        np.sum([share.confusion for share in shares], axis=0),
        rows(edges).swapaxes(0, 1) if edges else None,
    )


def scored_label(label: Tensor, protocol: Protocol) -> Tensor:
    """Return the (H, W) label at the size that the protocol scores at."""
    if protocol.score_at == "input" and protocol.size != "native":
        return resized_label(label, protocol.size)
    return label


def count_predictions(
    pairs: Iterable[tuple[str, Tensor, Tensor]], *, num_classes: int, protocol: Protocol
) -> Counted:
    """Return the counts of (name, prediction, label) triples of (H, W) integer maps."""
    names: list[str] = []
    rows: list[Tensor] = []
    boundaries: list[Tensor] = []
    total = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
    for name, prediction, label in pairs:
        table = pixel_table(prediction, label, num_classes).cpu()
        confusion = table[:num_classes]
        seen = table if protocol.void == "false_positive" else confusion
        predicted = seen[:, :num_classes].sum(0)
        names.append(name)
        rows.append(torch.stack([confusion.diagonal(), confusion.sum(1), predicted]))  # (3, C)
        total += confusion
        if protocol.boundary is not None:
            height, width = label.shape
            boundaries.append(
                boundary_counts(
                    prediction, label, num_classes,
                    width_px=boundary_width_px(protocol.boundary, (height, width)),
                    counts_void=protocol.void == "false_positive",
                ).cpu()
            )  # fmt: skip
    stacked = torch.stack(rows) if rows else torch.zeros(0, 3, num_classes, dtype=torch.int64)
    tp, label_pixels, pred = stacked.unbind(1)  # each (N, C)
    counted = Counted(
        tuple(names),
        tp.numpy(),
        label_pixels.numpy(),
        pred.numpy(),
        total.numpy(),
        torch.stack(boundaries, dim=1).numpy() if boundaries else None,  # (3, N, C)
    )
    if protocol.false_positives == "labelled_images":
        return counted.in_labelled_images()
    return counted
