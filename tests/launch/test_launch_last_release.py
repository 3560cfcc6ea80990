"""What the last release has queued still starts: job files, pickles and module names of its own."""

import json
import os
import subprocess
import sys

import pytest
import submitit.core.utils

from segbench.launch import on_slurm
from segbench.runs import trial_files
from segbench.runs.record import load_run

MOVED = {
    "segbench.worker": "segbench/work/worker.py",
    "segbench.launch.element": "segbench/launch/job.py",
    "segbench.launch.rank": "segbench/launch/ranks.py",
    "segbench.launch.rung": "segbench/launch/ray/rung.py",
}
LAUNCH = {
    **{"launcher": "slurm", "workers": "auto", "gpus_per_trial": 0.0, "cpus_per_trial": None},
    **{"memory_gib": None, "time_minutes": None, "partition": None, "account": None},
    **{"throttle": None, "trials_per_job": 1, "ranks_per_trial": 1, "max_attempts": 5},
    **{"setup": [], "sbatch": {}, "address": None, "stage_data_to": None, "loader_workers": 0},
    "cells": [],
}


@pytest.fixture
def queued(toy_run):
    """A job's file of the last release, and its trial, which has lost its evaluation."""
    workdir = trial_files.trial_folder(toy_run, load_run(toy_run).cells[0].trial_id)
    for path in (workdir / "evaluations").iterdir():
        path.unlink()
    machine = {
        **{"cache": os.environ["SEGBENCH_CACHE"], "data": [], "weights": [], "code_folders": []},
        **{"trusted": [], "device": "cpu", "threads": 1, "stage_data_to": None},
        **{"loader_workers": 0, "monitor": {"log_every_steps": 2, "validate_images": 2}},
    }
    protocol = json.loads(load_run(toy_run).experiment.evaluate["native"].model_dump_json())
    job_path = toy_run / "jobs" / "0123456789ab.json"
    job_path.parent.mkdir(exist_ok=True)
    job = {"run_folder": str(toy_run), "machine": machine, "protocols": [protocol]}
    job_path.write_text(json.dumps({**job, "code_version": "0.1.0"}))
    return job_path, workdir


def test_an_array_element_that_was_pickled_by_its_old_name_does_its_trial(queued, monkeypatch):
    job_path, workdir = queued
    folder = job_path.parent / "submitit"
    folder.mkdir()
    monkeypatch.setattr(on_slurm.run_element, "__module__", "segbench.launch.on_slurm")
    call = (str(job_path), [workdir.name], json.dumps(LAUNCH))
    pickled = folder / "7_submitted.pkl"
    submitit.core.utils.DelayedSubmission(on_slurm.run_element, *call).dump(pickled)
    assert b"segbench.launch.on_slurm" in pickled.read_bytes()
    done = subprocess.run(  # as submitit's batch script does
        [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
        env={**os.environ, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((workdir / "evaluations").glob("*.json"))


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_that_was_started_by_its_old_name_is_there(old, new):
    done = subprocess.run([sys.executable, "-m", old], capture_output=True, text=True, check=False)
    assert new in done.stderr.replace(os.sep, "/") or "usage: " in done.stderr
    assert "No module named" not in done.stderr
