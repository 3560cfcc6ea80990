"""Label photographs with a trained model: palette PNGs, overlays with a legend, probabilities.

A model is a trial's folder, or one that `segbench export` wrote: JSON and safetensors, of which
nothing is executed. Letters: C classes, H W image size. Knows nothing of labels.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segbench.data.photographs import Doubts, checked_image
from segbench.data.split import decoded_image
from segbench.engine.crf import refine, require_crf
from segbench.engine.device import chosen_device, make_repeatable
from segbench.engine.evaluate import naming
from segbench.engine.predict import unrefined
from segbench.errors import DataError
from segbench.files import check_file_names, write_atomically
from segbench.models.segmenter import Segmenter
from segbench.spec.cards import DatasetCard
from segbench.spec.machine import Machine
from segbench.spec.protocol import Crf, Protocol
from segbench.trial_score import load_segmenter

LOG = logging.getLogger(__name__)
IMAGE_TYPES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_LEGEND_PX = 18  # height of a line of the legend
_OPACITY = 0.55  # of the class colours over the photograph


def label_images(
    model: Path,
    images: Sequence[Path],
    folder: Path,
    protocol: Protocol,
    machine: Machine,
    *,
    with_crf: bool = False,
    with_probabilities: bool = False,
    with_other_code: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Path]:
    """Write NAME.png, NAME_overlay.png and, if asked for, NAME_probabilities.npz; return the PNGs.

    images: files, or folders that are searched. A prediction has its image's size, whatever the
    protocol's, and is turned as EXIF has it shown. Probabilities are float16, (C, H, W), beside their class_names.

    Raises:
        CardError: the user's code has changed since the training, unless `with_other_code`.
        DataError: no images, two of one name, or files that are no images: all listed, the others
            are done. The model's weights hold NaN or infinity.
        DivergedError: a score map does; names the image.
    """
    found = _images(images)
    trial, segmenter = load_segmenter(model, machine, with_other_code=with_other_code)
    make_repeatable(machine, trial.seed)
    protocol = protocol.revised(score_at="label")
    if with_crf and protocol.crf is None:
        protocol = protocol.revised(crf=Crf())
    if protocol.crf is not None:
        require_crf()
    problems, written = [], []
    bits = trial.dataset.image_bits
    doubts = Doubts("apply", bits)
    for done, (name, path) in enumerate(found.items(), start=1):
        try:
            photograph = checked_image(path.read_bytes(), str(path), exif="apply", bits=bits)
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        doubts.add(str(path), photograph)
        image = decoded_image(photograph.stored)
        with naming(str(path)):
            probabilities = _probabilities(segmenter, image, protocol, chosen_device(machine))
        written.append(folder / f"{name}.png")
        _write_pictures(written[-1], image, probabilities.argmax(0), trial.dataset)
        if with_probabilities:
            _write_probabilities(
                folder / f"{name}_probabilities.npz", probabilities, trial.dataset.class_names
            )
        progress(done, len(found))
    for sentence in doubts.sentences():
        LOG.warning("%s", sentence)
    if problems:
        raise DataError("\n".join(problems))
    return written


def _images(given: Sequence[Path]) -> dict[str, Path]:
    """Return the image files by the name that their predictions bear."""
    found: dict[str, Path] = {}
    problems = []
    for place in given:
        if place.is_dir():
            inside = [p for p in sorted(place.rglob("*")) if p.suffix.lower() in IMAGE_TYPES]
            named = [(p.relative_to(place).with_suffix("").as_posix(), p) for p in inside]
        else:
            named = [(place.stem, place)]
        if not named or not all(path.is_file() for _, path in named):
            problems.append(f"{place}: no such image, or no image in it")
        check_file_names(place, (name for name, _ in named))
        for name, path in named:
            if found.setdefault(name, path) != path:
                problems.append(f"{path}: would be written over {found[name]}; label them apart")
    if problems:
        raise DataError("\n".join(problems))
    return found


def _probabilities(
    segmenter: Segmenter, image: Tensor, protocol: Protocol, device: torch.device
) -> NDArray[np.float32]:
    seen, probabilities = unrefined(segmenter, image.to(device), protocol)
    return probabilities if protocol.crf is None else refine(seen, probabilities, protocol.crf)


def _write_pictures(
    path: Path, image: Tensor, prediction: NDArray[np.int64], dataset: DatasetCard
) -> None:
    palette = np.asarray(dataset.seen_palette, dtype=np.uint8)
    labelled = Image.fromarray(prediction.astype(np.uint8))
    labelled.putpalette(palette.ravel().tolist())
    _save(path, labelled)
    pixels = image.permute(1, 2, 0).numpy()  # (H, W, 3)
    blended = (1 - _OPACITY) * pixels + _OPACITY * palette[prediction]
    seen = np.unique(prediction).tolist()
    legend = [(dataset.class_names[index], tuple(palette[index].tolist())) for index in seen]
    overlay = _with_legend(Image.fromarray(blended.round().astype(np.uint8)), legend)
    _save(path.with_name(f"{path.stem}_overlay.png"), overlay)


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
