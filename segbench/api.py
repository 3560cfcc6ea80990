"""The public Python API: what `import segbench` offers. Every name here is stable and typed.

Nothing heavy is loaded before a function needs it. docs/python-api.md has an example of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from segbench.commands import run as commands
from segbench.launch.base import Event
from segbench.metrics import values_of
from segbench.metrics.arrays import counts_of_arrays
from segbench.metrics.counts import AbsentClass, Counts, per_class_iou
from segbench.runs.table import load_results
from segbench.statistics.pairwise import Comparison, Population, compare_two

if TYPE_CHECKING:
    from segbench.models.segmenter import Segmenter
    from segbench.schema.sweep import Cell

__all__ = [
    "Comparison",
    "Counts",
    "PlannedTrial",
    "RunOptions",
    "Scores",
    "build_model",
    "compare",
    "load_results",
    "plan",
    "run",
    "score",
]


class RunOptions(TypedDict, total=False):
    """What `segbench run` takes as flags.

    settings: dotted key -> value, as `--set`. seeds: as many, or the first n of the file's. only:
    selectors such as `head=fcn8s`. cards, data, weights: folders. device: auto, cpu, cuda or cuda:N.
    launcher: who starts trials. workers: how many run at a time. results: the folder of all runs.
    """

    settings: Mapping[str, Any]
    seeds: int
    only: Sequence[str]
    cards: Sequence[str | Path]
    data: Sequence[str | Path]
    weights: Sequence[str | Path]
    cache: str | Path
    device: str
    launcher: str
    workers: int
    results: str | Path


@dataclass(frozen=True)
class PlannedTrial:
    """A cell of the grid. axes: axis -> value. state: how far its trial is."""

    axes: dict[str, str]
    seed: int
    trial_id: str
    state: Literal["done", "failed", "left", "skipped"]


def plan(experiment: str | Path, **options: Unpack[RunOptions]) -> list[PlannedTrial]:
    """Return the cells of an experiment in the order in which they would run; nothing is started.

    Raises:
        ExperimentError: the file or an option is wrong; all problems at once.
    """
    prepared = commands.prepare_run(Path(experiment), _flags(options))
    left = commands.unfinished(prepared, retry_failed=True)
    fresh = commands.unfinished(prepared, retry_failed=False)

    def state_of(cell: Cell) -> Literal["done", "failed", "left", "skipped"]:
        if cell.trial is None:
            return "skipped"
        if cell.trial_id not in left:
            return "done"
        return "left" if cell.trial_id in fresh else "failed"

    return [
        PlannedTrial(cell.axes, cell.seed, cell.trial_id, state_of(cell))
        for cell in prepared.asked.cells
    ]


def run(
    experiment: str | Path,
    *,
    retry_failed: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
    **options: Unpack[RunOptions],
) -> Path:
    """Train and evaluate what is missing of an experiment, write its report, return its folder.

    As `segbench run`: the same call goes on after an interruption. A script must call it under
    `if __name__ == "__main__":`, since trials run in processes of their own; with
    `launcher="inline"` they run in this one.

    Raises:
        ExperimentError: the file or an option is wrong; all problems at once.
        DataError: images or weights are not here.
    """
    from segbench.commands import preflight
    from segbench.errors import DataError
    from segbench.report.write import write_report

    prepared = commands.prepare_run(Path(experiment), _flags(options))
    preflight.check_same_files(prepared)
    left = commands.unfinished(prepared, retry_failed=retry_failed)
    missing = preflight.missing_files(prepared) if left else []
    if missing:
        raise DataError("\n".join(missing))
    commands.record_run(prepared, f"segbench.run({str(experiment)!r})")
    if left:
        commands.start(prepared, left, on_event)
    write_report(prepared.run_folder)
    return prepared.run_folder


@dataclass(frozen=True)
class Scores:
    """Predictions scored against labels. absent_class: what means do with classes that are absent."""

    counts: Counts
    class_names: tuple[str, ...]
    absent_class: AbsentClass = "skip"

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by name, fractions in [0, 1], NaN where nothing was labelled."""
        return values_of(self.counts, self.absent_class)

    @property
    def mean_iou(self) -> float:
        """The mean over classes of intersection over union, a fraction."""
        return self.figures["mean_iou"]

    @property
    def class_iou(self) -> dict[str, float]:
        """The IoU of each class, a fraction, NaN where it is neither labelled nor predicted."""
        return dict(zip(self.class_names, per_class_iou(self.counts.sums).tolist(), strict=True))


def score(
    predictions: Iterable[Any],
    labels: Iterable[Any],
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
    absent_class: AbsentClass = "skip",
    **naming: Any,
) -> Scores:
    """Score integer maps against labels, pixel by pixel, from exact counts. Needs no torch.

    predictions and labels: arrays of class indices, of one shape for each image. naming: `names` of the
    images and `ignore_index`, as `segbench.metrics.arrays.counts_of_arrays` takes them.

    Raises:
        DataError: shapes differ, or a label is no class.
    """
    counts = counts_of_arrays(predictions, labels, num_classes, **naming)
    chosen = tuple(class_names or (f"class {index}" for index in range(num_classes)))
    if len(chosen) != num_classes:
        raise ValueError(f"class_names: {len(chosen)} names for {num_classes} classes")
    return Scores(counts, chosen, absent_class)


Side = Counts | Scores


def compare(
    left: Side | Sequence[Side],
    right: Side | Sequence[Side],
    *,
    metric: str = "mean_iou",
    groups: Sequence[str] = (),
    on: Population = "new_images",
) -> Comparison:
    """Return how two models differ on the same images, or two methods with a result for each seed.

    The difference is left minus right, in percentage points, with its 95 % confidence interval and a
    two-sided p. groups: the name of each image's group (its drive, its patient), in the order of the
    first result's images, where images are not independent. on: which images p and the interval speak
    of, new ones like these or these very ones.

    Raises:
        ResultError: the images or the classes differ, or there is one image.
    """
    sides = [[one] if isinstance(one, Counts | Scores) else list(one) for one in (left, right)]
    scores = [one for one in sides[0] if isinstance(one, Scores)]
    one, two = ([s.counts if isinstance(s, Scores) else s for s in side] for side in sides)
    return compare_two(
        one,
        two,
        scores[0].class_names if scores else None,
        metric=metric,
        absent_class=scores[0].absent_class if scores else "skip",
        groups=groups,
        on=on,
    )


def build_model(
    backbone: str,
    head: str = "fcn8s",
    num_classes: int = 21,
    *,
    weights: str = "none",
    cards: Sequence[str | Path] = (),
) -> Segmenter:
    """Return a model from its cards, a torch module that maps (N, 3, H, W) images in [0, 1] to scores.

    weights: `none` draws them from torch's generator; `default`, or a name on the card, loads them.

    Raises:
        CardError: no such card or head, or the two do not go together.
        DataError: the weights are not here, or do not fit.
    """
    from segbench.models.segmenter import build_segmenter
    from segbench.models.weights import backbone_weights_path
    from segbench.schema.catalog import Catalog
    from segbench.schema.heads import Model, head_named
    from segbench.schema.machine import Machine

    card = Catalog.on_path(tuple(map(Path, cards))).backbone(backbone)
    model = Model(weights=weights)
    path = backbone_weights_path(card, model, Machine.from_environment())
    return build_segmenter(card, head_named(head, {}), model, num_classes, weights_path=path)


def _flags(options: RunOptions) -> commands.Flags:
    """Return the command's flags; raises as `segbench run` does."""
    unknown = set(options) - set(RunOptions.__annotations__)
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    settings = [f"{key}={json.dumps(value)}" for key, value in options.get("settings", {}).items()]
    settings += [f"launch.launcher={options['launcher']}"] if "launcher" in options else []
    settings += [f"launch.workers={options['workers']}"] if "workers" in options else []
    return commands.Flags(
        settings=tuple(settings),
        seeds=options.get("seeds"),
        only=tuple(options.get("only", ())),
        cache=Path(options["cache"]) if "cache" in options else None,
        device=options.get("device", "auto"),
        results=Path(options.get("results", "results")),
        cards=tuple(map(Path, options.get("cards", ()))),
        data=tuple(map(Path, options.get("data", ()))),
        weights=tuple(map(Path, options.get("weights", ()))),
    )
