"""leaderboard.md and per_class/<data set>.md: built from files, the same bytes each time.

Rankings never mix protocols: each has its own section, named in words. Figures are per cent here
and nowhere else. Incomplete cells stand apart and are not ranked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from segbench.external import External, load_externals
from segbench.files import write_text
from segbench.report.cells import Summary, TableCell, external_cells, gather, summarised
from segbench.results import Evaluation
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
    externals = load_externals(run_folder)
    write_text(leaderboard, render_leaderboard(record, rows, externals))
    written = [leaderboard]
    datasets = [row.cell.axes["dataset"] for row in rows] + [e.method.dataset for e in externals]
    for dataset in dict.fromkeys(datasets):
        path = run_folder / "per_class" / f"{dataset}.md"
        text = render_per_class(record, rows, dataset, externals)
        if text:
            write_text(path, text)
            written.append(path)
    return written


def render_leaderboard(
    record: RunRecord, rows: Sequence[Row], externals: Sequence[External] = ()
) -> str:
    """Return the leaderboard in Markdown: a ranking for what is comparable, then what is apart."""
    experiment = record.experiment
    parts = [
        f"# Leaderboard: {experiment.name}",
        experiment.question,
        "Figures in per cent, mean ± standard deviation over seeds. One confusion matrix per split; "
        "the weights of the last step, never a checkpoint chosen on the reported split. "
        f"Made by `{record.command}` (with `--data` and `--weights` where the files lie); rebuilt by "
        f"`segbench report results/{experiment.name}`.",
    ]
    for name, protocol in _all_protocols(record, externals).items():
        cells = gather(rows, name) + external_cells(externals, protocol, record.axis_names)
        parts += _protocol_section(name, protocol, cells, experiment.published)
    parts += _incomplete_section(record, rows)
    parts += _failure_section(rows)
    parts += _elsewhere_section(experiment.published)
    return "\n\n".join(parts) + "\n"


def _all_protocols(record: RunRecord, externals: Sequence[External]) -> dict[str, Protocol]:
    """Return the run's protocols, then those that external methods alone were scored by, by name."""
    found = dict(record.protocols)
    digests = {protocol.digest() for protocol in found.values()}
    for protocol in (e.protocol for external in externals for e in external.evaluations):
        if protocol.digest() not in digests:
            digests.add(protocol.digest())
            name = protocol.name
            found[name if name not in found else f"{name}-{protocol.digest()}"] = protocol
    return found


def _protocol_section(
    name: str, protocol: Protocol, cells: list[TableCell], published: tuple[Published, ...]
) -> list[str]:
    parts = [
        f"## Protocol `{name}` ({protocol.digest()})",
        f"Split `{protocol.split}`; {protocol.description()}.",
    ]
    for dataset in dict.fromkeys(cell.axes["dataset"] for cell in cells):
        complete = [c for c in cells if c.axes["dataset"] == dataset and c.is_complete]
        for ranked in _comparable(complete):
            ranked.sort(key=lambda cell: -_mean(cell.summary("mean_iou")))
            figures = [p for p in published if p.protocol == name]
            first = ranked[0].evaluations[0]
            parts += [
                f"### {dataset} ({len(first.class_names)} classes, {first.num_images} images)",
                _ranking(ranked, figures),
            ]
            if any(cell.is_external for cell in ranked):
                parts.append(
                    "External: predictions that were made elsewhere and scored here; how they were "
                    "made is not on file."
                )
    return parts if len(parts) > 2 else []


def _comparable(cells: Sequence[TableCell]) -> list[list[TableCell]]:
    """Return the cells in groups that were scored on the same images and classes."""
    groups: dict[tuple[str, ...], list[TableCell]] = {}
    for cell in cells:
        first = cell.evaluations[0]
        groups.setdefault((first.split_fingerprint, *first.class_names), []).append(cell)
    return list(groups.values())


def _ranking(cells: list[TableCell], published: list[Published]) -> str:
    axes = [axis for axis in cells[0].axes if axis != "dataset"]
    has_boundary = any("boundary_iou" in cell.evaluations[0].figures for cell in cells)
    shown = {**FIGURES, **({"boundary_iou": "boundary IoU"} if has_boundary else {})}
    best = {figure: max(_mean(cell.summary(figure)) for cell in cells) for figure in shown}
    table = []
    for rank, cell in enumerate(cells, start=1):
        row: list[str | int] = [rank, *(cell.axes[axis] for axis in axes)]
        for figure in shown:
            summary = cell.summary(figure)
            row.append(percent(summary, is_best=_mean(summary) == best[figure] and len(cells) > 1))
        row.append("external" if cell.is_external else len(cell.evaluations))
        theirs = [p for p in published if matches(cell.axes, p.where)]
        row.append("; ".join(f"{p.percent:.1f} {FIGURES[p.metric]} ({p.source})" for p in theirs))
        table.append(row)
    headers = ["rank", *axes, *shown.values(), "seeds", "published"]
    if not any(row[-1] for row in table):
        headers, table = headers[:-1], [row[:-1] for row in table]
    return markdown_table(table, headers)


def _incomplete_section(record: RunRecord, rows: Sequence[Row]) -> list[str]:
    table = []
    for name in record.protocols:
        for cell in gather(rows, name):
            is_extra = name not in record.experiment.evaluate and not cell.evaluations
            if cell.is_complete or is_extra:
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


def render_per_class(
    record: RunRecord, rows: Sequence[Row], dataset: str, externals: Sequence[External] = ()
) -> str:
    """Return the IoU of every class of a data set for every complete cell; empty without any."""
    parts = [f"# IoU per class: {dataset}", "Per cent, mean ± standard deviation over seeds."]
    for name, protocol in _all_protocols(record, externals).items():
        every = gather(rows, name) + external_cells(externals, protocol, record.axis_names)
        cells = [cell for cell in every if cell.axes["dataset"] == dataset and cell.is_complete]
        for alike in _comparable(cells):
            names = alike[0].evaluations[0].class_names
            parts += [
                f"## Protocol `{name}` ({protocol.digest()})",
                f"Split `{protocol.split}`; {protocol.description()}.",
                _class_table(alike, names),
            ]
    parts += _crf_gains(record, rows, dataset)
    return "\n\n".join(parts) + "\n" if len(parts) > 2 else ""


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
            if cell.axes["dataset"] == dataset
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


def _class_table(cells: list[TableCell], names: tuple[str, ...]) -> str:
    table = []
    for index, name in enumerate(names):
        summaries = [cell.class_summary(index) for cell in cells]
        best = max(map(_mean, summaries))
        marked = [percent(s, is_best=_mean(s) == best and len(cells) > 1) for s in summaries]
        table.append([name, *marked])
    means = [cell.summary("mean_iou") for cell in cells]
    best = max(map(_mean, means))
    table.append(
        ["**mean**", *(percent(m, is_best=_mean(m) == best and len(cells) > 1) for m in means)]
    )
    headers = [
        " ".join(value for axis, value in cell.axes.items() if axis != "dataset") for cell in cells
    ]
    return markdown_table(table, ["class", *headers])


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
    escaped = [[escape(cell) for cell in row] for row in table]
    return tabulate(escaped, [escape(h) for h in headers], tablefmt="github", disable_numparse=True)


def escape(cell: object) -> str:
    """Return the cell's text with what Markdown tables and HTML would take for their own."""
    text = " ".join(str(cell).split())
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(raw, safe)
    return text


def _mean(summary: Summary | None) -> float:
    return float("-inf") if summary is None else summary.mean
