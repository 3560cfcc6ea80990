"""The user's own code, `module:name`, and its digests: what a trial was made from besides its cards.

Sources are found and read without being run, so a plan loads no torch. A module's source counts, and
so do the sources of what it imports, as far as these are the user's too. An installed package counts
by its name and version. Knows nothing of what the code is for.
"""

import ast
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

from segbench.errors import CardError, listed

TRUSTED_VARIABLE = "SEGBENCH_TRUSTED"
TIMM = "timm"  # `timm:NAME` names a network of the package's registry and no function of a module
_OURS = "segbench"
_INSTALLED = {"site-packages", "dist-packages"}  # folders of what a package manager keeps
# What code of the user's may raise when it is given other arguments or data than it expects.
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
_loaded: dict[str, dict[str, str]] = {}  # digests of the code that this process has imported


class UserModule(NamedTuple):
    """A module of the user's, and the file that importing it runs."""

    module: str
    path: Path
    is_package: bool


def look_in(folders: Iterable[str | Path]) -> None:
    """Let trusted modules be found in these folders, after all that Python finds anyway.

    They come last, so that no file beside a card stands in for an installed package.
    """
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)


def code_folders(card_roots: Iterable[Path]) -> tuple[str, ...]:
    """Return where trusted modules are looked for: beside these cards, and in the current folder."""
    roots = [root.expanduser().resolve() for root in card_roots]
    beside = [folder for root in roots for folder in (root / "backbones", root / "datasets", root)]
    return tuple(dict.fromkeys(map(str, (*beside, Path.cwd()))))


def move_current_folder_last() -> None:
    """Undo what `python -m` does: a file of the current folder must not stand in for a package.

    So `python -m segbench` finds the same modules as `segbench`.
    """
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))


def trust(packages: Iterable[str]) -> None:
    """Let this process run code of these packages, besides those of the variable."""
    os.environ[TRUSTED_VARIABLE] = ":".join(dict.fromkeys((*trusted_packages(), *packages)))


def trusted_packages() -> tuple[str, ...]:
    """Return the packages and modules whose code the user lets segbench run."""
    return tuple(part for part in os.environ.get(TRUSTED_VARIABLE, "").split(":") if part)


def is_built_in(name: str) -> bool:
    """Return whether `module:name` is segbench's or torchvision's: its code is part of no trial."""
    module = name.partition(":")[0]
    return module in {"torchvision.models", _OURS} or module.startswith(f"{_OURS}.models.")


def trusted_function(name: str) -> Callable[..., object]:
    """Import the function that `module:name` says.

    Raises:
        CardError: the module is not trusted, or there is no such function.
    """
    _check_trusted(name)
    module, _, function = name.partition(":")
    if module not in _loaded:
        _loaded[module] = _digests(name)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise CardError(f"{name} cannot be found: {error}") from error


def code_of(names: Iterable[str]) -> dict[str, str]:
    """Return what the functions `module:name` are made of, as it stands here; built-in ones left out.

    Of the user's sources the sha256 by the module's name, of an installed package `name version`.

    Raises:
        CardError: a module is not trusted, cannot be found, or is no Python.
    """
    found: dict[str, str] = {}
    for name in names:
        if not is_built_in(name):
            _check_trusted(name)
            found |= _digests(name)
    return dict(sorted(found.items()))


def code_in_use(names: Iterable[str]) -> dict[str, str]:
    """Return `code_of` the names, but of what this process has imported already as it was then."""
    found: dict[str, str] = {}
    for name in names:
        found |= _loaded.get(name.partition(":")[0]) or code_of([name])
    return dict(sorted(found.items()))


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return in words how code differs from what it was, empty where it is the same."""
    if before == now:
        return ""
    if not before:
        return f"it was not recorded what {listed(list(now))} was then"
    shared = [module for module in before if module in now and before[module] != now[module]]
    return listed(
        [
            *(_change(module, before[module], now[module]) for module in shared),
            *(f"{module} is new" for module in now if module not in before),
            *(f"{module} is gone" for module in before if module not in now),
        ]
    )


def _change(module: str, before: str, now: str) -> str:
    is_version = " " in before and " " in now
    return f"{before} is now {now}" if is_version else f"{module} has changed"


def _check_trusted(name: str) -> None:
    module = name.partition(":")[0]
    if module == TIMM:
        return
    if not any(f"{module}.".startswith(f"{part}.") for part in trusted_packages()):
        raise CardError(
            f"{name} would run code of {module!r}, which is not trusted; if you trust it, add it to "
            f"${TRUSTED_VARIABLE} (packages separated by `:`)"
        )


def _digests(name: str) -> dict[str, str]:
    module = name.partition(":")[0]
    importlib.invalidate_caches()
    spec = _located(module)
    if spec is None:
        raise CardError(
            f"{name} cannot be found: there is no module {module!r} beside the card, in the current "
            "folder or among the installed packages; put its file there, or name the folder of "
            "its card with --cards or $SEGBENCH_CARDS"
        )
    installed = _distribution(module, spec)
    if installed is not None:
        return {module.partition(".")[0]: installed}
    return {s.module: hashlib.sha256(s.path.read_bytes()).hexdigest() for s in _sources(module)}


def _sources(module: str) -> list[UserModule]:
    """Return the user's files that importing a module runs, its own and those that it imports."""
    found: dict[str, UserModule | None] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = source = _own_source(name)
        waiting += (
            [name.rpartition(".")[0]] if "." in name else []
        )  # a package runs before its parts
        waiting += _imports(source) if source is not None else []
    return [source for source in found.values() if source is not None]


def _own_source(module: str) -> UserModule | None:
    """Return the user's file of a module; None of what is installed, Python's or segbench's."""
    top = module.partition(".")[0]
    if top == _OURS or top in sys.stdlib_module_names:
        return None
    spec = _located(module)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not path.is_file() or _INSTALLED & set(path.parts):
        return None
    return UserModule(module, path, spec.submodule_search_locations is not None)


def _imports(source: UserModule) -> Iterator[str]:
    """Yield the names of all that a file may import, wherever in it; some may be no modules."""
    if source.path.suffix != ".py":
        return
    try:
        tree = ast.parse(source.path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise CardError(f"{source.path}: is no sound Python ({error})") from error
    package = source.module if source.is_package else source.module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # relative to nothing: it fails when it is run
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _located(module: str) -> ModuleSpec | None:
    """Return where a module lies; nothing is imported, its packages neither."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _distribution(module: str, spec: ModuleSpec) -> str | None:
    """Return name and version of the installed distribution that has the module, if one has."""
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    if not _INSTALLED & set(Path(place).parts):
        return None  # an editable install, too: its version says nothing of its sources
    names = sorted(set(_distributions().get(module.partition(".")[0], ())))
    return ", ".join(f"{name} {metadata.version(name)}" for name in names) or None


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
