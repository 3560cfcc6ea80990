"""leaderboard.md and per_class/<data set>.md: built from files, the same bytes each time.

Rankings never mix protocols: each has its own section, named in words. Figures are per cent here
and nowhere else. Incomplete cells stand apart and are not ranked.
"""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from segbench.files import write_text
from segbench.report.cells import Summary, TableCell, gather
from segbench.run import Row, RunRecord
from segbench.spec.experiment import Published
from segbench.spec.protocol import Protocol
from segbench.spec.sweep import matches

FIGURES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "frequency_weighted_iou": "f.w. IoU",
}


def write_tables(run_folder: Path, record: RunRecord, rows: Sequence[Row]) -> list[Path]:
    """Write the leaderboard and one table of classes for each data set; return the files."""
    leaderboard = run_folder / "leaderboard.md"
    write_text(leaderboard, render_leaderboard(record, rows))
    written = [leaderboard]
    for dataset in dict.fromkeys(row.cell.axes["dataset"] for row in rows):
        path = run_folder / "per_class" / f"{dataset}.md"
        text = render_per_class(record, rows, dataset)
        if text:
            write_text(path, text)
            written.append(path)
    return written


def render_leaderboard(record: RunRecord, rows: Sequence[Row]) -> str:
    """Return the leaderboard in Markdown: a ranking per protocol and data set, then what is apart."""
    experiment = record.experiment
    parts = [
        f"# Leaderboard: {experiment.name}",
        experiment.question,
        "Figures in per cent, mean ± standard deviation over seeds. One confusion matrix per split; "
        "the weights of the last step, never a checkpoint chosen on the reported split. "
        f"Made by `{record.command}` (with `--data` and `--weights` where the files lie); rebuilt by "
        f"`segbench report results/{experiment.name}`.",
    ]
    for name, protocol in experiment.evaluate.items():
        cells = gather(rows, name)
        parts += _protocol_section(name, protocol, cells, experiment.published)
    parts += _incomplete_section(record, rows)
    parts += _failure_section(rows)
    parts += _elsewhere_section(experiment.published)
    return "\n\n".join(parts) + "\n"


def _protocol_section(
    name: str, protocol: Protocol, cells: list[TableCell], published: tuple[Published, ...]
) -> list[str]:
    parts = [f"## Protocol `{name}` ({protocol.digest()})", f"Split `{protocol.split}`; {protocol.description()}."]
    for dataset in dict.fromkeys(cell.axes["dataset"] for cell in cells):
        ranked = [c for c in cells if c.axes["dataset"] == dataset and c.is_complete]
        if not ranked:
            continue
        ranked.sort(key=lambda cell: -_mean(cell.summary("mean_iou")))
        figures = [p for p in published if p.protocol == name]
        num_images = ranked[0].evaluations[0].num_images
        num_classes = len(ranked[0].evaluations[0].class_names)
        parts += [
            f"### {dataset} ({num_classes} classes, {num_images} images)",
            _ranking(ranked, figures),
        ]
    return parts if len(parts) > 2 else []


def _ranking(cells: list[TableCell], published: list[Published]) -> str:
    axes = [axis for axis in cells[0].axes if axis != "dataset"]
    best = {figure: max(_mean(cell.summary(figure)) for cell in cells) for figure in FIGURES}
    table = []
    for rank, cell in enumerate(cells, start=1):
        row: list[str | int] = [rank, *(cell.axes[axis] for axis in axes)]
        for figure in FIGURES:
            summary = cell.summary(figure)
            row.append(percent(summary, is_best=_mean(summary) == best[figure] and len(cells) > 1))
        row.append(len(cell.evaluations))
        theirs = [p for p in published if matches(cell.axes, p.where)]
        row.append("; ".join(f"{p.percent:.1f} {FIGURES[p.metric]} ({p.source})" for p in theirs))
        table.append(row)
    headers = ["rank", *axes, *FIGURES.values(), "seeds", "published"]
    if not any(row[-1] for row in table):
        headers, table = headers[:-1], [row[:-1] for row in table]
    return markdown_table(table, headers)


def _incomplete_section(record: RunRecord, rows: Sequence[Row]) -> list[str]:
    table = []
    for name in record.experiment.evaluate:
        for cell in gather(rows, name):
            if cell.is_complete:
                continue
            done = "-" if cell.skipped else f"{len(cell.evaluations)} of {cell.planned}"
            table.append(
                [
                    name,
                    *cell.axes.values(),
                    done,
                    percent(cell.summary("mean_iou")),
                    cell.skipped or failures_in_words(cell),
                ]
            )
    if not table:
        return []
    headers = ["protocol", *record.axis_names, "seeds done", "mean IoU so far", "why"]
    return ["## Incomplete, not ranked", markdown_table(table, headers)]


def failures_in_words(cell: TableCell) -> str:
    """Return what the cell's missing seeds failed of, by kind."""
    kinds = [row.result.kind for row in cell.failures if row.result is not None]
    counted = (f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return "failed: " + ", ".join(counted) if kinds else "not run yet"


def _failure_section(rows: Sequence[Row]) -> list[str]:
    failed = [
        (row.cell, row.result)
        for row in rows
        if row.result is not None and row.result.status == "failed"
    ]
    if not failed:
        return []
    table = [
        [*cell.axes.values(), cell.seed, result.kind, result.message, f"trials/{cell.trial_id}"]
        for cell, result in failed
    ]
    headers = [*failed[0][0].axes, "seed", "kind", "message", "folder"]
    return [
        "## Failed trials",
        markdown_table(table, headers),
        "`segbench run FILE --retry failed` starts them again.",
    ]


def _elsewhere_section(published: tuple[Published, ...]) -> list[str]:
    apart = [figure for figure in published if figure.differs is not None]
    if not apart:
        return []
    table = [
        [" ".join(p.where.values()), FIGURES[p.metric], f"{p.percent:.1f}", p.source, p.differs]
        for p in apart
    ]
    headers = ["of", "figure", "per cent", "source", "differs from ours in"]
    return ["## Published under other protocols, not ranked", markdown_table(table, headers)]


def render_per_class(record: RunRecord, rows: Sequence[Row], dataset: str) -> str:
    """Return the IoU of every class of a data set for every complete cell; empty without any."""
    parts = [f"# IoU per class: {dataset}", "Per cent, mean ± standard deviation over seeds."]
    for name, protocol in record.experiment.evaluate.items():
        cells = [
            cell
            for cell in gather(rows, name)
            if cell.axes["dataset"] == dataset and cell.is_complete
        ]
        for names in dict.fromkeys(cell.evaluations[0].class_names for cell in cells):
            alike = [cell for cell in cells if cell.evaluations[0].class_names == names]
            parts += [
                f"## Protocol `{name}` ({protocol.digest()})",
                f"Split `{protocol.split}`; {protocol.description()}.",
                _class_table(alike, names),
            ]
    return "\n\n".join(parts) + "\n" if len(parts) > 2 else ""


def _class_table(cells: list[TableCell], names: tuple[str, ...]) -> str:
    table = []
    for index, name in enumerate(names):
        summaries = [cell.class_summary(index) for cell in cells]
        best = max(map(_mean, summaries))
        marked = [percent(s, is_best=_mean(s) == best and len(cells) > 1) for s in summaries]
        table.append([name, *marked])
    means = [cell.summary("mean_iou") for cell in cells]
    best = max(map(_mean, means))
    table.append(["**mean**", *(percent(m, is_best=_mean(m) == best and len(cells) > 1) for m in means)])
    headers = [
        " ".join(value for axis, value in cell.axes.items() if axis != "dataset") for cell in cells
    ]
    return markdown_table(table, ["class", *headers])


def percent(summary: Summary | None, *, is_best: bool = False) -> str:
    """Return `56.02 ± 0.31` in per cent, bold where it is the best, `-` where there is nothing."""
    if summary is None:
        return "-"
    text = f"{100 * summary.mean:.2f}"
    if summary.deviation is not None:
        text += f" ± {100 * summary.deviation:.2f}"
    return f"**{text}**" if is_best else text


def markdown_table(table: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a Markdown table whose cells cannot break it: names may come from strangers."""
    escaped = [[escape(cell) for cell in row] for row in table]
    return tabulate(
        escaped, [escape(h) for h in headers], tablefmt="github", disable_numparse=True
    )


def escape(cell: object) -> str:
    """Return the cell's text with what Markdown tables and HTML would take for their own."""
    text = " ".join(str(cell).split())
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(raw, safe)
    return text


def _mean(summary: Summary | None) -> float:
    return float("-inf") if summary is None else summary.mean
