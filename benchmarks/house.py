"""Figures of the house: how many lines, modules, floors, circles, long functions, names used twice.

    python benchmarks/house.py            # the figures
    python benchmarks/house.py --names    # every public name that is defined more than once

Reads the package as text and imports nothing of it. A floor is a level of wings: a wing stands one
above the highest wing that it imports. A loose module lies beside the wings, not in one.
"""

import argparse
import ast
import graphlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "segbench"
DOORS = {"", "__main__"}  # the package itself and `python -m segbench`
LONG = 40  # lines


def main() -> None:
    """Print the figures, or the names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--names", action="store_true", help="public names defined more than once")
    trees = {_module(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    if parser.parse_args().names:
        for name, where in sorted(_defined_twice(trees).items()):
            print(f"{name}: {', '.join(where)}")
        return
    lines = sum(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py"))
    wings = _wings(trees)
    loose = [module for module in trees if "." not in module and module in wings]
    loose = [module for module in loose if not (PACKAGE / module).is_dir() and module not in DOORS]
    long = [f for tree in trees.values() for f in _functions(tree) if _length(f) > LONG]
    many = [f for tree in trees.values() for f in _functions(tree) if _parameters(f) > 6]
    print(f"lines of Python          {lines}")
    print(f"modules                  {len(trees)}")
    print(f"loose modules            {len(loose)}: {', '.join(loose)}")
    print(f"floors                   {1 + max(_floors(wings).values())}")
    print(f"arrows between wings     {sum(len(others) for others in wings.values())}")
    both = sorted({"/".join(sorted((a, b))) for a in wings for b in wings[a] if a in wings[b]})
    print(f"wings that import both ways  {len(both)}: {', '.join(both)}")
    print(f"circles of modules       {_circles(trees)}")
    print(f"functions over {LONG} lines  {len(long)}")
    print(f"over six parameters      {len(many)}")
    print(f"names defined twice      {len(_defined_twice(trees))}")


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(module: str, trees: dict[str, ast.Module]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(trees[module]):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = {name.removeprefix("segbench.") for name in names}
            found |= inner & trees.keys() or {node.module.removeprefix("segbench.")}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("segbench.") for alias in node.names}
    return (found & trees.keys()) - {module}


def _wings(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return the wings that each wing imports; imports within functions count too."""
    wings: dict[str, set[str]] = defaultdict(set)
    for module in trees:
        wing = module.split(".")[0]
        wings[wing] |= {other.split(".")[0] for other in _imports(module, trees)} - {wing}
    return wings


def _floors(wings: dict[str, set[str]]) -> dict[str, int]:
    """Return each wing's floor, from 0; wings that import each other share one."""
    below = {wing: _reached(wing, wings) for wing in wings}
    floors: dict[str, int] = {}

    def floor(wing: str) -> int:
        if wing not in floors:
            lower = {other for other in below[wing] if wing not in below.get(other, set())}
            floors[wing] = 1 + max(map(floor, lower), default=-1)
        return floors[wing]

    for wing in wings:
        floor(wing)
    return floors


def _reached(wing: str, wings: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [wing]
    while waiting:
        new = wings.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def _circles(trees: dict[str, ast.Module]) -> int:
    graph = {module: _imports(module, trees) for module in trees}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return 1
    return 0


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def _defined_twice(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Return the public classes and functions of modules that several modules define."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for node in tree.body:
            is_named = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if is_named and not node.name.startswith("_"):
                places[node.name].append(module)
    return {name: where for name, where in places.items() if len(where) > 1 and name != "main"}


if __name__ == "__main__":
    main()
