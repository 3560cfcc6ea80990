"""report.html: one page that shows a run's outcome, without network, from files alone.

Names of cards, classes and files come from strangers: Jinja escapes what stands in the page, the
JSON cannot end its element, the script writes text nodes alone, and the page's policy forbids any
other script and any address. Equal files give equal bytes.
"""

import base64
import hashlib
import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from segbench.claims.verdict import Verdict
from segbench.errors import counted
from segbench.report import charts
from segbench.report.boards import (
    COSTS,
    EXTERNAL_NOTE,
    Board,
    BoardModel,
    Confusion,
    Duel,
    Rival,
    weights_differ,
)
from segbench.report.cells import Summary
from segbench.report.claims_page import (
    asked,
    caveats,
    effect_in_words,
    interval_in_words,
    judged_again,
    missing_in_words,
    other_population,
    seeds_in_words,
)
from segbench.report.methods.of_run import methods_of
from segbench.report.methods.parts import Known
from segbench.report.methods.text import html_methods
from segbench.report.numbers import amount, duration, p_equals, p_value, short, signed
from segbench.report.searches import settings_tables
from segbench.report.seed_dots import seed_dots
from segbench.report.table import Shown, Table, Value, text_of
from segbench.report.tables import (
    elsewhere_table,
    failure_table,
    incomplete_table,
    ranking,
    shown_metrics,
)
from segbench.runs import trial_files
from segbench.runs.observed import shared_times
from segbench.runs.panels import PARTS, Panel, Panels, load_panels
from segbench.runs.record import Row, RunRecord
from segbench.runs.registration import warnings_of
from segbench.runs.timings import load_timings
from segbench.statistics.inference import MIN_SEEDS
from segbench.statistics.power import ALPHA

TRIAL_FILES = (
    "trial.json",
    "result.json",
    "provenance.json",
    "log.jsonl",
    "worker.log",
    "traceback.txt",
)
_CURVE_POINTS = 10_000  # of all training curves together: about 150 kB
_MOST_DUELS = 6
_MOST_MATRICES = 250  # confusion matrices of 21 classes: about 300 kB


def render_page(
    run_folder: Path,
    record: RunRecord,
    rows: Sequence[Row],
    boards: Sequence[Board],
    *,
    verdicts: Sequence[Verdict] = (),
    live: str = "",
) -> str:
    """Return the page as HTML.

    live: the version of the files that the page shows, where a server answers for what has changed.

    Raises:
        ResultError: the record of a trial's pictures is damaged.
    """
    known = Known(run_folder, record, rows, boards, verdicts)
    page = {
        **_asked(record),
        **_done(run_folder, rows),
        "boards": boards,
        "leaderboards": _leaderboards(record, boards),
        "costs": COSTS,
        "external_note": EXTERNAL_NOTE,
        "most_duels": _MOST_DUELS,
        "verdicts": verdicts,
        "settings": settings_tables(record, rows),
        "apart": incomplete_table(record, rows),
        "methods": html_methods(methods_of(known)) if boards else "",
        "live": live,
        "css": Markup(_text("page.css")),
        "script": Markup(_script()),
        "policy": _policy(is_live=bool(live)),
        "data": Markup(_as_script_data(_page_data(run_folder, record, rows, boards))),
    }
    page["sections"] = _sections(page)
    return _environment().get_template("page.html.jinja").render(page)


def _asked(record: RunRecord) -> dict[str, Any]:
    """Return what the page says of the question, and of the command that answers it."""
    experiment = record.experiment
    return {
        "name": experiment.name,
        "question": experiment.question,
        "sources": experiment.source,
        "notes": experiment.notes,
        "elsewhere": elsewhere_table(experiment.published),
        "claim_warnings": warnings_of(record),
        "command": record.command,
        "hidden_cards": record.hidden_cards,
        "to_prepare": _experiment_files(record),
    }


def _done(run_folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the page says of the trials as a whole."""
    failures = failure_table(rows)
    timings = load_timings(run_folder)
    return {
        "failures": failures.only(key for key in failures.keys if key != "folder"),
        "pictures": list(_pictures(run_folder, rows)),
        "versions": sorted({r.provenance.code_version for r in rows if r.provenance is not None}),
        "num_trials": len({row.cell.trial_id for row in rows if row.cell.trial_id}),
        "num_measured": len({row.cell.trial_id for row in rows if row.provenance is not None}),
        "spent_s": _spent_s(rows),
        "timed": "" if timings is None else timings.described(),
    }


def _page_data(
    run_folder: Path, record: RunRecord, rows: Sequence[Row], boards: Sequence[Board]
) -> dict[str, Any]:
    """Return what the script draws from. IoUs and shares are fractions, intervals per cent."""
    kept = {_row_key(row): row for row in rows if row.cell.trial_id}
    places = {key: place for place, key in enumerate(kept)}
    points = max(10, min(200, _CURVE_POINTS // max(len(kept), 1)))
    matrices = sum(len(model.confusions) for board in boards for model in board.models)
    seeds = None if matrices <= _MOST_MATRICES else 1
    return {
        "name": record.experiment.name,
        "axes": list(record.axis_names),
        "figures": list(shown_metrics(m.figures for b in boards for m in b.models).items()),
        "costs": list(COSTS.items()),
        "trials": [_trial_data(run_folder, row) for row in kept.values()],
        "curves": charts.chart_data(
            charts.curves(run_folder, list(kept.values()), [0] * len(kept), points)
        ),
        "most_curves": charts.MOST_CURVES,
        "boards": [_board_data(record, board, places, seeds) for board in boards],
    }


def _row_key(row: Row) -> tuple[str, ...]:
    return (*row.cell.axes.values(), str(row.cell.seed))


def _trial_data(run_folder: Path, row: Row) -> dict[str, Any]:
    workdir = trial_files.trial_folder(run_folder, row.cell.trial_id)
    provenance = row.provenance
    return {
        "id": row.cell.trial_id,
        "axes": row.cell.axes,
        "seed": row.cell.seed,
        "status": row.status,
        "files": [name for name in TRIAL_FILES if (workdir / name).is_file()],
        "code": "" if provenance is None else provenance.code_version,
        "device": "" if provenance is None else provenance.device,
    }


def _board_data(
    record: RunRecord, board: Board, places: Mapping[tuple[str, ...], int], seeds: int | None
) -> dict[str, Any]:
    return {
        "title": board.title,
        "protocol": board.protocol_name,
        "protocol_words": f"split {board.protocol.split}; {board.protocol.description(with_split=False)}",
        "dataset": board.dataset,
        "axes": board.telling_axes,
        "classes": board.class_names,
        "charts": _chart_data(board),
        "models": [_model_data(record, board, model, places, seeds) for model in board.models],
    }


def _chart_data(board: Board) -> dict[str, Any]:
    """Return the descriptions of a board's charts; matrices of confusion stand with their models."""
    measured = [key for key in COSTS if any(key in model.costs for model in board.models)]
    first = charts.confusion(board.models[0].confusions[0])
    return {
        "frequency": charts.chart_data(charts.frequency(board)),
        "costs": {key: charts.chart_data(charts.cost(board, key)) for key in measured},
        "classes": charts.grid_data(charts.classes(board)),
        "difference": charts.axis_data(charts.DIFFERENCE),
        "confusion": {"label": first.label, "least": first.least},
    }


def _model_data(
    record: RunRecord,
    board: Board,
    model: BoardModel,
    places: Mapping[tuple[str, ...], int],
    seeds: int | None,
) -> dict[str, Any]:
    """Return what the script knows of a model; figures whole: it subtracts them, then rounds once."""
    return {
        "name": model.name,
        "axes": model.axes,
        "figures": {
            key: [figure.mean, figure.deviation]
            for key, figure in model.figures.items()
            if key in shown_metrics([model.figures])
        },
        "costs": {key: short(value) for key, value in model.costs.items()},
        "shared_times": {key: list(map(short, pair)) for key, pair in model.shared_times.items()},
        "devices": model.devices,
        "starts": list(dict.fromkeys(start.in_words for start in model.starts if start.name)),
        "trials": [places[_row_key(row)] for row in model.rows],
        "seeds": [each.figures["mean_iou"] for each in model.evaluations],
        "confusions": [_permille(each, board) for each in model.confusions[:seeds]],
        "command": _external_command(record, model)
        if model.is_external
        else command_of(record, model.axes),
    }


def _permille(confusion: Confusion, board: Board) -> dict[str, Any]:
    """Return each label's row in thousandths; names only where they are not the board's."""
    grid = charts.confusion(confusion)
    names = None if grid.rows == board.class_names else grid.rows
    return {"names": names, "rows": [[round(10 * (v or 0)) for v in row] for row in grid.values]}


def command_of(record: RunRecord, axes: Mapping[str, str]) -> str:
    """Return the run's command, narrowed to one cell."""
    varied = {
        axis: value
        for axis, value in axes.items()
        if len({cell.axes[axis] for cell in record.cells}) > 1
    }
    chosen = [f"--only {shlex.quote(f'{axis}={value}')}" for axis, value in varied.items()]
    return " && ".join(" ".join([each, *chosen]) for each in record.command.split(" && "))


def _external_command(record: RunRecord, model: BoardModel) -> str:
    name, dataset = model.axes["backbone"], model.axes["dataset"]
    run = f"results/{record.experiment.name}"
    words = ["--dataset", dataset, "--name", name, "--run", run]
    return f"segbench evaluate --predictions DIR {shlex.join(words)}"


def _as_script_data(value: Any) -> str:
    """Return JSON that no HTML parser takes for an end tag, a comment or a character reference."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(*, is_live: bool) -> str:
    """Return a content security policy that lets nothing run or load but what is written here."""
    script = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    asks = "connect-src 'self'; " if is_live else ""
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'unsafe-inline'; "
        f"img-src data:; {asks}base-uri 'none'; form-action 'none'"
    )


def _sections(page: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return id and title of the sections for which the page has something."""
    listed = [
        ("answer", "In short", "name"),
        ("claims", "Claims", "verdicts"),
        ("leaderboard", "Leaderboard", "boards"),
        ("settings", "Settings", "settings"),
        ("incomplete", "Incomplete", "apart"),
        ("failures", "Failed trials", "failures"),
        ("classes", "Classes", "boards"),
        ("frequency", "Frequency", "boards"),
        ("cost", "Cost", "boards"),
        ("curves", "Learning curves", "boards"),
        ("confusion", "Confusion", "boards"),
        ("images", "Images", "pictures"),
        ("methods", "Methods", "methods"),
        ("again", "Run again", "name"),
    ]
    return [(key, title) for key, title, what in listed if _has_content(page[what])]


def _has_content(part: object) -> bool:
    return bool(part.rows if isinstance(part, Table) else part)


def _spent_s(rows: Sequence[Row]) -> float:
    """Return what training and evaluation took in all, one trial after another."""
    measured = {row.cell.trial_id: row for row in rows if row.provenance is not None}
    return sum(
        shared_times(row).get("training_s", row.provenance.train_seconds)
        + row.provenance.evaluate_seconds
        for row in measured.values()
        if row.provenance is not None
    )


def _experiment_files(record: RunRecord) -> list[str]:
    """Return the experiment files that the run's command names, quoted for a shell."""
    commands = (shlex.split(each) for each in record.command.split(" && "))
    files = (words[2] for words in commands if words[:2] == ["segbench", "run"] and words[2:])
    return [shlex.quote(file) for file in dict.fromkeys(files)]


def _leaderboards(record: RunRecord, boards: Sequence[Board]) -> list[Table]:
    """Return a table for each board, all with the same columns, so that boards can be swapped."""
    telling = {axis for board in boards for axis in board.telling_axes}
    axes = [axis for axis in record.axis_names if axis in telling]
    whole = ranking(boards, axes, "parameters")
    rows = iter(whole.rows)
    return [replace(whole, rows=tuple(islice(rows, len(board.models)))) for board in boards]


def _pictures(run_folder: Path, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    named = {row.cell.trial_id: row for row in rows}
    for folder, panels in load_panels(run_folder):
        row = named.get(panels.trial_id)
        if row is not None:
            title = f"{' '.join(filter(None, row.cell.axes.values()))}, seed {row.cell.seed}"
            yield {
                "title": f"{title}, protocol {panels.protocol}",
                "rule": panels.rule,
                "panels": [_picture(folder, panel, panels) for panel in panels.panels],
            }


def _picture(folder: Path, panel: Panel, panels: Panels) -> dict[str, Any]:
    classes = [panels.class_names[index] for index in panel.class_indices]
    described = {
        "image": f"Photograph {panel.name}",
        "label": f"Label of {panel.name}; classes in label or prediction: {', '.join(classes)}",
        "prediction": f"Prediction for {panel.name}, IoU {100 * panel.iou:.1f} per cent",
        "errors": f"Pixels of {panel.name} where prediction and label differ, in white",
    }
    parts = [
        (part, described[part], *_embedded(folder / panel.files[part]))
        for part in PARTS
        if part in panel.files
    ]
    colours = ["#" + bytes(panels.colours[index]).hex() for index in panel.class_indices]
    return {
        "kind": panel.kind,
        "name": panel.name,
        "iou": panel.iou,
        "parts": parts,
        "legend": list(zip(classes, colours, strict=True)),
    }


def _embedded(path: Path) -> tuple[str, int, int]:
    """Return a picture as an address that holds it whole, its width and its height."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height


@cache
def _text(name: str) -> str:
    return (resources.files("segbench.report") / "templates" / name).read_text(encoding="utf-8")


# Each file has one job; together they are one function, so nothing of theirs is global.
_SCRIPTS = ("dom", "choices", "tables", "charts", "details", "live", "start")


def _script() -> str:
    parts = "\n".join(_text(f"js/{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_text),  # keeps what it has compiled
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": lambda value: f"{value:.2f}",
        "signed": signed,
        "amount": amount,
        "p_value": p_value,
        "p_equals": p_equals,
        "asked": asked,
        "effect_in_words": effect_in_words,
        "caveats": caveats,
        "missing_in_words": missing_in_words,
        "judged_again": judged_again,
        "other_population": other_population,
        "interval_in_words": interval_in_words,
        "seeds_in_words": seeds_in_words,
        "seed_dots": seed_dots,
        "counted": counted,
        "whisker": _whisker,
        "sort_key": _sort_key,
        "cell": _cell,
        "duel_gap": _duel_gap,
        "duration": duration,
        "losses": _losses,
    }
    environment.tests["started_otherwise_than"] = lambda one, other: weights_differ((one, other))
    return environment


def _sort_key(value: Value) -> float | str:
    """Return what the page sorts a leaderboard's value by, empty where there is nothing."""
    if isinstance(value, Summary):
        return value.mean
    return value.key if isinstance(value, Shown) else str(value or "")


def _cell(value: Value) -> str:
    return "\u2013" if value is None else text_of(value)


def _duel_gap(duel: Duel) -> str:
    return signed(duel.models[0].standing.mean - duel.models[1].standing.mean)


def _whisker(model: BoardModel, board: Board) -> Markup:
    """Return a dot and its interval, on one scale for the board."""
    low = min(each.standing.low for each in board.models)
    high = max(each.standing.high for each in board.models)
    scale = 136 / ((high - low) or 1)
    left, middle, right = (
        f"{4 + scale * (value - low):.1f}"
        for value in (model.standing.low, model.standing.mean, model.standing.high)
    )
    return Markup(
        '<line x1="{0}" x2="{2}" y1="9" y2="9" stroke="currentColor" stroke-width="2"/>'
        '<circle cx="{1}" cy="9" r="4" fill="currentColor"/>'
    ).format(left, middle, right)


def _losses(rival: Rival, leader: str) -> str:
    """Return on which classes the leader does worse than the rival."""
    behind = sorted(
        (c for c in rival.comparison.per_class if c.difference < 0), key=lambda c: c.difference
    )
    if not behind:
        return f"{leader} is not behind on any class."
    shown = ", ".join(
        f"{row.name} ({signed(row.difference)}{_sure(rival, row.p_adjusted)})" for row in behind[:5]
    )
    more = f" and {len(behind) - 5} more" if len(behind) > 5 else ""
    return f"Worse on {len(behind)} of {len(rival.comparison.per_class)} classes: {shown}{more}."


def _sure(rival: Rival, p: float) -> str:
    return ", significant" if rival.seeds >= MIN_SEEDS and p <= ALPHA else ""
