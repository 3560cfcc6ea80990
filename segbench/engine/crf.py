"""Refine a probability map with a fully connected CRF (optional extra `crf`).

Source: Kraehenbuehl and Koltun, NIPS 2011; pydensecrf wraps their code. Knows nothing of models.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segbench.errors import DataError
from segbench.spec.protocol import Crf


def refine(image: Tensor, probabilities: Tensor, crf: Crf) -> Tensor:
    """Return refined (C, H, W) float32 probabilities.

    image: (3, H, W) uint8 RGB. probabilities: (C, H, W), summing to 1 over C. Diagonal kernels,
    symmetric normalisation.

    Raises:
        DataError: pydensecrf is not installed; names the extra.
    """
    dcrf = require_crf()
    num_classes, height, width = probabilities.shape
    field = dcrf.DenseCRF2D(width, height, num_classes)
    clipped = probabilities.cpu().numpy().astype(np.float64).clip(max(crf.clip, 1e-20), 1.0)
    unary = -np.log(clipped / clipped.sum(0)).reshape(num_classes, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    field.addPairwiseGaussian(
        sxy=crf.gaussian_width,
        compat=crf.gaussian_weight,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    field.addPairwiseBilateral(
        sxy=crf.bilateral_width,
        srgb=crf.bilateral_colour,
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()),  # (H, W, 3)
        compat=crf.bilateral_weight,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    refined = np.asarray(field.inference(crf.iterations)).reshape(num_classes, height, width)
    return torch.from_numpy(refined)


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
