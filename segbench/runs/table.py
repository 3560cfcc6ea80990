"""Results of runs as one tidy table, for notebooks: `segbench.load_results("results/quickstart")`.

Each row is one number. Knows nothing of how it is shown. No torch; pandas only when called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segbench.runs.record import Row, load_rows, load_run

if TYPE_CHECKING:
    import pandas as pd

LEADING = ("run", "trial_id")
TRAILING = ("seed", "status", "protocol", "protocol_digest", "figure", "class_name", "value")


def load_results(*run_folders: str | Path) -> pd.DataFrame:
    """Return every number of the runs, a row each.

    Columns: run, trial_id, the axes of the sweep, seed, status (done, failed, unfinished, skipped),
    protocol, protocol_digest, figure, class_name, value. `figure` is mean_iou and the like,
    class_iou (then class_name says which), or a fact of the model such as parameters (then protocol
    is empty); forward_ms, step_ms and training_s are those of `segbench time`, shared_forward_ms was
    measured beside other trials. Figures are fractions in [0, 1]. A trial without numbers has one row with figure ""
    and no value, so that nothing is missing silently.

    Raises:
        ResultError: a folder holds no run, or its record is damaged.
    """
    import pandas as pd

    records = [record for folder in run_folders for record in tidy_rows(Path(folder))]
    axes = dict.fromkeys(
        key for record in records for key in record if key not in (*LEADING, *TRAILING)
    )
    table = pd.DataFrame.from_records(records, columns=[*LEADING, *axes, *TRAILING])
    return table.astype({"value": "float64"})


def tidy_rows(run_folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of `load_results` for one run, in the run's order."""
    record = load_run(run_folder)
    for row in load_rows(run_folder, record):
        start = {
            "run": record.experiment.name,
            "trial_id": row.cell.trial_id,
            **row.cell.axes,
            "seed": row.cell.seed,
            "status": row.status,
        }
        numbers = list(_numbers(row))
        for number in numbers or [("", "", "", "", None)]:
            yield {**start, **dict(zip(TRAILING[2:], number, strict=True))}


def _numbers(row: Row) -> Iterator[tuple[str, str, str, str, float | None]]:
    for name, evaluation in row.evaluations.items():
        digest = evaluation.protocol.digest()
        for figure, value in evaluation.figures.items():
            yield name, digest, figure, "", value
        for class_name, value in zip(evaluation.class_names, evaluation.per_class_iou, strict=True):
            yield name, digest, "class_iou", class_name, value
    facts = {} if row.result is None else row.result.facts
    for fact, value in {**facts, **_measured(row)}.items():
        yield "", "", fact, "", value


def _measured(row: Row) -> dict[str, float]:
    """Return what was measured while the trial ran, and what `segbench time` measured."""
    if row.provenance is None:
        return {}
    times = {} if row.timing is None else row.timing.of_round(row.place)
    found = {"peak_memory_mib": row.provenance.peak_memory_mib}
    if row.provenance.step_seconds is not None:
        found["step_seconds"] = row.provenance.step_seconds
    if row.provenance.forward_ms is not None:
        found["shared_forward_ms"] = row.provenance.forward_ms
    return {**found, **times}
