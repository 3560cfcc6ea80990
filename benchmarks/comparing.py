"""Time and memory of a comparison of two methods with five seeds each, and of its check by resampling.

python benchmarks/comparing.py

Each size runs in a process of its own, so that its peak memory is its own.
"""

import resource
import subprocess
import sys
import time

import numpy as np

from segbench.metrics.counts import Counts
from segbench.metrics.metric import Scored
from segbench.statistics.inference import Term, estimate
from segbench.statistics.pairwise import compare_two
from segbench.statistics.resample import resampled_interval
from segbench.statistics.samples import sample_of

SIZES = {"VOC": (1449, 21), "ADE20K": (2000, 150), "COCO-Stuff": (5000, 171)}


def main() -> None:
    """Measure one size, named on the command line, or all of them."""
    if len(sys.argv) == 1:
        for name in SIZES:
            subprocess.run([sys.executable, __file__, name], check=True)
        return
    name = sys.argv[1]
    images, classes = SIZES[name]
    models = _models(images, classes)
    sides = models[:5], models[5:]
    before = _peak_gib()
    cells = [[Scored(counts) for counts in side] for side in sides]
    started = time.perf_counter()
    left, right = (sample_of(cell, "mean_iou") for cell in cells)
    result = estimate((Term(1.0, left, "left"), Term(-1.0, right, "right")))
    alone, after = time.perf_counter() - started, _peak_gib()
    compare_two(*sides)
    table = time.perf_counter() - started - alone
    resampled_interval(result, cells, "mean_iou")
    check = time.perf_counter() - started - alone - table
    print(
        f"{name}: {images} images, {classes} classes: {alone:.2f} s, peak {before:.2f} to {after:.2f} "
        f"GiB; with the table of classes {table:.2f} s; 10,000 resamples {check:.1f} s"
    )


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _models(images: int, classes: int) -> list[Counts]:
    rng = np.random.default_rng(0)
    label = rng.integers(1, 50_000, (images, classes)) * (rng.random((images, classes)) < 0.1)
    names = [str(index) for index in range(images)]
    drawn = (rng.binomial(label, 0.7) for _ in range(10))
    return [Counts(tp, label, tp, names) for tp in drawn]


if __name__ == "__main__":
    main()
