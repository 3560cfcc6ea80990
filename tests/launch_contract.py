"""What every launcher keeps, built in or one's own: two trials of which one fails."""

from pathlib import Path

import pytest
from launch_faults import result_bytes, results_so_far, wait_until
from typer.testing import CliRunner

from segbench.cli import app
from segbench.commands.run import Flags, PreparedRun, prepare_run
from segbench.launch.launchers import cancel_jobs, jobs_of, launcher_named
from segbench.runs import trial_files
from segbench.runs.record import load_run
from segbench.runs.status import statuses
from segbench.work.trial import run_trial

SETTINGS = ("sweep.head=[fcn32s]", "sweep.seeds=1", "sweep.variant=[good, bad]")
VARIANTS = "\nvariants:\n  good: {}\n  bad: {train.stages.0.optimizer.lr: 1e+30}\n"


def contract_project(project: Path) -> Path:
    """Give the toy project a variant that diverges."""
    path = project / "experiments" / "toy.yaml"
    path.write_text(path.read_text() + VARIANTS)
    return project


def prepared_in(project: Path, results: str, *settings: str) -> PreparedRun:
    flags = Flags(settings=(*SETTINGS, *settings), device="cpu", results=project / results)
    return prepare_run(project / "experiments" / "toy.yaml", flags)


def trials_without_a_launcher(project: Path) -> dict[str, bytes]:
    """Return the bytes that every launcher must give."""
    prepared = prepared_in(project, "expected")
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    for trial_id, trial in prepared.asked.trials.items():
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        run_trial(trial, workdir, machine=prepared.machine, protocols=protocols)
    return of_trials(prepared.run_folder)


def of_trials(run_folder: Path) -> dict[str, bytes]:
    return {n: data for n, data in result_bytes(run_folder).items() if n.startswith("trials/")}


def check_launcher(
    project: Path, name: str, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the two trials twice and look at what is left."""
    monkeypatch.chdir(project)
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    waits = ["--wait"] if launcher_named(name).leaves else []
    words = ["run", "experiments/toy.yaml", "--launcher", name, "--device", "cpu", *sets, *waits]
    run_folder = project / "results" / "toy"

    first = CliRunner().invoke(app, words)
    assert first.exit_code == 1, first.output  # a trial failed, and the other went on
    states = sorted(
        s.state for s in statuses(run_folder, load_run(run_folder), jobs_of(run_folder))
    )
    assert states == ["done", "failed"]
    assert of_trials(run_folder) == expected

    before = results_so_far(run_folder)
    again = CliRunner().invoke(app, words)
    assert "2 ended, 0 to run" in again.output
    assert results_so_far(run_folder) == before

    assert set(jobs_of(run_folder)) <= {cell.trial_id for cell in load_run(run_folder).cells}
    # a job ends some time after its last trial
    wait_until(lambda: not any(job.is_queued for job in jobs_of(run_folder).values()))
    assert cancel_jobs(run_folder) == []
