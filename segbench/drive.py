"""From a command's flags to work: read, narrow, check, record, launch. Prints nothing.

Knows nothing of terminals. No torch here.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from segbench import results, run
from segbench.code_version import code_version
from segbench.drive_settle import (
    Settling,
    settling_of,
    with_earlier_looks,
    with_last_look,
    with_top_ups,
)
from segbench.errors import CardError, DataError, ExperimentError, ResultError
from segbench.files import digest, write_text
from segbench.launch import Event, Work, launcher_named
from segbench.launch.best_sample import best_sample
from segbench.run import RunRecord
from segbench.spec import yamlfile
from segbench.spec.catalog import Catalog, built_in_root
from segbench.spec.experiment import MOST_SEEDS, Experiment, read_experiment
from segbench.spec.job import Job
from segbench.spec.machine import Machine
from segbench.spec.search import Search
from segbench.spec.searched import searched, with_settings
from segbench.spec.sweep import Cell, Plan, expand
from segbench.spec.trial import Trial


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


class Prepared(NamedTuple):
    """A run that is ready to start: the whole plan, what was asked for of it, and where it goes."""

    whole: Plan
    asked: Plan
    catalog: Catalog
    machine: Machine
    run_folder: Path
    search: Search | None = None
    settling: Settling = Settling()

    @property
    def hidden_cards(self) -> tuple[str, ...]:
        """A sentence for each card that another one of the same name stands in for."""
        return tuple(f"{h.name}: {h.used} is used, {h.hidden} is not" for h in self.catalog.hidden)


def prepare_run(path: Path, flags: Flags) -> Prepared:
    """Return the experiment's plan under the flags; nothing is written or started.

    Raises:
        ExperimentError: the file, a setting or a selector is wrong; all problems at once.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", flags.device):
        raise ExperimentError(f"--device {flags.device}: expected auto, cpu, cuda or cuda:N")
    catalog = Catalog.on_path(flags.cards, experiment=path)
    experiment, document = read_experiment(path, flags.settings, catalog=catalog)
    if flags.seeds is not None:
        experiment = _with_seeds(experiment, flags.seeds)
    if flags.best:
        experiment = with_settings(experiment, best_sample(experiment, flags.results).settings)
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
    machine = Machine.from_environment(
        dict(os.environ),
        data=tuple(map(str, flags.data)),
        weights=tuple(map(str, flags.weights)),
        cache=None if flags.cache is None else str(flags.cache),
        device=flags.device,
        threads=experiment.launch.cpus_per_rank,
        stage_data_to=experiment.launch.stage_data_to,
        monitor=experiment.monitor,
    )
    search = experiment.search if flags.search else None
    if search is not None and search.method == "asha" and experiment.launch.launcher != "ray":
        raise ExperimentError(
            "search.method asha: only --launcher ray can stop samples early; choose that, or "
            "--set search.method=random"
        )
    return Prepared(whole, asked, catalog, machine, run_folder, search, settling)


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
    wanted = [_selector(text, plan) for text in only]
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


def _selector(text: str, plan: Plan) -> tuple[str, frozenset[str]]:
    axis, equals, values = text.partition("=")
    axes = plan.axes
    if not equals or axis not in axes:
        raise ExperimentError(
            f"--only {text}: expected axis=value{yamlfile.did_you_mean(axis, axes)}; "
            f"axes: {', '.join(axes)}"
        )
    chosen = frozenset(values.split(","))
    for value in sorted(chosen - set(axes[axis])):
        raise ExperimentError(
            f"--only {text}: no {axis} {value!r} in the sweep"
            f"{yamlfile.did_you_mean(value, axes[axis])}; it has: {', '.join(axes[axis])}"
        )
    return axis, chosen


def missing_files(prepared: Prepared) -> list[str]:
    """Return a sentence for every data set and weights file that the run needs and that is not here.

    Raises:
        LaunchError: the device does not exist on this machine, where trials are to run.
    """
    from segbench.data.prepare import preflight
    from segbench.models.weights import missing_weights

    experiment = prepared.asked.experiment
    if experiment.launch.launcher == "local" and prepared.machine.device not in {"auto", "cpu"}:
        from segbench.engine.device import chosen_device

        chosen_device(prepared.machine)
    trials = prepared.asked.trials.values()
    datasets = {
        trial.dataset.content_digest(): trial.dataset for trial in _one_per_part(trials, "dataset")
    }
    splits = {experiment.train.split, *(p.split for p in experiment.evaluate.values())}
    sentences = preflight(list(datasets.values()), sorted(splits), prepared.machine)
    backbones = [
        (trial.backbone, trial.model) for trial in _one_per_part(trials, "backbone", "weights")
    ]
    sentences += missing_weights(backbones, prepared.machine)
    return [
        *_untrue_cards(prepared),
        *sentences,
        *_unwritable(Path(prepared.machine.cache), "--cache or $SEGBENCH_CACHE"),
        *_unwritable(prepared.run_folder, "--results"),
    ]


def _untrue_cards(prepared: Prepared) -> list[str]:
    """Return a sentence for each backbone card that is not what its network is.

    Cards that come with segbench are held by its tests. Others are compared once, since that takes
    torch: the cache remembers which were true.
    """
    ours, sentences = Catalog((built_in_root(),)), []
    for trial in _one_per_part(prepared.asked.trials.values(), "backbone"):
        card = trial.backbone
        if card.name in ours.names("backbones") and ours.backbone(card.name) == card:
            continue
        known = digest([card.model_dump(mode="json"), version("torchvision")], length=16)
        mark = Path(prepared.machine.cache) / "true_cards" / f"{card.name}-{known}"
        if mark.exists():
            continue
        from segbench.models.trunk import verify_card

        try:
            verify_card(card)
        except CardError as error:
            sentences.append(str(error))
            continue
        with contextlib.suppress(
            ResultError
        ):  # a cache that cannot be written is told with the rest
            write_text(mark, "")
    return sentences


def check_same_files(prepared: Prepared) -> None:
    """Compare what finished trials were made from with the files that are here now.

    Splits that were not converted here yet are passed over: what they hold is not known.

    Raises:
        DataError: trials of this folder were made from other files, which no table may mix.
    """
    known: dict[tuple[object, ...], str | None] = {}

    def here(trial: Trial, split: str, max_images: int | None, subset_seed: int = 0) -> str | None:
        from segbench.data.chosen import fingerprint_here

        key = (id(trial.dataset), split, max_images, subset_seed)
        if key not in known:
            known[key] = fingerprint_here(
                trial.dataset, split, prepared.machine,
                max_images=max_images, subset_seed=subset_seed,
            )  # fmt: skip
        return known[key]

    stale: dict[str, list[str]] = {}
    for trial_id, trial in prepared.asked.trials.items():
        workdir = results.trial_folder(prepared.run_folder, trial_id)
        provenance = results.load_provenance(workdir)
        if provenance is None:
            continue
        now = here(trial, trial.train.split, trial.train.max_images)
        before = provenance.train_split_fingerprint
        if before and now and before != now:
            stale.setdefault(f"{trial.dataset.name} {trial.train.split}", []).append(trial_id)
        for protocol in prepared.asked.experiment.evaluate.values():
            found = results.load_evaluation(workdir, protocol)
            now = here(trial, protocol.split, protocol.max_images, protocol.subset_seed)
            if found is not None and now and found.split_fingerprint != now:
                stale.setdefault(f"{trial.dataset.name} {protocol.split}", []).append(trial_id)
    if stale:
        told = "; ".join(
            f"{len(set(ids))} trials from other files of {what} than are here now (trials/{ids[0]})"
            for what, ids in stale.items()
        )
        raise DataError(
            f"{prepared.run_folder} holds {told}: name the folder of those files with --data, begin "
            "another --results folder, or delete these trials' folders to make them again"
        )


def _unwritable(folder: Path, flags: str) -> list[str]:
    """Return a sentence if the folder cannot be written; each trial alone would fail of it."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return [
            f"{folder}: cannot be written ({error.strerror}); choose another folder with {flags}"
        ]
    return []


def _one_per_part(trials: Iterable[Trial], *parts: str) -> list[Trial]:
    found: dict[tuple[int, ...], Trial] = {}
    for trial in trials:
        found.setdefault(tuple(id(getattr(trial, part)) for part in parts), trial)
    return list(found.values())


def unfinished(prepared: Prepared, *, retry_failed: bool) -> dict[str, Trial]:
    """Return the trials that are left to do: not done, and not failed unless that is asked for."""
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    left = {}
    for trial_id, trial in prepared.asked.trials.items():
        workdir = results.trial_folder(prepared.run_folder, trial_id)
        result = results.load_result(workdir)
        has_failed = result is not None and result.status == "failed"
        if has_failed and not retry_failed:
            continue
        if not results.is_done(workdir, protocols):
            left[trial_id] = trial
    return left


def record(prepared: Prepared, command: str) -> RunRecord:
    """Write the run's record; return it with the earlier cells that stay."""
    asked = run.record_of(
        prepared.asked, command,
        hidden_cards=prepared.hidden_cards, looks=prepared.settling.looks,
        schedule=prepared.settling.schedule,
    )  # fmt: skip
    asked = with_earlier_looks(prepared.run_folder, asked, prepared.whole)
    return run.write_run(prepared.run_folder, asked, prepared.whole)


def start(prepared: Prepared, trials: dict[str, Trial], on_event: Callable[[Event], None]) -> None:
    """Write each trial's file and hand the work to the experiment's launcher."""
    experiment = prepared.asked.experiment
    for trial_id, trial in trials.items():
        workdir = results.trial_folder(prepared.run_folder, trial_id)
        results.write_trial(workdir, trial)
        results.clear_failure(workdir)
    job = Job(
        run_folder=str(prepared.run_folder),
        machine=prepared.machine,
        protocols=tuple(experiment.evaluate.values()),
        code_version=code_version(),
    )
    launcher = launcher_named(experiment.launch.launcher)
    shapes = {
        cell.trial_id: experiment.launch.of_cell(cell.axes)
        for cell in (prepared.asked.cells if experiment.launch.cells else ())
        if cell.trial is not None
    }
    search = prepared.search
    if search is None or search.method != "asha":
        launcher(Work(job, trials, experiment.launch, shapes), on_event)
    else:  # those that are done are what the others are measured by
        launcher(Work(job, prepared.asked.trials, experiment.launch, search=search), on_event)


def cells_by_id(plan: Plan) -> dict[str, Cell]:
    """Return the first cell of each trial."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.trial is not None:
            found.setdefault(cell.trial_id, cell)
    return found
