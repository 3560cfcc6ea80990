"""The evaluation protocol: everything that changes the number but not the weights.

Numbers of different protocols never share a ranking; `Protocol.digest()` tells them apart.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from segbench.schema.base import Spec
from segbench.schema.cards import DatasetCard
from segbench.schema.metric_names import is_own
from segbench.schema.recipe import Count, Positive, Resize, Side

FalsePositives = Literal["everywhere", "labelled_images"]


class Sliding(Spec):
    """Windows that are moved over the image; overlapping score maps are averaged.

    window: (height, width) in pixels. stride: (down, across) in pixels.
    """

    window: tuple[Side, Side]
    stride: tuple[Count, Count]

    @property
    def gap(self) -> str:
        """Why pixels of a large image lie in no window, empty where all lie in one.

        Looked at when a file or a flag is read, and when windows are placed; not part of the record,
        so that finished runs stay readable.
        """
        if all(step <= side for step, side in zip(self.stride, self.window, strict=True)):
            return ""
        return (
            f"stride {list(self.stride)} is larger than window {list(self.window)}, so that pixels "
            "between windows would have no prediction; take a stride up to the window's size"
        )


class Crf(Spec):
    """Fully connected CRF refinement (Kraehenbuehl and Koltun, NIPS 2011) of the probability map.

    The defaults are those of the KTH study's `post_crf.py`; experiments that follow others say so
    (docs/protocol.md lists their constants).

    iterations: of mean field. gaussian_width: of the smoothness kernel, in pixels. gaussian_weight: its
    weight. bilateral_width: of the appearance kernel, in pixels. bilateral_colour: its width in colour
    values (0-255). bilateral_weight: its weight. clip: probabilities are kept this far from 0.
    coordinates: their order among the filter's features, which its lattice approximates a little
    differently. `xy` is DenseCRF2D's; `yx` is the generic DenseCRF's with pydensecrf's own pairwise
    features, which the study used.
    """

    iterations: Count = 10
    gaussian_width: Positive = 10.0
    gaussian_weight: Positive = 3.0
    bilateral_width: Positive = 50.0
    bilateral_colour: Positive = 20.0
    bilateral_weight: Positive = 10.0
    clip: Annotated[float, Field(ge=0, lt=0.1)] = 1e-5
    coordinates: Literal["xy", "yx"] = "xy"


class Protocol(Spec):
    """How a trained model becomes a confusion matrix, and how that becomes figures.

    name: as the file calls it. title: for tables. dataset: the card whose split is scored, where that is
    not the card that the model was trained on. A file says its name; the record holds the card itself, so
    that workers need no search path and the digest tells which data were scored. Classes are matched by
    name (`segbench.schema.matched`). split: that is scored.
    size: `native` feeds images as they are; (height, width) squashes each before the model, and
    score maps are brought back to the label's size unless `score_at` is `input`. short_side: in pixels,
    resizes keeping the shape. resize: how images are resized, as in training; score maps always
    bilinearly. score_at: `input` scores at the squashed size, as the KTH study did.
    scales and flip: score maps of all versions are averaged as probabilities. sliding: predict window by
    window. crf: refine predictions.
    absent_class: a class with neither label nor predicted pixels is left out of means (`skip`), or
    counts as 0 (`zero`, ADE20K's official script). `skip_unlabelled` leaves out every class without
    label pixels, even a predicted one.
    with_background: whether class `background` of the card enters the means.
    false_positives: `labelled_images` counts the predicted pixels of a class in the images alone whose
    label has the class, so that false alarms elsewhere are no errors (the KTH study's metric, with
    absent_class `zero`); `everywhere` is the field's rule.
    void: `ignore` leaves unlabelled pixels out; `false_positive` counts predictions on them against
    the predicted class (the other of the two CamVid conventions).
    max_images: the first n of the split in a shuffled order. subset_seed: of that order.
    boundary: also score boundaries, within this share of the image's diagonal (Cheng et al., CVPR
    2021: 0.02).
    metrics: your own that are computed besides, as package.module:name. code: what they are made of, so that
    changed code is another protocol; filled in by segbench.
    """

    not_identity = frozenset({"name", "title"})

    name: str = "native"
    title: str = ""
    dataset: DatasetCard | None = None
    split: str = "val"
    size: tuple[Side, Side] | Literal["native"] = "native"
    short_side: Side | None = None
    resize: Resize = "bilinear"
    score_at: Literal["label", "input"] = "label"
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    flip: bool = False
    sliding: Sliding | None = None
    crf: Crf | None = None
    absent_class: Literal["skip", "zero", "skip_unlabelled"] = "skip"
    with_background: bool = True
    false_positives: FalsePositives = "everywhere"
    void: Literal["ignore", "false_positive"] = "ignore"
    max_images: Count | None = None
    subset_seed: int = 0
    boundary: Annotated[float, Field(gt=0, le=0.5)] | None = None
    metrics: tuple[str, ...] = ()
    code: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.size != "native" and self.short_side is not None:
            raise ValueError("give either `size` or `short_side`")
        if self.score_at == "input" and self.size == "native":
            raise ValueError("score_at: input needs `size: [height, width]`")
        if self.boundary is not None and self.false_positives != "everywhere":
            raise ValueError("false_positives: labelled_images knows no boundary; leave it out")
        if not_own := [name for name in self.metrics if not is_own(name)]:
            raise ValueError(
                f"metrics: {', '.join(not_own)}: name your own, as package.module:name; segbench's are "
                "always computed"
            )
        if self.code and not self.metrics:
            raise ValueError("code: is filled in from `metrics`; leave it out")
        return self

    def scored_card(self, trained: DatasetCard) -> DatasetCard:
        """Return the card whose split is scored, of a model that was trained on `trained`."""
        return self.dataset or trained

    def scored_name(self, trained: str) -> str:
        """Return the name of the card whose split is scored."""
        return trained if self.dataset is None else self.dataset.name

    @property
    def split_in_words(self) -> str:
        """The split that is scored, with its card where that is not the model's own."""
        return self.split if self.dataset is None else f"{self.dataset.name} {self.split}"

    def counts_like(self, stored: "Protocol") -> bool:
        """Return whether counts under this protocol can be made from those under `stored`.

        They can where only what is done with counts differs; predictions that `stored` left out of
        them cannot be brought back.
        """
        return self.revised(**_AFTER_COUNTING).digest() == stored.revised(
            **_AFTER_COUNTING
        ).digest() and stored.false_positives in {"everywhere", self.false_positives}

    def digest(self) -> str:
        """Return the 8 digits that name this protocol in file names and tables."""
        return self.identity_digest(length=8)

    def description(self, *, with_split: bool = True) -> str:
        """Return the protocol in words, naming every field that is not the default.

        with_split: whether another split than the default one is among them.
        """
        plain = Protocol()
        unsaid = {"name", "title", "code"} if with_split else {"name", "title", "code", "split"}
        parts = [
            f"{name} {_words(getattr(self, name))}"
            for name in type(self).model_fields
            if name not in unsaid and getattr(self, name) != getattr(plain, name)
        ]
        return "; ".join(parts) or "whole images at native size, single scale, void ignored"


_AFTER_COUNTING: dict[str, Any] = {
    "absent_class": "skip",
    "with_background": True,
    "false_positives": "everywhere",
    "metrics": (),
    "code": {},
}


def _words(value: object) -> str:
    if isinstance(value, DatasetCard):
        return value.name
    if isinstance(value, Spec):
        return " ".join(f"{key}={_words(getattr(value, key))}" for key in type(value).model_fields)
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value)
