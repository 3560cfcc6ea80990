"""leaderboard.md and per_class/<data set>.md: built from files, the same bytes each time.

Rankings never mix protocols: each has its own section, named in words. Figures are per cent here
and nowhere else. Places and letters say no more than is decided. Incomplete cells stand apart and are not ranked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segbench.errors import counted
from segbench.files import write_text
from segbench.metrics import METRICS, title_of
from segbench.report.boards import EXTERNAL_NOTE, Board, BoardModel, weights_differ
from segbench.report.cells import Summary, TableCell, gather, summarised
from segbench.report.numbers import amount
from segbench.report.searches import settings_tables
from segbench.report.table import (
    Column,
    Interval,
    Link,
    Shown,
    Table,
    Value,
    markdown,
    percent,
    table_of,
)
from segbench.runs.record import Row, RunRecord
from segbench.runs.trial_files import Evaluation
from segbench.schema.experiment import Published
from segbench.schema.metric_names import is_own


def shown_metrics(found: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return name and title of each metric that tables show of models with these figures."""
    every = list(found)
    own = dict.fromkeys(name for figures in every for name in figures if is_own(name))
    built_in = {
        name: metric.title
        for name, metric in METRICS.items()
        if metric.in_tables
        and (not metric.needs_boundary or any(name in figures for figures in every))
    }
    return built_in | {name: title_of(name) for name in own}


def write_tables(
    run_folder: Path, record: RunRecord, rows: Sequence[Row], boards: Sequence[Board]
) -> list[Path]:
    """Write the leaderboard and one table of classes for each data set; return the files."""
    leaderboard = run_folder / "leaderboard.md"
    write_text(leaderboard, render_leaderboard(record, rows, boards))
    written = [leaderboard]
    for dataset in dict.fromkeys(board.dataset for board in boards):
        path = run_folder / "per_class" / f"{dataset}.md"
        write_text(
            path, render_per_class(record, rows, [b for b in boards if b.dataset == dataset])
        )
        written.append(path)
    return written


def render_leaderboard(record: RunRecord, rows: Sequence[Row], boards: Sequence[Board]) -> str:
    """Return the leaderboard in Markdown: a ranking for what is comparable, then what is apart."""
    experiment = record.experiment
    parts = [
        f"# Leaderboard: {experiment.name}",
        experiment.question,
        "Figures in per cent, mean ± standard deviation over seeds (n - 1; no standard error); a mean "
        "IoU in bold is significantly above all others of its table. One confusion matrix per split; "
        "the weights of the last step, never a checkpoint chosen on the reported split. "
        f"Made by `{record.command}` (with `--data` and `--weights` where the files lie); rebuilt by "
        "`segbench report` from the files of this folder alone.",
    ]
    for name in dict.fromkeys(board.protocol_name for board in boards):
        parts += _protocol_section([board for board in boards if board.protocol_name == name])
    for table in settings_tables(record, rows):
        parts += [f"## {table.title}", *table.notes, markdown(table)]
    parts += _section("Incomplete, not ranked", incomplete_table(record, rows))
    failures = failure_table(rows)
    again = "`segbench run FILE --retry failed` starts them again."
    parts += _section("Failed trials", failures.only(failures.keys[1:]), again)
    elsewhere = elsewhere_table(experiment.published)
    parts += _section("Published under other protocols, not ranked", elsewhere)
    return "\n\n".join(parts) + "\n"


def _protocol_section(boards: Sequence[Board]) -> list[str]:
    parts = [*_protocol_heading(boards[0])]
    for board in boards:
        parts += [
            f"### {board.dataset} ({len(board.class_names)} classes, {counted(board.num_images, 'image')})"
            f"{board.training_in_words}",
            markdown(ranking([board], board.telling_axes)),
            board.reading_note,
            *filter(None, [board.weights_note]),
        ]
        if any(model.is_external for model in board.models):
            parts.append(EXTERNAL_NOTE)
    return parts


def _protocol_heading(board: Board) -> tuple[str, str]:
    protocol = board.protocol
    return (
        f"## Protocol `{board.protocol_name}` ({protocol.digest()})",
        f"Split `{protocol.split}`; {protocol.description(with_split=False)}.",
    )


def ranking(boards: Sequence[Board], axes: Sequence[str], *more: str) -> Table:
    """Return the columns of the leaderboard that people read. more: keys of others, where filled."""
    whole = leaderboard(boards, axes)
    first = ("place", "letters", *axis_keys(whole), "weights", "mean_iou", "interval")
    last = ("seeds", *more, "published")
    found = whole.only(dict.fromkeys((*first, *metric_keys(whole), *last)))
    for key in (*more, "published"):
        found = found.without_empty(key)
    return found


def leaderboard(boards: Sequence[Board], axes: Sequence[str]) -> Table:
    """Return all that is said of the boards' models, a row for each; `Table.only` chooses from it.

    axes: those of the sweep that are columns.
    """
    models = [model for board in boards for model in board.models]
    shown = shown_metrics(model.figures for model in models)
    columns = [
        Column("protocol", "protocol"),
        Column("protocol_digest", "digest"),
        Column("place", "place", "r", ("first_place", "last_place")),
        Column("letters", "group", fields=("group",)),
        *(Column(f"axis {axis}", axis, fields=(axis,)) for axis in axes),
        Column("weights", "weights"),
        Column("num_images", "images", "r"),
        Column("num_classes", "classes", "r"),
        *(Column(key, title, "r", (key, f"{key}_sd")) for key, title in shown.items()),
        Column("interval", "95 % interval", "c", ("mean_iou_low", "mean_iou_high")),
        Column("num_seeds", "seeds", "r", ("seeds",)),
        Column("seeds", "seeds", "r"),
        Column("parameters", "parameters", "r"),
        Column("published", "published"),
    ]
    rows = (
        [*_where(board, model, axes), *map(_figures(board, model).get, shown), *_how_sure(model)]
        for board in boards
        for model in board.models
    )
    table = Table(tuple(columns), tuple(map(tuple, rows)), legend=_legend(boards))
    keys = (key for key in table.keys if key != "weights" or weights_differ(models))
    return table.only(keys)


def _figures(board: Board, model: BoardModel) -> dict[str, Summary]:
    """Return the model's figures; mean IoU alone is marked, as it alone is tested."""
    mean = model.figures.get("mean_iou")
    if model is not board.winner or mean is None:
        return model.figures
    return {**model.figures, "mean_iou": replace(mean, is_marked=True)}


def _legend(boards: Sequence[Board], *, with_intervals: bool = True) -> str:
    """Return what stands behind the numbers of a table of these boards, in sentences."""
    models = [model for board in boards for model in board.models]
    seeds = sorted({model.standing.num_seeds for model in models})
    sentences = []
    if seeds[-1:] > [1]:
        several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        sentences.append(
            f"Per cent, mean ± standard deviation (SD, n - 1; no standard error) over {several} "
            "training seeds."
        )
    if with_intervals:
        varies = sorted({model.standing.varies for model in models}, reverse=True)
        over = " or, with one seed, ".join(f"new {each}" for each in varies)
        sentences.append(f"95 % interval: confidence interval of mean IoU over {over}.")
    if with_intervals and any(board.winner for board in boards):
        sentences.append("Bold: mean IoU significantly above that of every other row.")
    return " ".join(sentences)


def _where(board: Board, model: BoardModel, axes: Sequence[str]) -> list[Value]:
    standing = model.standing
    return [
        board.protocol_name,
        board.protocol.digest(),
        Shown(standing.place, standing.first, (standing.first, standing.last)),
        standing.letters or None,
        *(model.axes[axis] or None for axis in axes),
        model.initial_weights or None,
        board.num_images,
        len(board.class_names),
    ]


def _how_sure(model: BoardModel) -> list[Value]:
    standing, published = model.standing, model.published
    parameters = model.costs.get("parameters")
    return [
        Interval(standing.low, standing.high),
        standing.num_seeds,
        Shown(model.seeds_in_words, standing.num_seeds),
        None
        if parameters is None
        else Shown(amount(parameters), parameters, (f"{parameters:.0f}",)),
        Shown(published_in_words(published), published[0].percent) if published else "",
    ]


def axis_keys(table: Table) -> list[str]:
    """Return the keys of the columns of a leaderboard that hold axes."""
    return [key for key in table.keys if key.startswith("axis ")]


def metric_keys(table: Table) -> list[str]:
    """Return the keys of the columns of a leaderboard that hold metrics."""
    return [column.key for column in table.columns if column.fields[1:] == (f"{column.key}_sd",)]


def published_in_words(published: Sequence[Published]) -> str:
    """Return published figures, in per cent, with their sources; those of one source together."""
    found: dict[str, list[str]] = {}
    for figure in published:
        told = f"{_as_published(figure)} {title_of(figure.metric)}"
        found.setdefault(figure.source, []).append(told)
    return "; ".join(f"{', '.join(figures)} ({source})" for source, figures in found.items())


def _as_published(figure: Published) -> str:
    """Return per cent with one digit, or with as many more as the file gives."""
    return max(f"{figure.percent:.1f}", f"{figure.percent:.12g}", key=len)


def _section(title: str, table: Table, *notes: str) -> list[str]:
    """Return heading, table and what is said below it; nothing of an empty table."""
    return [f"## {title}", markdown(table), *notes] if table.rows else []


def incomplete_table(record: RunRecord, rows: Sequence[Row]) -> Table:
    """Return the cells that are not ranked, and why."""
    found = []
    for name in record.protocols:
        for cell in gather(rows, name):
            is_extra = name not in record.experiment.evaluate and not cell.evaluations
            if not cell.is_complete and not is_extra:
                done = "-" if cell.skipped else f"{len(cell.evaluations)} of {cell.planned}"
                why = cell.skipped or _failures_in_words(cell)
                found.append(
                    [name, *cell.axes.values(), done, percent(cell.summary("mean_iou")), why]
                )
    so_far = "mean IoU so far"
    titles = ["protocol", *record.axis_names, "seeds done", so_far, "why"]
    return table_of(titles, found, numbers=[so_far])


def _failures_in_words(cell: TableCell) -> str:
    """Return what the cell's missing seeds failed of, by kind."""
    kinds = [row.result.kind for row in cell.failures if row.result is not None]
    counted = (f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return "failed: " + ", ".join(counted) if kinds else "no result yet"


def failure_table(rows: Sequence[Row]) -> Table:
    """Return the trials that failed; `Table.only` chooses between their link and their folder."""
    found = [
        [
            Link(cell.trial_id, f"trials/{cell.trial_id}/result.json"),
            *cell.axes.values(),
            *(cell.seed, result.kind, result.message, f"trials/{cell.trial_id}"),
        ]
        for cell, result, *_ in rows
        if result is not None and result.status == "failed"
    ]
    axes = rows[0].cell.axes if rows else ()
    titles = ["trial", *axes, "seed", "kind", "message", "folder"]
    return table_of(titles, found, numbers=["seed"])


def elsewhere_table(published: Sequence[Published]) -> Table:
    """Return the published figures that are not ranked, and how they differ."""
    found = [
        [" ".join(p.where.values()), title_of(p.metric), _as_published(p), p.source, p.differs]
        for p in published
        if p.differs is not None
    ]
    titles = ["model", "metric", "per cent", "source", "differs in"]
    return table_of(titles, found, numbers=["per cent"])


def render_per_class(record: RunRecord, rows: Sequence[Row], boards: Sequence[Board]) -> str:
    """Return the IoU of every class of the boards' data set for each of their models."""
    dataset = boards[0].dataset
    parts = [f"# IoU per class: {dataset}", "Per cent, mean ± standard deviation over seeds."]
    for board in boards:
        parts += [*_protocol_heading(board), markdown(_with_mean(board))]
    parts += _crf_gains(record, rows, dataset)
    return "\n\n".join(parts) + "\n"


def _crf_gains(record: RunRecord, rows: Sequence[Row], dataset: str) -> list[str]:
    """Return what the CRF gives each class, where the same protocol was scored without it too."""
    parts = []
    for name, protocol in record.protocols.items():
        plain = protocol.revised(crf=None).digest()
        without = [n for n, p in record.protocols.items() if p.digest() == plain]
        if protocol.crf is None or not without:
            continue
        before = {tuple(c.axes.values()): c for c in gather(rows, without[0]) if c.is_complete}
        pairs = [
            (before[tuple(cell.axes.values())], cell)
            for cell in gather(rows, name)
            if protocol.scored_name(cell.axes["dataset"]) == dataset
            and cell.is_complete
            and tuple(cell.axes.values()) in before
        ]
        for group in _comparable([cell for _, cell in pairs]):
            alike = [pair for pair in pairs if pair[1] in group]
            parts += [
                f"## Gain of the CRF: `{name}` over `{without[0]}`",
                "Points of IoU, each trained model with the CRF against itself without it.",
                _gain_table(alike),
            ]
    return parts


def _gain_table(pairs: Sequence[tuple[TableCell, TableCell]]) -> str:
    def gained(figure: Callable[[Evaluation], float | None]) -> list[str]:
        return [
            percent(
                summarised(
                    [
                        None if (a := figure(old)) is None or (b := figure(new)) is None else b - a
                        for old, new in zip(before.evaluations, after.evaluations, strict=True)
                    ]
                ),
                is_signed=True,
            )
            for before, after in pairs
        ]

    names = pairs[0][1].evaluations[0].class_names
    table = [
        [name, *gained(lambda e, index=index: e.per_class_iou[index])]
        for index, name in enumerate(names)
    ]
    table.append(["**mean**", *gained(lambda e: e.figures["mean_iou"])])
    headers = [
        " ".join(value for axis, value in cell.axes.items() if axis != "dataset")
        for _, cell in pairs
    ]
    return markdown(table_of(["class", *headers], table))


def _comparable(cells: Sequence[TableCell]) -> list[list[TableCell]]:
    """Return the cells in groups that were scored on the same images and classes."""
    groups: dict[tuple[str, ...], list[TableCell]] = {}
    for cell in cells:
        first = cell.evaluations[0]
        groups.setdefault((first.split_fingerprint, *first.class_names), []).append(cell)
    return list(groups.values())


def class_table(board: Board) -> Table:
    """Return the IoU of each class, a column for each model."""
    names = [model.name for model in board.models]
    columns = (Column(name, name, "r", (name, f"{name} sd")) for name in names)
    rows = (
        (name, *(model.class_iou[index] for model in board.models))
        for index, name in enumerate(board.class_names)
    )
    legend = _legend([board], with_intervals=False)
    return Table((Column("class", "class"), *columns), tuple(rows), legend=legend)


def _with_mean(board: Board) -> Table:
    table = class_table(board)
    mean = ("**mean**", *(_figures(board, model).get("mean_iou") for model in board.models))
    return replace(table, rows=(*table.rows, mean))
