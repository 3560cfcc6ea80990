"""Nothing that is not finite passes for a number: weights, losses, score maps, windows that leave gaps."""

import math
from pathlib import Path

import pytest
import torch
from command_line import invoked
from PIL import Image
from torch import Tensor, nn

from segbench.commands import preflight
from segbench.commands.run import Flags, prepare_run
from segbench.engine.checkpoint import load_weights, save_weights
from segbench.engine.predict import predict
from segbench.engine.train import Batch, Hooks, train
from segbench.errors import DataError, DivergedError, ExperimentError
from segbench.files import read_json_lines, sha256_of_file
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk import call_builder
from segbench.runs import trial_files
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.machine import Monitor
from segbench.schema.protocol import Protocol, Sliding
from segbench.schema.recipe import Optimizer, Recipe, TrainImages, TrainStage
from segbench.schema.sweep import expand
from segbench.work.trial import run_trial

NOT_FINITE = [math.nan, math.inf, -math.inf]


class Spoilt(nn.Module):
    """A model whose score map holds one wrong value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def fitting_side(self, side: int) -> int:
        return side

    def forward(self, image: Tensor) -> Tensor:
        scores = torch.zeros(1, 3, *image.shape[-2:])
        scores[0, 2, 4, 5] = self.value
        return scores

    def coarse_score_map(self, image: Tensor) -> tuple[Tensor, None]:
        return self(image), None


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("protocol", [Protocol(), Protocol(flip=True), Protocol(short_side=16)])
def test_a_score_map_with_one_value_that_is_not_finite_is_no_prediction(value, protocol):
    image = torch.zeros(3, 16, 20, dtype=torch.uint8)
    with pytest.raises(DivergedError, match="score map holds NaN or infinity"):
        predict(Spoilt(value), image, protocol)  # type: ignore[arg-type]
    assert predict(Spoilt(3e38), image, protocol)[4, 5] == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "stride", "has_gap"),
    [((32, 32), (32, 32), False), ((32, 32), (33, 32), True), ((32, 40), (16, 41), True)],
)
def test_windows_leave_gaps_where_a_stride_is_larger(window, stride, has_gap):
    sliding = Sliding(window=window, stride=stride)
    assert bool(sliding.gap) is has_gap
    image = torch.zeros(3, 120, 120, dtype=torch.uint8)
    if has_gap:
        with pytest.raises(DataError, match="pixels between windows would have no prediction"):
            predict(Spoilt(1), image, Protocol(sliding=sliding))  # type: ignore[arg-type]
    else:
        assert (predict(Spoilt(1), image, Protocol(sliding=sliding)) >= 0).all()  # type: ignore[arg-type]


def test_windows_that_leave_gaps_are_refused_in_files_and_flags_and_read_in_records(toy_project):
    from segbench.commands.evaluate import changed
    from segbench.schema.experiment import read_experiment

    path = toy_project / "experiments" / "toy.yaml"
    setting = "evaluate.native.sliding={window: [32, 32], stride: [50, 50]}"
    experiment, document = read_experiment(path, (setting,))
    with pytest.raises(
        ExperimentError, match=r"stride \[50, 50\] is larger than window \[32, 32\]"
    ):
        expand(experiment, Catalog.on_path((toy_project,)), document)
    with pytest.raises(ExperimentError, match="is larger than window"):
        changed(Protocol(), ("sliding={window: [32, 32], stride: [50, 50]}",))
    record = experiment.evaluate["native"]
    assert Protocol.model_validate_json(record.model_dump_json()) == record


def _prepared(project: Path, folder: Path, *settings: str, weights: tuple[Path, ...] = ()):
    flags = Flags(
        cards=(project,), settings=settings, only=("head=fcn32s",), seeds=1, device="cpu",
        weights=weights, cache=folder / "cache", results=folder / "results",
    )  # fmt: skip
    return prepare_run(project / "experiments" / "toy.yaml", flags)


@pytest.mark.parametrize("value", [*NOT_FINITE, 1e300])  # the last is infinite in single precision
def test_weights_that_are_not_finite_are_named_before_anything_starts(toy_project, tmp_path, value):
    card_path = toy_project / "backbones" / "toynet.yaml"
    state = call_builder(read_card(card_path, BackboneCard)).state_dict()
    state["features.0.0.weight"] = state["features.0.0.weight"].double()
    state["features.0.0.weight"].view(-1)[7] = value
    path = tmp_path / "w" / "spoilt.pth"
    path.parent.mkdir()
    torch.save(state, path)
    card_path.write_text(
        card_path.read_text() + f"weights: {{ours: {{source: us, file: {path.name}, sha256: "
        f"{sha256_of_file(path)}, trained_on: x, licence: CC0}}}}\n"
    )
    prepared = _prepared(toy_project, tmp_path, "model.weights=ours", weights=(path.parent,))
    (told,) = preflight.missing_files(prepared)
    assert told.startswith(f"{path}: holds NaN or infinity in features.0.0.weight")
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=()) == "failed"
    failure = trial_files.load_failure(workdir)
    assert failure is not None
    assert str(path) in failure.message


def test_trained_weights_that_are_not_finite_are_read_by_nobody(toy_run, tmp_path):
    (workdir, *_) = trial_files.trial_folders(toy_run)
    path = workdir / trial_files.WEIGHTS
    state = load_weights(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[0] = math.nan
    save_weights(path, state)
    with pytest.raises(DataError, match=f"{trial_files.WEIGHTS}: holds NaN or infinity in {name}"):
        load_weights(path)
    photograph = tmp_path / "photograph.png"
    Image.new("RGB", (40, 40)).save(photograph)
    done = invoked("predict", workdir, photograph, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "holds NaN or infinity" in done.output
    assert not (tmp_path / "out").exists()


def _segmenter() -> Segmenter:
    torch.manual_seed(0)
    card = Catalog.on_path(()).backbone("squeezenet1_1")
    return build_segmenter(card, HEADS["fcn4s_from16"], Model(weights="none"), 3)


def _trained(tmp_path: Path, steps: int) -> list[dict]:
    """Train in fp16; return the lines with a loss."""
    generator = torch.Generator().manual_seed(1)

    def source(first: int, last: int):
        for _ in range(first, last):
            inputs = torch.rand(1, 3, 33, 33, generator=generator)
            label = torch.randint(0, 3, (1, 33, 33), generator=generator)
            yield Batch(inputs, label)

    recipe = Recipe(
        images=TrainImages(squash=(33, 33)), batch_size=1, precision="fp16",
        stages=(TrainStage(name="all", steps=steps, optimizer=Optimizer(lr=1e-4)),),
    )  # fmt: skip
    train(
        _segmenter(), recipe, source, folder=tmp_path, monitor=Monitor(log_every_steps=5),
        device=torch.device("cpu"), hooks=Hooks(lambda *_: None, lambda: False),
    )  # fmt: skip
    return [line for line in read_json_lines(tmp_path / "log.jsonl") if "loss" in line]


def test_skipped_fp16_steps_are_counted(tmp_path, monkeypatch):
    skipped = []
    whole = torch.GradScaler.step

    def step(scaler, optimizer, *args, **options):
        if len(skipped) == 3:  # the fourth step's gradients overflow
            next(iter(_moving(optimizer))).grad[0] = math.inf
        skipped.append(0)
        return whole(scaler, optimizer, *args, **options)

    monkeypatch.setattr(torch.GradScaler, "step", step)
    lines = _trained(tmp_path, 20)
    assert [line["skipped_steps"] for line in lines] == [1, 1, 1, 1]


def test_more_than_one_skipped_fp16_step_in_ten_is_an_error(tmp_path, monkeypatch):
    whole = torch.GradScaler.step

    def step(scaler, optimizer, *args, **options):
        next(iter(_moving(optimizer))).grad[0] = math.nan
        return whole(scaler, optimizer, *args, **options)

    monkeypatch.setattr(torch.GradScaler, "step", step)
    with pytest.raises(DivergedError, match="20 of 20 steps were skipped"):
        _trained(tmp_path, 20)


def _moving(optimizer: torch.optim.Optimizer):
    return (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
