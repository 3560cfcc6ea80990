"""The training recipe: stages, optimizers, schedules, what is done to each image.

Knows nothing of tensors: engine/train.py does what these records say. Every field here changes the
weights that come out; how often a checkpoint is written does not, and stands elsewhere (machine.py).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segbench.schema.base import Spec

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Resize = Literal["bilinear", "nearest"]
Side = Annotated[int, Field(ge=16, le=8192)]


class TrainImages(Spec):
    """What happens to each training image and its label, in this order.

    squash: (height, width) that image and label are resized to, whatever their shape.
    scale: the range of the random factor that both are resized by, keeping their shape.
    crop: (height, width) of a random window; smaller images are padded, the label with void.
    flip: whether half of the images are mirrored.
    resize: how images are resized, about pixel centres: `bilinear` with antialiasing, or `nearest` as
    labels always are (the KTH study).
    With neither squash nor crop whole images are trained on, which asks for batch_size 1.
    """

    squash: tuple[Side, Side] | None = None
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    crop: tuple[Side, Side] | None = None
    flip: bool = True
    resize: Resize = "bilinear"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale goes from the smaller factor to the larger, got {self.scale}")
        if self.squash and self.scale != (1.0, 1.0) and not self.crop:
            raise ValueError("squash with scale needs a crop, or the sizes in a batch differ")
        return self

    @property
    def is_fixed_size(self) -> bool:
        """Whether every training image has one size, so that batches can be stacked."""
        return self.crop is not None or self.squash is not None


class Optimizer(Spec):
    """An optimizer and its per-parameter rules.

    name: which one. lr: the learning rate at the schedule's factor 1. momentum: of sgd. betas: of adam and
    adamw. weight_decay: of kernels. bias_lr_factor and bias_weight_decay: Caffe's rule for biases (FCN:
    twice the rate, no decay). norm_weight_decay: that of the scales and shifts of normalisation layers,
    whatever the rules of others (mmsegmentation's norm_decay_mult 0 and torchvision's norm_weight_decay 0
    are 0 here); without it scales decay as weights and shifts as biases. head_lr_factor: multiplies the
    rate of everything that is not the trunk.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    bias_lr_factor: Positive = 1.0
    bias_weight_decay: Annotated[float, Field(ge=0)] | None = None
    norm_weight_decay: Annotated[float, Field(ge=0)] | None = None
    head_lr_factor: Positive = 1.0


class Schedule(Spec):
    """The factor on the learning rate over the steps of a stage.

    name: `poly` is (1 - step / steps) ** power, `step` multiplies by `gamma` at each of `milestones`.
    power: of poly. milestones: shares of the stage, in (0, 1). gamma: of step. warmup_steps: how many
    steps rise linearly from 0 first.
    """

    name: Literal["constant", "poly", "cosine", "step"] = "constant"
    power: Positive = 0.9
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    gamma: Positive = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 0


Reduction = Literal["mean", "mean_per_image", "sum"]
Frozen = Literal["backbone", "batch_norm", "upsampling"]


class TrainStage(Spec):
    """One part of the training: which parameters move, for how many optimizer steps, and how.

    name: how `--set train.stages.NAME.steps=100` and logs call it. steps: of the optimizer. frozen:
    `backbone` keeps the trunk's parameters and its batch statistics; its random layers (dropout behind
    fc6 and fc7, stochastic depth) draw as in any training. `batch_norm` keeps the trunk's batch norm
    layers in evaluation mode, `upsampling` learned upsampling kernels. optimizer: and its rates. schedule:
    of the rate.
    """

    not_identity = frozenset({"name"})

    name: str
    steps: Count
    frozen: tuple[Frozen, ...] = ()
    optimizer: Optimizer
    schedule: Schedule = Schedule()


LossKind = Literal["cross_entropy", "focal", "ohem", "dice"]


class Loss(Spec):
    """What a pixel or an image costs.

    kind: `cross_entropy`; `focal` multiplies it by (1 - p) ** gamma (Lin et al., ICCV 2017); `ohem` is its
    mean over the dearest pixels of an image (DeepLab's hard example mining); `dice` is 1 less the mean Dice
    coefficient of the classes in an image's label (Milletari et al., 3DV 2016). label_smoothing: of
    cross_entropy, the share of the target that lies evenly on all classes. gamma: of focal. keep: of ohem,
    the share of an image's labelled pixels. cross_entropy: of dice, the weight of the cross-entropy that is
    added.
    """

    kind: LossKind = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 2.0
    keep: Annotated[float, Field(gt=0, le=1)] = 0.25
    cross_entropy: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        owners = {
            "label_smoothing": "cross_entropy", "gamma": "focal", "keep": "ohem",
            "cross_entropy": "dice",
        }  # fmt: skip
        fields = type(self).model_fields
        for name, kind in owners.items():
            if self.kind != kind and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name}: belongs to loss kind {kind}, but this is {self.kind}")
        return self


class Recipe(Spec):
    """How a model is trained.

    images: what happens to each. batch_size: images that go through the model at once, on all devices
    together. accumulate: so many parts of batch_size images make one optimizer step; their gradients add
    up. The loss is that of all images of the step, however they are cut; batch norm sees one part.
    stages: one after another. loss_reduction: `mean` divides the summed loss by the labelled pixels of the
    step, each counted as its class weighs. `mean_per_image` divides each image's loss by its own labelled
    pixels, then takes the mean over images: Caffe's normalised loss with iter_size and one image a pass.
    `sum` divides by nothing: the unnormalised loss of the FCN paper's solver.
    loss: which one. loss_stride: the loss is taken at every n-th pixel of the label in both directions, 1 = all.
    class_weights: of the loss. clip_grad_norm: the largest norm of the gradient of a step. precision: of the
    forward pass. split: that is trained on. max_images: the first n of it in a shuffled order.
    cache_features: compute a frozen trunk's feature maps once, for each image and its mirror image,
    stored as float16; needs `squash`, no scale, no crop, `backbone` frozen in every stage, and no
    random layer in front of what the head reads.
    """

    images: TrainImages = TrainImages()
    batch_size: Count
    accumulate: Count = 1
    stages: Annotated[tuple[TrainStage, ...], Field(min_length=1)]
    loss: Loss = Loss()
    loss_reduction: Reduction = "mean"
    loss_stride: Annotated[int, Field(ge=1, le=32)] = 1
    class_weights: Literal["none", "inverse_frequency"] = "none"
    clip_grad_norm: Positive | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    split: str = "train"
    max_images: Count | None = None
    cache_features: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: a name stands twice in {names}; --set tells them by it")
        if not self.images.is_fixed_size and self.batch_size != 1:
            raise ValueError(
                f"batch_size {self.batch_size} needs images of one size: give images.crop or "
                "images.squash, or take batch_size 1"
            )
        if self.cache_features and (
            self.images.squash is None
            or self.images.crop is not None
            or self.images.scale != (1.0, 1.0)
            or any("backbone" not in stage.frozen for stage in self.stages)
        ):
            raise ValueError(
                "cache_features needs images.squash, no scale, no crop, and `backbone` frozen in "
                "every stage"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps over all stages."""
        return sum(stage.steps for stage in self.stages)


def idle_schedules(recipe: Recipe) -> list[tuple[int, str]]:
    """Return the index of each stage whose schedule does nothing of what its name says, and why.

    Looked at when an experiment is read, not part of the record: trials were made with such.
    """
    problems = []
    for index, stage in enumerate(recipe.stages):
        schedule = stage.schedule
        if schedule.warmup_steps >= stage.steps:
            problems.append(
                (
                    index,
                    f"schedule.warmup_steps {schedule.warmup_steps} leaves none of the {stage.steps} "
                    "steps at the full rate: lower it, or raise steps",
                )
            )
        if schedule.name == "step" and not schedule.milestones:
            problems.append((index, "schedule `step` needs milestones, such as [0.5, 0.75]"))
    return problems
