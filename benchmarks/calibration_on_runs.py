"""How often the statistics are wrong on resampled counts of real runs.

python benchmarks/calibration_on_runs.py RUN:axis=value RUN:axis=value

Each side is named as `segbench compare` names it. Its seeds and images are taken as all there are:
worlds are drawn from them with replacement, so the truth is known.
"""

import argparse

from segbench.analysis.calibration import SEEDS, measure, real_world, report
from segbench.drive_compare import Asked, counts_of
from segbench.drive_evaluate import machine_of


def main() -> None:
    """Measure both sides against themselves, and one against the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--protocol")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    asked, machine = Asked(protocol_name=options.protocol), machine_of((), None)
    left, right = (counts_of(side, asked, machine) for side in (options.left, options.right))
    worlds = {
        f"{options.left} twice": real_world(left, left),
        f"{options.right} twice": real_world(right, right),
        "one against the other, margin = true gap": real_world(left, right),
    }
    size = {"repetitions": options.repetitions, "resamples": options.resamples}
    print(
        f"{SEEDS} seeds, {options.repetitions} repetitions of {options.resamples} resamples; per cent\n"
    )
    print(report([(name, measure(*world, **size)) for name, world in worlds.items()]))


if __name__ == "__main__":
    main()
