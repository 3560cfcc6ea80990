"""From a command's flags to work: read, narrow, check, record, launch. Prints nothing.

Knows nothing of terminals. No torch here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from segbench.code.version import code_version
from segbench.commands.settle import (
    Settling,
    settling_of,
    with_last_look,
    with_top_ups,
)
from segbench.errors import ExperimentError
from segbench.launch.base import Event, Launcher, Work
from segbench.launch.launchers import LAUNCHERS, launcher_named, remember
from segbench.runs import trial_files
from segbench.runs.record import RunRecord, record_of, write_run
from segbench.runs.registration import registered
from segbench.runs.tuning import best_samples
from segbench.schema.catalog import Catalog
from segbench.schema.experiment import MOST_SEEDS, Experiment, read_experiment
from segbench.schema.groups import NotedGroups
from segbench.schema.job import Job
from segbench.schema.machine import Machine
from segbench.schema.search import Search
from segbench.schema.searched import Tuned, brackets, searched, with_tuned
from segbench.schema.sweep import Cell, Plan, chosen_values, expand
from segbench.schema.trial import Trial


@dataclass(frozen=True)
class Flags:
    """What the command line may say about a run; see `segbench run --help`."""

    cards: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seeds: int | None = None
    data: tuple[Path, ...] = ()
    weights: tuple[Path, ...] = ()
    cache: Path | None = None
    device: str = "auto"
    results: Path = field(default_factory=lambda: Path("results"))
    search: bool = False
    best: bool = False
    settle: bool = False


class PreparedRun(NamedTuple):
    """A run that is ready to start: the whole plan, what was asked for of it, and where it goes.

    search: the one that this run is, under --search; tuned: what another found, under --best.
    """

    whole: Plan
    asked: Plan
    catalog: Catalog
    machine: Machine
    run_folder: Path
    search: Search | None = None
    settling: Settling = Settling()
    tuned: tuple[Tuned, ...] = ()

    @property
    def launcher(self) -> Launcher:
        """What starts the run's workers."""
        return launcher_named(self.asked.experiment.launch.launcher)

    @property
    def hidden_cards(self) -> tuple[str, ...]:
        """A sentence for each card that another one of the same name stands in for."""
        return tuple(f"{h.name}: {h.used} is used, {h.hidden} is not" for h in self.catalog.hidden)


def prepare_run(path: Path, flags: Flags) -> PreparedRun:
    """Return the experiment's plan under the flags; nothing is written or started.

    Raises:
        ExperimentError: the file, a setting or a selector is wrong; all problems at once.
        LaunchError: the launcher is one's own and not trusted, or not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", flags.device):
        raise ExperimentError(f"--device {flags.device}: expected auto, cpu, cuda or cuda:N")
    catalog = Catalog.on_path(flags.cards, experiment=path)
    experiment, document = read_experiment(path, flags.settings, catalog=catalog)
    if flags.seeds is not None:
        experiment = _with_seeds(experiment, flags.seeds)
    tuned: tuple[Tuned, ...] = ()
    if flags.best:
        plan = expand(experiment, catalog, document)
        tuned = best_of_search(experiment, flags, plan, catalog)
        experiment = with_tuned(experiment, tuned)
    if flags.search:
        experiment = searched(experiment)
    run_folder = flags.results.resolve() / experiment.name
    settling = settling_of(run_folder, experiment, is_asked=flags.settle)
    if settling.looks > 1:
        later = expand(with_last_look(experiment, settling), catalog, document)
        whole = Plan(experiment, later.cells)
        planned = with_top_ups(whole, len(experiment.sweep.seed_values), settling)
    else:
        planned = whole = expand(experiment, catalog, document)
    asked = narrowed(planned, flags.only, flags.seeds)
    launcher = launcher_named(experiment.launch.launcher)
    search = experiment.search if flags.search else None
    if search is not None and search.method == "asha":
        _check_asha(search, asked, launcher)
    machine = _machine(flags, catalog, experiment)
    return PreparedRun(whole, asked, catalog, machine, run_folder, search, settling, tuned)


def _machine(flags: Flags, catalog: Catalog, experiment: Experiment) -> Machine:
    """Return where the run's files lie and how its trials run, by the flags and the file's launch."""
    launch = experiment.launch
    return Machine.from_environment(
        data=flags.data,
        weights=flags.weights,
        cache=flags.cache,
        code_folders=catalog.code_folders,
        device=flags.device,
        threads=launch.cpus_per_rank,
        stage_data_to=launch.stage_data_to,
        loader_workers=launch.loader_workers,
        monitor=experiment.monitor,
    )


def best_of_search(
    experiment: Experiment, flags: Flags, plan: Plan, catalog: Catalog
) -> tuple[Tuned, ...]:
    """Return what the experiment's search found for the plan's cells.

    Raises:
        ExperimentError: it has no search, or this one has not found what they need.
    """
    axes = [cell.axes for cell in plan.cells if cell.trial is not None]
    wanted = [] if experiment.search is None else experiment.search.selectors_of(axes)
    planned = expand(searched(experiment), catalog).cells
    return best_samples(experiment, flags.results, wanted, planned)


def _check_asha(search: Search, asked: Plan, launcher: Launcher) -> None:
    if not launcher.stops_early:
        able = " or ".join(name for name, one in LAUNCHERS.items() if one.stops_early)
        raise ExperimentError(
            f"search.method asha: only --launcher {able} can stop samples early; choose that, or "
            "--set search.method=random"
        )
    brackets(search, asked.cells)


def _with_seeds(experiment: Experiment, seeds: int) -> Experiment:
    """Return the experiment with at least so many seeds.

    Raises:
        ExperimentError: the file names its seeds, and fewer.
    """
    named = experiment.sweep.seeds
    if seeds > MOST_SEEDS:
        raise ExperimentError(f"--seeds {seeds}: a sweep has {MOST_SEEDS} seeds at most")
    if isinstance(named, int):
        sweep = experiment.sweep.revised(seeds=max(named, seeds))
        return experiment.revised(sweep=sweep)
    if seeds > len(named):
        raise ExperimentError(
            f"--seeds {seeds}: sweep.seeds names {len(named)} seeds; name more there, or give their "
            "number"
        )
    return experiment


def narrowed(plan: Plan, only: Sequence[str], seeds: int | None) -> Plan:
    """Return the cells that match every `axis=value[,value]`, of the first `seeds` seeds.

    Cells that a chosen one starts from are kept too.

    Raises:
        ExperimentError: a selector names no axis or no value of the sweep.
    """
    wanted = [chosen_values(text, plan.axes, prefix="--only ", where="sweep") for text in only]
    kept = [
        cell
        for cell in plan.cells
        if all(cell.axes[axis] in values for axis, values in wanted)
        and (seeds is None or cell.seed in plan.experiment.sweep.seed_values[:seeds])
    ]
    needed = {cell.trial_id for cell in kept}
    by_id = plan.trials
    for cell in reversed(plan.cells):  # a start comes before what starts from it
        start = by_id[cell.trial_id].start_from if cell.trial_id in needed and cell.trial else None
        if start is not None:
            needed.add(start)
    chosen = {id(cell) for cell in kept}
    cells = tuple(
        cell
        for cell in plan.cells
        if id(cell) in chosen or (cell.trial is not None and cell.trial_id in needed)
    )
    if not cells:
        raise ExperimentError(f"--only {' --only '.join(only)}: no cell of the sweep matches all")
    return Plan(plan.experiment, cells)


def unfinished(prepared: PreparedRun, *, retry_failed: bool) -> dict[str, Trial]:
    """Return the trials that are left to do: not done, and not failed unless that is asked for."""
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    left = {}
    for trial_id, trial in prepared.asked.trials.items():
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        is_given_up = not retry_failed and trial_files.load_failure(workdir) is not None
        if not is_given_up and not trial_files.is_done(workdir, protocols):
            left[trial_id] = trial
    return left


def record_run(prepared: PreparedRun, command: str) -> RunRecord:
    """Write the run's record; return it with the earlier cells that stay.

    Raises:
        CardError: a card gives no group to an image.
        DataError: names of images cannot be read.
    """
    asked = record_of(
        prepared.asked, command,
        hidden_cards=prepared.hidden_cards, looks=prepared.settling.looks,
        schedule=prepared.settling.schedule, tuned=prepared.tuned,
    ).model_copy(update={"groups": groups_here(prepared)})  # fmt: skip
    asked = registered(prepared.run_folder, asked, prepared.whole)
    return write_run(prepared.run_folder, asked, prepared.whole)


def groups_here(prepared: PreparedRun) -> dict[str, NotedGroups]:
    """Return the groups of each data set that the run trains on or scores; raises as `record_run`."""
    cards = {id(trial.dataset): trial.dataset for trial in prepared.whole.trials.values()}
    protocols = prepared.whole.experiment.evaluate.values()
    scored = [p.scored_card(card) for card in cards.values() for p in protocols]
    every = {card.name: card for card in (*cards.values(), *scored) if card.groups is not None}
    if not every:
        return {}
    from segbench.data.grouped import noted_groups

    return noted_groups(every.values(), prepared.machine)


def start(
    prepared: PreparedRun, trials: dict[str, Trial], on_event: Callable[[Event], None]
) -> None:
    """Write each trial's file and hand the work to the experiment's launcher."""
    experiment = prepared.asked.experiment
    for trial_id, trial in trials.items():
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        trial_files.write_trial(workdir, trial)
        trial_files.clear_failure(workdir)
    job = Job(
        run_folder=str(prepared.run_folder),
        machine=prepared.machine,
        protocols=tuple(experiment.evaluate.values()),
        code_version=code_version(),
    )
    launcher = prepared.launcher
    remember(prepared.run_folder, experiment.launch.launcher)
    shapes = {
        cell.trial_id: experiment.launch.of_cell(cell.axes)
        for cell in (prepared.asked.cells if experiment.launch.cells else ())
        if cell.trial is not None
    }
    search = prepared.search
    if search is None or search.method != "asha":
        launcher.start(Work(job, trials, experiment.launch, shapes), on_event)
    else:  # those that are done are what the others are measured by
        groups = brackets(search, prepared.asked.cells)
        asha = Work(job, prepared.asked.trials, experiment.launch, search=search, brackets=groups)
        launcher.start(asha, on_event)


def cells_by_id(plan: Plan) -> dict[str, Cell]:
    """Return the first cell of each trial."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.trial is not None:
            found.setdefault(cell.trial_id, cell)
    return found
