"""From a file to a leaderboard with the toy project: continue, repeat, fail, and never lose anything."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from command_line import invoked
from launch_faults import result_bytes

from segbench.commands.run import Flags, prepare_run
from segbench.runs import trial_files
from segbench.runs.attempts import last_note
from segbench.runs.record import load_run, record_of, write_run
from segbench.runs.trial_files import load_result
from segbench.schema.machine import Machine, Monitor
from segbench.schema.protocol import Protocol
from segbench.work.phases import Stops
from segbench.work.trial import run_trial

RUN = (sys.executable, "-m", "segbench", "run", "experiments/toy.yaml")


def segbench(project: Path, *arguments: str) -> Result:
    """Type a command in the project's folder."""
    with contextlib.chdir(project):
        return invoked(*arguments)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(
        cache=str(tmp_path / "cache"), device="cpu", threads=1,
        monitor=Monitor(log_every_steps=2, checkpoint_every_steps=2, validate_images=2),
    )  # fmt: skip


@pytest.fixture
def toy_trial(toy_project):
    from segbench.commands.run import Flags, prepare_run

    def trial(*settings: str):
        path = toy_project / "experiments" / "toy.yaml"
        plan = prepare_run(path, Flags(settings=settings, results=toy_project / "results")).asked
        return next(iter(plan.trials.values()))

    return trial


def test_one_command_gives_a_leaderboard_and_the_same_command_again_does_nothing(
    toy_project, tmp_path
):
    shutil.rmtree(tmp_path / "cache")  # as on a new machine
    first = subprocess.run(RUN, cwd=toy_project, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "# Leaderboard: toy" in first.stdout
    assert "4 trials; 0 ended, 4 to run" in first.stdout
    run_folder = toy_project / "results" / "toy"
    before = result_bytes(run_folder)
    assert len([name for name in before if name.endswith(".npz")]) == 4
    assert "per_class/toyshapes.md" in before
    times = {p: p.stat().st_mtime_ns for p in run_folder.glob("trials/*/result.json")}
    second = segbench(toy_project, "run", "experiments/toy.yaml")
    assert "4 ended, 0 to run" in second.stdout
    assert times == {p: p.stat().st_mtime_ns for p in run_folder.glob("trials/*/result.json")}
    shutil.rmtree(run_folder / "per_class")
    (run_folder / "leaderboard.md").unlink()
    assert segbench(toy_project, "report", "results/toy").exit_code == 0
    assert result_bytes(run_folder) == before


def test_a_dry_run_says_what_would_run_and_writes_nothing(toy_project):
    done = segbench(toy_project, "run", "experiments/toy.yaml", "--dry-run", "--only", "head=fcn8s")
    assert done.exit_code == 0
    assert "1 backbone x 1 head x 1 dataset x 2 seeds = 2 trials; 0 ended, 2 to run" in done.stdout
    assert not (toy_project / "results").exists()


def test_a_failed_trial_is_a_row_and_the_others_go_on(toy_project):
    text = "variants:\n  well: {}\n  diverging: {train.stages.0.optimizer.lr: 1e30}\n"
    path = toy_project / "experiments" / "toy.yaml"
    path.write_text(path.read_text() + text)
    done = segbench(
        toy_project, "run", "experiments/toy.yaml", "--seeds", "1", "--only", "head=fcn8s"
    )
    assert done.exit_code == 1
    assert "1 of 2 trials failed" in done.stderr
    board = (toy_project / "results/toy/leaderboard.md").read_text()
    assert "## Failed trials" in board
    assert "the training loss became" in board
    assert re.search(r"\| 1 +\| [a-z-]+ +\| toynet +\| fcn8s +\| well", board)
    assert "## Incomplete, not ranked" in board
    again = segbench(
        toy_project, "run", "experiments/toy.yaml", "--seeds", "1", "--only", "head=fcn8s",
        "--dry-run",
    )  # fmt: skip
    assert "2 ended, 0 to run" in again.stdout
    retried = segbench(
        toy_project, "run", "experiments/toy.yaml", "--seeds", "1", "--only", "head=fcn8s",
        "--retry", "failed",
    )  # fmt: skip
    assert "1 to run" in retried.stdout
    status = segbench(toy_project, "status", "results/toy", "--failed")
    assert "diverged" in status.stdout


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_training_that_was_stopped_anywhere_ends_with_the_same_bits(
    tmp_path, toy_trial, machine, loader_workers
):
    trial = toy_trial(
        "train.accumulate=2", "train.images.crop=[32, 32]", "train.images.scale=[0.8, 1.5]"
    )
    machine = machine.revised(loader_workers=loader_workers)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert run_trial(trial, straight, machine=machine, protocols=(Protocol(),)) == "done"
    for stop_after in (1, 2, 2):
        steps = iter(range(100))
        outcome = run_trial(
            trial, broken, machine=machine, protocols=(Protocol(),),
            stops=Stops(lambda steps=steps, n=stop_after: next(steps) >= n - 1),
        )  # fmt: skip
        assert outcome == "interrupted"
    assert run_trial(trial, broken, machine=machine, protocols=(Protocol(),)) == "done"
    for name in ("model.safetensors", "result.json", "log.jsonl"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes()
    assert not (broken / "last.ckpt").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, toy_trial, machine):
    trial = toy_trial()
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run_trial(trial, straight, machine=machine, protocols=(Protocol(),))
    steps = iter(range(100))
    run_trial(
        trial,
        broken,
        machine=machine,
        protocols=(Protocol(),),
        stops=Stops(lambda: next(steps) >= 4),
    )
    newest = broken / "last.ckpt"
    assert (broken / "last.ckpt.previous").exists()
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run_trial(trial, broken, machine=machine, protocols=(Protocol(),)) == "done"
    assert (broken / "model.safetensors").read_bytes() == (
        straight / "model.safetensors"
    ).read_bytes()
    assert "is damaged or half-written; going on from last.ckpt.previous" in last_note(broken)


def test_what_a_worker_warns_of_is_told_on_the_screen(toy_run):
    for workdir in trial_files.trial_folders(toy_run):
        for name in ("result.json", "model.safetensors"):
            (workdir / name).unlink()
        (workdir / "last.ckpt").write_bytes(b"half of it")
    one = ("run", "experiments/toy.yaml", "--only", "head=fcn32s", "--seeds", "1")
    again = segbench(toy_run.parents[1], *one)
    assert again.exit_code == 0, again.stderr
    assert "last.ckpt: damaged or half-written; training starts again" in again.stdout


def test_a_second_protocol_scores_without_training_again(tmp_path, toy_trial, machine):
    trial, workdir = toy_trial(), tmp_path / "trial"
    run_trial(trial, workdir, machine=machine, protocols=(Protocol(),))
    weights = (workdir / "model.safetensors").stat().st_mtime_ns
    flipped = Protocol(flip=True)
    assert run_trial(trial, workdir, machine=machine, protocols=(Protocol(), flipped)) == "done"
    assert (workdir / "model.safetensors").stat().st_mtime_ns == weights
    assert trial_files.load_evaluation(workdir, flipped) is not None


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_undisturbed_bytes(toy_project, tmp_path):
    straight = segbench(toy_project, "run", "experiments/toy.yaml", "--results", tmp_path / "a")
    assert straight.exit_code == 0, straight.stderr
    command = [*RUN, "--results", str(tmp_path / "b")]
    for _ in range(3):
        process = subprocess.Popen(
            command,
            cwd=toy_project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(6)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        command, cwd=toy_project, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert result_bytes(tmp_path / "a" / "toy") == result_bytes(tmp_path / "b" / "toy")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_or_a_polite_kill_saves_and_says_so(toy_project, number):
    # A shell's background jobs ignore ctrl-C and hand that on to their children; this test's must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*RUN, "--set", "train.stages.0.steps=4000"],
        cwd=toy_project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    run_folder = toy_project / "results" / "toy"
    deadline = time.monotonic() + 200
    while not list(run_folder.glob("trials/*/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=250)
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    record = load_run(run_folder)
    done = [load_result(trial_files.trial_folder(run_folder, c.trial_id)) for c in record.cells]
    assert not any(done)
    assert list(run_folder.glob("leases/*")) == []
    assert re.search(
        r"stopped: train [1-9]\d*/4000", segbench(toy_project, "status", "results/toy").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "experiments/none.yaml"], "there is no such experiment file"),
        (
            ["run", "experiments/toy.yaml", "--set", "sweep.backbone=toynt"],
            "did you mean 'toynet'?",
        ),
        (
            ["run", "experiments/toy.yaml", "--set", "train.stages.0.optimizer.lr=-1"],
            "greater than 0",
        ),
        (
            ["run", "experiments/toy.yaml", "--set", "sweep.dataset=voc2012"],
            "segbench prepare voc2012",
        ),
        (["run", "experiments/toy.yaml", "--device", "cuda:7"], "has 0 CUDA devices"),
        (["run", "experiments/toy.yaml", "--retry", "all"], "the only choice is `failed`"),
        (["run", "experiments/toy.yaml", "--results", "experiments/toy.yaml"], "cannot be written"),
        (
            ["run", "experiments/toy.yaml", "--cache", "/proc/self"],
            "choose another folder with --cache",
        ),
        (["report", "results/none"], "holds no run.json"),
        (["status", "results/none"], "holds no run.json"),
        (["status", "experiments/toy.yaml"], "holds no run.json"),
        (
            ["run", "experiments/toy.yaml", "--only", "head"],
            "--only head: expected head=fcn32s,fcn8s, or",
        ),
        (["list", "backbone"], "did you mean 'backbones'?"),
        (["show", "vgg61"], "did you mean 'vgg16'?"),
        (
            ["run", "experiments/toy.yaml", "--cards", "experiments"],
            "no folder `backbones` or `datasets`",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(toy_project, arguments, sentence):
    done = segbench(toy_project, *arguments)
    assert done.exit_code == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert all(sentence in line for line in done.stderr.splitlines()), done.stderr


def test_a_runs_first_protocol_is_the_first_of_its_file(toy_project):
    """The record's keys are written sorted; where no protocol is named the first one is taken."""
    path = toy_project / "experiments" / "toy.yaml"
    settings = ("evaluate={zoomed: {short_side: 40}, mirrored: {flip: true}, native: {}}",)
    prepared = prepare_run(path, Flags(settings=settings, results=toy_project / "results"))
    write_run(prepared.run_folder, record_of(prepared.asked, "x"), prepared.whole)
    assert list(load_run(prepared.run_folder).protocols) == ["zoomed", "mirrored", "native"]


def test_provenance_says_where_and_with_what(tmp_path, toy_trial, machine):
    run_trial(toy_trial(), tmp_path / "t", machine=machine, protocols=(Protocol(),))
    provenance = json.loads((tmp_path / "t" / "provenance.json").read_text())
    assert provenance["device"] == "cpu"
    assert provenance["packages"]["torch"]
    assert provenance["train_split_fingerprint"]
    assert provenance["peak_memory_mib"] > 0
