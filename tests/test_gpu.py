"""What only a CUDA device shows; `pytest -m gpu` on a machine that has one."""

import math

import pytest
import torch

from segbench.commands.run import Flags, prepare_run
from segbench.runs import trial_files
from segbench.work.trial import run_trial


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trial_trains_and_is_scored_on_a_gpu_in_every_precision(toy_project, tmp_path, precision):
    flags = Flags(
        cards=(toy_project,),
        only=("head=fcn8s",),
        seeds=1,
        settings=(f"train.precision={precision}",),
        cache=tmp_path / "cache",
        device="cuda",
        results=tmp_path / "results",
    )
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    protocols = tuple(prepared.asked.experiment.evaluate.values())
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=protocols) == "done"
    result = trial_files.load_result(workdir)
    assert result is not None
    assert result.final_loss is not None
    assert math.isfinite(result.final_loss)
    assert "cuda" not in (workdir / "result.json").read_text()
