"""Figures for papers, drawn with matplotlib: PNG, SVG or PDF. Equal files give equal bytes.

They show what `charts` describes, as the page does. matplotlib is loaded only when something is
drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segbench.errors import ResultError
from segbench.files import write_atomically
from segbench.report import charts
from segbench.report.boards import COSTS, Board
from segbench.report.charts import Axis, Chart, Grid, Series, Strip
from segbench.runs.panels import PARTS, Panel, Panels, load_panels
from segbench.runs.timings import TIMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
COLOURS = ("#0072b2", "#c25100", "#00855f", "#b5548c", "#a37500", "#2b8fc9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (4, 1)), (0, (6, 2, 1, 2)))
_UPRIGHT_NAMES = 12  # models of a heat map whose names need not be turned
_SETTINGS: Any = {"svg.hashsalt": "segbench", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False, "figure.dpi": 100}  # fmt: skip


def write_figure(
    path: Path, kind: str, board: Board, run_folder: Path, *, cost: str = "parameters"
) -> None:
    """Draw one kind of figure of a board into a file whose suffix says the format.

    cost: the horizontal axis of `pareto`.

    Raises:
        ResultError: no such kind, format or cost, or nothing to draw.
    """
    if kind not in KINDS:
        raise ResultError(f"--kind {kind}: no such figure; kinds: {', '.join(KINDS)}")
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise ResultError(f"{path}: figures end in {', '.join('.' + f for f in FORMATS)}")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(layout="constrained")
        KINDS[kind](figure, board, run_folder, cost)
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        options: dict[str, Any] = {"format": suffix, "dpi": 200, "metadata": metadata[suffix]}
        write_atomically(path, lambda file: figure.savefig(file, **options))


def chosen_board(boards: Sequence[Board], protocol: str | None, dataset: str | None) -> Board:
    """Return the one board of that protocol and data set.

    Raises:
        ResultError: none, or several, which are named.
    """
    found = [
        board
        for board in boards
        if protocol in {None, board.protocol_name} and dataset in {None, board.dataset}
    ]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(f"--protocol {b.protocol_name} --dataset {b.dataset}" for b in boards)
    what = "no complete results match" if not found else f"{len(found)} rankings match"
    raise ResultError(f"{what}; a figure shows one of: {listed or 'none is complete yet'}")


def _heatmap(figure: "Figure", board: Board, _: Path, __: str) -> None:
    grid = charts.classes(board)
    is_narrow = len(grid.columns) <= _UPRIGHT_NAMES
    width = 0.95 if is_narrow else 0.62
    figure.set_size_inches(2.2 + width * len(grid.columns), 1.4 + 0.19 * len(grid.rows))
    axes = _draw_grid(figure, grid, size=7)
    names = [_plain(name.replace(" ", "\n") if is_narrow else name) for name in grid.columns]
    turned: dict[str, Any] = {} if is_narrow else {"rotation": 45, "ha": "right"}
    axes.set_xticks(range(len(names)), names, fontsize=7, **turned)
    axes.set_yticks(range(len(grid.rows)), list(map(_plain, grid.rows)))


def _confusion(figure: "Figure", board: Board, _: Path, __: str) -> None:
    model = board.models[0]
    seed = str(model.rows[0].cell.seed) if model.rows else "-"
    grid = charts.confusion(model.confusions[0])
    figure.set_size_inches(2.4 + 0.24 * len(grid.columns), 1.8 + 0.2 * len(grid.rows))
    axes = _draw_grid(figure, grid, size=5)
    axes.set_xticks(
        range(len(grid.columns)), list(map(_plain, grid.columns)), rotation=90, fontsize=7
    )
    axes.set_yticks(range(len(grid.rows)), list(map(_plain, grid.rows)), fontsize=7)
    axes.set_title(_plain(f"{model.name}, seed {seed}"), fontsize=8)


def _draw_grid(figure: "Figure", grid: Grid, *, size: int) -> "Axes":
    import numpy as np

    axes = figure.subplots()
    values = np.array(grid.values, dtype=np.float64)  # None becomes nan
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if value >= grid.least:
            ink = "black" if value > 50 else "white"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=size
            )
    axes.set_xlabel(grid.of_columns)
    axes.set_ylabel(grid.of_rows)
    figure.colorbar(image, label=grid.title)
    return axes


def _difference(figure: "Figure", board: Board, _: Path, __: str) -> None:
    if len(board.models) < 2:
        raise ResultError(f"{board.title}: holds one model; a difference takes two")
    strip = charts.difference(board)
    figure.set_size_inches(5, 1.2 + 0.19 * len(strip.names))
    axes = figure.subplots()
    colours = [COLOURS[0] if value > 0 else COLOURS[1] for value in strip.values]
    axes.barh(range(len(strip.names)), strip.values, color=colours)
    axes.axvline(0, color="grey", linewidth=0.8)
    _finish_strip(axes, strip, fontsize=7)


def _leaderboard(figure: "Figure", board: Board, _: Path, __: str) -> None:
    strip = charts.standings(board)
    figure.set_size_inches(6, 1.2 + 0.28 * len(strip.names))
    axes = figure.subplots()
    for place, value in enumerate(strip.values):
        errors = [[value - strip.low[place]], [strip.high[place] - value]]
        axes.errorbar(value, place, xerr=errors, fmt="o", color=COLOURS[0], capsize=2)
        seeds = strip.single[place]
        axes.plot(seeds, [place + 0.18] * len(seeds), "|", color="grey", markersize=5)
        where: Any = {"xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(strip.beside[place], (1.01, place), **where)
    _finish_strip(axes, strip)


def _finish_strip(axes: "Axes", strip: Strip, **text: Any) -> None:
    axes.set_yticks(range(len(strip.names)), list(map(_plain, strip.names)), **text)
    axes.set_ylim(len(strip.names) - 0.4, -0.6)  # the first on top
    axes.set_title(_plain(strip.label), fontsize=8)
    axes.set_xlabel(strip.x.title)
    _finish(axes)


def _images(figure: "Figure", board: Board, run_folder: Path, _: str) -> None:
    """Draw one image of each kind, of the trial that stands highest among those with pictures."""
    pictured = {
        panels.trial_id: (folder, panels)
        for folder, panels in load_panels(run_folder)
        if panels.protocol == board.protocol_name
    }
    ranked = [(model, row) for model in board.models for row in model.rows]
    found = next(((m, r) for m, r in ranked if r.cell.trial_id in pictured), None)
    if found is None:
        raise ResultError(
            f"{board.title}: no pictures are on file; segbench report RUN --panels TRIAL draws them"
        )
    model, row = found
    _draw_panels(figure, *pictured[row.cell.trial_id])
    figure.suptitle(_plain(f"{model.name}, seed {row.cell.seed}"), fontsize=8)


def _draw_panels(figure: "Figure", folder: Path, panels: Panels) -> None:
    import numpy as np
    from PIL import Image

    shown = _one_of_each(panels)
    opened = []
    for panel in shown:
        sources = [Image.open(folder / panel.files[part]) for part in PARTS]
        opened.append([np.asarray(source.convert("RGB")) for source in sources])
    heights = [parts[0].shape[0] / parts[0].shape[1] for parts in opened]
    figure.set_size_inches(4.8, 1.1 + 1.1 * sum(heights))
    grid = figure.subplots(len(shown), len(PARTS), squeeze=False, height_ratios=heights)
    for axes_row, parts, panel in zip(grid, opened, shown, strict=True):
        for axes, pixels, part in zip(axes_row, parts, PARTS, strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if panel is shown[0]:
                axes.set_title(part, fontsize=8)
        axes_row[0].set_ylabel(f"{panel.kind}\nIoU {100 * panel.iou:.1f} %", fontsize=8)
    _name_classes(figure, panels, shown)


def _name_classes(figure: "Figure", panels: Panels, shown: Sequence[Panel]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(
            color="#" + bytes(panels.colours[index]).hex(), label=_plain(panels.class_names[index])
        )
        for index in sorted({index for panel in shown for index in panel.class_indices})
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=6, frameon=False)


def _one_of_each(panels: Panels) -> list[Panel]:
    """Return the best, the first typical, and the very worst."""
    kinds = {kind: [p for p in panels.panels if p.kind == kind] for kind in ("best", "typical")}
    worst = [panel for panel in panels.panels if panel.kind == "worst"]
    return [*(p for found in kinds.values() for p in found[:1]), *worst[-1:]]


def _curves(figure: "Figure", board: Board, run_folder: Path, _: str) -> None:
    shown = [(row, place) for place, model in enumerate(board.models) for row in model.rows]
    shown = [pair for pair in shown if pair[1] < charts.MOST_CURVES]
    chart = charts.curves(run_folder, [row for row, _ in shown], [place for _, place in shown])
    figure.set_size_inches(6, 3.6)
    names = [(place, place, m.name) for place, m in enumerate(board.models[: charts.MOST_CURVES])]
    _draw_chart(
        figure, replace(chart, keys=tuple(names)), note="lines: training, symbols: validation"
    )


def _pareto(figure: "Figure", board: Board, _: Path, cost: str) -> None:
    if cost not in COSTS:
        raise ResultError(f"--cost {cost}: no such cost; costs: {', '.join(COSTS)}")
    chart = charts.cost(board, cost)
    if all(y is None for series in chart.series for y in series.y):
        advice = (
            "; segbench time RUN measures times, one model after another" if cost in TIMES else ""
        )
        raise ResultError(f"--cost {cost}: was measured for no model of {board.title}{advice}")
    figure.set_size_inches(6, 3.8)
    _draw_chart(figure, chart)


def _frequency(figure: "Figure", board: Board, _: Path, __: str) -> None:
    figure.set_size_inches(6, 3.8)
    chart = charts.frequency(board)
    _draw_chart(figure, replace(chart, series=chart.series[:2]))


def _draw_chart(figure: "Figure", chart: Chart, *, note: str = "") -> None:
    axes = figure.subplots()
    if chart.x.is_log:
        axes.set_xscale("log")
    seen = [y for series in chart.series for y in series.y if y is not None]
    top = charts.clipped_at(chart.y, seen) if chart.y.clip < 1 and seen else None
    for series in reversed(chart.series):  # the first on top
        _draw_series(axes, chart, series, top)
    if chart.has_front:
        points = [(s.x[0], s.y[0]) for s in chart.series if s.y[0] is not None]
        front = charts.front_of(points)
        axes.step(*zip(*front, strict=True), where="post", color="grey", linestyle="--", zorder=0)
        axes.margins(x=0.25)
    _label_points(axes, chart)
    _limit(axes, chart.x, chart.y)
    axes.set_title(note, fontsize=7)
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    axes.legend(handles=_handles(chart), fontsize=7)
    _finish(axes)


def _draw_series(axes: "Axes", chart: Chart, series: Series, top: float | None) -> None:
    points = [
        (x, y if top is None else min(y, top))
        for x, y in zip(series.x, series.y, strict=True)
        if y is not None and (x > 0 or not chart.x.is_log)
    ]
    if not points:
        return
    x, y = zip(*points, strict=True)
    look: dict[str, Any] = {"color": COLOURS[series.colour % 6]}
    if series.is_line:
        axes.plot(x, y, linestyle=DASHES[series.mark % 6], linewidth=1, **look)
    elif series.low:
        errors = [[y[0] - series.low[0]], [series.high[0] - y[0]]]
        axes.errorbar(x, y, yerr=errors, marker=MARKERS[series.mark % 6], capsize=2, **look)
    else:
        axes.plot(x, y, MARKERS[series.mark % 6], markersize=4, **look)


def _label_points(axes: "Axes", chart: Chart) -> None:
    if chart.labels:
        first = chart.series[0]
        named = list(zip(chart.labels, first.x, first.y, strict=True))
    else:
        named = [(s.name, *at) for s in chart.series for at in zip(s.x, s.y, strict=True)]
    known = [(label, (x, y)) for label, x, y in named if y is not None and x > 0]
    if len(known) <= chart.most_labels:
        look: dict[str, Any] = {"xytext": (4, 2), "textcoords": "offset points", "fontsize": 6}
        for label, point in known:
            axes.annotate(_plain(label), point, **look)


def _limit(axes: "Axes", x: Axis, y: Axis) -> None:
    axes.set_xlim(left=x.low, right=x.high)
    axes.set_ylim(bottom=y.low, top=y.high)


def _handles(chart: Chart) -> list[Any]:
    """Return a sample of each key, or of each series, for the legend."""
    from matplotlib.lines import Line2D

    is_line = any(series.is_line for series in chart.series)
    keys = chart.keys or tuple((s.colour, s.mark, s.name) for s in chart.series)
    return [
        Line2D(
            [], [], label=_plain(text), markersize=4,
            color="grey" if colour is None else COLOURS[colour % 6],
            marker=MARKERS[(mark or 0) % 6],
            linestyle=DASHES[(mark or 0) % 6] if is_line else "",
        )
        for colour, mark, text in keys
    ]  # fmt: skip


def _finish(axes: "Axes") -> None:
    axes.grid(visible=True, linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


KINDS: dict[str, Callable[["Figure", Board, Path, str], None]] = {
    "heatmap": _heatmap,
    "difference": _difference,
    "confusion": _confusion,
    "images": _images,
    "curves": _curves,
    "pareto": _pareto,
    "frequency": _frequency,
    "leaderboard": _leaderboard,
}
