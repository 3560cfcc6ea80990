"""The training loop: one model, its recipe, checkpoint and exact resume.

The result is the last step's weights; no checkpoint is ever chosen on a split that is reported.
Batches are a pure function of (seed, step), so resuming needs a step number and no data state.
Letters: N images, C classes, H W input size. Knows nothing of files of images or of launchers.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segbench.engine import ranks
from segbench.engine.checkpoint import CheckpointWriter, load_checkpoint
from segbench.engine.loss import labelled_pixels, loss_weights
from segbench.engine.loss_kinds import losses_of
from segbench.engine.training_log import TrainingLog
from segbench.engine.upsampled_loss import upsampled_losses
from segbench.errors import DivergedError, OutOfMemoryError, TrialError
from segbench.models.segmenter import Segmenter
from segbench.schema.machine import Monitor
from segbench.schema.recipe import Loss, Optimizer, Recipe, Schedule, TrainStage

AGAINST_DIVERGING = "lower train.stages.*.optimizer.lr, or set train.clip_grad_norm"
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Batch(NamedTuple):
    """inputs: (N, 3, H, W) uint8 images, or the feature maps of a frozen trunk; label (N, H, W) integers.

    On the CPU: all parts of a step are there before the first is trained on.
    """

    inputs: Tensor | tuple[Tensor, ...]
    label: Tensor


BatchSource = Callable[[int, int], Iterator[Batch]]  # (first, last) micro-batch -> batches


class Interrupted(Exception):  # noqa: N818 - not an error: the trial is to go on later
    """A stop was asked for; the state is saved."""


class Hooks(NamedTuple):
    """What the loop reports to, and asks.

    on_step(step, loss or None): after each optimizer step, counted from 1. should_stop: asked
    after each step. validation_loss: called where the monitor asks for it.
    """

    on_step: Callable[[int, float | None], None]
    should_stop: Callable[[], bool]
    validation_loss: Callable[[], float] | None = None


def train(
    segmenter: Segmenter,
    recipe: Recipe,
    source: BatchSource,
    *,
    folder: Path,
    monitor: Monitor,
    device: torch.device,
    hooks: Hooks,
    class_weights: Tensor | None = None,
) -> float:
    """Train `segmenter` in place to the recipe's last step; return the last logged loss.

    Continues from the newest sound checkpoint in `folder`. On a CPU an interrupted training gives
    the same bits as one that was not.

    Loss and gradients of a step are those of its whole batch, into however many parts (`accumulate`)
    and ranks it is cut; batch norm sees one part over all ranks. In several ranks each has an equal
    share of every part: batch size and learning rate stay the recipe's. Weights then differ from
    those of one rank by the order of sums, and by what dropout draws.

    class_weights: (C,) on the CPU.

    Raises:
        DivergedError: the loss is not finite, or more than one in ten fp16 steps were skipped.
        OutOfMemoryError: the device is too small.
        TrialError: batch norm sees one value per channel, as in an image that is too small.
        Interrupted: `hooks.should_stop` said so; the checkpoint is written.
    """
    loop = _Loop(segmenter, recipe, folder, monitor, device, hooks, class_weights)
    try:
        return loop.run(source)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{device} has too little memory for batch_size {recipe.batch_size}; lower "
            "train.batch_size and raise train.accumulate by the same factor: the loss stays that of "
            "the whole batch, and batch norm, where it trains, sees the smaller batches"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrialError(
            f"an image of the batch for step {loop.step + 1} gives batch norm one value per channel "
            f"({error}); take train.images.crop, a train.batch_size above {recipe.batch_size}, or "
            "frozen: [batch_norm]"
        ) from error


class _Loop:
    """The state of one training: what a checkpoint holds."""

    def __init__(
        self,
        segmenter: Segmenter,
        recipe: Recipe,
        folder: Path,
        monitor: Monitor,
        device: torch.device,
        hooks: Hooks,
        class_weights: Tensor | None,
    ) -> None:
        self.segmenter = segmenter
        self.recipe = recipe
        self.folder = folder
        self.monitor = monitor
        self.device = device
        self.hooks = hooks
        self.class_weights = class_weights
        self.kinds = segmenter.parameter_kinds()
        self.scaler = torch.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.optimizer: torch.optim.Optimizer | None = None
        self.checkpoints = CheckpointWriter(folder)
        self.step = 0
        self.loss_sum = torch.zeros((), device=device)
        self.loss_steps = 0
        self.last_loss = math.nan
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.seed = torch.initial_seed()
        if ranks.count() > 1:  # a shared disk may show an older checkpoint to another node
            ranks.share_batch_norm(segmenter)
            found = load_checkpoint(folder, torch.device("cpu")) if ranks.is_first() else None
            self.saved = ranks.agreed(found)
        else:
            self.saved = load_checkpoint(folder, device)
        if self.saved is not None:
            self.step = self.saved["step"]

    def run(self, source: BatchSource) -> float:
        is_writer = ranks.is_first()
        log_here = TrainingLog(self.folder, first_step=self.step) if is_writer else _NoLog()
        with log_here as log, self.checkpoints:
            start = 0
            for stage in self.recipe.stages:
                end = start + stage.steps
                if self.step < end:
                    self._run_stage(stage, start, end, source, log)
                start = end
        if self.saved is not None:  # killed between the last step's checkpoint and the weights
            self.segmenter.load_state_dict(self.saved["model"])
            self.last_loss = self.saved["last_loss"]
        return self.last_loss

    def _run_stage(
        self,
        stage: TrainStage,
        start: int,
        end: int,
        source: BatchSource,
        log: "TrainingLog | _NoLog",
    ) -> None:
        self.checkpoints.wait()  # loader processes are forked beside no thread
        self._enter(stage, end)
        class_weights = None if self.class_weights is None else self.class_weights.to(self.device)
        step = _TrainingStep(self.segmenter, self.recipe, class_weights)
        model = _parallel(step, self.device)
        batches = source(self.step * self.recipe.accumulate, end * self.recipe.accumulate)
        while self.step < end:
            factor = schedule_factor(stage.schedule, self.step - start, stage.steps)
            self._optimizer_step(model, batches, factor)
            self.step += 1
            self._after_step(stage, end, log)

    def _enter(self, stage: TrainStage, end: int) -> None:
        """Freeze what the stage freezes and make its optimizer; restore the saved state, once."""
        set_frozen(self.segmenter, stage, self.kinds)
        groups = parameter_groups(self.segmenter, stage.optimizer, self.kinds)
        self.optimizer = _optimizer(groups, stage.optimizer)
        saved, self.saved = self.saved, None
        if saved is None:
            return
        self.segmenter.load_state_dict(saved["model"])
        if saved["stage_end"] == end:  # else it was saved at the end of the stage before
            _restore(self.optimizer, saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.skipped = saved.get("skipped", self.skipped).to(self.device)
        self.loss_sum = saved["loss_sum"].to(self.device)
        self.loss_steps, self.last_loss = saved["loss_steps"], saved["last_loss"]
        torch.set_rng_state(saved["rng"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"].cpu(), self.device)

    def _optimizer_step(self, model: nn.Module, batches: Iterator[Batch], factor: float) -> None:
        optimizer = self.optimizer
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.zero_grad(set_to_none=True)
        if ranks.count() > 1:  # draws of its own for each rank, the same after a resume
            torch.manual_seed((self.seed * 2**20 + self.step) * 2**10 + ranks.rank())
        parts = list(itertools.islice(batches, self.recipe.accumulate))
        for part, weights in zip(parts, self._image_weights(parts), strict=True):
            with contextlib.nullcontext() if part is parts[-1] else _gradients_kept(model):
                # ranks' gradients are averaged, and the whole batch's is their sum
                loss = self._loss(model, part, weights) * ranks.count()
                self.scaler.scale(loss).backward()
            self.loss_sum += ranks.mean_over_ranks(loss.detach())
        if self.recipe.clip_grad_norm is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.segmenter.parameters(), self.recipe.clip_grad_norm)
        scale = self._scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped += self._scale() < scale  # on the device: a number would wait for it
        self.loss_steps += 1

    def _scale(self) -> Tensor:
        """Return the factor on the loss, which falls where a step is skipped."""
        return self.scaler.scale(torch.ones((), device=self.device))

    def _image_weights(self, parts: list[Batch]) -> tuple[Tensor, ...]:
        """Return what each image's loss counts for in the step's, (N,) for each part."""
        every = self.recipe.loss_stride
        labelled = [
            labelled_pixels(part.label[:, ::every, ::every], self.class_weights) for part in parts
        ]
        weights = loss_weights(torch.cat(labelled), self.recipe.loss_reduction, over_ranks=True)
        return weights.split([len(count) for count in labelled])

    def _loss(self, model: nn.Module, part: Batch, weights: Tensor) -> Tensor:
        inputs = _to(part.inputs, self.device)
        label = part.label.to(
            self.device, non_blocking=True
        ).long()  # eight times larger there alone
        losses = model(inputs, label)  # (N,)
        return (losses * weights.to(losses)).sum()

    def _after_step(self, stage: TrainStage, end: int, log: "TrainingLog | _NoLog") -> None:
        monitor, step = self.monitor, self.step
        loss = None
        if step % monitor.log_every_steps == 0 or step == end:
            loss = self._mean_loss()
            rate = max(group["lr"] for group in self.optimizer.param_groups)  # type: ignore[union-attr]
            log.add(step, stage.name, loss=loss, lr=rate, **self._skipped_steps())
        if self.hooks.validation_loss is not None and (
            step == end
            or (monitor.validate_every_steps and step % monitor.validate_every_steps == 0)
        ):
            log.add(step, stage.name, validation_loss=self.hooks.validation_loss())
            set_frozen(self.segmenter, stage, self.kinds)  # validation left evaluation mode behind
        self.hooks.on_step(step, loss)
        stop = ranks.any_of(self.hooks.should_stop())
        if stop or step % monitor.checkpoint_every_steps == 0:
            self._save(end)
        if stop and step < self.recipe.steps:
            raise Interrupted

    def _mean_loss(self) -> float:
        value = float(self.loss_sum / max(self.loss_steps, 1))
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} by step {self.step}; {AGAINST_DIVERGING}"
            )
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.loss_steps = 0
        self.last_loss = value
        return value

    def _skipped_steps(self) -> dict[str, float]:
        """Return how many fp16 steps were skipped so far; nothing in other precisions.

        The first few find the factor on the loss, so a share is looked at from 100 steps on, and at
        the end.
        """
        if not self.scaler.is_enabled():
            return {}
        skipped = int(self.skipped)
        is_telling = self.step >= 100 or self.step == self.recipe.steps
        if is_telling and skipped > self.step / 10:
            raise DivergedError(
                f"{skipped} of {self.step} steps were skipped, because gradients left the range of "
                "fp16; take train.precision bf16 or fp32, or lower train.stages.*.optimizer.lr"
            )
        return {"skipped_steps": skipped}

    def _save(self, stage_end: int) -> None:
        assert self.optimizer is not None
        if self.loss_steps and not math.isfinite(float(self.loss_sum)):
            self._mean_loss()  # raises: a diverged state is never saved
        if not ranks.is_first():
            return
        state: dict[str, Any] = {
            "step": self.step,
            "stage_end": stage_end,
            "model": self.segmenter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "last_loss": self.last_loss,
            "skipped": self.skipped,
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        self.checkpoints.save(state)


def schedule_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the factor on the learning rate at `step` (from 0) of a stage of `steps`."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "poly":
        return (1 - step / steps) ** schedule.power
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if schedule.name == "step":
        return schedule.gamma ** sum(step >= share * steps for share in schedule.milestones)
    return 1.0


def set_frozen(segmenter: Segmenter, stage: TrainStage, kinds: Mapping[str, str]) -> None:
    """Put the model into training mode with what the stage freezes standing still.

    A frozen trunk's parameters and batch statistics stay. Its random layers draw as in any training:
    Caffe's dropout knows nothing of learning rates, and dropout behind fc7 is the score layer's.
    """
    segmenter.train()
    frozen = set(stage.frozen)
    for name, parameter in segmenter.named_parameters():
        parameter.requires_grad_(kinds[name] not in frozen)
    if frozen & {"backbone", "batch_norm"}:
        for module in segmenter.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()


def parameter_groups(
    segmenter: Segmenter, optimizer: Optimizer, kinds: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the moving parameters in groups of one learning rate and weight decay each."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    of_norms = _normalisation_parameters(segmenter)
    for name, parameter in segmenter.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.endswith(".bias")
        rate = optimizer.lr * (1.0 if kinds[name] == "backbone" else optimizer.head_lr_factor)
        rate *= optimizer.bias_lr_factor if is_bias else 1.0
        special = optimizer.bias_weight_decay if is_bias else None
        if name in of_norms and optimizer.norm_weight_decay is not None:
            special = optimizer.norm_weight_decay
        decay = optimizer.weight_decay if special is None else special
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _normalisation_parameters(segmenter: Segmenter) -> set[str]:
    """Return the names of the scales and shifts of normalisation layers."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return {
        f"{module_name}.{name}"
        for module_name, module in segmenter.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }


def _optimizer(groups: list[dict[str, Any]], optimizer: Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer in its fused form, one pass over the memory, where its device has one."""
    device = groups[0]["params"][0].device.type
    fused = device in {"cpu", "cuda"}
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=optimizer.lr, momentum=optimizer.momentum, fused=fused)
    kind = torch.optim.Adam if optimizer.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=optimizer.lr, betas=optimizer.betas, fused=fused)


def _restore(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, each tensor laid out in memory as its parameter.

    Fused forms walk over the memory of both at once and do not look at strides: a momentum of
    another layout would silently move other weights.
    """
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


class _TrainingStep(nn.Module):
    """The forward pass of training as a module, so that DistributedDataParallel can wrap it."""

    def __init__(
        self, segmenter: Segmenter, recipe: Recipe, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.every = recipe.loss_stride
        self.loss = recipe.loss
        self.dtype = _AUTOCAST.get(recipe.precision)
        self.class_weights = class_weights

    def forward(self, inputs: Tensor | tuple[Tensor, ...], label: Tensor) -> Tensor:
        """Return the loss of each image, (N,) float32, for labels (N, H, W)."""
        height, width = label.shape[-2:]
        seen = label[:, :: self.every, :: self.every]
        head = self.segmenter.head
        with torch.autocast(label.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            maps = self.segmenter.feature_maps(inputs) if isinstance(inputs, Tensor) else inputs
            coarse = head(maps)  # (N, C, h, w)
            # blocks of rows know plain cross-entropy alone
            is_plain = self.loss == Loss()
            bilinear = (
                head.bilinear_to(coarse, (height, width), every=self.every) if is_plain else None
            )
            if bilinear is None:
                coarse = head.upsample_to(coarse, (height, width), every=self.every)
        if bilinear is None:
            return losses_of(self.loss, coarse.float(), seen, self.class_weights)
        return upsampled_losses(coarse.float(), bilinear, seen, self.class_weights)


def _parallel(step: nn.Module, device: torch.device) -> nn.Module:
    if ranks.count() == 1:
        return step
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(step, device_ids=devices)


def _gradients_kept(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients add up on each rank, until the last part shares them."""
    is_parallel = isinstance(model, DistributedDataParallel)
    return model.no_sync() if is_parallel else contextlib.nullcontext()


def _to(inputs: Tensor | tuple[Tensor, ...], device: torch.device) -> Tensor | tuple[Tensor, ...]:
    """Return images in [0, 1], or feature maps, on the device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True).float() / 255
    return tuple(item.to(device, non_blocking=True) for item in inputs)


class _NoLog:
    """The log of every process but the first."""

    def add(self, step: int, stage: str, **values: float) -> None:
        """Say nothing."""

    def __enter__(self) -> "_NoLog":
        return self

    def __exit__(self, *_: object) -> None:
        return None
