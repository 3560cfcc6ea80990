"""Figures for papers, drawn with matplotlib: PNG, SVG or PDF. Equal files give equal bytes.

They show what the page shows. matplotlib is loaded only when something is drawn.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segbench.errors import ResultError
from segbench.files import write_atomically
from segbench.report.boards import COSTS, Board, BoardModel
from segbench.report.training_curves import load_curves
from segbench.runs import trial_files
from segbench.runs.panels import PARTS, Panel, Panels, load_panels
from segbench.runs.timings import TIMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
COLOURS = ("#0072b2", "#c25100", "#00855f", "#b5548c", "#a37500", "#2b8fc9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (4, 1)), (0, (6, 2, 1, 2)))
_MOST_CURVES = 6
_LABELLED_CLASSES = 25
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
    import numpy as np

    models, classes = board.models, board.class_names
    is_narrow = len(models) <= _UPRIGHT_NAMES
    width = 0.95 if is_narrow else 0.62
    figure.set_size_inches(2.2 + width * len(models), 1.4 + 0.19 * len(classes))
    axes = figure.subplots()
    values = np.array(
        [
            [np.nan if (iou := m.class_iou[index]) is None else 100 * iou.mean for m in models]
            for index in range(len(classes))
        ]
    )
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "black" if value > 50 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=7)
    names = [_plain(m.name.replace(" ", "\n") if is_narrow else m.name) for m in models]
    turned: dict[str, Any] = {} if is_narrow else {"rotation": 45, "ha": "right"}
    axes.set_xticks(range(len(models)), names, fontsize=7, **turned)
    axes.set_yticks(range(len(classes)), list(map(_plain, classes)))
    figure.colorbar(image, label="IoU, per cent")


def _difference(figure: "Figure", board: Board, _: Path, __: str) -> None:
    if len(board.models) < 2:
        raise ResultError(f"{board.title}: holds one model; a difference takes two")
    one, two = board.models[:2]
    gaps = sorted(
        (100 * (a.mean - b.mean), name)
        for a, b, name in zip(one.class_iou, two.class_iou, board.class_names, strict=True)
        if a is not None and b is not None
    )
    figure.set_size_inches(5, 1.2 + 0.19 * len(gaps))
    axes = figure.subplots()
    ahead = [gap > 0 for gap, _ in gaps]
    axes.barh(
        range(len(gaps)),
        [gap for gap, _ in gaps],
        color=[COLOURS[0] if is_ahead else COLOURS[1] for is_ahead in ahead],
    )
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(gaps)), [_plain(name) for _, name in gaps], fontsize=7)
    axes.set_title(_plain(f"{one.name} minus {two.name}"), fontsize=8)
    _finished(axes, "points of IoU, means over seeds", "")


def _confusion(figure: "Figure", board: Board, _: Path, __: str) -> None:
    import numpy as np

    names, matrix = board.models[0].confusions[0]
    pixels = np.array(matrix, dtype=float)
    shares = 100 * pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    outside = shares[:, -1].any()
    shares = shares if outside else shares[:, :-1]
    columns = [*names, "no class"] if outside else names
    figure.set_size_inches(2.4 + 0.24 * len(columns), 1.8 + 0.2 * len(names))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 1:
            ink = "black" if share > 50 else "white"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=5)
    axes.set_xticks(range(len(columns)), list(map(_plain, columns)), rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), list(map(_plain, names)), fontsize=7)
    axes.set_title(_plain(f"{board.models[0].name}, first seed"), fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    figure.colorbar(image, label="per cent of the label's pixels")


def _images(figure: "Figure", board: Board, run_folder: Path, _: str) -> None:
    """Draw one image of each kind, of the trial that stands highest among those with pictures."""
    import numpy as np
    from matplotlib.patches import Patch
    from PIL import Image

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
    folder, panels = pictured[row.cell.trial_id]
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
    indices = sorted({index for panel in shown for index in panel.class_indices})
    patches = [
        Patch(
            color="#" + bytes(panels.colours[index]).hex(), label=_plain(panels.class_names[index])
        )
        for index in indices
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=6, frameon=False)
    figure.suptitle(_plain(f"{model.name}, seed {row.cell.seed}"), fontsize=8)


def _one_of_each(panels: Panels) -> list[Panel]:
    """Return the best, the first typical, and the very worst."""
    kinds = {kind: [p for p in panels.panels if p.kind == kind] for kind in ("best", "typical")}
    worst = [panel for panel in panels.panels if panel.kind == "worst"]
    return [*(p for found in kinds.values() for p in found[:1]), *worst[-1:]]


def _curves(figure: "Figure", board: Board, run_folder: Path, _: str) -> None:
    figure.set_size_inches(6, 3.6)
    axes = figure.subplots()
    for place, model in enumerate(board.models[:_MOST_CURVES]):
        for row in model.rows:
            found = load_curves(trial_files.trial_folder(run_folder, row.cell.trial_id))
            label = _plain(model.name) if row is model.rows[0] else None
            look: dict[str, Any] = {"color": COLOURS[place], "label": label}
            axes.plot(*found.loss, linestyle=DASHES[place], linewidth=1, **look)
            axes.plot(*found.validation, MARKERS[place], color=COLOURS[place], markersize=4)
    _finished(axes, "optimizer step", "loss (lines: training, symbols: validation)")
    axes.legend(fontsize=7)


def _pareto(figure: "Figure", board: Board, _: Path, cost: str) -> None:
    if cost not in COSTS:
        raise ResultError(f"--cost {cost}: no such cost; costs: {', '.join(COSTS)}")
    points = sorted(
        ((m.costs[cost], m.standing.mean, m) for m in board.models if m.costs.get(cost, 0) > 0),
        key=lambda point: (point[0], -point[1]),
    )
    if not points:
        advice = (
            "; segbench time RUN measures times, one model after another" if cost in TIMES else ""
        )
        raise ResultError(f"--cost {cost}: was measured for no model of {board.title}{advice}")
    figure.set_size_inches(6, 3.8)
    axes = figure.subplots()
    axes.set_xscale("log")
    for place, (x, y, model) in enumerate(points):
        errors = [[y - model.standing.low], [model.standing.high - y]]
        look: dict[str, Any] = {"color": COLOURS[place % 6], "marker": MARKERS[place % 6]}
        axes.errorbar(x, y, yerr=errors, capsize=2, **look)
        axes.annotate(
            _plain(model.name), (x, y), xytext=(6, 3), textcoords="offset points", fontsize=7
        )
    front = front_of([(x, y) for x, y, _ in points])
    axes.step(*zip(*front, strict=True), where="post", color="grey", linestyle="--", zorder=0)
    axes.margins(x=0.25)
    _finished(axes, COSTS[cost], "mean IoU, per cent")


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, figure) that none reaches at their cost or below."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _frequency(figure: "Figure", board: Board, _: Path, __: str) -> None:
    figure.set_size_inches(6, 3.8)
    axes = figure.subplots()
    axes.set_xscale("log")
    shares = board.training_share or board.label_share
    split = "training" if board.training_share else board.protocol.split
    for place, model in enumerate(board.models[:2]):
        known = [
            (100 * share, 100 * iou.mean, name)
            for share, iou, name in zip(shares, model.class_iou, board.class_names, strict=True)
            if share > 0 and iou is not None
        ]
        look: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "s": 16}
        axes.scatter([k[0] for k in known], [k[1] for k in known], label=_plain(model.name), **look)
        if place == 0 and len(known) <= _LABELLED_CLASSES:
            for x, y, name in known:
                axes.annotate(
                    _plain(name), (x, y), xytext=(4, 2), textcoords="offset points", fontsize=6
                )
    axes.set_ylim(0, 100)
    _finished(axes, f"share of the {split} split's labelled pixels, per cent", "IoU, per cent")
    axes.legend(fontsize=7)


def _leaderboard(figure: "Figure", board: Board, _: Path, __: str) -> None:
    models: Sequence[BoardModel] = board.models[::-1]
    figure.set_size_inches(6, 1.2 + 0.28 * len(models))
    axes = figure.subplots()
    for place, model in enumerate(models):
        standing = model.standing
        errors = [[standing.mean - standing.low], [standing.high - standing.mean]]
        axes.errorbar(standing.mean, place, xerr=errors, fmt="o", color=COLOURS[0], capsize=2)
        seeds = [100 * (each.figures["mean_iou"] or 0) for each in model.evaluations]
        axes.plot(seeds, [place - 0.18] * len(seeds), "|", color="grey", markersize=5)
        axes.annotate(
            standing.letters, (1.01, place), xycoords=("axes fraction", "data"), va="center"
        )
    axes.set_yticks(range(len(models)), [_plain(model.name) for model in models])
    axes.set_ylim(-0.6, len(models) - 0.4)
    axes.set_title(_plain(board.title), fontsize=8)
    _finished(axes, "mean IoU, per cent, 95 % interval; ticks are seeds", "")


def _finished(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
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
