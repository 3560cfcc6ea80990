"""Time and memory of 10,000 paired hierarchical resamples of two methods with five seeds each.

python benchmarks/resampling.py

Each size runs in a process of its own, so that its peak memory is its own.
"""

import resource
import subprocess
import sys
import time

import numpy as np

from segbench.metrics.counts import Counts
from segbench.statistics.pairwise import compare_two

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
    started = time.perf_counter()
    found = compare_two(models[:5], models[5:])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name}: {images} images, {classes} classes: {seconds:.1f} s with the table per class, "
        f"peak {peak:.2f} GiB, difference {found.difference:+.3f}"
    )


def _models(images: int, classes: int) -> list[Counts]:
    rng = np.random.default_rng(0)
    label = rng.integers(1, 50_000, (images, classes)) * (rng.random((images, classes)) < 0.1)
    names = [str(index) for index in range(images)]
    drawn = (rng.binomial(label, 0.7) for _ in range(10))
    return [Counts(tp, label, tp, names) for tp in drawn]


if __name__ == "__main__":
    main()
