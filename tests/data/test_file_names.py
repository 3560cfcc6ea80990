"""Names of files that no result could hold are refused when files are listed, in one sentence."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_folder import card, save

from segbench.data.layout import image_names
from segbench.data.prepare import preflight, prepare_dataset
from segbench.errors import DataError
from segbench.files import check_file_names
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.label_images import LabelFlags, label_images
from segbench.work.predictions import PredictionFolder, score_predictions
from segbench.work.reading import as_labels

_names = st.lists(
    st.text(st.characters(codec=None), min_size=1, max_size=4), min_size=1, max_size=3
)


@settings(deadline=None)
@given(_names)
@example(["a\nb"])
@example(["a\udcff"])
@example(["\u4e2d\u3000\xa0 \u00fc"])
def test_names_that_are_not_refused_come_back_from_a_file_of_counts(tmp_path_factory, names):
    try:
        check_file_names("here", names)
    except DataError:
        assert any(not name.isprintable() for name in names)
        return
    path = tmp_path_factory.getbasetemp() / "counts.npz"
    ones = np.ones((len(names), 1), dtype=np.int64)
    trial_files.write_counts(
        path, Counted(tuple(names), ones, ones, ones, np.ones((1, 2), np.int64))
    )
    assert trial_files.load_counts(path).names == tuple(names)


WRONG = [b"a\nb", b"a\xff", b"a\x1b[31m", b"a\rb"]


@pytest.fixture
def machine(tmp_path):
    """A data set of two sound images, beside which the tests put others."""
    for split in ("train", "val"):
        for kind, ending in (("photos", "jpg"), ("masks", "png")):
            path = tmp_path / "street" / kind / split / f"im0.{ending}"
            path.parent.mkdir(parents=True)
            save(path, np.zeros((8, 8, 3) if kind == "photos" else (8, 8)))
    return Machine(data=(str(tmp_path),), cache=str(tmp_path / "cache"))


def _copied(path, stem: bytes) -> None:
    shutil.copy(path, os.fsencode(path.parent) + b"/" + stem + os.fsencode(path.suffix))


@pytest.mark.parametrize("stem", WRONG)
def test_a_split_with_such_a_name_is_refused_before_anything_is_read(machine, tmp_path, stem):
    for path in (
        tmp_path / "street" / "photos/train/im0.jpg",
        tmp_path / "street/masks/train/im0.png",
    ):
        _copied(path, stem)
    sentence = (
        f"{tmp_path / 'street'}: has file names with control characters or that are not UTF-8 (1, the "
        f"first is {os.fsdecode(stem)!r}); rename these files, since results list images by name"
    )
    assert preflight([(card(), "train"), (card(), "val")], machine) == [sentence]
    with pytest.raises(DataError) as told:
        prepare_dataset(card(), machine)
    assert str(told.value) == sentence
    assert str(told.value).isprintable()


def test_a_list_with_such_a_name_is_named(machine, tmp_path):
    split = card().splits["train"].model_copy(update={"list": "train.txt"})
    (tmp_path / "street" / "train.txt").write_text("im0\nim0\t-1\n")
    with pytest.raises(DataError, match=r"train.txt: has file names .*the first is 'im0\\t-1'"):
        image_names(split, tmp_path / "street")


@pytest.mark.parametrize("stem", WRONG)
def test_predictions_and_photographs_with_such_a_name_are_refused(machine, tmp_path, stem):
    folder = tmp_path / "theirs"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "im0.png")
    _copied(folder / "im0.png", stem)
    told = r"theirs: has file names with control characters or that are not UTF-8 \(1, the first"
    with pytest.raises(DataError, match=told):
        score_predictions(
            PredictionFolder(folder, "theirs", card(), as_labels(card())), Protocol(), machine
        )
    with pytest.raises(DataError, match=told):
        label_images(
            tmp_path / "model", LabelFlags(tmp_path / "out", (folder,)), Protocol(), machine
        )
