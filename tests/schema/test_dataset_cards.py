"""The data set cards that come with segbench: complete, true, and what real label files hold."""

import re
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from segbench.data.layout import find_root, raw_pairs
from segbench.data.sources.drawn import SHAPES
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.machine import Machine

FOLDER = built_in_root() / "datasets"
CATALOG = Catalog((built_in_root(),))
NAMES = CATALOG.names("datasets")
SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = ("voc2012_2007", "voc2012_2007_kth", "camvid", "ade20k_sample", "cocostuff164k_sample")
COUNTS = {
    "shapes_4": {},
    "shapes_10": {},
    "voc2012": {"train": 1464, "val": 1449, "trainval": 2913},
    "voc2012_2007": {"train": 311, "val": 321},
    "voc2012_kth": {"train": 1464, "val": 1449, "kth_val900": 900},
    "voc2012_2007_kth": {"train": 311, "val": 321, "kth_val187": 187},
    "voc2012_aug": {"train": 10582, "val": 1449, "seg11valid": 736},
    "voc2011": {"train": 1112, "val": 1111, "seg11valid": 736},
    "sbd": {"train": 8498, "val": 2857},
    "sbd_seg11": {"train": None, "val": 2857},
    "ade20k": {"train": 20210, "val": 2000},
    "ade20k_sample": {"train": 1, "val": 3},
    "cocostuff164k": {"train": 118287, "val": 5000},
    "cocostuff164k_sample": {"train": 13, "val": 8},
    "cocostuff10k": {"train": 9000, "val": 1000},
    "camvid": {"train": 367, "val": 101, "test": 233},
}


def card(name: str) -> DatasetCard:
    return CATALOG.dataset(name)


def listed(name: str) -> list[str]:
    return (FOLDER / "lists" / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]


def official_coco_labels() -> dict[int, str]:
    path = SHARED / "lists" / "cocostuff_labels_official.txt"
    if not path.is_file():
        pytest.skip("the official list of COCO-Stuff's labels is not on this machine")
    lines = (line.split(": ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {int(index): name for index, name in lines}


def bit_interleaved(index: int) -> tuple[int, int, int]:
    """Return VOC's colour of an index: bit 3k + c of the index is bit 7 - k of channel c."""
    bits = f"{index:024b}"[::-1]
    red, green, blue = (int(bits[channel::3], 2) for channel in range(3))
    return red, green, blue


def test_every_card_is_looked_at_here():
    assert set(NAMES) == set(COUNTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_complete(name):
    read = card(name)
    assert len(read.palette) == len(read.classes)
    assert {split: said.count for split, said in read.splits.items()} == COUNTS[name]
    assert read.drawn or {"train", "val"} <= set(read.splits)
    assert len(read.licence) > 5
    assert len(read.notes) > 60
    assert read.drawn or (read.source.url or "").startswith("http")
    for archive in read.archives:
        assert archive.url.startswith("http")
        assert archive.md5 or archive.sha256 or "no checksum" in archive.notes


@pytest.mark.parametrize("name", NAMES)
def test_an_unpacked_archive_lies_where_the_card_looks(name):
    read = card(name)
    roots = {Path(folder) / root for folder in ("", name) for root in read.roots}
    for archive in read.archives:
        into = Path(archive.into)
        assert into == Path() or any(into == root or root in into.parents for root in roots)


def test_numbers_of_classes_are_those_of_the_literature():
    numbers = {name: card(name).num_classes for name in NAMES}
    for name, number in numbers.items():
        for prefix, expected in {"voc": 21, "sbd": 21, "ade": 150, "coco": 171, "cam": 11}.items():
            assert number == expected or not name.startswith(prefix), name
    assert (numbers["shapes_4"], numbers["shapes_10"]) == (5, 11)


def test_the_voc_palette_is_its_colour_map():
    assert bit_interleaved(255) == (224, 224, 192)
    for name in ("voc2012", "voc2012_2007", "voc2012_aug", "voc2011", "sbd", "sbd_seg11"):
        assert card(name).palette == tuple(map(bit_interleaved, range(21)))


def test_the_drawn_cards_have_every_shape():
    assert card("shapes_10").classes == ("background", *SHAPES)
    assert card("shapes_4").classes == card("shapes_10").classes[:5]


def test_coco_stuff_leaves_out_the_eleven_classes_that_were_never_segmented():
    big, small = card("cocostuff164k"), card("cocostuff10k")
    ids = big.raw_values
    unused = set(range(182)) - set(ids)
    assert len(unused) == 11
    assert not unused & set(big.encoding.ignored_values)
    assert small.raw_values == tuple(value + 1 for value in ids)
    assert big.palette == tuple(bit_interleaved(value) for value in small.raw_values)
    official = official_coco_labels()
    assert big.classes == small.classes == tuple(official[value + 1] for value in ids)
    assert {official[value + 1] for value in unused} == {
        *("blender", "desk", "door", "eye glasses", "hair brush", "hat"),
        *("mirror", "plate", "shoe", "street sign", "window"),
    }  # named by the authors' README, "Label Names & Indices"


def test_ade20k_names_each_class_by_its_first_synonym():
    path = SHARED / "ade20k" / "ADEChallengeData2016" / "objectInfo150.txt"
    if not path.is_file():
        pytest.skip("the official list of ADE20K's classes is not on this machine")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    synonyms = {int(row[0]): row[-1].split(",") for row in rows if row[0].strip()}
    names = dict(zip(card("ade20k").raw_values, card("ade20k").classes, strict=True))
    assert names == {value: words[0].strip() for value, words in synonyms.items()}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("voc2011_seg11valid", 736),
        ("voc2012_train_aug", 10582),
        ("voc2012_2007_train", 311),
        ("voc2012_kth_val900", 900),
        ("voc2012_2007_kth_val187", 187),
        ("voc2012_2007_val", 321),
        ("cocostuff10k_train", 9000),
        ("cocostuff10k_val", 1000),
    ],
)
def test_a_list_has_each_name_once(name, number):
    names = listed(name)
    assert len(names) == len(set(names)) == number
    assert all(text == text.strip() and "/" not in text and "." not in text for text in names)


def test_what_is_reported_on_is_not_trained_on():
    train_aug = set(listed("voc2012_train_aug"))
    assert train_aug.isdisjoint(listed("voc2011_seg11valid"))
    assert train_aug.isdisjoint(listed("voc2012_2007_val"))
    assert train_aug >= set(listed("voc2012_2007_train"))
    assert set(listed("cocostuff10k_train")).isdisjoint(listed("cocostuff10k_val"))
    assert card("sbd_seg11").splits["train"].minus == ("card:lists/voc2011_seg11valid.txt",)


@pytest.mark.skipif(not (SHARED / "lists").is_dir(), reason="the official lists are not here")
def test_lists_agree_with_the_official_ones():
    official = {path.stem: path.read_text().split() for path in (SHARED / "lists").glob("voc*")}
    train_aug = set(listed("voc2012_train_aug"))
    assert train_aug.isdisjoint(official["voc2012_val"])
    assert train_aug >= set(official["voc2012_train"])
    assert set(listed("voc2011_seg11valid")) <= set(official["voc2012_val"])
    study = (SHARED / "lists" / "kth_val900.txt").read_text().split()
    assert listed("voc2012_kth_val900") == study
    assert set(study) <= set(official["voc2012_val"])
    assert listed("voc2012_2007_kth_val187") == [n for n in study if n.startswith("2007_")]
    for split in ("train", "val"):
        names = official[f"voc2012_{split}"]
        assert len(names) == card("voc2012").splits[split].count
        assert listed(f"voc2012_2007_{split}") == [n for n in names if n.startswith("2007_")]


@pytest.mark.parametrize("name", NAMES)
def test_every_list_of_a_card_is_there_and_as_long_as_the_card_says(name):
    for split in card(name).splits.values():
        for place in (split.list, *split.minus):
            if place is not None and place.startswith("card:"):
                names = (FOLDER / place.removeprefix("card:")).read_text().split()
                assert split.count in {None, len(names)}


@pytest.mark.parametrize("name", REAL)
def test_real_label_files_hold_declared_values_alone(name):
    machine = Machine(cache="/nowhere", data=(str(SHARED),))
    read = card(name)
    declared = {*read.raw_values, *read.encoding.ignored_values}
    found: set[int] = set()
    for split_name in ("train", "val"):
        root = find_root(read, read.splits[split_name], machine)
        if root is None:
            pytest.skip(f"the images of {name} are not on this machine")
        for pair in raw_pairs(read, split_name, root):
            with Image.open(pair.label) as label:
                found |= {value for value, pixels in enumerate(label.histogram()) if pixels}
    assert found <= declared
    assert found & set(read.encoding.ignored_values)
    if name in {"voc2012_2007", "camvid"}:
        assert found == declared


def test_the_voc_palette_is_the_one_in_real_files():
    folder = SHARED / "voc2012_2007" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    if not folder.is_dir():
        pytest.skip("the images of voc2012_2007 are not on this machine")
    with Image.open(folder / "2007_000032.png") as label:
        stored = label.getpalette() or []
    assert [value for colour in card("voc2012").palette for value in colour] == stored[: 21 * 3]


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        ({"drop": ("rhomb",)}, "no class 'rhomb' in shapes_4"),
        ({"keep": ("circle",)}, "view: leaves circle, where there is nothing to tell apart"),
        ({"merge": {"circle": ("square", "ring")}}, "'circle' is a class besides: give the merged"),
        ({"merge": {"void": ("square",)}, "void_as_class": True}, "there is one already"),
        ({"merge": {"a": ("square",)}, "drop": ("square",)}, "merged or dropped twice: square"),
        ({"keep": ("circle", "ring"), "drop": ("square",)}, "`keep` goes alone"),
    ],
)
def test_a_view_that_cannot_be_meant_is_refused(view, sentence):
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        card("shapes_4").revised(view=view)
    merged = {"merge": {"circle": ("circle", "ring")}}
    assert card("shapes_4").revised(view=merged).num_classes == 4
