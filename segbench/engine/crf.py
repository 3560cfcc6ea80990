"""Refine a probability map with a fully connected CRF (optional extra `crf`), in several processes.

Source: Kraehenbuehl and Koltun, NIPS 2011; pydensecrf wraps their code. Loads no torch, so that a
process starts in a moment. Letters: C classes, H W size. Knows nothing of models.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segbench.errors import DataError
from segbench.schema.protocol import Crf

Unrefined = tuple[NDArray[np.uint8], NDArray[np.float32]]  # (H, W, 3) RGB, (C, H, W)


def refine(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], crf: Crf
) -> NDArray[np.float32]:
    """Return refined (C, H, W) probabilities.

    image: (H, W, 3) RGB. probabilities: (C, H, W), summing to 1 over C. Diagonal kernels, symmetric
    normalisation.

    Raises:
        DataError: pydensecrf is not installed; names the extra.
    """
    num_classes, height, width = probabilities.shape
    field = (_field_yx if crf.coordinates == "yx" else _field)(image, crf, num_classes)
    clipped = probabilities.astype(np.float64).clip(max(crf.clip, 1e-20), 1.0)
    unary = -np.log(clipped / clipped.sum(0)).reshape(num_classes, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    return np.asarray(field.inference(crf.iterations)).reshape(num_classes, height, width)


def _field(image: NDArray[np.uint8], crf: Crf, num_classes: int) -> Any:
    """Return the field of DenseCRF2D, whose features begin with x, y."""
    dcrf = require_crf()
    field = dcrf.DenseCRF2D(image.shape[1], image.shape[0], num_classes)
    field.addPairwiseGaussian(
        sxy=crf.gaussian_width,
        compat=crf.gaussian_weight,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    field.addPairwiseBilateral(
        sxy=crf.bilateral_width,
        srgb=crf.bilateral_colour,
        rgbim=np.ascontiguousarray(image),
        compat=crf.bilateral_weight,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    return field


def _field_yx(image: NDArray[np.uint8], crf: Crf, num_classes: int) -> Any:
    """Return the generic field with features that begin with y, x. Source: the study's post_crf.py."""
    dcrf = require_crf()
    field = dcrf.DenseCRF(image.shape[0] * image.shape[1], num_classes)
    places = np.indices(image.shape[:2], dtype=np.float32)  # (2, H, W)
    colours = np.moveaxis(image, -1, 0).astype(np.float32) / crf.bilateral_colour
    gaussian = places / crf.gaussian_width
    bilateral = np.concatenate([places / crf.bilateral_width, colours])
    for features, weight in ((gaussian, crf.gaussian_weight), (bilateral, crf.bilateral_weight)):
        field.addPairwiseEnergy(
            np.ascontiguousarray(features.reshape(len(features), -1), dtype=np.float32),
            compat=weight,
            kernel=dcrf.DIAG_KERNEL,
            normalization=dcrf.NORMALIZE_SYMMETRIC,
        )
    return field


def refined_predictions(
    work: Iterable[tuple[Unrefined, Crf]], *, processes: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield the (H, W) refined prediction of each piece of work, in order, whatever the processes.

    At most two pieces for each process are held at a time.

    Raises:
        DataError: pydensecrf is not installed; before the first piece is asked for.
    """
    require_crf()
    if processes == 1:
        for (image, probabilities), crf in work:
            yield _prediction(image, probabilities, crf)
        return
    source = iter(work)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:

        def submitted(number: int) -> Iterator[Future[NDArray[np.int64]]]:
            for (image, probabilities), crf in itertools.islice(source, number):
                yield pool.submit(_prediction, image, probabilities, crf)

        waiting = deque(submitted(2 * processes))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(submitted(1))


def _prediction(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], crf: Crf
) -> NDArray[np.int64]:
    return refine(image, probabilities, crf).argmax(0)


def require_crf() -> Any:
    """Return pydensecrf's module, or say which extra brings it."""
    try:
        import pydensecrf.densecrf as dcrf
    except ImportError as error:
        raise DataError(
            "a protocol with `crf` needs pydensecrf: pip install 'segbench[crf]', or drop `crf` "
            "from the protocol"
        ) from error
    return dcrf
