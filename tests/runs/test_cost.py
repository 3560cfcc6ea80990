"""What a model costs: counted arithmetic against its layers, and what trials put on file of it."""

import numpy as np
import pytest
import torch
from torch import nn

from segbench.data.split import open_split
from segbench.engine.cost import FLOPS_SIDE, forward_flops
from segbench.engine.device import peak_memory_mib, reset_peak_memory
from segbench.models.segmenter import build_segmenter
from segbench.runs import trial_files
from segbench.runs.observed import counts_of_evaluation, facts_of, observed, shared_times
from segbench.runs.record import load_rows, load_run
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import built_in_root, read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.machine import Machine


@pytest.mark.parametrize("backbone", ["resnet18", "googlenet"])
def test_flops_are_twice_the_multiplications_of_every_layer(backbone: str):
    card = read_card(built_in_root() / "backbones" / f"{backbone}.yaml", BackboneCard)
    segmenter = build_segmenter(card, HEADS["fcn32s"], Model(), 21).eval()
    multiplications = 0

    def counted(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal multiplications
        assert isinstance(module, nn.Conv2d)
        multiplications += module.weight[0].numel() * output.numel()

    hooks = [
        module.register_forward_hook(counted)
        for module in segmenter.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        segmenter(torch.zeros(1, 3, FLOPS_SIDE, FLOPS_SIDE))
    for hook in hooks:
        hook.remove()
    # Beyond the layers there is only the bilinear upsampling of 21 score maps.
    assert 0 < forward_flops(segmenter) - 2 * multiplications < 0.3e9
    assert next(segmenter.parameters()).device.type == "cpu"


def test_a_trial_puts_its_costs_and_its_training_classes_on_file(toy_run):
    record = load_run(toy_run)
    row = next(row for row in load_rows(toy_run, record) if row.is_done)
    facts = facts_of(row)
    assert facts["flops"] > facts["parameters"] > 0
    assert "forward_ms" not in facts  # it was measured beside other trials
    assert shared_times(row)["forward_ms"] > 0
    assert shared_times(row)["training_s"] > 0
    workdir = trial_files.trial_folder(toy_run, row.cell.trial_id)
    trial = trial_files.load_trial(workdir)
    split = open_split(trial.dataset, "train", Machine(cache=str(toy_run.parents[2] / "cache")))
    labels = np.concatenate([split.label(i).numpy().ravel() for i in range(len(split))])
    seen = observed(row, "native", counts_of_evaluation(toy_run, row, "native"))
    assert seen.training_pixels is not None
    assert seen.training_images is not None
    assert seen.training_pixels.tolist() == [int((labels == index).sum()) for index in range(3)]
    assert seen.training_images.tolist() == [
        sum(bool((split.label(i) == index).any()) for i in range(len(split))) for index in range(3)
    ]


def test_scoring_again_keeps_what_the_training_cost(toy_run):
    from segbench.work.trial import run_trial

    record = load_run(toy_run)
    workdir = trial_files.trial_folder(toy_run, record.cells[0].trial_id)
    before = trial_files.load_provenance(workdir)
    assert before is not None
    assert before.step_seconds is not None
    flipped = record.experiment.evaluate["native"].revised(flip=True)
    machine = Machine(cache=str(toy_run.parents[2] / "cache"), device="cpu")
    assert run_trial(
        trial_files.load_trial(workdir), workdir, machine=machine, protocols=(flipped,)
    ) == "done"  # fmt: skip
    after = trial_files.load_provenance(workdir)
    assert after is not None
    assert (after.step_seconds, after.train_seconds) == (before.step_seconds, before.train_seconds)
    assert after.finished >= before.finished


def test_the_peak_of_memory_begins_anew_with_each_trial_of_a_process():
    cpu = torch.device("cpu")
    np.ones(2**26)  # 512 MiB, given back at once
    before = peak_memory_mib(cpu)
    reset_peak_memory(cpu)
    assert peak_memory_mib(cpu) < before - 256
