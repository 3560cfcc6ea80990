"""Label photographs with a trained model: palette PNGs, overlays with a legend, probabilities.

A model is a trial's folder, or one that `segbench export` wrote: JSON and safetensors, of which
nothing is executed. Letters: C classes, H W image size. Knows nothing of labels.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segbench.data.chosen import stored_split
from segbench.data.photographs import Doubts, checked_image
from segbench.data.sources import source_of
from segbench.data.split import decoded_image, open_scored
from segbench.engine.crf import refine, require_crf
from segbench.engine.device import chosen_device, make_repeatable
from segbench.engine.evaluate import naming
from segbench.engine.predict import predict, unrefined
from segbench.errors import DataError, FileError, by_cause
from segbench.files import check_file_names, sha256_of_file, write_atomically
from segbench.models.segmenter import Segmenter
from segbench.runs.predicted import (
    PredictedBy,
    label_map_path,
    names_of_split,
    open_folder,
    overlay_path,
    probabilities_path,
)
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Crf, Protocol
from segbench.schema.trial import Trial
from segbench.work.scoring import load_segmenter

LOG = logging.getLogger(__name__)
IMAGE_TYPES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_LEGEND_PX = 18  # height of a line of the legend
_OPACITY = 0.55  # of the class colours over the photograph


@dataclass(frozen=True)
class LabelFlags:
    """What is to be labelled, and written into `folder`.

    images: files, or folders that are searched. split: instead of them, a split of the
    data set that the protocol scores, the model's own where it names none. with_probabilities:
    float16, (C, H, W), beside their class_names.
    """

    folder: Path
    images: tuple[Path, ...] = ()
    split: str | None = None
    with_crf: bool = False
    with_probabilities: bool = False
    with_other_code: bool = False


class _Source(NamedTuple):
    """A photograph. digest: tells it from others of its name. path: of its file, where it is here."""

    digest: str
    load: Callable[[], Tensor]
    path: Path | None = None


def label_images(
    model: Path,
    asked: LabelFlags,
    protocol: Protocol,
    machine: Machine,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Path]:
    """Write the files of `segbench.runs.predicted`; return the label maps.

    A prediction has its image's size, whatever the protocol's, and the name that the model's data
    set gives its image, where it lies as the card says. It is turned as EXIF has the image shown,
    unless it is the data set's and the card says otherwise.

    Raises:
        CardError: the user's code has changed since the training, unless `with_other_code`.
        DataError: no images, two of one name, something that must not be written over, weights that
            are not finite, or files that are no images: all listed, the others are done.
        DivergedError: a score map does; names the image.
    """
    found = _images(asked.images) if asked.split is None else {}
    trial, segmenter = load_segmenter(model, machine, with_other_code=asked.with_other_code)
    make_repeatable(machine, trial.seed)
    protocol = as_predicted(protocol, asked)
    doubts = Doubts("apply", trial.dataset.image_bits)
    sources = (
        _of_files(found, trial.dataset, doubts)
        if asked.split is None
        else _of_split(trial.dataset, protocol, machine)
    )
    _open(asked.folder, trial, protocol, sources)
    problems: list[DataError] = []
    device, written = chosen_device(machine), []
    for done, (name, source) in enumerate(sources.items(), start=1):
        if (image := _loaded(source, problems)) is None:
            continue
        with naming(name if source.path is None else str(source.path)):
            written.append(_label(name, image.to(device), asked, trial, segmenter, protocol))
        progress(done, len(sources))
    _tell(doubts, problems)
    return written


def _tell(doubts: Doubts, problems: Sequence[DataError]) -> None:
    """Warn of photographs that may be read wrongly; raise DataError for those that cannot be."""
    for sentence in by_cause(doubts.problems()):
        LOG.warning("%s", sentence)
    if problems:
        raise DataError("\n".join(by_cause(problems)))


def _open(folder: Path, trial: Trial, protocol: Protocol, sources: Mapping[str, _Source]) -> None:
    """Say in the folder what predicts into it, once it is sure that nothing else is written over."""
    about = PredictedBy(
        trial_id=trial.id(),
        dataset=trial.dataset.name,
        class_names=trial.dataset.class_names,
        protocol=protocol,
        images={name: source.digest for name, source in sources.items()},
    )
    photographs = [source.path for source in sources.values() if source.path is not None]
    open_folder(folder, about, photographs)


def _loaded(source: _Source, problems: list[DataError]) -> Tensor | None:
    """Return the image; None, and a problem more, where it cannot be read."""
    try:
        return source.load()
    except DataError as error:
        problems.append(error)
    except OSError as error:
        problems.append(FileError(source.path, "cannot be read ({})", error.strerror))
    return None


def as_predicted(protocol: Protocol, asked: LabelFlags) -> Protocol:
    """Return the protocol under which a model's protocol has photographs labelled: at their own size.

    Raises:
        DataError: a CRF is asked for, and its package is not installed.
    """
    protocol = protocol.revised(score_at="label")
    if asked.split is not None:
        protocol = protocol.revised(split=asked.split)
    if asked.with_crf and protocol.crf is None:
        protocol = protocol.revised(crf=Crf())
    if protocol.crf is not None:
        require_crf()
    return protocol


def _of_files(
    photographs: Mapping[str, Path], dataset: DatasetCard, doubts: Doubts
) -> dict[str, _Source]:
    of_split = names_of_split(photographs, dataset)
    exif = dataset.exif if of_split else None

    def load(path: Path) -> Tensor:
        photograph = checked_image(
            path.read_bytes(), str(path), exif=exif or "apply", bits=dataset.image_bits
        )
        doubts.add(str(path), photograph)
        return decoded_image(photograph.stored)

    return {
        name: _Source(sha256_of_file(path)[:16], partial(load, path), path)
        for name, path in (of_split or photographs).items()
    }


def _of_split(dataset: DatasetCard, protocol: Protocol, machine: Machine) -> dict[str, _Source]:
    split = open_scored(dataset, protocol, machine)
    digest, here = split.fingerprint[:16], _photographs_here(dataset, protocol, machine)
    return {
        name: _Source(digest, lambda index=index: split.sample(index).image, here.get(name))
        for index, name in enumerate(split.names)
    }


def _photographs_here(
    dataset: DatasetCard, protocol: Protocol, machine: Machine
) -> dict[str, Path]:
    """Return the files of the split's images by name; none where a converted split alone is here."""
    scored, stored = protocol.scored_card(dataset), stored_split(protocol.split)
    if stored not in scored.split_names:
        return {}
    return source_of(scored, stored, machine).photographs()


def _label(
    name: str,
    image: Tensor,
    asked: LabelFlags,
    trial: Trial,
    segmenter: Segmenter,
    protocol: Protocol,
) -> Path:
    """Write the files of one image; return its label map."""
    if asked.with_probabilities:
        probabilities = _probabilities(segmenter, image, protocol)
        path = probabilities_path(asked.folder, name)
        _write_probabilities(path, probabilities, trial.dataset.class_names)
    prediction = predict(segmenter, image, protocol).cpu().numpy()  # as it is scored
    written = label_map_path(asked.folder, name)
    _write_label_map(written, prediction, trial.dataset)
    _write_overlay(overlay_path(asked.folder, name), image.cpu(), prediction, trial.dataset)
    return written


def _images(given: Sequence[Path]) -> dict[str, Path]:
    """Return the image files by the name that their predictions bear."""
    found: dict[str, Path] = {}
    problems: list[DataError] = []
    for place in given:
        if place.is_dir():
            inside = [p for p in sorted(place.rglob("*")) if p.suffix.lower() in IMAGE_TYPES]
            named = [(p.relative_to(place).with_suffix("").as_posix(), p) for p in inside]
        else:
            named = [(place.stem, place)]
        if not named:
            problems.append(FileError(place, "there is no image in [it|them]"))
        problems += [FileError(p, "no such file[|s]") for _, p in named if not p.is_file()]
        check_file_names(place, (name for name, _ in named))
        for name, path in named:
            if found.setdefault(name, path) != path:
                problems.append(
                    FileError(path, "would be written over {}; label them apart", found[name])
                )
    if problems:
        raise DataError("\n".join(by_cause(problems)))
    return found


def _probabilities(segmenter: Segmenter, image: Tensor, protocol: Protocol) -> NDArray[np.float32]:
    seen, probabilities = unrefined(segmenter, image, protocol)
    return probabilities if protocol.crf is None else refine(seen, probabilities, protocol.crf)


def _write_label_map(path: Path, prediction: NDArray[np.int64], dataset: DatasetCard) -> None:
    labelled = Image.fromarray(prediction.astype(np.uint8))
    labelled.putpalette(np.asarray(dataset.seen_palette, dtype=np.uint8).ravel().tolist())
    _save(path, labelled)


def _write_overlay(
    path: Path, image: Tensor, prediction: NDArray[np.int64], dataset: DatasetCard
) -> None:
    palette = np.asarray(dataset.seen_palette, dtype=np.uint8)
    pixels = image.permute(1, 2, 0).numpy()  # (H, W, 3)
    blended = (1 - _OPACITY) * pixels + _OPACITY * palette[prediction]
    seen = np.unique(prediction).tolist()
    legend = [(dataset.class_names[index], tuple(palette[index].tolist())) for index in seen]
    _save(path, _with_legend(Image.fromarray(blended.round().astype(np.uint8)), legend))


def _with_legend(
    picture: Image.Image, legend: Iterable[tuple[str, tuple[int, ...]]]
) -> Image.Image:
    """Return the picture above a line for each class: a patch of its colour, and its name."""
    lines = list(legend)
    font = ImageFont.load_default()
    width = max(picture.width, *(int(font.getlength(name)) + 30 for name, _ in lines))
    sheet = Image.new("RGB", (width, picture.height + _LEGEND_PX * len(lines)), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for row, (name, colour) in enumerate(lines):
        top = picture.height + row * _LEGEND_PX
        draw.rectangle((4, top + 3, 18, top + 14), fill=colour, outline="black")
        draw.text((24, top + 3), name, fill="black", font=font)
    return sheet


def _save(path: Path, picture: Image.Image) -> None:
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def _write_probabilities(
    path: Path, probabilities: NDArray[np.float32], class_names: tuple[str, ...]
) -> None:
    arrays = {
        "probabilities": probabilities.astype(np.float16),
        "class_names": np.asarray(class_names),
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
