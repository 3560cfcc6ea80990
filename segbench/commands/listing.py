"""What `list`, `show`, `check` and `prepare` say of cards, heads and experiments. Prints nothing.

Loads no torch, but for `prepare` and for `check` of a backbone or of a head of the user's.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segbench.claims.kinds import wrong_kinds
from segbench.code.own import code_of, look_in
from segbench.commands.batch_norm import tiny_batches
from segbench.commands.own_heads import wrong_heads
from segbench.errors import CardError, DataError, ExperimentError, LaunchError, SegbenchError
from segbench.launch.launchers import launcher_named
from segbench.schema import yamlfile
from segbench.schema.cards import BackboneCard, DatasetCard
from segbench.schema.catalog import Catalog, built_in_root, read_card
from segbench.schema.experiment import read_experiment
from segbench.schema.heads import HEADS, Head
from segbench.schema.initial_weights import random_by_default
from segbench.schema.machine import Machine
from segbench.schema.sweep import Plan, expand


class Listing(NamedTuple):
    """Headers, a row for each thing, and a sentence for each that is wrong and has no row."""

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    problems: list[str]


def listing_of(kind: str, cards: tuple[Path, ...]) -> Listing:
    """Return everything of a kind.

    Raises:
        CardError: no such kind.
    """
    tables: dict[str, Callable[[Catalog], Listing]] = {
        "backbones": _backbones,
        "datasets": _datasets,
        "heads": _heads,
        "experiments": _experiments,
    }
    if kind not in tables:
        raise CardError(
            f"segbench list {kind}: no such kind{yamlfile.did_you_mean(kind, tables)}; "
            f"kinds: {', '.join(tables)}"
        )
    return tables[kind](Catalog.on_path(cards))


def _listed(
    headers: tuple[str, ...], names: Iterable[Any], row_of: Callable[[Any], tuple[str, ...]]
) -> Listing:
    table = Listing(headers, [], [])
    for name in names:
        try:
            table.rows.append(row_of(name))
        except SegbenchError as error:
            table.problems.extend(str(error).splitlines())
    return table


def _backbones(catalog: Catalog) -> Listing:
    def row(name: str) -> tuple[str, ...]:
        card = catalog.backbone(name)
        return (
            name,
            card.title,
            ", ".join(map(str, card.strides)),
            ", ".join(card.weights) or "none",
        )

    return _listed(("backbone", "title", "strides", "weights"), catalog.names("backbones"), row)


def _datasets(catalog: Catalog) -> Listing:
    def row(name: str) -> tuple[str, ...]:
        card = catalog.dataset(name)
        return name, card.title, str(card.num_classes), _splits(card)

    return _listed(("data set", "title", "classes", "images"), catalog.names("datasets"), row)


def _splits(card: DatasetCard) -> str:
    return ", ".join(
        name if count is None else f"{name} {count}" for name, count in card.split_counts.items()
    )


def _heads(_: Catalog) -> Listing:
    def row(head: Head) -> tuple[str, ...]:
        how = head.fuse if head.kind == "fcn" else head.kind
        return head.name, head.title, head.stages_in_words, how

    return _listed(("head", "title", "strides", "joins"), HEADS.values(), row)


def _experiments(catalog: Catalog) -> Listing:
    def row(path: Path) -> tuple[str, ...]:
        experiment, _ = read_experiment(path)
        return str(path), experiment.question, str(len(expand(experiment, catalog).trials))

    return _listed(("experiment", "question", "trials"), experiment_files(), row)


def experiment_files() -> list[Path]:
    """Return the experiment files here, or those that come with segbench."""
    here = sorted(Path("experiments").glob("*.yaml"))
    return here or sorted((built_in_root() / "experiments").glob("*.yaml"))


def description_of(name: str, cards: tuple[Path, ...]) -> str:
    """Return a card, head or experiment as YAML, `base` and defaults filled in.

    Raises:
        CardError: nothing has that name.
    """
    catalog = Catalog.on_path(cards)
    experiments = {path.stem: path for path in experiment_files()}
    if name.endswith((".yaml", ".yml")) or name in experiments:
        plan = _planned(experiments.get(name, Path(name)), cards)
        return f"# {len(plan.trials)} trials\n{_as_yaml(plan.experiment.model_dump(mode='json'))}"
    if name in HEADS:
        return _as_yaml(HEADS[name].model_dump(mode="json"))
    for kind in ("backbones", "datasets"):
        if name in catalog.names(kind):
            card = catalog.backbone(name) if kind == "backbones" else catalog.dataset(name)
            path = catalog.path(kind, name)
            head = f"# {path}\n# sha256 of its numbers: {card.identity_digest()}\n"
            head += _code_lines(card, catalog)
            return head + _as_yaml(card.model_dump(mode="json"))
    everything = (*catalog.names("backbones"), *catalog.names("datasets"), *HEADS, *experiments)
    raise CardError(
        f"nothing is called {name!r}{yamlfile.did_you_mean(name, everything)} "
        "(segbench list backbones, datasets, heads or experiments)"
    )


def _code_lines(card: BackboneCard | DatasetCard, catalog: Catalog) -> str:
    """Return a line for each module of the user's that the card has segbench run."""
    look_in(catalog.code_folders)
    try:
        code = code_of(_functions(card))
    except CardError as error:
        return f"# {error}\n"
    return "".join(f"# code of {module}: {digest}\n" for module, digest in code.items())


def _functions(card: BackboneCard | DatasetCard) -> list[str]:
    """Return each `module:name` that the card has segbench call."""
    if isinstance(card, BackboneCard):
        return [card.builder]
    return [card.reader.function] if card.reader is not None else []


def _planned(path: Path, cards: tuple[Path, ...]) -> Plan:
    """Return the plan of an experiment file; its problems are told with the file's lines."""
    catalog = Catalog.on_path(cards, experiment=path)
    experiment, document = read_experiment(path, catalog=catalog)
    return expand(experiment, catalog, document)


def _as_yaml(value: dict[str, Any]) -> str:
    filled = {key: item for key, item in value.items() if item not in (None, "", [], {})}
    return yaml.safe_dump(
        filled, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )


class Checked(NamedTuple):
    """A sentence for each problem of a file, and for each thing to be warned of."""

    problems: list[str]
    warnings: list[str]


def checked(path: Path, cards: tuple[Path, ...]) -> Checked:
    """Return what is wrong with a card or an experiment, told apart by its keys."""
    problems: list[str] = []
    try:
        data = yamlfile.read_document(path, CardError).data
        if isinstance(data, dict) and not {"sweep", "question"}.isdisjoint(data):
            return _checked_experiment(path, cards)
        if path.suffix != ".yaml":
            problems.append(f"{path}: a card is found by the ending .yaml; rename the file")
        catalog = Catalog.on_path((*cards, *_root_of(path)))
        look_in((path.resolve().parent, *catalog.code_folders))
        is_backbone = path.parent.name == "backbones" or (
            isinstance(data, dict) and ("stages" in data or "builder" in data)
        )
        if is_backbone:
            from segbench.models.trunk import verify_card

            verify_card(read_card(path, BackboneCard, catalog=catalog))
        else:
            card = read_card(path, DatasetCard, catalog=catalog)
            code_of(_functions(card))
            if card.groups is not None:
                from segbench.data.grouped import noted_groups

                noted_groups([card], Machine.from_environment())
    except SegbenchError as error:
        problems += str(error).splitlines()
    return Checked(problems, [])


def _checked_experiment(path: Path, cards: tuple[Path, ...]) -> Checked:
    plan = _planned(path, cards)
    cache = Path(Machine.from_environment().cache)
    tiny = tiny_batches(plan.trials.values(), cache)
    problems = [
        *tiny.problems,
        *wrong_heads(plan.trials.values(), cache),
        *wrong_kinds(plan.experiment.claims),
        *_wrong_launcher(plan.experiment.launch.launcher),
    ]
    warnings = list(filter(None, (tiny.warning, random_by_default(plan))))
    return Checked(*([f"{path}: {told}" for told in each] for each in (problems, warnings)))


def _wrong_launcher(name: str) -> list[str]:
    """Return a sentence where the experiment's launcher is the user's own and cannot be had."""
    try:
        launcher_named(name)
    except LaunchError as error:
        return [str(error)]
    return []


def _root_of(card: Path) -> tuple[Path, ...]:
    parent = card.resolve().parent
    return (parent.parent,) if parent.name in {"backbones", "datasets"} else ()


def prepare_all(
    names: list[str],
    machine: Machine,
    *,
    cards: tuple[Path, ...] = (),
    download: bool,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Iterator[tuple[str, str]]:
    """Make every named data set and backbone ready; yield each name with what was done.

    What cannot be made ready does not stop the others; all of it is told at the end.

    Raises:
        SegbenchError: a name is unknown, or a download, a checksum or a conversion failed.
    """
    from segbench.data.prepare import prepare_dataset
    from segbench.models.weights import fetch_weights

    datasets, backbones = _wanted(names, cards)
    problems = []
    for card in datasets:
        try:
            yield (
                card.name,
                prepare_dataset(card, machine, download_missing=download, progress=progress),
            )
        except (CardError, DataError) as error:
            problems.append(str(error))
    for backbone, chosen in backbones:
        shown = progress and partial(progress, f"downloading weights of {backbone.name}")
        try:
            path = fetch_weights(
                backbone, machine, name=chosen, may_download=download, progress=shown
            )
        except DataError as error:
            problems.append(str(error))
        else:
            yield backbone.name, "has no weights to fetch" if path is None else f"ready: {path}"
    if problems:
        raise DataError("\n".join(problems))


def _wanted(
    names: list[str], cards: tuple[Path, ...]
) -> tuple[list[DatasetCard], list[tuple[BackboneCard, str]]]:
    """Return the data sets, and the backbones with their weights' names, that the arguments name.

    Of an experiment those of its cells, after overrides and variants, and those that its protocols
    score; all typos come at once.
    """
    catalog = Catalog.on_path(cards)
    look_in(catalog.code_folders)
    datasets: dict[str, DatasetCard] = {}
    backbones: dict[tuple[str, str], BackboneCard] = {}
    problems = []
    for name in names:
        if name.endswith((".yaml", ".yml")):
            plan = _planned(Path(name), cards)
            for protocol in plan.experiment.evaluate.values():
                if protocol.dataset is not None:
                    datasets.setdefault(protocol.dataset.name, protocol.dataset)
            for trial in plan.trials.values():
                datasets.setdefault(trial.dataset.name, trial.dataset)
                if trial.weights is not None:
                    backbones[trial.backbone.name, trial.model.weights] = trial.backbone
        elif name in catalog.names("datasets"):
            datasets[name] = catalog.dataset(name)
        elif name in catalog.names("backbones"):
            backbones[name, "default"] = catalog.backbone(name)
        else:
            known = (*catalog.names("datasets"), *catalog.names("backbones"))
            problems.append(f"no data set or backbone {name!r}{yamlfile.did_you_mean(name, known)}")
    if problems:
        raise ExperimentError("\n".join(problems))
    return list(datasets.values()), [(card, chosen) for (_, chosen), card in backbones.items()]
