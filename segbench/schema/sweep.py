"""Multiply an experiment out into cells, each with its resolved trial.

All problems of the whole grid are found here, before anything runs. 10,000 cells take under three
seconds: what cells share (cards, recipes) is resolved and hashed once.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from segbench.code.own import code_of, look_in
from segbench.errors import CardError, ExperimentError
from segbench.schema import yamlfile
from segbench.schema.base import Spec, matches
from segbench.schema.cards import BackboneCard, DatasetCard, Weights
from segbench.schema.catalog import Catalog
from segbench.schema.claims import OwnClaim, PlannedCell, check_cells, check_selectors
from segbench.schema.experiment import Experiment, Selector, place_of, with_value
from segbench.schema.heads import (
    HEADS,
    Head,
    Model,
    head_named,
    least_side,
    reads_behind_dropout,
    stated_sizes,
    weights_name,
    why_unsupported,
)
from segbench.schema.matched import unknown_classes
from segbench.schema.recipe import Recipe, idle_schedules
from segbench.schema.trial import Trial, trial_id

Setting = tuple[yamlfile.Place, str, Any]  # where it stands in the file, dotted key, value
CHANGEABLE = ("backbone", "head", "dataset", "model", "train")  # what settings of a cell may reach


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the sweep: its axes, its seed, and its trial, or why it has none."""

    axes: dict[str, str]
    seed: int
    trial: Trial | None
    trial_id: str
    skipped: str = ""


class Plan(NamedTuple):
    """An experiment and its cells, in the order in which they are to be run."""

    experiment: Experiment
    cells: tuple[Cell, ...]

    @property
    def trials(self) -> dict[str, Trial]:
        """Every trial once, by id, those that others start from first."""
        return {cell.trial_id: cell.trial for cell in self.cells if cell.trial is not None}

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The values of each axis that occur, in the order of the file."""
        values: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            for axis, value in cell.axes.items():
                values.setdefault(axis, {})[value] = None
        return {axis: tuple(found) for axis, found in values.items()}


class _Parts(NamedTuple):
    """The records of a cell under its settings, before its weights are chosen."""

    backbone: BackboneCard
    head: Head
    dataset: DatasetCard
    model: Model
    train: Recipe


class _Resolved(NamedTuple):
    """What all seeds of a cell share."""

    backbone: BackboneCard
    head: Head
    dataset: DatasetCard
    model: Model
    weights: Weights | None
    train: Recipe
    code: dict[str, str]
    digests: dict[str, str]


def expand(
    experiment: Experiment, catalog: Catalog, document: yamlfile.Document | None = None
) -> Plan:
    """Return the experiment's plan.

    Raises:
        ExperimentError: one line for each problem: unknown names, heads that a trunk cannot serve,
            settings that lead nowhere, selectors that match nothing, splits that a card lacks.
    """
    return _Expansion(experiment, catalog, document).plan()


class _Expansion:
    """The one walk over the grid; gathers problems as it goes."""

    def __init__(
        self, experiment: Experiment, catalog: Catalog, document: yamlfile.Document | None
    ) -> None:
        self.experiment = experiment
        self.catalog = catalog
        self.document = document
        self.problems: dict[str, None] = {}
        self.revised: dict[tuple[int, str], tuple[Spec, Spec]] = {}
        self.reading: dict[tuple[int, str], tuple[Head, Head]] = {}
        self.code: dict[str, dict[str, str]] = {}

    def plan(self) -> Plan:
        look_in(self.catalog.code_folders)
        every = list(self._points())
        self._check_exclusions(_values(every))
        points = [axes for axes in every if not self._is_excluded(axes)]
        resolved = {key: self._resolve(axes) for axes in points for key in [_key(axes)]}
        if not points:
            self._problem(("sweep",), "nothing is left of the sweep after `exclude`")
        axes = _values(points)
        self._check_selectors(axes)
        self._check_idle_overrides(points)
        self._check_windows()
        self._check_launch(axes, resolved.values())
        self._note_code_of_claims()
        cells = () if self.problems else self._cells(points, resolved)
        self._check_claims(axes, cells)
        self._raise_problems()
        return Plan(self.experiment, cells)

    def _points(self) -> Iterable[dict[str, str]]:
        """Yield the axes of every cell, without seeds: data sets outermost, then backbone, head."""
        sweep = self.experiment.sweep
        settings = [
            [(key, _shown(value)) for value in values] for key, values in sweep.settings.items()
        ]
        for dataset, backbone, head, variant in itertools.product(
            sweep.dataset, sweep.backbone, sweep.head, self.experiment.variant_names
        ):
            for chosen in itertools.product(*settings):
                axes = {"backbone": backbone, "head": head, "dataset": dataset}
                yield {**axes, **({"variant": variant} if variant else {}), **dict(chosen)}

    def _is_excluded(self, axes: dict[str, str]) -> bool:
        return any(matches(axes, selector) for selector in self.experiment.sweep.exclude)

    def _resolve(self, axes: dict[str, str]) -> _Resolved | str | None:
        """Return the cell's records, the reason why it is skipped, or None after a problem."""
        parts = self._parts(axes)
        if parts is None:
            return None
        backbone, head, dataset, model, train = parts
        reason = why_unsupported(backbone, head, model)
        if reason is not None:
            if self.experiment.sweep.unsupported == "error":
                self._problem(
                    ("sweep", "head"), f"{reason}; drop the pair, or say `sweep.unsupported: skip`"
                )
                return None
            return reason
        self._check_splits(dataset, train)
        self._check_sides(backbone, head, model, train)
        self._check_cached(backbone, head, model, train)
        for index, sentence in idle_schedules(train):
            self._problem(("train", "stages", index), sentence)
        chosen = self._weights(backbone, model)
        code = self._code(backbone, head, dataset)
        if chosen is None or code is None:
            return None
        model, weights = chosen
        records: dict[str, Spec | None] = {**parts._asdict(), "model": model, "weights": weights}
        digests = {name: _digest(part) for name, part in records.items() if part is not None}
        return _Resolved(backbone, head, dataset, model, weights, train, code, digests)

    def _parts(self, axes: dict[str, str]) -> _Parts | None:
        """Return the cell's records under the settings that reach it, or None after a problem."""
        looked_up = [self._looked_up(axis, axes[axis]) for axis in ("backbone", "dataset", "head")]
        backbone, dataset, head = looked_up
        if backbone is None or head is None or dataset is None:
            return None
        model, train = self.experiment.model, self.experiment.train
        parts: dict[str, Spec] = dict(
            zip(CHANGEABLE, (backbone, head, dataset, model, train), strict=True)
        )
        changed = self._changed(parts, list(self._settings(axes)))
        if changed is None:
            return None
        found = _Parts(**changed)  # pyright: ignore[reportArgumentType]
        return found._replace(head=self._reading(found.head, found.backbone))

    def _reading(self, head: Head, backbone: BackboneCard) -> Head:
        """Return the head for this trunk; the same record each time, since ids are cached by it."""
        if head.deepest is None:
            return head
        key = (id(head), backbone.name)
        if key not in self.reading:
            self.reading[key] = (head, head.reading(backbone))
        return self.reading[key][1]

    def _looked_up(self, axis: str, name: str) -> Spec | None:
        try:
            if axis == "head":
                return head_named(name, self.experiment.heads)
            return self.catalog.backbone(name) if axis == "backbone" else self.catalog.dataset(name)
        except CardError as error:
            self._problem(("sweep", axis), str(error))
            return None

    def _settings(self, axes: dict[str, str]) -> Iterable[Setting]:
        """Yield (place in the file, dotted key, value) of all that changes this cell, in order."""
        experiment = self.experiment
        for index, override in enumerate(experiment.overrides):
            if matches(axes, override.where):
                for key, value in override.set.items():
                    yield ("overrides", index, "set", key), key, value
        if "variant" in axes:
            for key, value in experiment.variants[axes["variant"]].items():
                yield ("variants", axes["variant"], key), key, value
        for key, values in experiment.sweep.settings.items():
            value = next(value for value in values if _shown(value) == axes[key])
            yield ("sweep", "settings", key), key, value

    def _changed(
        self, parts: dict[str, Spec], settings: Sequence[Setting], *, rules: bool = True
    ) -> dict[str, Spec] | None:
        """Return the records under the settings, all of a record's at once, or None after a problem.

        rules: whether rules between fields are looked at, or single fields alone.
        """
        by_part: dict[str, list[Setting]] = {}
        is_wrong = False
        for place, key, value in settings:
            part, _, rest = key.partition(".")
            if part in parts and rest:
                by_part.setdefault(part, []).append((place, rest, value))
                continue
            is_wrong = True
            self._problem(
                place,
                f"expected a dotted key that begins with {', '.join(CHANGEABLE)}"
                f"{yamlfile.did_you_mean(part, CHANGEABLE)}",
            )
        changed = dict(parts)
        for part, own in by_part.items():
            revised = self._with_settings(parts[part], own, rules=rules)
            is_wrong |= revised is None
            changed[part] = revised or parts[part]
        return None if is_wrong else changed

    def _with_settings(self, part: Spec, settings: list[Setting], *, rules: bool) -> Spec | None:
        """Return the record with dotted fields changed; once for each record and its values."""
        known = (id(part), repr([(key, value) for _, key, value in settings]))
        if known in self.revised:
            return self.revised[known][1]
        data = part.model_dump()
        is_wrong = False
        lines: dict[yamlfile.Place, int] = {}  # of each place the number of its setting
        for number, (place, asked, value) in enumerate(settings):
            key = yamlfile.key_now(asked, type(part), self._where(place))
            try:
                data = with_value(data, key, value)
            except (ValueError, KeyError) as error:
                self._problem(place, str(error.args[0]))
                is_wrong = True
                continue
            steps = place_of(data, key)
            lines |= {steps[:end]: number for end in range(len(steps)) if steps[:end] not in lines}
            lines[steps] = number
        try:
            revised = type(part).model_validate(data)
        except ValidationError as error:
            every = error.errors(include_url=False)
            if rules or any(detail["type"] != "value_error" for detail in every):
                self._tell(error, type(part), yamlfile.Document("", data, lines), settings)
            return None if rules else part
        if is_wrong:
            return None
        self.revised[known] = (part, revised)  # the old record is kept, so its id stays its own
        return revised

    def _tell(
        self,
        error: ValidationError,
        spec: type[Spec],
        changed: yamlfile.Document,
        settings: list[Setting],
    ) -> None:
        """Tell each problem of a changed record at the setting that made it."""
        for sentence in yamlfile.problems_of(error, spec, changed):
            number, _, told = sentence.removeprefix(":").partition(":")
            self._problem(settings[int(number)][0], told.strip())

    def _weights(self, backbone: BackboneCard, model: Model) -> tuple[Model, Weights | None] | None:
        try:
            name = weights_name(backbone, model)
        except CardError as error:
            self._problem(("model", "weights"), str(error))
            return None
        return model.revised(weights=name or "none"), backbone.weights[name] if name else None

    def _code(
        self, backbone: BackboneCard, head: Head, dataset: DatasetCard
    ) -> dict[str, str] | None:
        """Return what the user's own functions are made of, None after a problem."""
        reader = dataset.reader
        functions: dict[yamlfile.Place, tuple[str, str | None]] = {
            ("sweep", "backbone"): (f"{backbone.name}: builder", backbone.builder),
            ("heads", head.name, "builder"): (f"{head.name}: builder", head.builder),
            ("sweep", "dataset"): (f"{dataset.name}: reader", reader and reader.function),
        }
        found: dict[str, str] = {}
        for place, (told, function) in functions.items():
            if function is None:
                continue
            try:
                if function not in self.code:  # its files are read once
                    self.code[function] = code_of([function])
            except CardError as error:
                self._problem(place, f"{told} {error}")
                return None
            found |= self.code[function]
        return dict(sorted(found.items()))

    def _check_splits(self, dataset: DatasetCard, train: Recipe) -> None:
        self._check_split(("train", "split"), dataset, train.split)
        for name, protocol in self.experiment.evaluate.items():
            scored = protocol.scored_card(dataset)
            self._check_split(("evaluate", name, "split"), scored, protocol.split)
            if told := unknown_classes(dataset, scored):
                self._problem(("evaluate", name, "dataset"), told)

    def _check_split(self, place: yamlfile.Place, dataset: DatasetCard, split: str) -> None:
        has = {*dataset.split_names, *(["holdout"] if dataset.view.holdout else [])}
        if split not in has:
            self._problem(
                place,
                f"{dataset.name} has no split {split!r}{yamlfile.did_you_mean(split, has)}; "
                f"it has: {', '.join(sorted(has))}",
            )

    def _check_sides(self, backbone: BackboneCard, head: Head, model: Model, train: Recipe) -> None:
        self._check_chain(backbone, head, model, train)
        key = "crop" if train.images.crop else "squash"
        sides = train.images.crop or train.images.squash
        least = least_side(backbone, head, model)
        if sides is not None and min(sides) < least:
            self._problem(
                ("train", "images", key),
                f"{list(sides)} is too small for {backbone.name} with {head.name}: it takes at least "
                f"{least} pixels a side",
            )
        fixed = backbone.fixed_side
        if fixed is not None and sides != (fixed, fixed):
            self._problem(
                ("train", "images", key),
                f"{backbone.name} takes images of {fixed}x{fixed} pixels alone: say "
                f"`squash: [{fixed}, {fixed}]` here and `size: [{fixed}, {fixed}]` in every protocol",
            )

    def _check_cached(
        self, backbone: BackboneCard, head: Head, model: Model, train: Recipe
    ) -> None:
        """Features that dropout draws anew at each step cannot be computed once."""
        if train.cache_features and reads_behind_dropout(backbone, head, model):
            self._problem(
                ("train", "cache_features"),
                f"{head.name} reads {backbone.name} behind the dropout of fc6 and fc7, which draws "
                "anew at each step: take cache_features false, or model.dropout 0",
            )

    def _check_chain(self, backbone: BackboneCard, head: Head, model: Model, train: Recipe) -> None:
        """Look at the sides that the file names, where the head adds features index on index."""
        sizes = stated_sizes(backbone, head, model)
        if head.chain is None or sizes is None:
            return
        key = "crop" if train.images.crop else "squash"
        asked: dict[yamlfile.Place, tuple[int, int] | Literal["native"] | None] = {
            ("train", "images", key): train.images.crop or train.images.squash
        }
        for name, protocol in self.experiment.evaluate.items():
            asked["evaluate", name, "size"] = protocol.size
            window = protocol.sliding and protocol.sliding.window
            asked["evaluate", name, "sliding", "window"] = window
        if not train.images.is_fixed_size:
            self._problem(
                ("train", "images"),
                f"{head.name} does not fit whole images of any size: give images.squash or "
                "images.crop",
            )
        for place, sides in asked.items():
            misfit = head.chain.misfit(sides, sizes) if isinstance(sides, tuple) else None
            if misfit is not None:
                self._problem(
                    place,
                    f"{list(sides or ())} does not fit the transposed convolutions of {head.name} on "
                    f"{backbone.name}; {misfit}",
                )

    def _check_windows(self) -> None:
        for name, protocol in self.experiment.evaluate.items():
            if protocol.sliding is not None and protocol.sliding.gap:
                self._problem(("evaluate", name, "sliding"), protocol.sliding.gap)

    def _check_exclusions(self, axes: dict[str, tuple[str, ...]]) -> None:
        sweep = self.experiment.sweep
        at_hand = {**self._names_at_hand(), "variant": set(self.experiment.variants)}
        loose = set(sweep.settings) if self._is_narrowed else set()
        for index, selector in enumerate(sweep.exclude):
            known = {axis: value for axis, value in selector.items() if axis not in loose}
            for problem in _selector_problems(known, axes, at_hand):
                self._problem(("sweep", "exclude", index), problem)

    def _check_selectors(self, axes: dict[str, tuple[str, ...]]) -> None:
        experiment = self.experiment
        sections: list[tuple[str, tuple[Selector, ...]]] = [
            ("overrides", tuple(override.where for override in experiment.overrides)),
            ("published", tuple(figure.where for figure in experiment.published)),
            (
                "start_from",
                tuple(s for rule in experiment.start_from for s in (rule.where, rule.take)),
            ),
        ]
        for section, selectors in sections:
            for selector in selectors:
                for problem in _selector_problems(selector, axes, self._names_at_hand()):
                    self._problem((section,), problem)

    def _check_idle_overrides(self, points: list[dict[str, str]]) -> None:
        """Look at settings that reach no cell of this sweep, as far as they need nothing else."""
        parts: dict[str, Spec] = {"model": self.experiment.model, "train": self.experiment.train}
        for index, override in enumerate(self.experiment.overrides):
            if any(matches(axes, override.where) for axes in points):
                continue
            alone = [
                (("overrides", index, "set", key), key, value)
                for key, value in override.set.items()
                if key.partition(".")[0] not in {"backbone", "head", "dataset"}
            ]
            self._changed(parts, alone, rules=False)

    def _check_launch(
        self, axes: dict[str, tuple[str, ...]], resolved: Iterable[_Resolved | str | None]
    ) -> None:
        launch = self.experiment.launch
        at_hand = self._names_at_hand() if self._is_narrowed else {}
        for index, resources in enumerate(launch.cells):
            for problem in _selector_problems(resources.where, axes, at_hand):
                self._problem(("launch", "cells", index, "where"), problem)
        sizes = {cell.train.batch_size for cell in resolved if isinstance(cell, _Resolved)}
        for batch_size in sorted(size for size in sizes if size % launch.ranks_per_trial):
            self._problem(
                ("launch", "ranks_per_trial"),
                f"{launch.ranks_per_trial} ranks cannot share out train.batch_size {batch_size} "
                "evenly; choose a divisor of it",
            )

    def _note_code_of_claims(self) -> None:
        """Put the code of the user's kinds into their claims: with other code they ask otherwise."""
        claims = list(self.experiment.claims)
        for index, claim in enumerate(claims):
            if isinstance(claim, OwnClaim):
                try:
                    code = code_of([claim.kind])
                except CardError as error:
                    self._problem(("claims", index, "kind"), str(error))
                else:
                    claims[index] = claim.model_copy(update={"code": code})
        self.experiment = self.experiment.model_copy(update={"claims": tuple(claims)})

    def _check_claims(self, axes: dict[str, tuple[str, ...]], cells: Iterable[Cell]) -> None:
        """Check each claim against the sweep's values, and if there are cells against them."""
        experiment, has_cells = self.experiment, not self.problems
        with_protocol = {**axes, "protocol": tuple(experiment.evaluate)}
        for axis, names in self._names_at_hand().items():
            # where the sweep is wrong, claims are not
            if axis in axes and not set(axes[axis]) <= set(names):
                with_protocol[axis] = (*axes[axis], *names)
        at_hand = self._names_at_hand() if self._is_narrowed else {}
        problems = check_selectors(experiment.claims, with_protocol, at_hand)
        if has_cells:
            unmatched = {place[1] for place, _ in problems}
            planned = _planned(cells, experiment)
            problems += check_cells(
                experiment.claims, planned, is_narrowed=self._is_narrowed, but=unmatched
            )
        for place, problem in problems:
            self._problem(place, problem)

    @property
    def _is_narrowed(self) -> bool:
        settings = self.document.settings if self.document else {}
        return any(place[:1] == ("sweep",) for place in settings)

    def _names_at_hand(self) -> dict[str, set[str]]:
        """Return the cards and heads that a narrowed sweep may lack without its file being wrong."""
        return {
            "backbone": set(self.catalog.names("backbones")),
            "dataset": set(self.catalog.names("datasets")),
            "head": {*HEADS, *self.experiment.heads},
        }

    def _cells(
        self, points: list[dict[str, str]], resolved: dict[tuple[str, ...], Any]
    ) -> tuple[Cell, ...]:
        starts = {_key(axes): self._start_of(axes, resolved) for axes in points}
        ids: dict[tuple[tuple[str, ...], int], str] = {}
        try:
            # stable: otherwise in the order of the file
            ordered = sorted(points, key=lambda axes: _depth(_key(axes), starts))
        except ExperimentError as error:
            self._problem(("start_from",), str(error))
            return ()
        cells = []
        for axes, seed in itertools.product(ordered, self.experiment.sweep.seed_values):
            shared = resolved[_key(axes)]
            if isinstance(shared, str):
                cells.append(Cell(axes, seed, None, "", shared))
                continue
            start = starts[_key(axes)]
            start_id = ids.get((start, seed)) if start else None
            if start and start_id is None:
                cells.append(Cell(axes, seed, None, "", "the cell that it starts from is skipped"))
                continue
            name = trial_id(shared.digests, seed=seed, start_from=start_id, code=shared.code)
            ids[_key(axes), seed] = name
            fields = {key: value for key, value in shared._asdict().items() if key != "digests"}
            trial = Trial.model_construct(**fields, seed=seed, start_from=start_id)
            cells.append(Cell(axes, seed, trial, name))
        return tuple(cells)

    def _start_of(
        self, axes: dict[str, str], resolved: dict[tuple[str, ...], Any]
    ) -> tuple[str, ...] | None:
        for index, rule in enumerate(self.experiment.start_from):
            if matches(axes, rule.where):
                start = _key({**axes, **rule.take})
                if start not in resolved or start == _key(axes):
                    self._problem(
                        ("start_from", index),
                        f"{axes} would start from {rule.take}, which the sweep does not hold",
                    )
                return start
        return None

    def _problem(self, place: yamlfile.Place, sentence: str) -> None:
        self.problems[f"{self._where(place)}: {sentence}"] = None

    def _where(self, place: yamlfile.Place) -> str:
        return self.document.where(place) if self.document else yamlfile.dotted(place)

    def _raise_problems(self) -> None:
        if self.problems:
            raise ExperimentError("\n".join(self.problems))


def chosen_values(
    text: str, axes: Mapping[str, Sequence[str]], *, prefix: str, where: str
) -> tuple[str, frozenset[str]]:
    """Return the axis and the values of it that `axis=value[,value]` names.

    axes: those there are, with their values. prefix: what stands before the text where it was
    typed. where: what has the axes, for the message.

    Raises:
        ExperimentError: it names no axis, or no value of it.
    """
    axis, equals, values = text.partition("=")
    if axis in axes and not equals:
        raise ExperimentError(
            f"{prefix}{text}: expected {axis}={','.join(axes[axis])}, or some of these"
        )
    if axis not in axes:
        raise ExperimentError(
            f"{prefix}{text}: expected axis=value{yamlfile.did_you_mean(axis, axes)}; "
            f"axes: {', '.join(axes)}"
        )
    chosen, known = frozenset(values.split(",")), axes[axis]
    for value in sorted(chosen.difference(known)):
        raise ExperimentError(
            f"{prefix}{text}: no {axis} {value!r} in the {where}"
            f"{yamlfile.did_you_mean(value, known)}; it has: {', '.join(known)}"
        )
    return axis, chosen


def _selector_problems(
    selector: Selector, axes: dict[str, tuple[str, ...]], at_hand: dict[str, set[str]]
) -> list[str]:
    problems = []
    for axis, value in selector.items():
        if axis not in axes:
            problems.append(
                f"no axis {axis!r} in the sweep{yamlfile.did_you_mean(axis, axes)}; "
                f"axes: {', '.join(axes)}"
            )
        elif value not in axes[axis] and value not in at_hand.get(axis, set()):
            problems.append(
                f"{axis}: {value} matches no cell{yamlfile.did_you_mean(value, axes[axis])}; "
                f"the sweep has: {', '.join(axes[axis])}"
            )
    return problems


def _planned(cells: Iterable[Cell], experiment: Experiment) -> list[PlannedCell]:
    """Return the cells that will run, once for all seeds, under each protocol."""
    running = {_key(cell.axes): cell for cell in cells}.values()
    cards = [
        ({**cell.axes, "protocol": name}, protocol, protocol.scored_card(cell.trial.dataset))
        for cell in running
        if cell.trial is not None
        for name, protocol in experiment.evaluate.items()
    ]
    names = {id(card): card.class_names for _, _, card in cards}
    return [
        PlannedCell(axes, names[id(card)], protocol.boundary is not None, protocol.metrics)
        for axes, protocol, card in cards
    ]


def _depth(key: tuple[str, ...], starts: dict[tuple[str, ...], tuple[str, ...] | None]) -> int:
    """Return how many trainings stand before this cell's; a circle is an error."""
    depth, seen = 0, {key}
    while (start := starts.get(key)) is not None:
        if start in seen:
            raise ExperimentError(f"{' / '.join(start)} starts from itself, in a circle")
        seen.add(start)
        key, depth = start, depth + 1
    return depth


_digests: dict[int, tuple[Spec, str]] = {}


def _digest(part: Spec) -> str:
    """Return the record's digest, computed once per object (frozen, and kept alive here)."""
    if id(part) not in _digests:
        _digests[id(part)] = (part, part.identity_digest())
    return _digests[id(part)][1]


def _key(axes: dict[str, str]) -> tuple[str, ...]:
    return tuple(axes.values())


def _values(points: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    axes = points[0] if points else {}
    return {axis: tuple(dict.fromkeys(point[axis] for point in points)) for axis in axes}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
