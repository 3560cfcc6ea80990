"""The loss of an optimizer step: one number, into however many parts and ranks its images are cut."""

import multiprocessing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from segbench.commands.run import Flags, prepare_run
from segbench.data.split import open_split
from segbench.engine.train import Batch, Hooks, train
from segbench.models.geometry import Coordinates
from segbench.models.heads.base import StageShape
from segbench.models.heads.fcn import FusionHead
from segbench.models.segmenter import Segmenter
from segbench.schema.cards import IGNORE_INDEX, Input
from segbench.schema.heads import Head
from segbench.schema.machine import Monitor
from segbench.schema.recipe import Optimizer, Recipe, TrainImages, TrainStage
from segbench.work.phases import TrialContext, new_segmenter
from segbench.work.training import _validation_loss

CLASSES, IMAGES = 3, 8
WEIGHTS = torch.tensor([0.2, 3.0, 0.0])
CUTS = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1)]  # batch size, accumulate, ranks


class _Trunk(nn.Module):
    """A convolution of stride 4, without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"s4": self.layer(image).relu()}


class _Step(NamedTuple):
    loss: float
    gradients: dict[str, np.ndarray]


def _segmenter(final: str = "fixed") -> Segmenter:
    torch.manual_seed(0)
    head = FusionHead(
        Head(name="one", strides=(4,), final_upsampling=final),
        [StageShape(6, Coordinates(4, 1.5))],
        CLASSES,
        clamps=True,
    )
    nn.init.normal_(head.score["4"].weight)
    plain = Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Segmenter(_Trunk(), head, stage_names=("s4",), image_input=plain, minimum_side=4)


def _data() -> tuple[Tensor, Tensor]:
    """Return 8 images and their labels: unequal shares of void, two images of nothing else."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 3, 18, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (IMAGES, 18, 16), generator=generator)
    for index in range(IMAGES):
        labels[index, : 2 * index] = IGNORE_INDEX
    labels[2:4] = IGNORE_INDEX
    return images, labels


def _step(folder: Path, batch_size: int, accumulate: int, **fields) -> _Step:
    """Return the loss and the gradients of one optimizer step over all images."""
    images, labels = _data()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def source(first: int, last: int):
        for part in range(first, last):
            mine = slice(part * batch_size + rank, (part + 1) * batch_size, ranks)
            yield Batch(images[mine], labels[mine])

    folder.mkdir(parents=True, exist_ok=True)
    segmenter = _segmenter(fields.pop("final", "fixed"))
    weights = fields.pop("class_weights", None)
    recipe = Recipe(
        images=TrainImages(squash=(18, 16)), batch_size=batch_size, accumulate=accumulate,
        stages=(TrainStage(name="all", steps=1, optimizer=Optimizer(lr=1e-3)),), **fields,
    )  # fmt: skip
    hooks = Hooks(on_step=lambda *_: None, should_stop=lambda: False)
    loss = train(
        segmenter, recipe, source, folder=folder, monitor=Monitor(),
        device=torch.device("cpu"), hooks=hooks, class_weights=weights,
    )  # fmt: skip
    gradients = {n: p.grad.numpy() for n, p in segmenter.named_parameters() if p.grad is not None}
    return _Step(loss, gradients)


def _assert_equal(found: _Step, expected: _Step) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        away = np.abs(found.gradients[name] - gradient).max()
        assert away <= 1e-6 * np.abs(gradient).max(), name


@pytest.mark.parametrize("final", ["fixed", "learned"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "mean_per_image", "sum"])
def test_a_batch_has_one_loss_into_however_many_parts_it_is_cut(
    tmp_path, reduction, weights, final
):
    steps = [
        _step(
            tmp_path / str(cut), *cut[:2],
            loss_reduction=reduction, class_weights=weights, loss_stride=2, final=final,
        )
        for cut in CUTS
    ]  # fmt: skip
    for step in steps[1:]:
        _assert_equal(step, steps[0])


def _of_a_rank(folder: Path, rank: int, reduction: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    step = _step(folder / str(rank), 4, 2, loss_reduction=reduction, class_weights=WEIGHTS)
    torch.save(tuple(step), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("reduction", ["mean", "mean_per_image", "sum"])
def test_a_batch_has_one_loss_on_however_many_ranks(tmp_path, reduction):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_of_a_rank, args=(tmp_path, r, reduction)) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    alone = _step(tmp_path / "alone", 8, 1, loss_reduction=reduction, class_weights=WEIGHTS)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        _assert_equal(_Step(*found), alone)


def _by_hand(
    score_maps: np.ndarray, labels: np.ndarray, weights: Tensor | None
) -> dict[str, float]:
    """Return each reduction's loss by a loop over pixels in float64, image by image."""
    sums, counts = np.zeros(len(labels)), np.zeros(len(labels))
    for n, y, x in np.argwhere(labels != IGNORE_INDEX):
        scores, true = score_maps[n, :, y, x].astype(float), int(labels[n, y, x])
        weight = 1.0 if weights is None else float(weights[true])
        sums[n] += weight * (np.log(np.exp(scores).sum()) - scores[true])
        counts[n] += weight
    return {
        "mean": sums.sum() / counts.sum(),
        "mean_per_image": np.mean(sums / np.maximum(counts, 1e-9)),  # all void: 0, and an image
        "sum": sums.sum(),
    }


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_each_reduction_divides_by_what_it_says(tmp_path, weights):
    images, labels = _data()
    with torch.no_grad():
        score_maps = _segmenter()(images.float() / 255).numpy()  # (N, C, H, W)
    for reduction, loss in _by_hand(score_maps, labels.numpy(), weights).items():
        step = _step(tmp_path / reduction, 2, 4, loss_reduction=reduction, class_weights=weights)
        assert step.loss == pytest.approx(loss, rel=1e-6), reduction


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_the_validation_loss_is_the_trainings(toy_project, tmp_path, weights):
    flags = Flags(only=("head=fcn32s",), seeds=1, results=tmp_path / "results", device="cpu")
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    (trial,) = prepared.asked.trials.values()
    (protocol,) = prepared.asked.experiment.evaluate.values()
    segmenter = new_segmenter(trial).eval()
    nn.init.normal_(segmenter.head.score["32"].weight)
    split = open_split(trial.dataset, "val", prepared.machine, max_images=2)
    samples = [split.sample(index) for index in range(2)]
    with torch.no_grad():
        score_maps = segmenter(torch.stack([s.image for s in samples]).float() / 255).numpy()
    labels = np.stack([s.label.numpy() for s in samples])
    expected = _by_hand(score_maps, labels, weights)
    expected["sum"] *= 4 / 2  # 2 images here, a step has 4
    for reduction, loss in expected.items():
        asked = trial.revised(train=trial.train.revised(loss_reduction=reduction))
        work = TrialContext(
            asked, tmp_path, prepared.machine, torch.device("cpu"),
            lambda **_: None, lambda: False,
        )  # fmt: skip
        measure = _validation_loss(work, segmenter, (protocol,), weights)
        assert measure() == pytest.approx(loss, rel=1e-5), reduction


@pytest.mark.parametrize("reduction", ["mean", "mean_per_image", "sum"])
def test_a_batch_of_nothing_but_void_has_loss_and_gradient_zero(tmp_path, reduction, monkeypatch):
    images, labels = _data()
    void = torch.full_like(labels, IGNORE_INDEX)
    monkeypatch.setitem(globals(), "_data", lambda: (images, void))
    step = _step(tmp_path, 4, 2, loss_reduction=reduction)
    assert step.loss == 0
    assert all((gradient == 0).all() for gradient in step.gradients.values())
