"""A worker that dies in the narrow places between two files leaves nothing that is wrong later."""

import os

import pytest
from command_line import invoked

from segbench.commands.run import Flags, prepare_run
from segbench.launch.local import grace_seconds
from segbench.launch.slurm.launcher import sbatch_options
from segbench.runs.record import load_run
from segbench.runs.trial_files import is_done, load_result, load_trial, trial_folder
from segbench.schema.launching import Launch
from segbench.schema.machine import Machine, Monitor
from segbench.schema.protocol import Protocol
from segbench.work import trial as trial_module
from segbench.work.trial import run_trial


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


@pytest.mark.parametrize("place", ["save_weights", "evaluate_trial", "remove_checkpoints"])
def test_a_kill_between_two_files_changes_no_byte(toy_project, tmp_path, monkeypatch, place):
    flags = Flags(results=tmp_path / "results")
    plan = prepare_run(toy_project / "experiments" / "toy.yaml", flags).asked
    trial = next(iter(plan.trials.values()))
    machine = Machine(
        cache=str(tmp_path / "cache"), device="cpu", threads=1,
        monitor=Monitor(log_every_steps=2, checkpoint_every_steps=2, validate_images=2),
    )  # fmt: skip
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert run_trial(trial, straight, machine=machine, protocols=(Protocol(),)) == "done"

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, place, die)
        with pytest.raises(Killed):
            run_trial(trial, broken, machine=machine, protocols=(Protocol(),))
    if place == "save_weights":
        assert (broken / "last.ckpt").exists()  # of the last step
    assert run_trial(trial, broken, machine=machine, protocols=(Protocol(),)) == "done"
    for name in ("model.safetensors", "result.json", "log.jsonl"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name
    result = load_result(broken)
    assert result is not None
    assert result.final_loss is not None


@pytest.mark.parametrize("torn", ["result.json", "evaluations/*.json", "evaluations/*.npz"])
def test_a_torn_file_is_named_wherever_its_figures_are_missed(toy_run, monkeypatch, torn):
    workdir = trial_folder(toy_run, load_run(toy_run).cells[0].trial_id)
    (path,) = workdir.glob(torn)
    path.write_bytes(path.read_bytes()[:50])
    monkeypatch.chdir(toy_run.parents[1])

    def said(*words: object) -> str:
        done = invoked(*words)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    name = path.relative_to(workdir).as_posix()
    assert f"{name}: damaged; the same command makes it again" in said("status", toy_run)
    assert f"{path.name}: is damaged and counts as missing" in said("report", toy_run)
    planned = said("run", "experiments/toy.yaml", "--only", "head=fcn32s", "--dry-run")
    assert f": to run ({path.name}: damaged)" in planned
    assert ": done" in planned


@pytest.mark.parametrize("torn", ["model.safetensors", "evaluations/*.npz"])
def test_a_torn_file_is_made_again_and_leftovers_of_kills_go(toy_run, torn):
    record = load_run(toy_run)
    protocols = tuple(record.protocols.values())
    workdir = trial_folder(toy_run, record.cells[0].trial_id)
    names = sorted(workdir.glob("*.safetensors")) + sorted(workdir.glob("evaluations/*"))
    before = {path: path.read_bytes() for path in names}
    (path,) = workdir.glob(torn)
    path.write_bytes(path.read_bytes()[:200])
    if torn == "model.safetensors":  # a training's end that was cut off
        (workdir / "result.json").unlink()
    leftovers = [workdir / f".{name}.77.ab.tmp" for name in ("last.ckpt", "model.safetensors")]
    others = [workdir / "leases" / ".0002.json.host.77.tmp", workdir / ".trial.json.77.ab.tmp"]
    for path in (*leftovers, *others):
        path.write_bytes(b"half")
    assert not is_done(workdir, protocols)
    machine = Machine(cache=os.environ["SEGBENCH_CACHE"], device="cpu", threads=1)
    outcome = run_trial(load_trial(workdir), workdir, machine=machine, protocols=protocols)
    assert outcome == "done"
    assert {path: path.read_bytes() for path in names} == before
    assert not any(leftover.exists() for leftover in leftovers)
    assert all(path.exists() for path in others)  # of commands that write just now


@pytest.mark.parametrize("minutes", [None, 1, 3, 5, 8, 600])
def test_the_workers_grace_ends_before_slurm_ends_the_job(minutes):
    launch = Launch(time_minutes=minutes)
    left = sbatch_options(launch)["signal_delay_s"] - grace_seconds(launch)
    assert left >= 4  # for the batch script to requeue the job
    assert grace_seconds(launch) >= 8
