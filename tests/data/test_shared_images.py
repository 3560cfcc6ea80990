"""Images that a scored split shares with the training split are counted and reported."""

import io
import json
import shutil

import numpy as np
from drawn_run import boards_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_folder import card
from toy_world import ONE_STEP, new_project, train_all, with_files

from segbench.commands import preflight
from segbench.commands.evaluate import figures_in_words
from segbench.commands.run import Flags, prepare_run
from segbench.data.photographs import checked_image
from segbench.data.prepare import prepare_dataset
from segbench.data.prepared import contents_here
from segbench.data.shared import Shared, SplitPart, _number_of_equal, shared_images, shared_in_words
from segbench.data.split import open_split
from segbench.runs import trial_files


def _encoded(pixels, kind, mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_images_have_one_digest_if_and_only_if_their_pixels_are_equal(seed):
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.integers(0, 256, (6, 4, 1), dtype=np.uint8), 3, axis=2)  # grey
    files = [
        _encoded(pixels, "PNG"), _encoded(pixels, "BMP"), _encoded(pixels, "PNG", "L"),
        _encoded(pixels, "TIFF"), _encoded(pixels, "PNG", "RGBA"),
    ]  # fmt: skip
    assert len({checked_image(file, "a").digest for file in files}) == 1
    other = pixels.copy()
    other[seed % 6, seed % 4, seed % 3] ^= 1
    turned = pixels.reshape(4, 6, 3)  # the same bytes in another size
    for unlike in (other, turned):
        assert (
            checked_image(_encoded(unlike, "PNG"), "a").digest
            != checked_image(files[0], "a").digest
        )


def test_a_split_that_was_converted_without_digests_opens_as_before(folder, machine):
    split = open_split(card(), "val", machine)
    contents = contents_here(card(), "val", machine)
    assert len(set(contents.image_digests)) == 3
    (about,) = (folder.parent / "cache").rglob("about.json")
    about.write_text(
        json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "image_digests"})
    )
    assert open_split(card(), "val", machine).fingerprint == split.fingerprint
    assert contents_here(card(), "val", machine).image_digests is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_equal_files_are_counted_as_by_reading_all_of_them(tmp_path_factory, ours, theirs):
    long = bytes(1 << 16)  # a block that many files begin with
    contents = [b"", b"a", b"b", long, long + b"a", long + b"b"]
    place = tmp_path_factory.mktemp("equal")
    paths = [
        [place / f"{side}{i}" for i in range(len(kinds))]
        for side, kinds in enumerate((ours, theirs))
    ]
    for side, kinds in zip(paths, (ours, theirs), strict=True):
        for path, kind in zip(side, kinds, strict=True):
            path.write_bytes(contents[kind])
    assert _number_of_equal(*paths) == sum(kind in ours for kind in theirs)


def _copy_to_val(folder, *, number):
    """Put images of train under other names and formats into val, beside its own three."""
    for index in range(number):
        source = folder / "photos" / "train" / f"im{index}.jpg"
        shutil.copy(source, folder / "photos" / "val" / f"same{index}.jpg")
        shutil.copy(
            folder / "masks" / "train" / f"im{index}.png",
            folder / "masks" / "val" / f"same{index}.png",
        )


def test_shared_images_are_counted_before_and_after_conversion_and_told_by_prepare(folder, machine):
    for path in folder.rglob("val/im*"):
        path.unlink()
    _copy_to_val(folder, number=2)
    source = folder / "photos" / "train" / "im2.jpg"
    with Image.open(source) as image:
        image.save(folder / "photos" / "val" / "other.png")
    shutil.copy(folder / "masks" / "train" / "im2.png", folder / "masks" / "val" / "other.png")
    train, val = SplitPart(card(), "train"), SplitPart(card(), "val")
    assert shared_images(train, val, machine) is None
    told = "street val: {} of its 3 images are in train too, so figures on it are too high; take them out"
    assert shared_in_words(train, val, machine).startswith(told.format(2))  # by bytes
    assert told.format(3) in prepare_dataset(card(), machine)  # by pixels
    assert shared_images(train, val, machine) == Shared(3, 3)
    assert shared_in_words(train, val, machine).startswith(told.format(3))
    assert shared_in_words(train, train, machine) == ""
    assert shared_images(train, SplitPart(card(), "val", 1), machine) == Shared(1, 1)
    assert shared_images(val, train, machine) == Shared(3, 6)


def test_splits_without_a_shared_image_ask_for_no_sentence(folder, machine):
    for path in (folder / "photos" / "val").iterdir():
        with Image.open(path) as image:
            plain = Image.new("RGB", image.size, "red")
        plain.save(path)
    assert shared_in_words(SplitPart(card(), "train"), SplitPart(card(), "val"), machine) == ""
    assert prepare_dataset(card(), machine) == "ready: train 6 images, val 3 images"


def test_a_holdout_shares_what_stands_twice_in_train(folder, machine):
    for index in range(6):
        for kind, ending in (("photos", "jpg"), ("masks", "png")):
            path = folder / kind / "train" / f"im{index}.{ending}"
            shutil.copy(path, path.with_name(f"again{index}.{ending}"))
    held = card(view={"holdout": 0.4})
    open_split(held, "train", machine)
    names = {part: open_split(held, part, machine).names for part in ("train", "holdout")}
    pictures = {part: {name[-1] for name in found} for part, found in names.items()}
    expected = sum(name[-1] in pictures["train"] for name in names["holdout"])
    assert expected > 0
    assert shared_images(SplitPart(held, "train"), SplitPart(held, "holdout"), machine) == Shared(
        expected, len(names["holdout"])
    )


def test_the_number_is_told_before_a_run_kept_with_its_figures_and_on_the_board(
    tmp_path, toy_cache
):
    project = new_project(tmp_path)
    shown = {"train": (0, 1, 2, 3), "val": (2, 3, 4, 2)}
    labels = {
        split: [
            np.random.default_rng(seed).integers(0, 2, (32, 32), dtype=np.uint8) for seed in seeds
        ]
        for split, seeds in shown.items()
    }
    data = with_files(project, labels)
    flags = Flags(
        only=("head=fcn32s",), settings=(ONE_STEP,), seeds=1, cache=toy_cache, data=(data,),
        device="cpu", results=tmp_path / "results",
    )  # fmt: skip
    prepared = prepare_run(project / "experiments" / "toy.yaml", flags)
    (told,) = preflight.shared_images_in_words(prepared)
    assert told.startswith("toyshapes val: 3 of its 4 images are in train too")
    (workdir,) = train_all(prepared)
    shutil.rmtree(data)
    (evaluation,) = trial_files.load_evaluations(workdir)
    assert evaluation.num_trained_on == 3
    assert figures_in_words(evaluation).endswith("on 4 images of val, 3 of them trained on")
    (board,) = boards_of(prepared.run_folder)
    assert board.reading_note.startswith(
        "3 of these 4 images were trained on, so the figures are higher than on new ones. "
    )
