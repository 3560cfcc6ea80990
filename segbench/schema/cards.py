"""Backbone and data set cards: what each must say, and the rules between its fields.

A card is one YAML file. `base: NAME` takes another card of the same kind and replaces the keys that
are given. Knows nothing of where cards lie (catalog.py) or of how they are used.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from segbench.schema.base import Spec
from segbench.schema.hub import PREFIX as HUB
from segbench.schema.hub import hub_file


def checked_name(name: str) -> str:
    """Return a name that may become a file's, or raise ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise ValueError(
            "a name has lower-case letters, digits, `_`, `.` and `-`, begins with a letter or digit "
            f"and is 64 long at most, but this is {name!r}"
        )
    return name


Name = Annotated[str, AfterValidator(checked_name)]
Text = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]


def _stays_inside(path: str) -> str:
    if path.startswith(("/", "~")) or "\\" in path or ".." in path.split("/"):
        raise ValueError(f"expected a relative path without `..`, but got {path!r}")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_inside)]
Triple = tuple[float, float, float]
IGNORE_INDEX: Literal[255] = 255  # in labels: the pixel counts nowhere
VOID_COLOUR = (224, 224, 192)  # as in VOC's label files
DRAWN_SHAPES = (
    *("circle", "square", "triangle", "ring", "star"),
    *("cross", "diamond", "hexagon", "crescent", "arrow"),
)


FUNCTION_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"  # package.module:name
Function = Annotated[str, StringConstraints(pattern=FUNCTION_PATTERN)]
Scalar = bool | int | float | str


def _scalars(value: Any) -> Any:
    items = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(item, Scalar) for item in items):
        raise ValueError(
            f"expected a number, true, false, a text, or a list of these, got {value!r}"
        )
    # a record that is read again from JSON has lists
    return tuple(value) if isinstance(value, list) else value


Argument = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_scalars)]  # of a function


class Source(Spec):
    """Where something was described.

    paper: title or citation. url: where to read it. table: which table, figure or section of it.
    """

    paper: Text
    url: str | None = None
    table: str | None = None


class Input(Spec):
    """What a trunk expects of an image: `(x * range - mean) / std` per channel, x in [0, 1].

    mean and std: one value for each channel, in the order of `order`. range: 1 or 255, what x is
    multiplied by first. order: of the channels.
    """

    mean: Triple
    std: Triple
    range: Literal[1, 255] = 1
    order: Literal["RGB", "BGR"] = "RGB"

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Triple) -> Triple:
        if min(std) <= 0:
            raise ValueError(f"every standard deviation must be above 0, but got {std}")
        return std


class Weights(Spec):
    """One set of trained parameters for a trunk; exactly one of `file` and `url`.

    A card may write `torchvision:NAME` instead of all this; `torchvision_weights.py` fills it in.

    source: who trained and published them. sha256: of the file; for a url its leading digits are enough,
    which publishers put into the file's name. trained_on: the data. licence: of the weights. file: path
    under a weights folder. url: address that they are fetched from; `hf://ORG/NAME@REVISION/FILE` is one on
    the Hugging Face Hub. input: replaces the card's where
    these weights were trained on another scale. has_folded_batch_norm: batch norm is multiplied into the
    kernels, so it cannot be taken out. notes: for the reader.
    """

    not_identity = frozenset(
        {"url", "file", "source", "trained_on", "licence", "has_folded_batch_norm", "notes"}
    )

    source: Text
    sha256: Sha256
    trained_on: Text
    licence: Text
    file: RelativePath | None = None
    url: str | None = None
    input: Input | None = None
    has_folded_batch_norm: bool = False
    notes: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError("give exactly one of `file` (under the weights folder) and `url`")
        if self.file is not None and len(self.sha256) != 64:
            raise ValueError("a local weights file needs all 64 digits of its sha256")
        if self.url is not None and self.url.startswith(HUB):
            hub_file(self.url)
        return self


Layout = Literal["NCHW", "NHWC", "tokens"]


class Stage(Spec):
    """A feature map that the trunk promises.

    name: how messages call it. module: its place in the network, such as `layer4.2`; `.` is the whole
    network, where the geometry is declared. stride: in pixels of the input. channels: of the map.
    smallest_side: the least pixels a side of an image that leave every
    layer up to here a feature, under geometry `native`; a side of s has (s - smallest_side) // stride + 1.
    The stride where nothing is said.

    offset: the pixel that the first feature is centred on, counted from 0; feature i lies at pixel
    stride * i + offset. It declares the geometry of a network whose layers segbench cannot follow, such as
    a transformer: (p - 1) / 2 for patches of p pixels. Give it for all stages or for none. layout: of what
    the module returns, where the geometry is declared: `NCHW` or `NHWC` maps, or `tokens` (image, token,
    channel), row by row behind those that are no place of the image (class, registers). item: index or
    key of the map, where the module returns several. through: a module that the map goes through first,
    such as the last norm of a transformer.
    """

    not_identity = frozenset({"smallest_side"})  # a promise of what the modules are, like a test

    name: Name
    module: Text
    stride: Annotated[int, Field(ge=1, le=128)]
    channels: Annotated[int, Field(ge=1)]
    smallest_side: Annotated[int, Field(ge=1)] | None = None
    offset: Annotated[float, Field(ge=-512, le=512)] | None = None
    layout: Layout = "NCHW"
    item: int | str | None = None
    through: Text | None = None

    @model_validator(mode="after")
    def _declared(self) -> Self:
        idle = [n for n in ("layout", "item", "through") if getattr(self, n) not in {"NCHW", None}]
        if self.offset is None and (idle or self.module == "."):
            raise ValueError(
                f"{', '.join(idle) or 'module `.`'}: goes with declared geometry; give the stage an "
                "`offset`"
            )
        if self.offset is not None and self.smallest_side is not None:
            raise ValueError("smallest_side: a declared stage has ceil(side / stride) features")
        return self


class Classifier(Spec):
    """The fully connected layers that become convolutions behind the deepest stage.

    fc6 and fc7: their modules. kernel: side of fc6 as a convolution, in features. channels: of both.

    Source: Long, Shelhamer, Darrell, CVPR 2015, section 4.1.
    """

    fc6: Text
    fc7: Text
    kernel: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1)]


class BackboneCard(Spec):
    """A classification network without its classifier: how to build it and what it promises.

    name: the file's stem. title: for tables. builder: `torchvision.models:NAME`, `timm:NAME`,
    `segbench:NAME` for a network of segbench's own, or a function of a module that the user has declared trusted
    ($SEGBENCH_TRUSTED): one that is installed, or that lies beside the card or in the current folder. Its
    code is part of the trial. arguments: what the builder is called with. stages: the feature maps that
    heads may read, from fine to coarse. classifier: its layers, where they go along as in the FCN paper.
    average_pools: whether an average pool at the border divides by the pixels that its window has
    inside, or by the whole window; as the builder has it where nothing is said. It must be what the
    weights were trained with. has_batch_norm: whether its trunk has batch norm; where it is not said, the
    network is asked. multiple_of: where the geometry is declared, images whose sides are no multiple of
    this are padded at the bottom and on the right with the mean of `input`; the largest stride where
    nothing is said. fixed_side: the side of the only, square images that the network takes. input: what it
    expects of an image. weights: name -> trained parameters, or
    `torchvision:NAME` for what torchvision publishes. default_weights: those that `model.weights: default`
    means. licence: of the network's code. source: the paper. notes: for the reader.
    """

    not_identity = frozenset(
        {"title", "has_batch_norm", "weights", "default_weights", "licence", "source", "notes"}
    )

    name: Name
    title: Text
    builder: Function
    arguments: dict[str, Argument] = {}
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    classifier: Classifier | None = None
    average_pools: Literal["exclude_padding", "include_padding"] | None = None
    has_batch_norm: bool | None = None
    multiple_of: Annotated[int, Field(ge=1, le=1024)] | None = None
    fixed_side: Annotated[int, Field(ge=16)] | None = None
    input: Input
    weights: dict[Text, Weights] = {}
    default_weights: str | None = None
    licence: Text
    source: Source
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        strides = [stage.stride for stage in self.stages]
        if strides != sorted(strides):
            raise ValueError(f"stages must go from fine to coarse; got {strides}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: a name stands twice in {names}")
        self._check_declared()
        if self.default_weights is not None and self.default_weights not in self.weights:
            raise ValueError(
                f"default_weights: no weights {self.default_weights!r} on this card "
                f"(it has: {', '.join(self.weights) or 'none'})"
            )
        return self

    def _check_declared(self) -> None:
        stated = [stage.offset is not None for stage in self.stages]
        if any(stated) and not all(stated):
            raise ValueError("stages: give `offset` for all stages, or for none")
        traced = [n for n in ("classifier", "average_pools") if getattr(self, n) is not None]
        if self.is_declared and traced:
            raise ValueError(f"{', '.join(traced)}: needs layers that are followed; drop `offset`")
        declared = [n for n in ("multiple_of", "fixed_side") if getattr(self, n) is not None]
        if declared and not self.is_declared:
            raise ValueError(f"{', '.join(declared)}: goes with stages that give an `offset`")
        if self.fixed_side is not None and self.fixed_side % self.multiple:
            raise ValueError(f"fixed_side must be a multiple of {self.multiple}")
        if self.is_declared and (odd := [n for n in self.strides if self.multiple % n]):
            raise ValueError(f"multiple_of {self.multiple} is no multiple of stride {odd[0]}")

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the stages, finest first; several stages may have one."""
        return tuple(stage.stride for stage in self.stages)

    @property
    def is_declared(self) -> bool:
        """Whether the card says where features lie, instead of the network's layers."""
        return self.stages[0].offset is not None

    @property
    def multiple(self) -> int:
        """What the sides of images are padded to, where the geometry is declared."""
        return self.multiple_of or max(self.strides)

    def stages_read(self, strides: Iterable[int]) -> tuple[Stage, ...]:
        """Return the stages of these strides, coarse to fine, the deepest of each stride first.

        A stride that stands n times asks for the n deepest stages that have it.
        """
        asked = Counter(strides)
        found = []
        for stage in reversed(self.stages):
            if asked[stage.stride] > 0:
                asked[stage.stride] -= 1
                found.append(stage)
        return tuple(found)


class Split(Spec):
    """The images of one split, all paths relative to the data set's root.

    images and labels: patterns with `{name}`; the image's file type is found by trying `.jpg`, `.png`,
    `.jpeg` where the pattern has none. list: a text file with one image name a line; without it every label
    file is a pair. minus: lists whose names are taken away. count: how many pairs there are; another number
    is an error.
    """

    images: RelativePath
    labels: RelativePath
    list: RelativePath | None = None
    minus: tuple[RelativePath, ...] = ()
    count: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for pattern in (self.images, self.labels):
            if "{name}" not in pattern:
                raise ValueError(f"expected a pattern with {{name}}, but got {pattern!r}")
        if self.images == self.labels:
            raise ValueError(f"images and labels are the same files, {self.images!r}")
        return self


RawValue = Annotated[int, Field(ge=0, le=65535)]
OTHERS = "others"  # in `encoding.ignore`: every raw value that is no class


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _raw_or_others(value: Any) -> Any:
    if value != OTHERS and not (type(value) is int and 0 <= value <= 65535):
        raise ValueError(f"expected raw values in 0..65535 or the word `others`, but got {value!r}")
    return value


IgnoredValue = Annotated[int | Literal["others"], BeforeValidator(_raw_or_others)]


class LabelEncoding(Spec):
    """How a label file's raw values read as classes.

    format: of the label files. variable: where the map stands in a MATLAB file, such as
    `GTcls.Segmentation`. first: the raw value of class 0; the classes follow one by one unless `ids` says
    otherwise. ids: the raw value of each class. ignore: raw values that count nowhere (void, unlabelled);
    the word `others` stands for all that are no class. Any other raw value is an error that names the
    file.
    """

    format: Literal["png", "mat"] = "png"
    variable: str | None = None
    first: RawValue = 0
    ids: tuple[RawValue, ...] | None = None
    ignore: Annotated[
        tuple[IgnoredValue, ...],
        BeforeValidator(_several, json_schema_input_type=int | str | tuple[int | str, ...]),
    ] = Field(default=(), validation_alias=AliasChoices("ignore", "vanish"))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.format == "mat" and not self.variable:
            raise ValueError("a MATLAB label needs `variable`, such as `GTcls.Segmentation`")
        return self

    @property
    def ignored_values(self) -> tuple[int, ...]:
        """The raw values that are ignored by name."""
        return tuple(value for value in self.ignore if value != OTHERS)


class Archive(Spec):
    """One file to download.

    url: its address. size: in bytes. sha256 and md5: digests that the file must have. into: the folder,
    under the data folder, that it unpacks to. notes: for the reader.
    """

    url: Text
    size: Annotated[int, Field(ge=1)] | None = None
    sha256: Sha256 | None = None
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    into: RelativePath = ""
    notes: str = ""


class Hub(Spec):
    """The same data on the Hugging Face Hub, for the reader; segbench itself reads the archives.

    id: `ORG/NAME`. revision: a whole commit, as branches and tags move. notes: for the reader.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    notes: str = ""


class Drawn(Spec):
    """The built-in drawn data set: shapes of several classes on textured backgrounds.

    train and val: how many images. height and width: in pixels. shapes_per_image: the fewest and the most.
    border_px: the width of the void border around each shape, a tenth of the image at most. seed: of the
    drawing.
    """

    train: Annotated[int, Field(ge=1)]
    val: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=16)]
    width: Annotated[int, Field(ge=16)]
    shapes_per_image: tuple[int, int] = (1, 4)
    border_px: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        low, high = self.shapes_per_image
        problems = []
        if not 0 <= low <= high or high == 0:
            problems.append(
                f"shapes_per_image goes from the fewest to the most, at least one, got {[low, high]}"
            )
        if 10 * self.border_px > min(self.height, self.width):
            problems.append(f"border_px {self.border_px} is more than a tenth of the image")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Reader(Spec):
    """Images and labels that a function of the user's yields, trusted as a backbone's builder is.

    function: `package.module:name`, called with `split`, `folders` and the arguments; it yields (name,
    image, label) as arrays (README has an example). splits: those that it knows. arguments: what it is
    called with besides; they and its code are part of the trial.
    """

    function: Function
    splits: Annotated[tuple[Name, ...], Field(min_length=1)] = ("train", "val")
    arguments: dict[str, Argument] = {}


class Groups(Spec):
    """Which images belong together: frames of one drive, slices of one patient, tiles of one photograph.

    Images of a group are alike, so that many of them say less than as many independent ones. Give
    `pattern` or `file`.

    pattern: a regular expression that is searched for in each image's name, with one named part:
    `(?P<drive>[^_]+)_`. What the part matches is the image's group, and its name says what groups are.
    file: beside the card; each line has an image's name and its group. called: what a group of the
    file is. members: image name -> group, as read from the file.
    """

    not_identity = frozenset({"file", "called"})

    pattern: str | None = None
    file: RelativePath | None = None
    called: Text = "group"
    members: dict[str, Text] = {}

    @field_validator("pattern")
    @classmethod
    def _one_named_part(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            parts = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
        if len(parts) != 1:
            raise ValueError(
                f"expected one named part, such as (?P<drive>[^_]+)_, but {pattern!r} has {len(parts)}"
            )
        return pattern

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.pattern is None) == (self.file is None):
            raise ValueError("give exactly one of `pattern` and `file`")
        if self.pattern is not None and (self.called != "group" or self.members):
            raise ValueError(
                "`called` and `members` belong to a `file`; a pattern's part has a name"
            )
        return self

    @property
    def noun(self) -> str:
        """What one group is, such as `drive`."""
        if self.pattern is None:
            return self.called
        return next(iter(re.compile(self.pattern).groupindex))

    def of(self, name: str) -> str | None:
        """Return the group of the image of this name, None where it has none."""
        if self.pattern is None:
            return self.members.get(name)
        found = re.search(self.pattern, name)
        return found[self.noun] if found else None


HoldoutBy = Literal["image", "group"]


class View(Spec):
    """A controlled change of a data set, applied when labels are read, so that nothing else varies.

    merge: new class name -> the classes that become it. drop: classes whose pixels count nowhere.
    keep: the only classes that stay (the others are dropped). void_as_class: the ignored pixels
    become one more class, as the KTH study did. thin: class name -> the share of the training
    images with that class that stay. holdout: the share of the training images that become the
    split `holdout`, for searches that must not see the reported split. holdout_by: whether single
    images are held out, or whole groups of the card's `groups`, as near to that share as they come:
    at least one, and never all.
    """

    merge: dict[str, tuple[str, ...]] = {}
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    void_as_class: bool = False
    thin: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    holdout_by: HoldoutBy = "image"


Exif = Literal["apply", "stored"]
SourceKind = Literal["files", "drawn", "own"]  # data/sources/ has a file for each


class DatasetCard(Spec):
    """Images with a class index for every pixel: where they lie and what their values mean.

    name: the file's stem. title: for tables. roots: folders under the data folder in which the data may
    lie; the first that exists is taken. splits: name -> files. drawn: images that segbench draws
    itself, in place of splits. reader: a function of yours that yields the images, in place of splits.
    groups: which images belong together, where they are not independent. classes: their names, by
    index. palette: a colour for each class. background: the index of the class that is no object.
    ignore_index: the value of void in labels as segbench holds them. encoding: how raw values of label
    files read as classes. exif: whether labels are drawn on photographs as EXIF's orientation has them
    shown (`apply`) or as their pixels are `stored`; where an orientation is found the card must say it.
    image_bits: how many bits are significant in photographs with 16 bits per value; others are read as
    they are. archives: files that `segbench prepare` downloads. hub: the same data elsewhere, for the
    reader. view: a controlled change of the data. licence: of the data. source: the paper. notes: for
    the reader.
    """

    not_identity = frozenset(
        {"title", "roots", "groups", "palette", "archives", "hub", "licence", "source", "notes"}
    )

    name: Name
    title: Text
    roots: tuple[RelativePath, ...] = ("",)
    splits: dict[Name, Split] = {}
    drawn: Drawn | None = None
    reader: Reader | None = None
    groups: Groups | None = None
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]
    palette: tuple[tuple[int, int, int], ...]
    background: Annotated[int, Field(ge=0)] | None = None
    ignore_index: Literal[255] = IGNORE_INDEX
    encoding: LabelEncoding = LabelEncoding()
    exif: Exif | None = None
    image_bits: Annotated[int, Field(ge=8, le=16)] | None = None
    archives: tuple[Archive, ...] = ()
    hub: Hub | None = None
    view: View = View()
    licence: Text
    source: Source
    notes: str = ""

    _max_classes: ClassVar[int] = 255

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._class_problems(), *self._encoding_problems(), *self._view_problems()]
        if [bool(self.splits), self.drawn is not None, self.reader is not None].count(True) != 1:
            problems.append(
                "give one of `splits` (files), `drawn` (made by segbench) and `reader` (your function)"
            )
        if self.reader is not None and (idle := self._idle_beside_reader()):
            problems.append(f"reader: gives classes and pixels as they are: leave {idle} out")
        unknown = [name for name in self.classes[1:] if name not in DRAWN_SHAPES]
        if self.drawn is not None and unknown:
            problems.append(
                f"classes: no shape is called {', '.join(unknown)}; behind the background there may "
                f"be {', '.join(DRAWN_SHAPES)}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _idle_beside_reader(self) -> str:
        fields = type(self).model_fields
        names = ("encoding", "exif", "image_bits")
        return ", ".join(name for name in names if getattr(self, name) != fields[name].default)

    def _class_problems(self) -> list[str]:
        problems = []
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            problems.append(f"classes: named twice: {', '.join(twice)}")
        if len(self.classes) > self._max_classes:
            problems.append(f"classes: {len(self.classes)} given, at most {self._max_classes} fit")
        if len(self.palette) != len(self.classes):
            problems.append(f"palette: {len(self.palette)} colours for {len(self.classes)} classes")
        if any(not 0 <= value <= 255 for colour in self.palette for value in colour):
            problems.append("palette: every value must lie in 0..255")
        if self.background is not None and self.background >= len(self.classes):
            problems.append(f"background: {self.background} is not the index of a class")
        return problems

    def _encoding_problems(self) -> list[str]:
        ids = self.encoding.ids
        if ids is not None and len(ids) != len(self.classes):
            return [f"encoding.ids: {len(ids)} values for {len(self.classes)} classes"]
        if ids is not None and len(set(ids)) != len(ids):
            return ["encoding.ids: a raw value stands twice"]
        both = sorted(set(self.raw_values) & set(self.encoding.ignored_values))
        return [f"encoding.ignore: the raw values {both} are classes too"] if both else []

    def _view_problems(self) -> list[str]:
        view = self.view
        merged = [name for names in view.merge.values() for name in names]
        named = [*merged, *view.drop, *view.keep, *view.thin]
        problems = [
            f"view: no class {name!r} in {self.name}" for name in named if name not in self.classes
        ]
        if view.holdout_by == "group" and self.groups is None:
            problems.append(
                f"view.holdout_by: {self.name} says of no image which group it is in; add `groups`"
            )
        if view.keep and (view.drop or view.merge):
            problems.append("view: `keep` goes alone, without `drop` or `merge`")
        twice = sorted(
            {
                name
                for name in merged + list(view.drop)
                if (merged + list(view.drop)).count(name) > 1
            }
        )
        if twice:
            problems.append(f"view: merged or dropped twice: {', '.join(twice)}")
        for target, members in view.merge.items():
            if target in self.classes and target not in members:
                problems.append(
                    f"view.merge: {target!r} is a class besides: give the merged one another name, or "
                    f"merge {target!r} into it too"
                )
        if view.void_as_class and len(self.class_names) > self._max_classes:
            problems.append(f"view: void_as_class makes more than {self._max_classes} classes")
        if view.void_as_class and "void" in {*view.merge, *self.classes}:
            problems.append("view: void_as_class makes a class `void`, and there is one already")
        if not problems and self.num_classes < 2:
            left = ", ".join(self.class_names) or "no class"
            problems.append(f"view: leaves {left}, where there is nothing to tell apart; keep two")
        return problems

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that the source has; what the view holds out of `train` is none."""
        return tuple(self.split_counts)

    @property
    def split_counts(self) -> dict[str, int | None]:
        """How many images each split has, None where the card does not say."""
        if self.drawn is not None:
            return {"train": self.drawn.train, "val": self.drawn.val}
        if self.reader is not None:
            return dict.fromkeys(self.reader.splits)
        return {name: split.count for name, split in self.splits.items()}

    @property
    def source_kind(self) -> SourceKind:
        """Where the images come from: files, segbench's own drawing, or a function of the user's."""
        if self.reader is not None:
            return "own"
        return "files" if self.drawn is None else "drawn"

    @property
    def raw_values(self) -> tuple[int, ...]:
        """The raw label value of each class, in class order."""
        first = self.encoding.first
        return self.encoding.ids or tuple(range(first, first + len(self.classes)))

    @property
    def class_map(self) -> tuple[int | None, ...]:
        """For each class of the card its index under the view, None where it is dropped."""
        index: dict[str, int] = {}
        for name in self.classes:
            target = self._seen_as(name)
            if target is not None:
                index.setdefault(target, len(index))
        return tuple(
            None if (target := self._seen_as(name)) is None else index[target]
            for name in self.classes
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that are trained and scored, under the view, in index order."""
        names = dict.fromkeys(t for name in self.classes if (t := self._seen_as(name)) is not None)
        return (*names, "void") if self.view.void_as_class else tuple(names)

    @property
    def num_classes(self) -> int:
        """How many classes are trained and scored, background included."""
        return len(self.class_names)

    @property
    def seen_background(self) -> int | None:
        """The background's index under the view, None where there is none or it is dropped."""
        return None if self.background is None else self.class_map[self.background]

    @property
    def seen_palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colour of each class under the view: that of the first class that became it."""
        colours: dict[int, tuple[int, int, int]] = {}
        for index, colour in zip(self.class_map, self.palette, strict=True):
            if index is not None:
                colours.setdefault(index, colour)
        seen = tuple(colours[index] for index in sorted(colours))
        return (*seen, VOID_COLOUR) if self.view.void_as_class else seen

    def identity(self) -> dict[str, Any]:
        """See `Spec`. Groups change no number unless they say what is held out of the training."""
        found = super().identity()
        if self.groups is not None and self.view.holdout_by == "group":
            found["groups"] = self.groups.identity()
        return found

    def content_digest(self) -> str:
        """Return the digest of what the stored images and labels depend on: not of the view."""
        return self.revised(view=View()).identity_digest(length=16)

    def _seen_as(self, name: str) -> str | None:
        view = self.view
        if name in view.drop or (view.keep and name not in view.keep):
            return None
        for target, members in view.merge.items():
            if name in members:
                return target
        return name


def card_stem(name: Any) -> str:
    """Return a file stem that is a legal card name, or raise ValueError."""
    try:
        return checked_name(str(name))
    except ValueError as error:
        raise ValueError(f"a card is called as its file: {error}") from error
