"""Look for CRF parameters on images that were held out of the training, never on a reported split.

The model sees each image once, whatever the number of samples. Letters: C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segbench.data.split import SegmentationSplit, open_split
from segbench.engine.counting import confusion_matrix
from segbench.engine.crf import Unrefined, refined_predictions, require_crf
from segbench.engine.device import chosen_device, make_repeatable
from segbench.engine.evaluate import scored_label
from segbench.engine.predict import unrefined
from segbench.errors import DataError
from segbench.files import write_json
from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.models.segmenter import Segmenter
from segbench.runs import trial_files
from segbench.runs.trial_files import scored_classes
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Crf, Protocol
from segbench.schema.search import Distribution, Search
from segbench.work.scoring import load_segmenter

# Source: DeepLab (Chen et al., PAMI 2018, section 4.1; its first form, ICLR 2015, section 5.1, took
# weights of 5 to 10, widths of 50 to 100 and colours of 3 to 10), by cross-validation on 100 images.
DEEPLAB_RANGES = {
    "bilateral_weight": (3.0, 4.0, 5.0, 6.0),
    "bilateral_width": tuple(float(width) for width in range(30, 101, 10)),
    "bilateral_colour": (3.0, 4.0, 5.0, 6.0),
}
DEEPLAB_FIXED = Crf(iterations=10, gaussian_width=3.0, gaussian_weight=3.0)


class CrfResult(NamedTuple):
    """Parameters and their mean IoU on the held-out images; crf None is without a CRF."""

    crf: Crf | None
    mean_iou: float


def search_crf(
    workdir: Path,
    protocol: Protocol,
    machine: Machine,
    *,
    samples: int,
    max_images: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[CrfResult]:
    """Return what a trained trial scores with sampled parameters and without a CRF, best first.

    The images are those that the data set's view holds out of `train`; all is written to
    `crf_search.json` in the trial's folder.

    Raises:
        DataError: the trial was trained on every image of `train`, or pydensecrf is missing.
    """
    trial = trial_files.load_trial(workdir)
    _check_held_out(workdir, trial.dataset, protocol)
    require_crf()
    _, segmenter = load_segmenter(workdir, machine)
    make_repeatable(machine, trial.seed)
    split = open_split(trial.dataset, "holdout", machine, max_images=max_images)
    if len(split) == 0:
        raise DataError(f"{workdir}: the share that is held out of train holds no image")
    tried = [DEEPLAB_FIXED.revised(**sample) for sample in _samples(samples)]
    totals = _confusions(
        _images(split, segmenter, protocol, chosen_device(machine)),
        tried,
        trial.dataset.num_classes,
        lambda done: progress(done, len(split)),
    )
    kept = scored_classes(trial.dataset, protocol)
    scores = [_mean_iou(total.numpy(), protocol, kept) for total in totals]
    ranked = [CrfResult(crf, score) for crf, score in zip([*tried, None], scores, strict=True)]
    ranked.sort(key=lambda one: -one.mean_iou)
    write_json(workdir / "crf_search.json", {"images": split.names, "found": _plain(ranked)})
    return ranked


def _check_held_out(workdir: Path, trained: DatasetCard, protocol: Protocol) -> None:
    if trained.view.holdout == 0:
        raise DataError(
            f"{workdir}: was trained on every image of train, and parameters are not searched on "
            f"{protocol.split}, which is reported; train it with `dataset.view.holdout: 0.1` (an "
            "override of the experiment)"
        )


def _images(
    split: SegmentationSplit, segmenter: Segmenter, protocol: Protocol, device: torch.device
) -> Iterator[tuple[Unrefined, Tensor]]:
    """Yield each image with its probabilities, and its label (H, W)."""
    for index in range(len(split)):
        sample = split.sample(index)
        maps = unrefined(segmenter, sample.image.to(device), protocol)
        yield maps, scored_label(sample.label, protocol)


def _confusions(
    images: Iterable[tuple[Unrefined, Tensor]],
    tried: Sequence[Crf],
    num_classes: int,
    on_image: Callable[[int], None],
) -> Tensor:
    """Return the counts of each setting and, last, of none: (settings + 1, C, C + 1) int64."""
    totals = torch.zeros(len(tried) + 1, num_classes, num_classes + 1, dtype=torch.int64)
    labels: dict[int, Tensor] = {}  # of the images of which some settings are still at work

    def work() -> Iterator[tuple[Unrefined, Crf]]:
        for index, (maps, label) in enumerate(images):
            labels[index] = label
            plain = torch.from_numpy(maps[1].argmax(0))
            totals[-1] += confusion_matrix(plain, label, num_classes)
            yield from ((maps, crf) for crf in tried)

    found = refined_predictions(work(), processes=torch.get_num_threads())
    for done, prediction in enumerate(found):
        index, setting = divmod(done, len(tried))
        predicted = torch.from_numpy(prediction)
        totals[setting] += confusion_matrix(predicted, labels[index], num_classes)
        if setting == len(tried) - 1:
            del labels[index]
            on_image(index + 1)
    return totals


def _samples(number: int) -> list[dict[str, float]]:
    parameters = {name: Distribution(choice=values) for name, values in DEEPLAB_RANGES.items()}
    size = int(np.prod([len(values) for values in DEEPLAB_RANGES.values()]))
    method = "grid" if number >= size else "random"
    return Search(method=method, parameters=parameters, samples=number).drawn_samples()


def _mean_iou(confusion: np.ndarray, protocol: Protocol, kept: tuple[int, ...]) -> float:
    classes = confusion.shape[0]
    sums = Sums(confusion.diagonal(), confusion.sum(1), confusion[:, :classes].sum(0))
    return mean_iou(sums, protocol.absent_class, kept)


def _plain(found: list[CrfResult]) -> list[dict[str, object]]:
    return [
        {"crf": one.crf and one.crf.model_dump(), "mean_iou": round(one.mean_iou, 9)}
        for one in found
    ]
