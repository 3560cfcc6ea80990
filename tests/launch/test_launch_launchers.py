"""The table of launchers: what all of them keep, one's own among them, and what inline is for."""

import bdb
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from launch_contract import (
    check_launcher,
    contract_project,
    of_trials,
    prepared_in,
    trials_without_a_launcher,
)
from toy_world import new_project
from typer.testing import CliRunner

from segbench.cli import app
from segbench.commands.run import start, unfinished
from segbench.errors import ExperimentError, LaunchError
from segbench.launch.base import Launcher
from segbench.launch.inline import Inline
from segbench.launch.launchers import LAUNCHERS, jobs_of, remember
from segbench.runs import trial_files
from segbench.schema import launching

OWN = "own_launcher:Detached"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    cache = shutil.copytree(toy_cache, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGBENCH_CACHE", str(cache))
        return trials_without_a_launcher(contract_project(new_project(folder / "project")))


@pytest.fixture
def project(toy_project, monkeypatch):
    monkeypatch.setenv("SEGBENCH_TRUSTED", "own_launcher")
    return contract_project(toy_project)


@pytest.mark.parametrize(
    "name", ["local", "inline", OWN, pytest.param("ray", marks=pytest.mark.slow)]
)
def test_every_launcher_gives_the_same_bytes_and_does_nothing_twice(
    project, expected, monkeypatch, name
):
    check_launcher(project, name, expected, monkeypatch)


def test_the_names_of_the_schema_are_those_of_the_table():
    assert tuple(LAUNCHERS) == launching.LAUNCHERS


def test_a_launcher_that_is_not_there_is_told_in_one_line(project):
    with pytest.raises(ExperimentError, match=r"no launcher 'slrm'; did you mean 'slurm'") as told:
        prepared_in(project, "results", "launch.launcher=slrm")
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (OWN, "which is not trusted"),
        ("own_launcher:Nobody", "cannot be found"),
        ("own_launcher:read_json", r"is no segbench\.launch\.base\.Launcher"),
    ],
)
def test_a_launcher_of_ones_own_that_cannot_be_had_is_told(project, monkeypatch, name, reason):
    if "trusted" in reason:
        monkeypatch.delenv("SEGBENCH_TRUSTED")
    with pytest.raises(LaunchError, match=reason):
        prepared_in(project, "results", f"launch.launcher={name}")


def test_check_tells_of_a_launcher_that_cannot_be_had(project, monkeypatch):
    path = project / "experiments" / "toy.yaml"
    own = f"launch: {{workers: 1, launcher: '{OWN}'}}"
    path.write_text(path.read_text().replace("launch: {workers: 1}", own))
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0
    monkeypatch.delenv("SEGBENCH_TRUSTED")
    refused = CliRunner().invoke(app, ["check", str(path)])
    assert refused.exit_code == 2
    assert f"{path}: launch.launcher: {OWN} would run code of" in " ".join(refused.stderr.split())


def test_ones_own_launcher_changes_no_id_and_is_asked_later_whatever_the_last_command_used(project):
    own = prepared_in(project, "results", f"launch.launcher={OWN}")
    assert list(own.asked.trials) == list(prepared_in(project, "results").asked.trials)
    assert isinstance(own.launcher, Launcher)
    jobs = own.run_folder / "jobs"
    jobs.mkdir(parents=True)
    remember(own.run_folder, OWN)
    remember(own.run_folder, "local")
    (jobs / f"detached-{os.getpid()}.json").write_text('{"trials": ["a"]}')
    assert jobs_of(own.run_folder)["a"].state == "running"
    assert jobs_of(own.run_folder)["a"].logs() == [jobs / "detached.log"]


def test_a_launcher_that_may_not_run_leaves_what_the_files_say(toy_run, monkeypatch):
    remember(toy_run, OWN)
    seen = CliRunner().invoke(app, ["status", str(toy_run)])
    assert seen.exit_code == 0, seen.output
    assert "known from files alone: launch.launcher: own_launcher" in " ".join(seen.stderr.split())
    assert "2 done" in seen.stdout


def test_the_example_of_the_docs_is_the_one_that_is_tested():
    page = (Path(__file__).parents[2] / "docs" / "on-a-cluster.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    assert example in (Path(__file__).parents[1] / "own_launcher.py").read_text()


def good(project, name="results"):
    """Return the run of the trial that does not fail, and its folder."""
    prepared = prepared_in(project, name, "sweep.variant=[good]", "launch.launcher=inline")
    (trial_id,) = prepared.asked.trials
    return prepared, trial_files.trial_folder(prepared.run_folder, trial_id)


def test_ctrl_c_lets_an_inline_trial_save_its_state_and_the_same_command_goes_on(project, expected):
    prepared, workdir = good(project)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start(prepared, dict(prepared.asked.trials), lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert (workdir / "last.ckpt").exists()
    assert not (workdir / "result.json").exists()
    events = []
    start(prepared, unfinished(prepared, retry_failed=False), events.append)
    assert [event.kind for event in events] == ["started", "done"]
    assert of_trials(prepared.run_folder).items() <= expected.items()


OWN_NETWORK = """
import torchvision

def build():
    breakpoint()
    return torchvision.models.mobilenet_v3_small(weights=None)
"""


def test_a_breakpoint_in_a_builder_stops_here_and_quitting_it_fails_nothing(project, monkeypatch):
    (project / "backbones" / "net_of_a_debugger.py").write_text(OWN_NETWORK)
    card = project / "backbones" / "toynet.yaml"
    card.write_text(
        card.read_text().replace("torchvision.models:mobilenet_v3_small", "net_of_a_debugger:build")
    )
    monkeypatch.setenv("SEGBENCH_TRUSTED", "net_of_a_debugger")
    monkeypatch.setattr(sys, "path", list(sys.path))
    answers = [bdb.BdbQuit(), None]
    stopped_in = []

    def debugger():
        stopped_in.append(os.getpid())
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(sys, "breakpointhook", debugger)
    prepared, workdir = good(project)
    with pytest.raises(KeyboardInterrupt):
        start(prepared, dict(prepared.asked.trials), lambda _: None)
    assert not (workdir / "result.json").exists()
    start(prepared, unfinished(prepared, retry_failed=False), lambda _: None)
    assert (workdir / "result.json").exists()
    assert stopped_in == [os.getpid()] * 2
    assert (workdir / "worker.log").exists()


def test_inline_refuses_several_processes_for_a_trial(project):
    prepared, _ = good(project)
    launch = prepared.asked.experiment.launch.revised(ranks_per_trial=2)
    experiment = prepared.asked.experiment.revised(launch=launch)
    of_two = prepared._replace(asked=prepared.asked._replace(experiment=experiment))
    with pytest.raises(LaunchError, match=r"inline does a trial in one process"):
        start(of_two, dict(of_two.asked.trials), lambda _: None)
    assert Inline.place == "process"
