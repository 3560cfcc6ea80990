"""An experiment file: question, sweep, recipe, protocols, claims.

Reads and checks the file alone; sweep.py multiplies it out into trials with their cards.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from segbench.code.own import code_of, look_in
from segbench.errors import CardError, ExperimentError
from segbench.schema import yamlfile
from segbench.schema.base import Spec
from segbench.schema.cards import Name, Source, Text, checked_name
from segbench.schema.catalog import Catalog
from segbench.schema.claims import Claim
from segbench.schema.heads import Head, Model, head_named
from segbench.schema.launching import Launch
from segbench.schema.machine import Monitor
from segbench.schema.metric_names import MetricName, is_own, needs_boundary
from segbench.schema.protocol import Protocol
from segbench.schema.recipe import Recipe
from segbench.schema.search import Search
from segbench.schema.trial import Seed


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


Names = Annotated[
    tuple[Name, ...],
    BeforeValidator(_several, json_schema_input_type=str | tuple[str, ...]),
    Field(min_length=1),
]  # one name may stand alone
Selector = dict[str, str]  # axis -> value, such as {head: fcn8s}


MOST_SEEDS = 1000


class Sweep(Spec):
    """The grid: every list multiplies.

    backbone: names of cards. head: built-in names, or those of `heads`. dataset: names of cards.
    seeds: how many (0, 1, ...), or the seeds themselves. variant: names from `variants`, all of
    them where it is left out. settings: further axes, dotted key -> values, such as
    `train.batch_size: [3, 10]`. exclude: cells that match a selector are left out.
    unsupported: what happens to a head that a trunk cannot serve, `error` or `skip` with a reason.
    """

    backbone: Names
    head: Names
    dataset: Names
    seeds: (
        Annotated[int, Field(ge=1, le=MOST_SEEDS)]
        | Annotated[tuple[Seed, ...], Field(min_length=1)]
    ) = 5
    variant: Names | None = None
    settings: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    exclude: tuple[Selector, ...] = ()
    unsupported: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for axis in ("backbone", "head", "dataset", "variant", "seeds"):
            values = getattr(self, axis)
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{axis}: a value stands twice in {list(values)}")
        return self

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds of every cell."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


class Override(Spec):
    """Settings for the cells that match: `where: {backbone: alexnet}`, `set: {train.batch_size: 20}`.

    where: axes and values. set: dotted key -> value.
    """

    where: Selector
    set: dict[str, Any]


class StartFrom(Spec):
    """The cells that match start from the final weights of the cell with `take`'s values instead.

    `where: {head: fcn16s}`, `take: {head: fcn32s}`: 16s starts from 32s of the same backbone, data
    set, variant and seed.

    where: axes and values of the cells that start late. take: the axes in which the other cell differs.
    """

    where: Selector
    take: Selector


class Published(Spec):
    """A figure that somebody published, in per cent, for the cells that match `where`.

    where: axes and values. metric: which figure it is. percent: the figure. source: where it stands.
    protocol: the name of our protocol that theirs agrees with; without it `differs` says in what
    theirs is another one, and the figure is listed apart. differs: in what their protocol is another
    one.
    """

    where: Selector
    metric: MetricName = "mean_iou"
    percent: Annotated[float, Field(ge=0, le=100)]
    source: Text
    protocol: str | None = None
    differs: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.protocol is None) == (self.differs is None):
            raise ValueError(
                "give either `protocol` (which of ours it agrees with) or `differs` (in what not)"
            )
        return self


class Experiment(Spec):
    """One question, the grid that answers it, and how each cell is trained and scored.

    name: the file's stem; results go to results/<name>/. question: what it asks, in a sentence. source:
    what it follows. sweep: the grid. heads: the experiment's own heads, by name.
    variants: name -> settings that go together (dotted key -> value), an axis of the sweep.
    overrides: settings for some of the cells. start_from: cells that start from the weights of others.
    model: geometry, weights and dropout. train: the recipe. evaluate: the protocols, by name; several score
    one training. published: figures of others, set beside ours. monitor: how often a training speaks and
    saves. launch: where and how trials run; part of no result. search: which settings to try on held-out
    images, under --search. claims: sentences that the results shall decide. notes: for the reader.
    """

    name: Name
    question: Text
    source: tuple[Source, ...] = ()
    sweep: Sweep
    heads: dict[Name, Head] = {}
    variants: dict[Name, dict[str, Any]] = {}
    overrides: tuple[Override, ...] = ()
    start_from: tuple[StartFrom, ...] = ()
    model: Model = Model()
    train: Recipe
    evaluate: Annotated[dict[Name, Protocol], Field(min_length=1)] = {"native": Protocol()}
    published: tuple[Published, ...] = ()
    monitor: Monitor = Monitor()
    launch: Launch = Launch()
    search: Search | None = None
    claims: tuple[Claim, ...] = ()
    notes: Annotated[str, StringConstraints(strip_whitespace=True)] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [
            f"sweep.variant: no variant {name!r}{yamlfile.did_you_mean(name, self.variants)}"
            for name in self.sweep.variant or ()
            if name not in self.variants
        ]
        problems += [
            f"published[{index}].protocol: no protocol {figure.protocol!r} under `evaluate`"
            f"{yamlfile.did_you_mean(figure.protocol, self.evaluate)}"
            for index, figure in enumerate(self.published)
            if figure.protocol is not None and figure.protocol not in self.evaluate
        ]
        digests: dict[str, str] = {}
        for name, protocol in self.evaluate.items():
            if (other := digests.setdefault(protocol.digest(), name)) != name:
                problems.append(f"evaluate.{name}: is the same protocol as {other!r}")
        problems += self._problems_of_search()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems_of_search(self) -> Iterator[str]:
        if self.search is None:
            return
        first = next(iter(self.evaluate.values()))  # by which samples are scored
        if needs_boundary(self.search.metric) and first.boundary is None:
            yield (
                f"search.metric: {self.search.metric} needs counts of boundaries, and protocol "
                f"{first.name} counts none; give it `boundary: 0.02`"
            )
        if is_own(self.search.metric) and self.search.metric not in first.metrics:
            yield (
                f"search.metric: protocol {first.name} does not compute {self.search.metric}; add it "
                "to its `metrics`"
            )
        per = self.search.per
        axes = ("backbone", "head", "dataset", *self.sweep.settings)
        for index, axis in enumerate(per):
            if axis not in axes:
                yield (
                    f"search.per[{index}]: no axis {axis!r} that a search can be split by"
                    f"{yamlfile.did_you_mean(axis, axes)}; axes: {', '.join(axes)}"
                )
            if any(axis in rule.take for rule in self.start_from):
                # its sample was scored after a start with the same sample, not with another's
                yield (
                    f"search.per[{index}]: by `start_from`, cells start from those of another {axis}, "
                    f"so both must get the same settings; leave {axis} out"
                )

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The values of the axis `variant`; one empty name where there are no variants."""
        return self.sweep.variant or tuple(self.variants) or ("",)


def read_experiment(
    path: Path, settings: tuple[str, ...] = (), *, catalog: Catalog | None = None
) -> tuple[Experiment, yamlfile.Document]:
    """Return the experiment in the file, changed by `--set key=value` settings, and its lines.

    catalog: where a field is wrong, the names in the sweep that it does not have are told with it.

    Raises:
        ExperimentError: one line for each problem of the file or the settings.
    """
    if not path.is_file():
        raise ExperimentError(
            f"{path}: there is no such experiment file (segbench list experiments shows those at hand)"
        )
    document = yamlfile.read_document(path, ExperimentError)
    if isinstance(document.data, dict):
        data = {"name": path.stem, **document.data}
        if data["name"] == path.stem:
            try:
                checked_name(path.stem)
            except ValueError as error:
                raise ExperimentError(
                    f"{path}: rename the file, its results are called like it: {error}"
                ) from error
        changed: dict[yamlfile.Place, str] = {}
        for setting in settings:
            changed[place_of(data, setting.partition("=")[0])] = setting
            data = with_setting(data, setting, example="train.batch_size=4")
        _name_parts(data)
        document = document._replace(data=data, settings=changed)
    document, problems = _with_scored_cards(document, path, catalog)
    try:
        experiment = yamlfile.validate(document, Experiment, ExperimentError)
    except ExperimentError as error:
        problems += [] if catalog is None else _unknown_names(document, catalog)
        raise ExperimentError("\n".join([str(error), *problems])) from error
    if problems:
        raise ExperimentError("\n".join(problems))
    return experiment, document


def _with_scored_cards(
    document: yamlfile.Document, path: Path, catalog: Catalog | None
) -> tuple[yamlfile.Document, list[str]]:
    """Put the cards that protocols name into them; a name that leads to no card is a problem."""
    protocols = document.data.get("evaluate") if isinstance(document.data, dict) else None
    if not isinstance(protocols, dict):
        return document, []
    found, problems = {}, []
    for name, fields in protocols.items():
        found[name] = fields
        if not isinstance(fields, dict):
            continue
        if isinstance(fields.get("dataset"), str):
            catalog = catalog or Catalog.on_path(experiment=path)
            try:
                found[name] = with_scored_card(fields, catalog)
            except CardError as error:
                problems.append(f"{document.where(('evaluate', name, 'dataset'))}: {error}")
                found[name] = {**fields, "dataset": None}
        if fields.get("metrics"):
            catalog = catalog or Catalog.on_path(experiment=path)
            try:
                found[name] = with_code_of_metrics(found[name], catalog)
            except CardError as error:
                problems.append(f"{document.where(('evaluate', name, 'metrics'))}: {error}")
    return document._replace(data={**document.data, "evaluate": found}), problems


def with_scored_card(fields: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Return a protocol's plain fields with the card that `dataset` names.

    Raises:
        CardError: there is no such card, or it is wrong.
    """
    named = fields.get("dataset")
    return {**fields, "dataset": catalog.dataset(named)} if isinstance(named, str) else fields


def with_code_of_metrics(fields: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Return a protocol's plain fields with what the user's own metrics in it are made of.

    They are imported here, so that a wrong one is found before anything runs.

    Raises:
        CardError: one is not trusted, not found, or no metric.
    """
    from segbench.metrics.own import own_metric  # numpy, which `segbench --help` can spare

    named = fields.get("metrics")
    if not isinstance(named, tuple) or not all(isinstance(name, str) for name in named):
        return fields  # the record says what is wrong
    look_in(catalog.code_folders)
    for name in filter(is_own, named):
        own_metric(name)
    return {**fields, "code": code_of(filter(is_own, named))}


def _unknown_names(document: yamlfile.Document, catalog: Catalog) -> list[str]:
    sweep = document.data.get("sweep") if isinstance(document.data, dict) else None
    problems = []
    own = document.data.get("heads") if isinstance(document.data, dict) else None
    heads = dict.fromkeys(own) if isinstance(own, dict) else {}
    look_ups = {
        "backbone": catalog.backbone,
        "head": lambda name: None if name in heads else head_named(name, {}),
        "dataset": catalog.dataset,
    }
    for axis, look_up in look_ups.items():
        given = sweep.get(axis, ()) if isinstance(sweep, dict) else ()
        for name in given if isinstance(given, tuple) else (given,):
            try:
                look_up(str(name))
            except CardError as error:
                problems.append(f"{document.where(('sweep', axis))}: {error}")
    return problems


def with_setting(data: dict[str, Any], setting: str, *, example: str) -> dict[str, Any]:
    """Return a copy of nested plain data, changed by the `key=value` of a flag `--set`.

    example: a setting that does change such data, for the message.

    Raises:
        ExperimentError: it is no `key=value`, or the key leads nowhere.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {setting}: expected key=value, such as --set {example}")
    try:
        return with_value(data, key, yamlfile.parse_value(text, f"--set {key}"))
    except ValueError as error:
        raise ExperimentError(f"--set {setting}: {error}") from error


def place_of(data: Any, key: str) -> yamlfile.Place:
    """Return the place that a dotted key leads to; names of items become their index."""
    place: yamlfile.Place = ()
    for step in key.split("."):
        found: str | int = step
        if isinstance(data, tuple):
            try:
                found = _index_in(data, step)
            except ValueError:  # `with_setting` says so
                return place
            data = data[found]
        else:
            data = data.get(step) if isinstance(data, dict) else None
        place = (*place, found)
    return place


def with_value(data: Any, key: str, value: Any) -> Any:
    """Return a copy of nested plain data with the value at a dotted key replaced.

    Steps into a list are whole numbers, or the `name` of an item: `train.stages.head.steps`.

    Raises:
        ValueError: the key leads through something that is neither a mapping nor a list.
    """
    step, _, rest = key.partition(".")
    if isinstance(data, tuple):
        index = _index_in(data, step)
        changed = with_value(data[index], rest, value) if rest else value
        return (*data[:index], changed, *data[index + 1 :])
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ValueError(f"{step!r} cannot be looked up in {data!r}")
    return {**data, step: with_value(data.get(step), rest, value) if rest else value}


def _index_in(items: tuple[Any, ...], step: str) -> int:
    for index, item in enumerate(items):
        if step == str(index) or (isinstance(item, dict) and item.get("name") == step):
            return index
    names = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    raise ValueError(
        f"no item {step!r} in a list of {len(items)}"
        f"{yamlfile.did_you_mean(step, names)}{': ' + ', '.join(names) if names else ''}"
    )


def _name_parts(data: dict[str, Any]) -> None:
    """Give heads and protocols the name of their key."""
    for section in ("heads", "evaluate"):
        if isinstance(data.get(section), dict):
            data[section] = {
                name: {"name": name, **(fields or {})}
                if isinstance(fields, dict | None)
                else fields
                for name, fields in data[section].items()
            }
