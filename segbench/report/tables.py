"""leaderboard.md and per_class/<data set>.md: built from files, the same bytes each time.

Rankings never mix protocols: each has its own section, named in words. Figures are per cent here
and nowhere else. Places and letters say no more than is decided. Incomplete cells stand apart and are not ranked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from segbench.files import write_text
from segbench.metrics import METRICS, is_own, title_of
from segbench.report.boards import EXTERNAL_NOTE, Board, weights_differ
from segbench.report.cells import Summary, TableCell, gather, mean_over_seeds, summarised
from segbench.report.searches import settings_tables
from segbench.runs.record import Row, RunRecord
from segbench.runs.trial_files import Evaluation
from segbench.schema.experiment import Published


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
        "Figures in per cent, mean ± standard deviation over seeds. One confusion matrix per split; "
        "the weights of the last step, never a checkpoint chosen on the reported split. "
        f"Made by `{record.command}` (with `--data` and `--weights` where the files lie); rebuilt by "
        "`segbench report` from the files of this folder alone.",
    ]
    for name in dict.fromkeys(board.protocol_name for board in boards):
        parts += _protocol_section([board for board in boards if board.protocol_name == name])
    for table in settings_tables(record, rows):
        parts += [f"## {table.title}", *table.sentences, markdown_table(table.rows, table.headers)]
    parts += _incomplete_section(record, rows)
    parts += _failure_section(rows)
    parts += _elsewhere_section(experiment.published)
    return "\n\n".join(parts) + "\n"


def _protocol_section(boards: Sequence[Board]) -> list[str]:
    parts = [*_protocol_heading(boards[0])]
    for board in boards:
        parts += [
            f"### {board.dataset} ({len(board.class_names)} classes, {board.num_images} images)"
            f"{board.training_in_words}",
            _ranking(board),
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
        f"Split `{protocol.split}`; {protocol.description()}.",
    )


def _ranking(board: Board) -> str:
    models = board.models
    axes = board.telling_axes
    shown = shown_metrics(model.figures for model in models)
    means = {
        figure: [mean_over_seeds(model.figures.get(figure)) for model in models] for figure in shown
    }
    best, worst = ({figure: of(own) for figure, own in means.items()} for of in (max, min))
    shows_weights = weights_differ(models)
    table = []
    for model in models:
        standing = model.standing
        row = [standing.place, standing.letters or "-", *(model.axes[a] or "-" for a in axes)]
        row += [model.initial_weights or "-"] if shows_weights else []
        for figure in shown:
            summary = model.figures.get(figure)
            is_best = worst[figure] < mean_over_seeds(summary) == best[figure]
            row.append(percent(summary, is_best=is_best))
            if figure == "mean_iou":
                row.append(f"[{standing.low:.1f}, {standing.high:.1f}]")
        row.append(model.seeds_in_words)
        row.append(published_in_words(model.published))
        table.append(row)
    figures = [title for key, title in shown.items() if key != "mean_iou"]
    weights = ["weights"] if shows_weights else []
    headers = ["place", "group", *axes, *weights, shown["mean_iou"], "95 % interval", *figures]
    headers += ["seeds", "published"]
    if not any(row[-1] for row in table):
        headers, table = headers[:-1], [row[:-1] for row in table]
    return markdown_table(table, headers)


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


def _incomplete_section(record: RunRecord, rows: Sequence[Row]) -> list[str]:
    table = incomplete_rows(record, rows)
    if not table:
        return []
    headers = ["protocol", *record.axis_names, "seeds done", "mean IoU so far", "why"]
    return ["## Incomplete, not ranked", markdown_table(table, headers)]


def incomplete_rows(record: RunRecord, rows: Sequence[Row]) -> list[list[str]]:
    """Return protocol, axes, seeds done, mean IoU so far, and why, of each cell not ranked."""
    table = []
    for name in record.protocols:
        for cell in gather(rows, name):
            is_extra = name not in record.experiment.evaluate and not cell.evaluations
            if not cell.is_complete and not is_extra:
                done = "-" if cell.skipped else f"{len(cell.evaluations)} of {cell.planned}"
                why = cell.skipped or _failures_in_words(cell)
                table.append(
                    [name, *cell.axes.values(), done, percent(cell.summary("mean_iou")), why]
                )
    return table


def _failures_in_words(cell: TableCell) -> str:
    """Return what the cell's missing seeds failed of, by kind."""
    kinds = [row.result.kind for row in cell.failures if row.result is not None]
    counted = (f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return "failed: " + ", ".join(counted) if kinds else "no result yet"


def _failure_section(rows: Sequence[Row]) -> list[str]:
    table = [
        [*cell.axes.values(), cell.seed, result.kind, result.message, f"trials/{cell.trial_id}"]
        for cell, result, *_ in rows
        if result is not None and result.status == "failed"
    ]
    if not table:
        return []
    headers = [*rows[0].cell.axes, "seed", "kind", "message", "folder"]
    return [
        "## Failed trials",
        markdown_table(table, headers),
        "`segbench run FILE --retry failed` starts them again.",
    ]


def _elsewhere_section(published: Sequence[Published]) -> list[str]:
    table = elsewhere_rows(published)
    if not table:
        return []
    headers = ["of", "figure", "per cent", "source", "differs from ours in"]
    return ["## Published under other protocols, not ranked", markdown_table(table, headers)]


def elsewhere_rows(published: Sequence[Published]) -> list[list[str]]:
    """Return of what, figure, per cent, source, and how it differs, of each figure not ranked."""
    return [
        [" ".join(p.where.values()), title_of(p.metric), _as_published(p), p.source, p.differs]
        for p in published
        if p.differs is not None
    ]


def render_per_class(record: RunRecord, rows: Sequence[Row], boards: Sequence[Board]) -> str:
    """Return the IoU of every class of the boards' data set for each of their models."""
    dataset = boards[0].dataset
    parts = [f"# IoU per class: {dataset}", "Per cent, mean ± standard deviation over seeds."]
    for board in boards:
        parts += [*_protocol_heading(board), _class_table(board)]
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
    return markdown_table(table, ["class", *headers])


def _comparable(cells: Sequence[TableCell]) -> list[list[TableCell]]:
    """Return the cells in groups that were scored on the same images and classes."""
    groups: dict[tuple[str, ...], list[TableCell]] = {}
    for cell in cells:
        first = cell.evaluations[0]
        groups.setdefault((first.split_fingerprint, *first.class_names), []).append(cell)
    return list(groups.values())


def _class_table(board: Board) -> str:
    def row(name: str, summaries: Sequence[Summary | None]) -> list[str]:
        best, worst = max(map(mean_over_seeds, summaries)), min(map(mean_over_seeds, summaries))
        return [name, *(percent(s, is_best=worst < mean_over_seeds(s) == best) for s in summaries)]

    models = board.models
    table = [
        row(name, [model.class_iou[index] for model in models])
        for index, name in enumerate(board.class_names)
    ]
    table.append(row("**mean**", [model.figures.get("mean_iou") for model in models]))
    return markdown_table(table, ["class", *(model.name for model in models)])


def percent(summary: Summary | None, *, is_best: bool = False, is_signed: bool = False) -> str:
    """Return `56.02 ± 0.31` in per cent, bold where it is the best, `-` where there is nothing."""
    if summary is None:
        return "-"
    text = f"{100 * summary.mean:{'+' if is_signed else ''}.2f}"
    if summary.deviation is not None:
        text += f" ± {100 * summary.deviation:.2f}"
    return f"**{text}**" if is_best else text


def markdown_table(table: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a Markdown table whose cells cannot break it: names may come from strangers."""
    escaped = [[_cell(value) for value in row] for row in table]
    return tabulate(escaped, [_cell(h) for h in headers], tablefmt="github", disable_numparse=True)


def _cell(value: object) -> str:
    return one_line(str(value)).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return the text in one line, with what HTML would take for its own escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())
