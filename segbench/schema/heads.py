"""Heads, and the settings of a model that are neither trunk nor head.

Knows nothing of tensors: models/ builds what these records say.
"""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segbench.errors import CardError
from segbench.schema.base import Spec
from segbench.schema.cards import Argument, BackboneCard, Function, Input, Name
from segbench.schema.deconvolutions import Chain, Deconvolution, Sizes
from segbench.schema.yamlfile import did_you_mean

# models/heads/ has a file for each
HeadKind = Literal["fcn", "deconvolution", "own", "linear", "aspp", "upernet", "segformer"]
Decoder = Literal["fcn", "linear", "aspp", "upernet", "segformer"]


class Head(Spec):
    """Which stages of a trunk are read, coarse to fine, and how they become a score map.

    name: as the sweep calls it. title: for tables. strides: of the stages that it reads, coarse to fine; a
    stride that stands n times, which FCN heads cannot read, means its n deepest stages. deepest: in place
    of strides, the number of the deepest stages that it reads, whatever their strides.
    decoder: `fcn`; `linear` is the probe of the DINO papers, batch norm and one 1x1 layer over all maps;
    `aspp` is DeepLabv3's, over one map; `upernet` and `segformer` are those of these papers.
    channels: the width of aspp (256 unless it is given), upernet (512) and segformer (256). rates: of
    aspp's dilated branches; 12, 24, 36 unless given. dropout: before the score layer, of whole channels
    but for aspp's; unless given 0 for linear, 0.5 for aspp, 0.1 for the others.
    fuse: `scores` puts a 1x1 score layer on each stage, upsampled and added (Long et al., CVPR 2015);
    `features` adds feature maps and scores once at the end (the KTH study).
    upsampling: `fixed` is bilinear; `learned` starts bilinear and is trained.
    final_upsampling: of the last step to the input's size; the paper fixes it (section 4.3).
    alignment: `coordinates` puts each feature at the centre of its receptive field; `stretch` stretches
    each map over the next finer grid from border to border, wherever its features lie, as torch's
    interpolate with align_corners off does and torchvision's own FCNs with it; upsampling is fixed.
    feature_norm: `batch` standardises each stage by batch statistics, without scale or shift.
    skip_scale: multiplies each stage's features before its score layer (FCN-8s at once:
    1, 0.01, 0.0001); empty means 1 everywhere.
    deconvolutions: a chain of transposed convolutions from the deepest stage to the image's scores,
    in place of all upsampling above. Every layer is there whatever `strides` names; a stage that
    `strides` names is added where the chain reaches its stride, feature i on feature i (the study).
    builder: a function of the user's, trusted as a backbone's is, that makes the coarse score map from
    the stages instead of all that; alignment and final_upsampling go on from there. It is called with
    `channels`, `strides` and `num_classes`, and returns a torch module (README has an example).
    arguments: what `builder` is called with besides.
    notes: for the reader.
    """

    not_identity = frozenset({"name", "title", "notes"})

    name: Name
    title: str = ""
    strides: tuple[int, ...] = ()
    deepest: Annotated[int, Field(ge=1)] | None = None
    decoder: Decoder = "fcn"
    channels: Annotated[int, Field(ge=1)] | None = None
    rates: tuple[Annotated[int, Field(ge=1)], ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    fuse: Literal["scores", "features"] = "scores"
    upsampling: Literal["fixed", "learned"] = "fixed"
    final_upsampling: Literal["fixed", "learned"] = "fixed"
    alignment: Literal["coordinates", "stretch"] = "coordinates"
    feature_norm: Literal["none", "batch"] = "none"
    skip_scale: tuple[float, ...] = ()
    deconvolutions: tuple[Deconvolution, ...] = ()
    builder: Function | None = None
    arguments: dict[str, Argument] = {}
    notes: str = ""

    @property
    def kind(self) -> HeadKind:
        """Which kind of head this is: a built-in one, or one that the user's function builds."""
        if self.builder is not None:
            return "own"
        return "deconvolution" if self.deconvolutions else self.decoder

    @property
    def stages_in_words(self) -> str:
        """Which stages it reads, for tables."""
        if self.deepest is None:
            return ", ".join(map(str, self.strides))
        return "deepest" if self.deepest == 1 else f"{self.deepest} deepest"

    @property
    def has_batch_norm(self) -> bool:
        """Whether a built-in head has batch norm that trains."""
        return self.feature_norm == "batch" or (self.builder is None and self.decoder != "fcn")

    def reading(self, backbone: BackboneCard) -> "Head":
        """Return the head with the strides of this trunk's stages in the place of `deepest`."""
        if self.deepest is None or self.deepest > len(backbone.strides):
            return self
        return self.revised(strides=backbone.strides[: -self.deepest - 1 : -1], deepest=None)

    @property
    def chain(self) -> Chain | None:
        """The chain of transposed convolutions, None for a head that upsamples otherwise."""
        return Chain(self.strides, self.deconvolutions) if self.deconvolutions else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.strides) == (self.deepest is not None):
            raise ValueError("give one of `strides` and `deepest`")
        repeats = self.kind not in {"fcn", "deconvolution"}
        read = self.strides if repeats else set(self.strides)
        if list(self.strides) != sorted(read, reverse=True):
            raise ValueError(f"strides must fall from coarse to fine, but got {list(self.strides)}")
        self._check_decoder()
        if self.skip_scale and len(self.skip_scale) != len(self.strides):
            raise ValueError("skip_scale needs one factor for each stride")
        if self.alignment == "stretch" and "learned" in {self.upsampling, self.final_upsampling}:
            raise ValueError("alignment `stretch` needs fixed upsampling; leave `learned` out")
        if self.arguments and self.builder is None:
            raise ValueError("arguments: they are for a `builder` of your own; name one")
        if self.builder is not None and (idle := self._idle_beside_builder()):
            raise ValueError(f"builder: it joins the stages itself: leave {', '.join(idle)} out")
        problems = self._chain_problems()
        if problems:
            raise ValueError("; ".join(f"deconvolutions: {problem}" for problem in problems))
        return self

    def _check_decoder(self) -> None:
        if self.kind in {"fcn", "own", "deconvolution"}:
            if self.decoder != "fcn":
                raise ValueError("decoder: goes without `builder` and `deconvolutions`")
            idle = [
                n for n in ("channels", "rates", "dropout") if getattr(self, n) not in {None, ()}
            ]
            if idle:
                raise ValueError(f"{', '.join(idle)}: say of which `decoder`")
            return
        if idle := [name for name in self._idle_beside_builder() if name != "deconvolutions"]:
            raise ValueError(f"decoder {self.decoder}: leave {', '.join(idle)} out, they are fcn's")
        if self.rates and self.decoder != "aspp":
            raise ValueError("rates: are those of decoder aspp")
        if self.channels is not None and self.decoder == "linear":
            raise ValueError("channels: decoder linear has none but the maps'")
        if self.decoder == "aspp" and (len(self.strides) or self.deepest) != 1:
            raise ValueError("decoder aspp reads one stage")

    def _idle_beside_builder(self) -> list[str]:
        """Return the fields that say how a built-in head joins its stages, where they are given."""
        fields = type(self).model_fields
        joining = ("fuse", "upsampling", "feature_norm", "skip_scale", "deconvolutions")
        return [name for name in joining if getattr(self, name) != fields[name].default]

    def _chain_problems(self) -> list[str]:
        if self.chain is None:
            return []
        problems = self.chain.problems()
        if self.fuse != "features":
            problems.append("they add feature maps: say `fuse: features`, or leave them out")
        others = (self.upsampling, self.final_upsampling, self.alignment)
        if others != ("fixed", "fixed", "coordinates"):
            problems.append("they are the upsampling: leave upsampling and alignment out")
        return problems


HEADS: dict[str, Head] = {
    head.name: head
    for head in (
        Head(name="fcn32s", title="FCN-32s: stride 32 alone", strides=(32,)),
        Head(name="fcn16s", title="FCN-16s: strides 32 and 16", strides=(32, 16)),
        Head(name="fcn8s", title="FCN-8s: strides 32, 16 and 8", strides=(32, 16, 8)),
        Head(name="fcn4s", title="FCN-4s: strides 32, 16, 8 and 4", strides=(32, 16, 8, 4)),
        Head(
            name="fcn4s_from16",
            title="FCN-4s for trunks whose deepest stride is 16",
            strides=(16, 8, 4),
        ),
        Head(
            name="fcn8s_atonce",
            title="FCN-8s trained at once, skips scaled (the paper's code)",
            strides=(32, 16, 8),
            skip_scale=(1.0, 0.01, 0.0001),
        ),
        Head(
            name="linear",
            title="Linear probe: batch norm and a 1x1 layer on the deepest stage",
            deepest=1,
            decoder="linear",
        ),
        Head(
            name="linear4",
            title="Linear probe of the four deepest stages",
            deepest=4,
            decoder="linear",
        ),
        Head(name="aspp", title="DeepLabv3: ASPP on the deepest stage", deepest=1, decoder="aspp"),
        Head(name="upernet", title="UPerNet of four stages", deepest=4, decoder="upernet"),
        Head(name="segformer", title="SegFormer of four stages", deepest=4, decoder="segformer"),
    )
}


Geometry = Literal["native", "aligned", "caffe"]
BatchNorm = Literal["keep", "removed"]


class Model(Spec):
    """What a segmenter has besides its trunk and head.

    geometry: `native` keeps the trunk's layers as it was trained, wherever its features then lie; fc6 is
    padded, so that it reaches the borders. `aligned` has same-padding everywhere, features centred on
    multiples of the stride. `caffe` has 100 px padding, valid fc6, crops by computed offsets, as the
    paper's code.
    weights: `default` (the backbone card's), `none` (random), or a name on the card.
    dropout: probability behind fc6 and fc7.
    batch_norm: `removed` takes the trunk's batch norm layers out, and biases that start at 0 stand in
    their place; the kernels are still those of `weights` (the study).
    input: what the trunk is fed, whatever its card and its weights say.
    """

    not_identity = frozenset({"weights"})  # the weights themselves stand in the trial

    geometry: Geometry = "native"
    weights: str = "default"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch_norm: BatchNorm = "keep"
    input: Input | None = None


def head_named(name: str, own: dict[str, Head]) -> Head:
    """Return the head called `name`, an experiment's own before the built-in ones.

    Raises:
        CardError: no head has that name.
    """
    heads = {**HEADS, **own}
    if name not in heads:
        raise CardError(
            f"no head {name!r}{did_you_mean(name, heads)}; heads: {', '.join(heads)} "
            "(segbench list heads)"
        )
    return heads[name]


def weights_name(backbone: BackboneCard, model: Model) -> str | None:
    """Return the name on the card that `model.weights` stands for; None for random ones.

    Raises:
        CardError: the card has no weights of that name.
    """
    name = model.weights
    if name == "default":
        return backbone.default_weights
    if name == "none":
        return None
    if name not in backbone.weights:
        known = ("none", "default", *backbone.weights)
        raise CardError(
            f"{backbone.name} has no weights {name!r}{did_you_mean(name, known)}; "
            f"it has: {', '.join(known)}"
        )
    return name


def least_side(backbone: BackboneCard, head: Head, model: Model) -> int:
    """Return the smallest height and width, in pixels, that the card promises a model to take.

    One feature of the coarsest stage, and of every layer before it. A card that states no
    smallest_side may promise too little: the network itself knows more.
    """
    deepest = max(head.strides)
    stated = [stage.smallest_side or 1 for stage in backbone.stages if stage.stride == deepest]
    return max([deepest, *(stated if model.geometry == "native" else ())])


def reads_behind_dropout(backbone: BackboneCard, head: Head, model: Model) -> bool:
    """Return whether a stage that the head reads lies behind the dropout of fc6 and fc7."""
    has_classifier = backbone.classifier is not None and max(backbone.strides) in head.strides
    return has_classifier and model.dropout > 0


def stated_sizes(backbone: BackboneCard, head: Head, model: Model) -> Sizes | None:
    """Return the features of each stage that the head reads, as the card states them.

    A stage has (side - smallest_side) // stride + 1, or ceil(side / stride) under geometry aligned and
    where it is declared. None where the card leaves smallest_side out or the geometry is caffe: the
    network knows alone.
    """
    if model.geometry == "aligned" or backbone.is_declared:
        return lambda side: {stride: -(-side // stride) for stride in head.strides}
    stages = {stage.stride: stage for stage in backbone.stages if stage.stride in head.strides}
    least = {stride: stage.smallest_side or 0 for stride, stage in stages.items()}
    if model.geometry != "native" or 0 in least.values():
        return None
    return lambda side: {stride: (side - px) // stride + 1 for stride, px in least.items()}


def why_unsupported(backbone: BackboneCard, head: Head, model: Model) -> str | None:
    """Return why the trunk cannot serve the head, in one sentence, or None where it can."""
    if head.alignment == "stretch" and model.geometry == "caffe":
        return (
            f"{head.name} stretches its maps over the image, but those of geometry caffe reach 100 px "
            "beyond it"
        )
    if head.decoder != "fcn" and model.geometry == "caffe":
        return f"{head.name} needs maps of the image alone, but geometry caffe pads it by 100 px"
    if head.deepest is not None and head.deepest > len(backbone.stages):
        return f"{head.name} reads {head.deepest} stages, but {backbone.name} has {len(backbone.stages)}"
    missing = list((Counter(head.strides) - Counter(backbone.strides)).elements())
    if missing:
        has = ", ".join(map(str, backbone.strides))
        return (
            f"{head.name} reads stride {', '.join(map(str, missing))}, which {backbone.name} does not "
            f"have (its stages have strides {has})"
        )
    return (
        _why_not_declared(backbone, model)
        or _why_folded(backbone, model)
        or _why_not_met(backbone, head, model)
    )


def _why_not_declared(backbone: BackboneCard, model: Model) -> str | None:
    """Return why a network that is run as one cannot be changed inside, or None."""
    if not backbone.is_declared:
        return None
    changed = [
        f"{name} {value}"
        for name, value, plain in (
            ("geometry", model.geometry, "native"), ("batch_norm", model.batch_norm, "keep"),
        )
        if value != plain
    ]  # fmt: skip
    if not changed:
        return None
    return (
        f"{backbone.name} declares where its features lie, and its layers are not looked into: "
        f"{' and '.join(changed)} cannot be done"
    )


def _why_folded(backbone: BackboneCard, model: Model) -> str | None:
    """Return why batch norm cannot be removed, or None; unknown weights are told elsewhere."""
    name = backbone.default_weights if model.weights == "default" else model.weights
    weights = backbone.weights.get(name or "none")
    if model.batch_norm == "keep" or weights is None or not weights.has_folded_batch_norm:
        return None
    return (
        f"batch norm is folded into the kernels of {backbone.name}'s weights {name}, so "
        "`batch_norm: removed` would leave its scales in"
    )


def _why_not_met(backbone: BackboneCard, head: Head, model: Model) -> str | None:
    """Return why the chain of transposed convolutions cannot be added to the stages, or None."""
    if head.chain is None:
        return None
    channels = {stage.stride: stage.channels for stage in backbone.stages}
    for layer, stride in zip(head.chain.layers, head.chain.reached, strict=True):
        if stride in head.strides and layer.channels != channels[stride]:
            return (
                f"{head.name} makes {layer.channels} channels at stride {stride}, where "
                f"{backbone.name} has {channels[stride]} to add"
            )
    sizes = stated_sizes(backbone, head, model)
    if sizes is not None and head.chain.next_above(1, sizes) is None:
        return (
            f"the kernels of {head.name} meet the stages of {backbone.name} at no side of an image"
        )
    return None
