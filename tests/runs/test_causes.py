"""One cause is one line, with the first file and how many more there are; advice that can be followed."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_folder import card, folder, grey_png, machine  # noqa: F401
from scipy.io import savemat

from segbench.data.labels import class_lookup, decode_label, image_label
from segbench.data.layout import download_folder
from segbench.data.split import open_split
from segbench.errors import DamagedError, DataError, FileError, by_cause
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.label_images import _images
from segbench.work.predictions import PredictionFolder, score_predictions
from segbench.work.reading import as_labels


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.booleans()), max_size=30)
)
def test_each_cause_is_one_line_with_its_first_file_and_their_number(faults):
    kinds = {False: FileError, True: DamagedError}
    problems = [
        kinds[d](f"{i}.png", f"{cause} {{}} [is|are] wrong", what)
        for i, (cause, what, d) in enumerate(faults)
    ]
    lines = by_cause(problems, mend="drop it")
    causes = list(dict.fromkeys((cause, damaged) for cause, _, damaged in faults))
    assert len(lines) == len(causes)
    for line, (cause, damaged) in zip(lines, causes, strict=True):
        alike = [i for i, (c, _, d) in enumerate(faults) if (c, d) == (cause, damaged)]
        assert line.startswith(f"{alike[0]}.png")
        assert line.endswith("; drop it") == damaged
        assert (f" and {len(alike) - 1} more: " in line) == (len(alike) > 1)
        assert ("are wrong" if len(alike) > 1 else "is wrong") in line
        assert all(faults[i][1] in line for i in alike)


def test_a_value_in_all_labels_is_one_line_with_every_value(folder, machine):  # noqa: F811
    labels = sorted((folder / "masks" / "train").iterdir())
    for index, path in enumerate(labels):
        with Image.open(path) as label:
            pixels = np.asarray(label).copy()
        pixels[0, :2] = 11, 12 + index % 2
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError) as told:
        open_split(card(), "train", machine)
    assert str(told.value) == (
        f"{labels[0]} and 5 more: have label values that street declares neither as classes nor as "
        "ignored: 11, 12, 13; mend the files, or the card's `encoding`"
    )


def test_only_what_segbench_fetched_is_to_be_fetched_again(folder, machine, tmp_path):  # noqa: F811
    archive = {"url": "https://example.org/street.zip", "sha256": "0" * 64}
    fetched = card(archives=(archive,))
    for path in (folder / "photos" / "val").iterdir():
        path.write_bytes(b"")
    for named in (card(), fetched):
        with pytest.raises(
            DataError, match=r"im0.jpg and 2 more: are empty; mend or replace the files$"
        ):
            open_split(named, "val", machine)
    place = download_folder(fetched, machine)
    shutil.copytree(folder, place / "street")
    with pytest.raises(DataError) as told:
        open_split(fetched, "val", Machine(cache=machine.cache))
    assert str(told.value).endswith(
        f": are empty; delete {place} and fetch it again with `segbench prepare street`"
    )


def _mat(raw: bytes, variable: str = "S"):
    own = card(encoding={"format": "mat", "variable": variable, "ignore": (255,)})
    return decode_label(raw, "a.mat", own, class_lookup(own))


def test_matlab_files_say_what_is_wrong_with_them():
    buffer = io.BytesIO()
    savemat(buffer, {"T": np.zeros((2, 2)), "U": "text"})
    with pytest.raises(DataError, match=r"a.mat: holds no MATLAB variable 'S', but T, U; mend the"):
        _mat(buffer.getvalue())
    with pytest.raises(DataError, match=r"'U' must be a matrix of whole numbers .*has the shape"):
        _mat(buffer.getvalue(), "U")
    newest = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    with pytest.raises(
        DataError, match=r"is a file of MATLAB v7.3, which is not read; save it as v7"
    ):
        _mat(newest)
    with pytest.raises(
        DataError, match=r"is not a readable MATLAB file .*; mend or replace the file"
    ):
        _mat(buffer.getvalue()[:150])


def test_grey_with_transparency_is_read_by_its_grey_channel():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    buffer = io.BytesIO()
    Image.merge("LA", [Image.fromarray(label), Image.fromarray(label * 80)]).save(buffer, "PNG")
    raw = buffer.getvalue()
    np.testing.assert_array_equal(decode_label(raw, "a.png", card(), class_lookup(card())), label)


def test_16_bits_with_transparency_are_read_whole():
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)  # grey and transparency, 2 bytes each
    pixels[..., 1] = 1
    raw = bytearray(grey_png(pixels.reshape(2, 12), 3, 16))
    raw[25] = 4  # grey with transparency
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    np.testing.assert_array_equal(image_label(bytes(raw), "a.png").values, np.ones((2, 3)))


@pytest.mark.parametrize("second", ["im0.PNG", "im0.npy", "im0.tif"])
def test_two_predictions_of_one_image_are_not_guessed_between(folder, machine, tmp_path, second):  # noqa: F811
    theirs = tmp_path / "theirs"
    shutil.copytree(folder / "masks" / "val", theirs)
    shutil.copy(theirs / "im0.png", theirs / second)
    (theirs / "im0.jpg").write_bytes(b"a photograph is no prediction")
    said = r"theirs: holds surplus predictions: 1 image has more than one; which is meant: im0.(png|PNG) or im0"
    with pytest.raises(DataError, match=said):
        score_predictions(
            PredictionFolder(theirs, "theirs", card(), as_labels(card())), Protocol(), machine
        )


def test_missing_and_surplus_predictions_are_a_line_each(folder, machine, tmp_path):  # noqa: F811
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in "abcd":
        Image.new("L", (5, 5)).save(theirs / f"{name}.png")
    with pytest.raises(DataError) as told:
        score_predictions(
            PredictionFolder(theirs, "theirs", card(), as_labels(card())), Protocol(), machine
        )
    assert str(told.value).splitlines()[1:] == [
        "im0.png and 2 more: are missing",
        "a.png and 3 more: are surplus: the split has no such images",
    ]


def test_photographs_of_one_name_are_a_line(folder):  # noqa: F811
    twice = [folder / "photos" / split for split in ("train", "val")]
    with pytest.raises(DataError) as told:
        _images(twice)
    first = ", ".join(f"{twice[0] / name}.jpg" for name in ("im0", "im1", "im2"))
    assert str(told.value) == (
        f"{twice[1] / 'im0.jpg'} and 2 more: would be written over {first}; label them apart"
    )


@pytest.mark.parametrize(
    ("raw", "said"), [(b"", "a.png: is empty; mend"), (b"text", "a.png: is none of PNG, TIFF, BMP")]
)
def test_what_is_no_label_is_told_without_addresses_in_memory(raw, said):
    with pytest.raises(DataError) as told:
        image_label(raw, "a.png")
    assert str(told.value).startswith(said)
    assert "0x" not in str(told.value)
