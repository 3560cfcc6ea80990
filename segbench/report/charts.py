"""What each chart shows, described once: `figures` draws it with matplotlib, the page in SVG.

A description holds all that can be chosen from; a picture shows the first of it, the page what its
reader chooses. Shares, IoUs and losses stand in the units of their axes. Letters: C classes.
Knows nothing of how anything is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbench.claims.correlation import spearman
from segbench.report.boards import COSTS, Board, BoardModel, Confusion
from segbench.report.numbers import short
from segbench.report.training_curves import load_curves
from segbench.runs import trial_files
from segbench.runs.record import Row

MOST_CURVES = 6  # models whose lines can be told apart
_LABELLED_CLASSES = 25
_LABELLED_MODELS = 16
_MEAN_IOU = "mean IoU, per cent"


@dataclass(frozen=True)
class Axis:
    """low, high: its ends where they do not follow from what is shown.

    clip: the quantile of the values above which they are drawn at the edge.
    """

    title: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    clip: float = 1.0


DIFFERENCE = Axis("points of IoU, means over seeds")


@dataclass(frozen=True)
class Series:
    """Points, or a line. y: None where there is no value; low, high: their intervals, if any.

    colour, mark: places in the palettes of colours and of symbols or dashes. note: what is to be
    said of it below the chart.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 0
    mark: int = 0
    is_line: bool = False
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Series between two axes.

    labels: of the points of the first series; without them a point has the name of its series.
    They are drawn where there are no more than `most_labels`. keys: (colour, mark, text) of a
    legend, where it is not the names of the series; None where colour or mark says nothing.
    has_front: whether a line joins the points that none reaches at their x or below. reading: how
    the chart is to be read.
    """

    label: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    labels: tuple[str, ...] = ()
    most_labels: int = 0
    keys: tuple[tuple[int | None, int | None, str], ...] = ()
    has_front: bool = False
    reading: str = ""


@dataclass(frozen=True)
class Strip:
    """One value for each name, one below the other, with its interval.

    single: the values that each is the mean of. beside: what is written at the end of its line.
    """

    label: str
    x: Axis
    names: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    single: tuple[tuple[float, ...], ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Values in per cent, rows by columns. least: below it a value is shown by its colour alone."""

    label: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    least: float = 0.0
    of_rows: str = ""
    of_columns: str = ""


def frequency(board: Board) -> Chart:
    """Return the IoU of each class against its share of the pixels, a series for each model."""
    shares = tuple(100 * share for share in board.training_share or board.label_share)
    split = "training" if board.training_share else board.protocol.split
    series = []
    for place, model in enumerate(board.models):
        ious = tuple(None if iou is None else 100 * iou.mean for iou in model.class_iou)
        note = _correlation_in_words(shares, ious)
        series.append(Series(model.name, shares, ious, colour=place, mark=place, note=note))
    return Chart(
        label=f"Class IoU against the share of pixels; {board.title}",
        x=Axis(f"share of the {split} split's pixels, per cent", is_log=True),
        y=Axis("IoU, per cent", 0, 100),
        series=tuple(series),
        labels=board.class_names,
        most_labels=_LABELLED_CLASSES,
        reading="Shares are of labelled pixels. Rank correlations are Spearman's: a description, not a "
        "test.",
    )


def _correlation_in_words(shares: Sequence[float], ious: Sequence[float | None]) -> str:
    known = [(x, y) for x, y in zip(shares, ious, strict=True) if x > 0 and y is not None]
    if len(known) < 2:
        return ""
    x, y = np.array(known).T
    return f"rank correlation {spearman(x[None], y[None])[0]:.2f} over {len(known)} classes"


def cost(board: Board, key: str) -> Chart:
    """Return the models' mean IoU against a cost, coloured by the first axis in which they differ.

    The second such axis chooses the symbol.
    """
    telling = [a for a in board.telling_axes if len({m.axes[a] for m in board.models}) > 1]
    values = [list(dict.fromkeys(m.axes[axis] for m in board.models)) for axis in telling[:2]]
    looks = [
        [own.index(m.axes[axis]) for axis, own in zip(telling[:2], values, strict=True)] + [0, 0]
        for m in board.models
    ]
    series = []
    for model, (colour, mark, *_) in zip(board.models, looks, strict=True):
        value, standing = model.costs.get(key, 0), model.standing
        series.append(
            Series(
                _named(model, telling),
                (value,),
                (standing.mean if value > 0 else None,),
                low=(standing.low,),
                high=(standing.high,),
                colour=colour,
                mark=mark,
            )
        )
    hues, shapes = [*values, [], []][:2]
    return Chart(
        label=f"Mean IoU against {COSTS[key]}; {board.title}",
        x=Axis(COSTS[key], is_log=True),
        y=Axis(_MEAN_IOU),
        series=tuple(series),
        most_labels=_LABELLED_MODELS,
        keys=(
            *((place, None, text or "-") for place, text in enumerate(hues)),
            *((None, place, text or "-") for place, text in enumerate(shapes)),
        ),
        has_front=True,
        reading="Bars are 95 % intervals. The dashed line joins the models that none surpasses at "
        "their cost or below",
    )


def _named(model: BoardModel, axes: Sequence[str]) -> str:
    return " ".join(filter(None, (model.axes[axis] for axis in axes))) or model.name


def curves(run_folder: Path, rows: Sequence[Row], looks: Sequence[int], points: int = 0) -> Chart:
    """Return the losses of trials, two series for each: of training, and of validation.

    looks: for each row, the place of its colour. points: about how many each line keeps; 0 for all.
    """
    series = []
    for row, look in zip(rows, looks, strict=True):
        found = load_curves(trial_files.trial_folder(run_folder, row.cell.trial_id))
        for what, curve in (("training", found.loss), ("validation", found.validation)):
            kept = curve.thinned(points) if points else curve
            name = f"seed {row.cell.seed}: {what}"
            is_line = what == "training"
            series.append(Series(name, *kept, colour=look, mark=look, is_line=is_line))
    return Chart(
        label="Training and validation loss",
        x=Axis("optimizer step", low=0),
        y=Axis("loss", clip=0.995),
        series=tuple(series),
        reading="Lines are the training loss, symbols the validation loss, one line for each seed; "
        "losses above the 99.5th percentile are drawn at the upper edge.",
    )


def standings(board: Board) -> Strip:
    """Return the models' mean IoU with its interval, and that of each seed."""
    models = board.models
    return Strip(
        label=board.title,
        x=Axis(f"{_MEAN_IOU}, 95 % interval; ticks are seeds"),
        names=tuple(model.name for model in models),
        values=tuple(model.standing.mean for model in models),
        low=tuple(model.standing.low for model in models),
        high=tuple(model.standing.high for model in models),
        single=tuple(
            tuple(100 * (each.figures["mean_iou"] or 0) for each in model.evaluations)
            for model in models
        ),
        beside=tuple(model.standing.letters for model in models),
    )


def difference(board: Board, one: int = 0, two: int = 1) -> Strip:
    """Return by how much one model is better than another on each class, largest first."""
    a, b = board.models[one], board.models[two]
    gaps = sorted(
        (100 * (x.mean - y.mean), name)
        for x, y, name in zip(a.class_iou, b.class_iou, board.class_names, strict=True)
        if x is not None and y is not None
    )[::-1]
    return Strip(
        label=f"{a.name} minus {b.name}",
        x=DIFFERENCE,
        names=tuple(name for _, name in gaps),
        values=tuple(gap for gap, _ in gaps),
    )


def classes(board: Board) -> Grid:
    """Return the IoU of each class for each model, their mean above."""
    models = board.models
    means = [model.figures.get("mean_iou") for model in models]
    table = [
        means,
        *([m.class_iou[index] for m in models] for index in range(len(board.class_names))),
    ]
    return Grid(
        label=f"IoU in per cent, mean over seeds; {board.title}",
        title="IoU, per cent",
        rows=("mean", *board.class_names),
        columns=tuple(model.name for model in models),
        values=tuple(tuple(None if s is None else 100 * s.mean for s in line) for line in table),
    )


def confusion(found: Confusion) -> Grid:
    """Return what each class's labelled pixels were taken for, in one trial."""
    pixels = np.array(found.matrix, dtype=np.float64)  # (c, c + 1)
    shares = 100 * pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    is_outside = bool(pixels[:, -1].any())
    kept = shares if is_outside else shares[:, :-1]
    return Grid(
        label="Per cent of each class's labelled pixels, by what they were taken for",
        title="per cent of the label's pixels",
        rows=found.names,
        columns=(*found.names, "no class") if is_outside else found.names,
        values=tuple(map(tuple, kept.tolist())),
        least=0.5,
        of_rows="label",
        of_columns="prediction",
    )


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, figure) that none reaches at their cost or below."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def clipped_at(axis: Axis, values: Sequence[float]) -> float:
    """Return where the axis cuts the values off: a little above its quantile of them."""
    ordered = sorted(values)
    return 1.05 * ordered[math.floor(axis.clip * (len(ordered) - 1))] or 1.0


def chart_data(chart: Chart) -> dict[str, Any]:
    """Return a chart as the page's script reads it; x that all series share is given once."""
    every = {series.x for series in chart.series}
    shared = every.pop() if len(every) == 1 else None
    return {
        "label": chart.label,
        "x": axis_data(chart.x),
        "y": axis_data(chart.y),
        "xs": None if shared is None else list(map(short, shared)),
        "series": [_series_data(series, has_x=shared is None) for series in chart.series],
        "labels": chart.labels,
        "most_labels": chart.most_labels,
        "keys": chart.keys,
        "front": chart.has_front,
        "reading": chart.reading,
    }


def grid_data(grid: Grid) -> dict[str, Any]:
    """Return a grid as the page's script reads it: column by column, and whole, as it subtracts."""
    return {"label": grid.label, "columns": list(zip(*grid.values, strict=True))}


def axis_data(axis: Axis) -> dict[str, Any]:
    """Return an axis as the page's script reads it."""
    ends = {"low": axis.low, "high": axis.high}
    known = {key: value for key, value in ends.items() if value is not None}
    return {"title": axis.title, "log": axis.is_log, "clip": axis.clip, **known}


def _series_data(series: Series, *, has_x: bool) -> dict[str, Any]:
    columns: Mapping[str, Sequence[float | None]] = {
        "y": series.y, "low": series.low, "high": series.high, **({"x": series.x} if has_x else {}),
    }  # fmt: skip
    found = {
        key: [None if value is None else short(value) for value in values]
        for key, values in columns.items()
        if values or key == "y"
    }
    looks = {"colour": series.colour, "mark": series.mark, "line": series.is_line}
    said = {"name": series.name, "note": series.note, **looks}
    return found | {key: value for key, value in said.items() if value}  # else not written out
