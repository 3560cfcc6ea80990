"""A run's folder: the plan on file, and the results that belong to its cells. No torch here.

`results/<experiment>/run.json` holds the experiment as it was resolved and every cell's axes and
trial id, so that reports are rebuilt from files alone, on any machine. Knows nothing of launchers.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from segbench.errors import ResultError
from segbench.runs import trial_files
from segbench.runs.timings import Timing, load_timings, timing_of
from segbench.runs.trial_files import Evaluation, Provenance, Result
from segbench.schema.base import Spec
from segbench.schema.cards import Name, checked_name
from segbench.schema.claims import Claim
from segbench.schema.experiment import Experiment
from segbench.schema.groups import NotedGroups, named_groups
from segbench.schema.protocol import Protocol
from segbench.schema.searched import Tuned
from segbench.schema.sweep import Plan
from segbench.schema.trial import Trial, TrialId

NAMED_AXES = ("backbone", "head", "dataset", "variant")


class CellRecord(Spec):
    """One cell of the sweep: its axes, its seed, and its trial's id, or why it has none."""

    axes: dict[str, str]
    seed: int
    trial_id: TrialId | Literal[""]
    skipped: str = ""

    @model_validator(mode="after")
    def _named(self) -> Self:
        # reports call files by these, and somebody else may have written them
        for axis in NAMED_AXES:
            if axis in self.axes:
                checked_name(self.axes[axis])
        return self


class TopUp(Spec):
    """How many seeds a cell of the sweep has in all, beyond those of the experiment."""

    axes: dict[str, str]
    seeds: int


class RunRecord(Spec):
    """What a run's folder is about.

    command: what was typed. cells: those that the last command asked for, and earlier ones that the
    same settings still contain. protocol_names: the experiment's protocols as its file orders them;
    the first is taken where none is named. added: protocols that `segbench evaluate` scored trials
    under later, by name. looks: how often the claims may be judged in all, fixed before the first
    time (`segbench.statistics.power`); schedule: the seeds of a cell at each of these looks, empty without
    --settle; top_ups: what `run --settle` has added since. judged_at: numbers of seeds at which
    claims were judged before more seeds were asked for than that rule gives. first_claims: those
    that the first verdicts were about, on `first_seeds` seeds; empty while the claims are the same.
    first_cells: axes and protocol of the cells that those verdicts were about, if the sweep or the
    protocols were changed since. rule: the number of the one that claims are judged by
    (`segbench.claims.rules`), fixed when they were registered; runs from before rules had numbers have
    the first. tuned: what `run --best` took from a search. groups: by data set, where
    its images come in groups. first_groups: those that the first verdicts were about, None while no
    others were noted since.
    """

    experiment: Experiment
    command: str
    cells: tuple[CellRecord, ...]
    hidden_cards: tuple[str, ...] = ()
    protocol_names: tuple[str, ...] = ()
    added: dict[Name, Protocol] = {}
    looks: int = 1
    schedule: tuple[int, ...] = ()
    top_ups: tuple[TopUp, ...] = ()
    judged_at: tuple[int, ...] = ()
    first_claims: tuple[Claim, ...] = ()
    first_seeds: int = 0
    first_cells: tuple[dict[str, str], ...] = ()
    rule: int = 1
    tuned: tuple[Tuned, ...] = ()
    groups: dict[Name, NotedGroups] = {}
    first_groups: dict[Name, NotedGroups] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """JSON's keys are written sorted, but the order of protocols means something."""
        protocols = self.experiment.evaluate
        named = [name for name in self.protocol_names if name in protocols]
        for name in [*named, *(name for name in protocols if name not in named)]:
            protocols[name] = protocols.pop(name)  # to the end
        return self

    @property
    def most_seeds(self) -> int:
        """The most seeds that a cell has."""
        seeds = Counter(tuple(cell.axes.values()) for cell in self.cells if not cell.skipped)
        return max(seeds.values(), default=0)

    def asked_cells(self) -> tuple[dict[str, str], ...]:
        """Return the axes of each cell under each planned protocol, without seeds."""
        axes = {tuple(cell.axes.items()) for cell in self.cells if not cell.skipped}
        return tuple(
            {**dict(own), "protocol": name}
            for own in sorted(axes)
            for name in self.experiment.evaluate
        )

    @property
    def protocols(self) -> dict[str, Protocol]:
        """The experiment's protocols and those that were added, by name.

        One that was added under a name that the file has since given to another bears its digest too.
        """
        asked = self.experiment.evaluate
        digests = {protocol.digest() for protocol in asked.values()}
        added = {
            name if name not in asked else f"{name}-{protocol.digest()}": protocol
            for name, protocol in self.added.items()
            if protocol.digest() not in digests
        }
        return {**asked, **added}

    def groups_of(self, dataset: str, names: Sequence[str]) -> tuple[str, ...]:
        """Return the group of each image of a data set, none where they are independent.

        Raises:
            CardError: what was noted gives an image no group.
        """
        noted = self.groups.get(dataset)
        return () if noted is None else named_groups(noted.groups, names, of=dataset)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The axes of the sweep, without the seed."""
        return tuple(self.cells[0].axes) if self.cells else ()


class Row(NamedTuple):
    """A cell and what is known of it. evaluations: by protocol name.

    timing: of the cell, the same for all its seeds; place: which of these the row is, from 0.
    """

    cell: CellRecord
    result: Result | None
    evaluations: dict[str, Evaluation]
    provenance: Provenance | None
    timing: Timing | None = None
    place: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the trial ended well and at least one protocol has figures."""
        return self.status == "done" and bool(self.evaluations)

    @property
    def status(self) -> str:
        """One of `skipped`, `unfinished`, `done` and `failed`."""
        if self.cell.skipped:
            return "skipped"
        return "unfinished" if self.result is None else self.result.status


def axes_key(axes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what cells are looked up by: equal for equal axes, in whatever order they stand."""
    return tuple(sorted(axes.items()))


def record_of(
    plan: Plan,
    command: str,
    *,
    hidden_cards: tuple[str, ...] = (),
    looks: int = 1,
    schedule: tuple[int, ...] = (),
    tuned: tuple[Tuned, ...] = (),
) -> RunRecord:
    """Return the record of a plan; its claims are judged by the newest rule."""
    from segbench.claims.rules import NEWEST  # statistics take long to load

    cells = tuple(
        CellRecord.model_construct(
            axes=cell.axes, seed=cell.seed, trial_id=cell.trial_id, skipped=cell.skipped
        )
        for cell in plan.cells
    )
    return RunRecord.model_construct(
        experiment=plan.experiment,
        command=command,
        cells=cells,
        hidden_cards=hidden_cards,
        protocol_names=tuple(plan.experiment.evaluate),
        looks=looks,
        schedule=schedule,
        rule=NEWEST.number,
        tuned=tuned,
    )


def write_run(run_folder: Path, record: RunRecord, whole: Plan) -> RunRecord:
    """Write the run's record; earlier cells that the un-narrowed plan still has stay in it."""
    asked = {cell.trial_id for cell in record.cells}
    possible = {cell.trial_id for cell in whole.cells}
    before = load_earlier_run(run_folder) or record
    kept = [
        cell for cell in before.cells if cell.trial_id in possible and cell.trial_id not in asked
    ]
    order = {cell.trial_id: index for index, cell in enumerate(whole.cells)}
    cells = sorted((*record.cells, *kept), key=lambda cell: order.get(cell.trial_id, -1))
    kept_of: dict[str, object] = {
        "added": before.added,
        "top_ups": before.top_ups,
        "groups": {**before.groups, **record.groups},
        "rule": before.rule,
    }
    if kept and asked <= {cell.trial_id for cell in before.cells}:
        kept_of["command"] = before.command  # the wider one made all that the tables show
    merged = record.model_copy(update={"cells": tuple(cells), **kept_of})
    merged.write_to(run_folder / "run.json")
    return merged


def write_top_ups(run_folder: Path, top_ups: tuple[TopUp, ...]) -> None:
    """Note how many seeds each cell is to have."""
    changed = load_run(run_folder).model_copy(update={"top_ups": top_ups})
    changed.write_to(run_folder / "run.json")


def add_protocol(run_folder: Path, protocol: Protocol) -> str:
    """Add a protocol to the run's record; return the name it has there.

    Raises:
        ResultError: its name stands for another protocol.
    """
    record = load_run(run_folder)
    for name, known in record.protocols.items():
        if known.digest() == protocol.digest():
            return name
    if protocol.name in record.protocols:
        raise ResultError(
            f"{run_folder}: {protocol.name!r} is the name of another protocol; give this one another "
            "--name"
        )
    added = {**record.added, protocol.name: protocol}
    changed = record.model_copy(update={"added": added})
    changed.write_to(run_folder / "run.json")
    return protocol.name


def load_run(run_folder: Path) -> RunRecord:
    """Return the record of a run's folder.

    Raises:
        ResultError: there is none, or it is damaged.
    """
    try:
        record = trial_files.load_record(run_folder / "run.json", RunRecord)
    except ResultError as error:
        raise ResultError(f"{error}; run the same command again") from error
    if record is None:
        raise ResultError(
            f"{run_folder}: holds no run.json; name a run's folder, such as results/quickstart, or "
            "start one with segbench run"
        )
    return record


def load_earlier_run(run_folder: Path) -> RunRecord | None:
    """Return the record of a run's folder, None where there is none yet, or a damaged one."""
    try:
        return load_run(run_folder)
    except ResultError:
        return None


def load_rows(run_folder: Path, record: RunRecord) -> Iterator[Row]:
    """Yield every cell with what its trial's folder holds."""
    timings = load_timings(run_folder)
    seeds: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for cell in record.cells:
        seeds.setdefault(axes_key(cell.axes), []).append(cell.trial_id)
    for cell in record.cells:
        if not cell.trial_id:
            yield Row(cell, None, {}, None)
            continue
        own = seeds[axes_key(cell.axes)]
        workdir = trial_files.trial_folder(run_folder, cell.trial_id)
        evaluations = {
            name: evaluation
            for name, protocol in record.protocols.items()
            if (evaluation := trial_files.load_evaluation(workdir, protocol)) is not None
        }
        yield Row(
            cell,
            trial_files.load_result(workdir),
            evaluations,
            trial_files.load_provenance(workdir),
            timing_of(timings, own),
            own.index(cell.trial_id),
        )


def find_trial(run_folder: Path, prefix: str) -> tuple[Path, Trial]:
    """Return the folder and the trial whose id begins with `prefix`.

    Raises:
        ResultError: none or several do.
    """
    found = [path for path in trial_files.trial_folders(run_folder) if path.name.startswith(prefix)]
    if len(found) != 1:
        what = "no trial's id begins" if not found else f"{len(found)} trials' ids begin"
        raise ResultError(f"{run_folder}: {what} with {prefix!r} (segbench status lists them)")
    return found[0], trial_files.load_trial(found[0])
