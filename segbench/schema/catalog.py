"""All cards in reach: the search path, look-up by name, `base`, and what hides what.

Search path: `--cards DIR` (repeatable), $SEGBENCH_CARDS, the folder of the project that holds the
experiment file, then the built-in cards. Each root has `backbones/` and `datasets/`. Knows nothing
of experiments.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from segbench.code.own import code_folders
from segbench.errors import CardError
from segbench.schema import yamlfile
from segbench.schema.base import Spec
from segbench.schema.cards import BackboneCard, DatasetCard, card_stem
from segbench.schema.groups import read_members
from segbench.schema.torchvision_weights import with_only_weights, with_published_weights

Kind = Literal["backbones", "datasets"]
AnyCard = TypeVar("AnyCard", BackboneCard, DatasetCard)

_PACKAGE = Path(__file__).resolve().parents[1]


def built_in_root() -> Path:
    """Return the folder of the cards that come with segbench, in a wheel or in a checkout."""
    packaged = _PACKAGE / "_cards"
    return packaged if packaged.is_dir() else _PACKAGE.parent


class Hidden(NamedTuple):
    """A card that another one of the same name, earlier on the search path, stands in for."""

    name: str
    used: Path
    hidden: Path


class Catalog:
    """The cards on a search path; each is read once, when it is first asked for."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self.roots = roots
        self._cards: dict[tuple[str, str], BackboneCard | DatasetCard] = {}

    @classmethod
    def on_path(
        cls,
        given: tuple[Path, ...] = (),
        *,
        environment: Mapping[str, str] = os.environ,
        experiment: Path | None = None,
    ) -> "Catalog":
        """Return the catalog of the search path that flags, variable and experiment make.

        Without an experiment, cards beside the `experiments/` of the present folder are found too.

        Raises:
            CardError: a folder that was named does not exist, or holds no cards.
        """
        named = (*given, *(Path(p) for p in environment.get("SEGBENCH_CARDS", "").split(":") if p))
        for root in named:
            if not _has_cards(root):
                raise CardError(
                    f"{root}: no folder `backbones` or `datasets` in it; name the folder above them"
                )
        roots = [root.resolve() for root in named]
        project = _project_of(experiment) if experiment else _project_here()
        roots += [root for root in (project, built_in_root()) if root is not None]
        return cls(tuple(dict.fromkeys(roots)))

    def backbone(self, name: str) -> BackboneCard:
        """Return the backbone card called `name`; CardError with a suggestion where there is none."""
        return self._card("backbones", name, BackboneCard)

    def dataset(self, name: str) -> DatasetCard:
        """Return the data set card called `name`; CardError with a suggestion where there is none."""
        return self._card("datasets", name, DatasetCard)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all cards of a kind, sorted."""
        return tuple(sorted(self._paths[kind]))

    def path(self, kind: Kind, name: str) -> Path:
        """Return the file of a card that exists."""
        return self._paths[kind][name]

    @property
    def code_folders(self) -> tuple[str, ...]:
        """Where trusted modules are looked for: beside the user's cards, and in the present folder."""
        return code_folders(root for root in self.roots if root != built_in_root())

    @cached_property
    def hidden(self) -> tuple[Hidden, ...]:
        """Cards that are not used because an earlier root has one of the same name."""
        return tuple(
            Hidden(path.stem, self._paths[kind][path.stem], path)
            for kind in ("backbones", "datasets")
            for path in self._files(kind)
            if path != self._paths[kind][path.stem]
        )

    @cached_property
    def _paths(self) -> dict[Kind, dict[str, Path]]:
        found: dict[Kind, dict[str, Path]] = {"backbones": {}, "datasets": {}}
        for kind, paths in found.items():
            for path in self._files(kind):
                paths.setdefault(path.stem, path)
        return found

    def _files(self, kind: Kind) -> Iterator[Path]:
        for root in self.roots:
            yield from sorted((root / kind).glob("*.yaml"))

    def _card(self, kind: Kind, name: str, card_type: type[AnyCard]) -> AnyCard:
        if (kind, name) not in self._cards:
            path = self._paths[kind].get(name)
            if path is None:
                raise CardError(
                    f"no {_SINGULAR[kind]} {name!r}"
                    f"{yamlfile.did_you_mean(name, self._paths[kind])} (segbench list {kind}; "
                    "--cards DIR adds a folder of yours)"
                )
            self._cards[kind, name] = read_card(path, card_type, catalog=self)
        card = self._cards[kind, name]
        assert isinstance(card, card_type)
        return card


_SINGULAR = {"backbones": "backbone", "datasets": "data set"}


def read_card(path: Path, card_type: type[AnyCard], *, catalog: Catalog | None = None) -> AnyCard:
    """Return the card in the file, its `base` filled in; `catalog` finds the base.

    Raises:
        CardError: one line for each problem, `file:line: key: what`.
    """
    document = yamlfile.read_document(path, CardError)
    if isinstance(document.data, dict):
        document = document._replace(data=_with_base(path, document, card_type, catalog, ()))
    card = _validated(document, card_type)
    try:
        expected = card_stem(path.stem)
    except ValueError as error:
        raise CardError(f"{path}: {error}") from error
    if card.name != expected:
        raise CardError(
            f"{document.where(('name',))}: is {card.name!r}, but the file is called {path.name}; "
            "the two must agree"
        )
    return card


def _validated(document: yamlfile.Document, card_type: type[AnyCard]) -> AnyCard:
    """Return the card; what is wrong with names of weights is told along with the rest."""
    problems: list[str] = []
    if card_type is BackboneCard and isinstance(document.data, dict):
        data, wrong = with_published_weights(document.data)
        for place, sentence in wrong.items():
            written = (
                place if place in document.lines else place[:1]
            )  # `weights: NAME` has one line
            problems.append(f"{document.where(written)}: {sentence}")
        document = document._replace(data=data)
    try:
        card = yamlfile.validate(document, card_type, CardError)
    except CardError as error:
        raise CardError("\n".join([*problems, str(error)])) from error
    if problems:
        raise CardError("\n".join(problems))
    return card


def _with_base(
    path: Path,
    document: yamlfile.Document,
    card_type: type[Spec],
    catalog: Catalog | None,
    seen: tuple[str, ...],
) -> dict[str, Any]:
    data = with_only_weights(dict(document.data))
    if isinstance(data.get("groups"), dict) and isinstance(data["groups"].get("file"), str):
        # read here, since a trial must know its groups on machines without the user's cards
        members = read_members(path.parent / data["groups"]["file"])
        data["groups"] = {**data["groups"], "members": members}
    base = data.pop("base", None)
    if base is None:
        return data
    kind: Kind = "backbones" if card_type is BackboneCard else "datasets"
    catalog = catalog or Catalog.on_path(experiment=path)
    if not isinstance(base, str) or base not in catalog.names(kind):
        raise CardError(
            f"{document.where(('base',))}: no {_SINGULAR[kind]} {base!r}"
            f"{yamlfile.did_you_mean(str(base), catalog.names(kind))} (segbench list {kind})"
        )
    if base in seen or base == path.stem:
        raise CardError(f"{document.where(('base',))}: {base!r} is its own base, in a circle")
    base_path = catalog.path(kind, base)
    base_document = yamlfile.read_document(base_path, CardError)
    inherited = _with_base(base_path, base_document, card_type, catalog, (*seen, path.stem))
    return {**inherited, **data}


def _project_of(experiment: Path) -> Path | None:
    """Return the folder above `experiments/`, if cards lie there."""
    return next(filter(_has_cards, experiment.resolve().parents[:3]), None)


def _project_here() -> Path | None:
    here = Path.cwd()
    return here if (here / "experiments").is_dir() and _has_cards(here) else None


def _has_cards(folder: Path) -> bool:
    return any((folder / kind).is_dir() for kind in ("backbones", "datasets"))
