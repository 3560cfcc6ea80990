"""How often the statistics are wrong on resampled counts of real runs.

python benchmarks/calibration_on_runs.py RUN:axis=value RUN:axis=value [--classes 3,17]

Each side is named as `segbench compare` names it. Its images and trained models are taken as all
there are: worlds are drawn from them with replacement, each model moved as a whole by a normal
shift for its seed (`benchmarks/calibration.real_world`), so the truth is known. --classes:
each of these classes alone, by index, one side against the other, in place of the mean over all.
"""

import argparse

from calibration import SEEDS, measure, real_world, report

from segbench.commands.compare import CompareFlags, counts_of
from segbench.schema.machine import Machine

SHIFTS = (0.0143, 0.0357)  # of logits: 0.3 and 0.7 points in the drawn worlds


def main() -> None:
    """Measure both sides against themselves, and one against the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--protocol")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--classes", default="")
    options = parser.parse_args()
    asked, machine = (
        CompareFlags(protocol_name=options.protocol),
        Machine.from_environment(threads=1),
    )
    left, right = (counts_of(side, asked, machine) for side in (options.left, options.right))
    pairs = {
        f"{options.left} twice": (left, left),
        f"{options.right} twice": (right, right),
        "one against the other, margin = true gap": (left, right),
    }
    if options.classes:
        pairs = {"one against the other, margin = true gap": (left, right)}
    each = [(int(index),) for index in options.classes.split(",") if index] or [()]
    worlds = [
        (
            f"{name}, seeds' shift {shift}" + "".join(f", class {i}" for i in classes),
            pair,
            shift,
            classes,
        )
        for classes in each
        for shift in SHIFTS
        for name, pair in pairs.items()
    ]
    size = {"repetitions": options.repetitions}
    print(f"{SEEDS} seeds, {options.repetitions} repetitions; per cent\n")
    rows = [
        (name, measure(*real_world(*pair, shift, classes), classes=classes, **size))
        for name, pair, shift, classes in worlds
    ]
    print(report(rows, options.repetitions))


if __name__ == "__main__":
    main()
