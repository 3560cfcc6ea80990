"""From the rows of a run to what the statistics are given: the counts on file, cell by cell.

Knows nothing of what is computed from them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.record import Row, RunRecord
from segbench.runs.starts import starts_of
from segbench.runs.trial_files import Evaluation
from segbench.statistics.observations import Observation


def observations(run_folder: Path, record: RunRecord, rows: Sequence[Row]) -> list[Observation]:
    """Return one observation for each done trial and protocol, in the run's order.

    Raises:
        CardError: the groups that the run noted are not those of its images.
        ResultError: a file of counts is damaged.
    """
    starts = starts_of(run_folder, rows)
    return [
        replace(
            observed(row, name, counts),
            initial_weights=starts[row.cell.trial_id].name,
            groups=record.groups_of(protocol.scored_name(row.cell.axes["dataset"]), counts.names),
        )
        for row in rows
        if row.is_done
        for name, protocol in record.protocols.items()
        if name in row.evaluations
        for counts in [counts_of_evaluation(run_folder, row, name)]
    ]


def counts_of_evaluation(run_folder: Path, row: Row, protocol_name: str) -> Counted:
    """Return the counts of a trial under a protocol that it has figures for."""
    workdir = trial_files.trial_folder(run_folder, row.cell.trial_id)
    return trial_files.load_counts(
        trial_files.counts_path(workdir, row.evaluations[protocol_name].protocol)
    )


def observed(row: Row, protocol_name: str, stored: Counted) -> Observation:
    """Return what a trial gave under one protocol."""
    evaluation = row.evaluations[protocol_name]
    return Observation(
        axes=row.cell.axes,
        protocol=protocol_name,
        seed=row.cell.seed,
        counts=stored.as_counts(evaluation.background),
        class_names=evaluation.class_names,
        absent_class=evaluation.protocol.absent_class,
        class_indices=evaluation.scored_classes,
        facts=facts_of(row),
        training_pixels=_per_class(evaluation, row.result and row.result.training_pixels),
        training_images=_per_class(evaluation, row.result and row.result.training_images),
        loss_rose=row.result is not None and row.result.loss_rose,
        code=evaluation.protocol.code,
    )


def _per_class(
    evaluation: Evaluation, counted: tuple[int, ...] | None
) -> NDArray[np.float64] | None:
    return np.asarray(evaluation.of_trained(counted), dtype=np.float64) if counted else None


def facts_of(row: Row) -> dict[str, float]:
    """Return what is known of the model besides figures, times only as `segbench time` measured them.

    Each seed has a round of measuring of its own, so that times vary over seeds as they were seen to.
    """
    facts = dict(row.result.facts) if row.result is not None else {}
    if row.provenance is not None:
        facts["peak_memory_mib"] = row.provenance.peak_memory_mib
    return facts if row.timing is None else {**facts, **row.timing.of_round(row.place)}


def shared_times(row: Row) -> dict[str, float]:
    """Return the times that the trial measured while others may have run beside it.

    training_s is the measured time of a step times the steps, so that a training that was
    interrupted counts whole. step_ms: milliseconds of one optimizer step.
    """
    times: dict[str, float] = {}
    if row.provenance is None:
        return times
    if row.provenance.forward_ms is not None:
        times["forward_ms"] = row.provenance.forward_ms
    if row.provenance.step_seconds is not None:
        times["step_ms"] = 1000 * row.provenance.step_seconds
        if row.result is not None and "training_steps" in row.result.facts:
            times["training_s"] = row.provenance.step_seconds * row.result.facts["training_steps"]
    return times
