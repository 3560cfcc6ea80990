"""The shape of the code: imports go one way, light modules stay light, cards are data."""

import ast
import graphlib
import importlib
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "segbench"

GROUND = {"errors", "files", "leases", "code"}
# Which wings a wing may import, beside itself and the ground. Not rows: a wing that stands low may not
# be imported by all above it, so a report cannot reach a worker.
ARROWS: dict[str, set[str]] = {
    **{module: set() for module in GROUND},
    "fetch": set(),
    "metrics": set(),
    "schema": {"metrics"},
    "statistics": {"metrics"},
    "claims": {"schema", "metrics", "statistics"},
    "data": {"schema", "fetch"},
    "models": {"schema", "fetch"},
    "engine": {"schema", "metrics", "data", "models"},
    "runs": {"schema", "fetch", "metrics", "statistics", "claims"},
    "work": {"schema", "metrics", "data", "models", "engine", "runs"},
    "launch": {"schema", "runs"},
    "report": {"schema", "metrics", "statistics", "claims", "runs"},
    "commands": {
        "schema",
        "metrics",
        "statistics",
        "claims",
        "data",
        "models",
        "runs",
        "launch",
        "report",
    },
    "cli": {"schema", "statistics", "claims", "runs", "launch", "report", "commands"},
    "__main__": {"schema", "cli"},
    "worker": {"work"},  # two doors of the last release
    "spec": {"schema"},
    "api": {"schema", "metrics", "statistics", "runs", "launch", "report", "commands"},
    "": {"api"},
}
# What a wing may import inside a function alone, since it loads torch.
LAZY = {
    "launch": {"work", "engine"},
    "commands": {"work", "engine"},
    "cli": {"work"},
    "api": {"models"},
    "": {"engine"},
}
# These load torch; all others must not.
HEAVY_WINGS = {"data", "models", "engine", "work"}
HEAVY = ("torch", "torchvision", "ray", "datasets", "submitit", "matplotlib")


def modules() -> list[tuple[str, Path]]:
    return [(_name(path), path) for path in sorted(PACKAGE.rglob("*.py"))]


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def wing_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imported_by(path: Path, *, at_top_only: bool = False) -> set[str]:
    """Return the modules of segbench that a file imports, without the package.

    at_top_only: leave out what functions import when they are called, and what types alone need.
    """
    known, found = {name for name, _ in modules()}, set()
    tree = ast.parse(path.read_text())
    for node in _outside_functions(tree) if at_top_only else ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            is_package = all(name.removeprefix("segbench.") in known for name in inner)
            names = inner if is_package else [node.module, *inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("segbench.") for name in names if name.startswith("segbench.")}
    return found & known


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        is_called = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_for_types and not is_called:
            yield child
            yield from _outside_functions(child)


def wrong_arrows(module: str, path: Path) -> list[str]:
    """Return the modules that a file may not import."""
    wing = wing_of(module)
    assert wing in ARROWS, f"segbench.{module} belongs to no wing of {__file__}"
    at_top = imported_by(path, at_top_only=True)

    def is_allowed(other: str) -> bool:
        ours = {other, wing_of(other)}
        allowed = ARROWS[wing] | GROUND | {wing}
        return bool(ours & allowed or (other not in at_top and ours & LAZY.get(wing, set())))

    return sorted(other for other in imported_by(path) if not is_allowed(other))


@pytest.mark.parametrize(("module", "path"), modules())
def test_a_wing_imports_only_the_wings_that_it_may(module, path):
    assert not wrong_arrows(module, path)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("statistics.power", "from segbench.launch.base import Work"),
        ("report.cells", "from segbench.work.worker import work"),
        ("launch.base", "from segbench.work.worker import work"),  # but within a function it may
        ("models.trunk", "from segbench.data.batches import Batch"),
        ("metrics.own", "from segbench.schema.catalog import Catalog"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, module, line):
    planted = tmp_path / "planted.py"
    planted.write_text(f"{line}\n")
    assert wrong_arrows(module, planted)


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported_by(path) - {module} for module, path in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # a circle raises CycleError, which names it


def test_no_wings_import_each_other():
    wings = {(wing_of(m), wing_of(other)) for m, path in modules() for other in imported_by(path)}
    assert not {(one, other) for one, other in wings if one != other and (other, one) in wings}


def test_a_module_has_its_name_of_the_last_release():
    spec = importlib.import_module("segbench.spec.recipe")
    assert spec is importlib.import_module("segbench.schema.recipe")


def test_light_modules_load_nothing_heavy():
    light = [m for m, _ in modules() if wing_of(m) not in {*HEAVY_WINGS, "", "__main__"}]
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {light!r}:",
            "    importlib.import_module('segbench.' + name)",
            f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]",
            "    assert not heavy, f'segbench.{name} loads {heavy}'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_run_looks_at_before_it_starts_loads_no_torch(tmp_path):
    """Torch takes seconds to load, on a login node too; workers alone need it."""
    code = "\n".join(
        [
            "import sys",
            "from pathlib import Path",
            "from segbench.commands import batch_norm, preflight, run",
            "path = Path('experiments/quickstart.yaml')",
            f"flags = run.Flags(results=Path({str(tmp_path)!r}))",
            "prepared = run.prepare_run(path, flags)",
            "assert preflight.missing_files(prepared) == []",
            "preflight.check_same_files(prepared)",
            "trials = prepared.asked.trials.values()",
            "assert batch_norm.tiny_batches(trials, path).warning",
            f"heavy = [h for h in {HEAVY!r} if h in sys.modules]",
            "assert not heavy, heavy",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_worker_loads_what_takes_seconds_when_it_is_used():
    late = ("torchvision", "datasets", "tensorboard", "torch._dynamo", "matplotlib", "scipy")
    code = f"import sys, segbench.work.worker; print([m for m in {late!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_every_module_says_its_job_in_its_first_line():
    for name, path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring and docstring.splitlines()[0].strip(), f"{name} has no docstring"


def test_folders_of_cards_hold_no_python():
    for folder in ("backbones", "datasets", "experiments"):
        assert not list((ROOT / folder).rglob("*.py"))


def test_hugging_face_datasets_is_not_shadowed_by_our_folder():
    code = (
        "from importlib.metadata import distribution; from importlib.util import find_spec;"
        "installed = distribution('datasets').locate_file('datasets/__init__.py');"
        "assert find_spec('datasets').origin == str(installed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_installed_elsewhere_lists_the_same_cards(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    # the environment sees this one's packages, so torch is not installed twice, but not the checkout
    venv.create(tmp_path / "venv", with_pip=True)
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    ours = Path(pytest.__file__).parents[1]
    subprocess.run(
        [
            str(tmp_path / "venv/bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            str(wheel),
        ],
        check=True,
    )
    (site / "others.pth").write_text(f"{ours}\n")  # after the wheel's own folder on the path
    for kind in ("backbones", "datasets", "heads"):
        here, there = (
            subprocess.run(
                [str(python), "-m", "segbench", "list", kind],
                cwd=cwd, capture_output=True, text=True, check=True,
            ).stdout
            for python, cwd in ((sys.executable, ROOT), (tmp_path / "venv/bin/python", tmp_path))
        )  # fmt: skip
        assert here == there
    where = subprocess.run(
        [str(tmp_path / "venv/bin/python"), "-c", "import segbench; print(segbench.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(tmp_path))
