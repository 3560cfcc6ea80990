"""The user's own code: found without being run, and known again by its sources."""

import hashlib
import importlib.metadata
import subprocess
import sys

import pytest

from segbench.code import own as own_code
from segbench.code.own import code_of, difference
from segbench.errors import CardError


@pytest.fixture(autouse=True)
def _own_path(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "here")])
    monkeypatch.setattr(own_code, "_loaded", {})


@pytest.fixture
def here(write, monkeypatch):
    """Return a function that writes trusted modules; none of them may be run."""
    monkeypatch.setenv("SEGBENCH_TRUSTED", "ownnet:ownpackage:scipy")

    def writer(**texts: str) -> None:
        for name, text in texts.items():
            stem = name.replace("__", "/") if name != "ownpackage" else "ownpackage/__init__"
            write(f"here/{stem}.py", f"{text}\nraise AssertionError('this was run')\n")

    return writer


def modules(name: str) -> list[str]:
    return list(code_of([name]))


def test_functions_of_segbench_and_torchvision_are_no_code_of_the_users():
    assert code_of(["torchvision.models:resnet18", "segbench.models.googlenet:googlenet"]) == {}


def test_a_module_counts_by_the_sha256_of_its_file(here, tmp_path):
    here(ownnet="x = 1")
    expected = hashlib.sha256((tmp_path / "here" / "ownnet.py").read_bytes()).hexdigest()
    assert code_of(["ownnet:build"]) == {"ownnet": expected}


def test_what_a_module_imports_from_beside_it_counts_too_wherever_in_the_file(here):
    here(
        ownnet="import torch, os\nimport ownlayers\ndef build():\n    from ownblocks import Block",
        ownlayers="import ownnet",  # in a circle
        ownblocks="from missing_package import nothing",
        stranger="",
    )
    assert modules("ownnet:build") == ["ownblocks", "ownlayers", "ownnet"]


def test_packages_count_with_what_runs_when_they_are_imported(here):
    here(
        ownpackage="from . import first",
        ownpackage__first="from .second import thing",
        ownpackage__second="",
        ownpackage__net="from ..ownpackage.third import other",  # leads out of the package: it fails
        ownpackage__third="",
    )
    assert modules("ownpackage.net:build") == [
        "ownpackage",
        "ownpackage.first",
        "ownpackage.net",
        "ownpackage.second",
    ]


@pytest.mark.parametrize("changed", ["ownnet", "ownlayers"])
def test_a_change_of_any_of_the_files_is_another_code(here, changed):
    texts = {"ownnet": "import ownlayers", "ownlayers": ""}
    here(**texts)
    before = code_of(["ownnet:build"])
    here(**{changed: texts[changed] + "\n# another"})
    now = code_of(["ownnet:build"])
    assert difference(before, now) == f"{changed} has changed"
    here(**texts)
    assert code_of(["ownnet:build"]) == before


def test_an_installed_package_counts_by_name_and_version():
    version = importlib.metadata.version("scipy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGBENCH_TRUSTED", "scipy")
        assert code_of(["scipy.stats:norm"]) == {"scipy": f"scipy {version}"}


def test_differences_are_said_in_words():
    assert difference({"a": "1"}, {"a": "1"}) == ""
    assert difference({"timm": "timm 1.0.9"}, {"timm": "timm 1.0.10"}) == (
        "timm 1.0.9 is now timm 1.0.10"
    )
    assert difference({"a": "1", "b": "2"}, {"a": "1", "c": "2"}) == "c is new, b is gone"
    assert difference({}, {"a": "1"}) == "it was not recorded what a was then"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:getcwd", "'os', which is not trusted"),
        ("ownnetwork:build", "'ownnetwork', which is not trusted"),
        (
            "ownnet:build",
            r"ownnet:build cannot be found: there is no module 'ownnet' beside the card",
        ),
        ("scipy.nowhere:build", "no module 'scipy.nowhere'"),
    ],
)
def test_what_is_not_trusted_or_not_there_is_told(here, name, message):
    with pytest.raises(CardError, match=message):
        code_of([name])


def test_a_file_that_is_no_python_is_named_with_its_line(here):
    here(ownnet="def build(:")
    with pytest.raises(CardError, match=r"ownnet\.py: is no sound Python .*line 1"):
        code_of(["ownnet:build"])


def test_code_in_use_is_that_which_was_imported(here, tmp_path):
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "ownnet.py"
    path.write_text("def build():\n    return 1\n")
    before = code_of(["ownnet:build"])
    try:
        assert own_code.trusted_function("ownnet:build")() == 1
        path.write_text("def build():\n    return 2\n")
        assert own_code.code_in_use(["ownnet:build"]) == before != code_of(["ownnet:build"])
    finally:
        sys.modules.pop("ownnet", None)


def test_a_folder_of_yaml_called_datasets_hides_nothing(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "numbers.py").write_text("raise AssertionError('stands in for a module of Python')")
    lines = [
        "from segbench.code.own import look_in, move_current_folder_last",
        "move_current_folder_last()",
        f"look_in([{str(tmp_path)!r}])",
        "import numbers",
        "from importlib.metadata import distribution",
        "from importlib.util import find_spec",
        "installed = distribution('datasets').locate_file('datasets/__init__.py')",
        "assert find_spec('datasets').origin == str(installed)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
