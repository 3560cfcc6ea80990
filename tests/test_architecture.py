"""The shape of the code: imports go one way, light modules stay light, cards are data."""

import ast
import graphlib
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "segbench"

# A module may import from its own row and the rows above it. Rows marked True must not load torch.
ROWS: list[tuple[bool, tuple[str, ...]]] = [
    (True, ("errors", "files", "version")),
    (True, ("metrics", "leases")),
    (True, ("schema",)),
    (True, ("statistics",)),
    (True, ("claims",)),
    (False, ("data", "models")),
    (False, ("engine",)),
    (True, ("runs",)),
    (False, ("work",)),
    (True, ("launch",)),
    (True, ("report",)),
    (
        True,
        ("commands",),
    ),
    (True, ("cli", "__main__")),
]
HEAVY = ("torch", "torchvision", "ray", "datasets", "submitit", "matplotlib")


def modules() -> list[tuple[str, Path]]:
    return [(_name(path), path) for path in sorted(PACKAGE.rglob("*.py"))]


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _row(module: str) -> int:
    top = module.split(".", maxsplit=1)[0]
    for index, (_, names) in enumerate(ROWS):
        if top in names:
            return index
    raise AssertionError(f"segbench.{module} stands in no row of {__file__}")


def imported_by(path: Path) -> set[str]:
    """Return the modules of segbench that a file imports, anywhere in it, without the package."""
    known, found = {name for name, _ in modules()}, set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("segbench.") for name in names if name.startswith("segbench.")}
    return found & known


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if m])
def test_imports_go_one_way(module, path):
    for other in imported_by(path):
        assert _row(other) <= _row(module), f"{path.name} imports segbench.{other}, a later row"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported_by(path) - {module} for module, path in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # a circle raises CycleError, which names it


def test_light_modules_load_nothing_heavy():
    light = [m for m, _ in modules() if m and ROWS[_row(m)][0] and m != "__main__"]
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
            "from segbench import drive, drive_batch_norm, drive_preflight",
            "path = Path('experiments/quickstart.yaml')",
            f"flags = drive.Flags(results=Path({str(tmp_path)!r}))",
            "prepared = drive.prepare_run(path, flags)",
            "assert drive_preflight.missing_files(prepared) == []",
            "drive_preflight.check_same_files(prepared)",
            "trials = prepared.asked.trials.values()",
            "assert drive_batch_norm.tiny_batches(trials, path).warning",
            f"heavy = [h for h in {HEAVY!r} if h in sys.modules]",
            "assert not heavy, heavy",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_module_says_its_job_in_its_first_line():
    for name, path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring and docstring.splitlines()[0].strip(), f"{name} has no docstring"


def test_folders_of_cards_hold_no_python():
    for folder in ("backbones", "datasets", "experiments"):
        assert not list((ROOT / folder).rglob("*.py"))


def test_hugging_face_datasets_is_not_shadowed_by_our_folder():
    code = "import datasets; assert hasattr(datasets, 'Dataset'), datasets.__path__"
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
