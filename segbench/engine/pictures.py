"""Pictures of one prediction, small enough for a page: photograph, label, prediction, errors.

Letters: H W scored size. Knows nothing of files or of which images are shown.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segbench.data.split import Sample
from segbench.engine.evaluate import reindexed, scored_label
from segbench.engine.predict import predict
from segbench.models.segmenter import Segmenter
from segbench.schema.cards import IGNORE_INDEX, VOID_COLOUR
from segbench.schema.matched import ClassIndices
from segbench.schema.protocol import Protocol

LONGEST_PX = 256
Part = Literal["image", "label", "prediction", "errors"]


class Pictures(NamedTuple):
    """parts: by name, all of one size. classes: indices labelled or predicted, rising."""

    parts: dict[Part, Image.Image]
    classes: tuple[int, ...]


def pictures_of(
    segmenter: Segmenter,
    sample: Sample,
    protocol: Protocol,
    palette: Sequence[tuple[int, int, int]],
    classes: ClassIndices,
    *,
    device: torch.device,
) -> Pictures:
    """Return the pictures of one image under a protocol, the longer side at most LONGEST_PX.

    palette: the colours of the scored classes. classes: their indices, of each of the model's; where
    there is none the prediction has the colour of void. Errors are white where prediction and label
    differ, black where they agree, and grey where nothing is labelled. Classes that only the full
    size shows are in the pictures' `classes` too.
    """
    predicted = predict(segmenter, sample.image.to(device), protocol)
    prediction = reindexed(predicted, classes).cpu().numpy()  # (H, W)
    label = scored_label(sample.label, protocol).numpy()  # (H, W)
    void = label == IGNORE_INDEX
    height, width = label.shape
    shrink = min(1.0, LONGEST_PX / max(height, width))
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    photograph = Image.fromarray(sample.image.permute(1, 2, 0).numpy())  # (h, w, 3)
    colours = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    colours[: len(palette)] = palette
    errors = np.where(void, 128, np.where(prediction == label, 0, 255)).astype(np.uint8)
    seen = np.union1d(label[~void], prediction)
    return Pictures(
        {
            "image": photograph.resize(size, Image.Resampling.BILINEAR),
            "label": _nearest(colours[label], size),
            "prediction": _nearest(colours[prediction.astype(np.uint8)], size),
            "errors": _nearest(errors, size),
        },
        tuple(int(index) for index in seen if index != IGNORE_INDEX),
    )


def _nearest(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
