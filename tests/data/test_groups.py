"""The groups of a data set's images: what a card may say, and what a run notes of them."""

import json

import numpy as np
import pytest
from command_line import segbench
from pydantic import ValidationError
from raw_folder import card, save

from segbench.commands.run import Flags, prepare_run, record_run
from segbench.data.grouped import noted_groups
from segbench.data.split import open_split
from segbench.errors import CardError, DataError
from segbench.runs.record import load_run
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog, built_in_root, read_card
from segbench.schema.groups import counted_groups, grouped_split, groups_of, read_members
from segbench.schema.machine import Machine

DRIVE = {"pattern": "^(?P<drive>[^_]+)_"}


def test_an_image_is_in_the_group_that_the_named_part_of_the_pattern_finds():
    names = ("0016E5_07959", "0006R0_f00930", "Seq05VD_f00000", "0016E5_07961")
    grouped = card(groups=DRIVE)
    assert groups_of(grouped, names) == ("0016E5", "0006R0", "Seq05VD", "0016E5")
    assert grouped.groups.noun == "drive"
    assert groups_of(card(), names) is None


def test_an_image_without_a_group_is_an_error_in_one_sentence():
    with pytest.raises(CardError) as found:
        groups_of(card(groups=DRIVE), ("a_1", "b", "c"))
    assert str(found.value) == (
        "street: groups: '^(?P<drive>[^_]+)_' gives no drive for 2 of 3 images (b, c); mend the "
        "pattern"
    )


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({}, "exactly one of `pattern` and `file`"),
        ({**DRIVE, "file": "a.txt"}, "exactly one of `pattern` and `file`"),
        ({"pattern": "([^_]+)_"}, "expected one named part"),
        ({"pattern": "(?P<a>x)(?P<b>y)"}, "has 2"),
        ({"pattern": "(?P<a>x"}, "is no regular expression"),
        ({**DRIVE, "called": "tour"}, "belong to a `file`"),
    ],
)
def test_a_rule_that_cannot_give_groups_is_refused(groups, told):
    with pytest.raises(ValidationError, match=told):
        card(groups=groups)


def test_groups_change_neither_a_card_s_identity_nor_what_was_converted():
    plain, grouped = card(), card(groups=DRIVE)
    assert plain.identity() == grouped.identity()
    assert plain.content_digest() == grouped.content_digest()


def test_a_file_beside_the_card_names_the_groups_and_travels_with_it(write):
    write("datasets/patients.txt", "slice 1  ann\nslice 2\tann\n\nslice 3 bob\n")
    fields = json.loads(card().model_dump_json())
    fields["groups"] = {"file": "patients.txt", "called": "patient"}
    path = write("datasets/street.yaml", json.dumps(fields))
    read = read_card(path, DatasetCard)
    again = DatasetCard.model_validate_json(read.model_dump_json())
    assert groups_of(again, ("slice 3", "slice 2")) == ("bob", "ann")
    assert again.groups.noun == "patient"
    (write("datasets/child.yaml", "base: street\nname: child\n"))
    child = Catalog((path.parents[1],)).dataset("child")
    assert groups_of(child, ("slice 1",)) == ("ann",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\n", ":1: expected an image's name and its group, got 'a'"),
        ("a x\na y\n", ":2: 'a' is in"),
    ],
)
def test_a_file_of_groups_that_is_not_clear_is_refused(write, text, told):
    with pytest.raises(CardError, match=told):
        read_members(write("groups.txt", text))


def test_the_digest_of_a_split_s_groups_knows_every_image_and_no_order():
    one = grouped_split(("a", "b", "c"), ("x", "x", "y"))
    assert one.sizes == {"x": 2, "y": 1}
    assert (one.num_images, one.num_groups) == (3, 2)
    assert one.digest == grouped_split(("c", "b", "a"), ("y", "x", "x")).digest
    assert one.digest != grouped_split(("a", "b", "c"), ("x", "y", "x")).digest
    assert one.digest != grouped_split(("a", "b", "d"), ("x", "x", "y")).digest


def test_numbers_of_groups_are_told_in_words():
    told = [
        counted_groups(n, noun) for n, noun in ((1, "city"), (2, "city"), (3, "day"), (0, "drive"))
    ]
    assert told == ["1 city", "2 cities", "3 days", "0 drives"]


def test_groups_are_noted_before_and_after_conversion_alike(folder, machine):
    grouped = card(groups={"pattern": "(?P<parity>[0-9])$"})
    before = noted_groups([grouped, card(name="other")], machine)
    open_split(grouped, "val", machine)
    assert noted_groups([grouped], machine) == before
    assert before["street"].splits["val"].sizes == {"0": 1, "1": 1, "2": 1}


def test_check_refuses_a_pattern_that_does_not_match_the_images_that_are_here(
    folder,
    write,
    monkeypatch,
    tmp_path,
):
    fields = json.loads(card(groups=DRIVE).model_dump_json())
    path = write("cards/datasets/street.yaml", json.dumps(fields))
    monkeypatch.setenv("SEGBENCH_DATA", str(tmp_path))
    code, told = segbench("check", path)
    assert code == 2
    assert "gives no drive for 6 of 6 images (im0, im1, im2 and 3 more)" in told


def test_a_run_notes_the_groups_and_no_id_knows_them(toy_project, monkeypatch):
    monkeypatch.setenv("SEGBENCH_CACHE", str(toy_project.parent / "cache"))
    file, dataset = (
        toy_project / "experiments" / "toy.yaml",
        toy_project / "datasets" / "toyshapes.yaml",
    )
    flags = Flags(results=toy_project / "results")
    plain = prepare_run(file, flags)
    dataset.write_text(f'{dataset.read_text()}groups: {{pattern: "(?P<parity>[0-9])$"}}\n')
    grouped = prepare_run(file, flags)
    assert grouped.whole.trials.keys() == plain.whole.trials.keys()
    record = record_run(grouped, "segbench run")
    assert load_run(grouped.run_folder) == record
    noted = record.groups["toyshapes"].splits["val"]
    assert (noted.num_images, set(noted.sizes.values())) == (4, {1})
    assert record_run(plain, "segbench run").groups == record.groups  # what was noted stays


def grouped_folder(folder, sizes):
    """Fill the training split with images a_0, a_1, ... of groups of these sizes."""
    for kind in ("photos", "masks"):
        for path in (folder / kind / "train").iterdir():
            path.unlink()
    for group, size in sizes.items():
        for index in range(size):
            pixels = np.zeros((8, 8), np.uint8)
            save(folder / "photos" / "train" / f"{group}_{index}.png", pixels, "RGB")
            save(folder / "masks" / "train" / f"{group}_{index}.png", pixels)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.4, 0.9])
def test_a_holdout_by_group_takes_whole_groups_near_the_share(folder, machine, share):
    sizes = dict(zip("abcdefgh", (1, 2, 3, 3, 4, 4, 5, 8), strict=True))
    grouped_folder(folder, sizes)
    held = card(groups=DRIVE, view={"holdout": share, "holdout_by": "group"})
    train, holdout = (open_split(held, split, machine).names for split in ("train", "holdout"))
    groups_held = {name[0] for name in holdout}
    assert groups_held
    assert not groups_held & {name[0] for name in train}
    assert len(train) + len(holdout) == 30
    assert len(holdout) == sum(sizes[group] for group in groups_held)
    # a group is taken where it brings the number nearer, so it is off by half a group at most
    assert abs(len(holdout) - share * 30) <= max(sizes.values()) / 2 + 1


def test_a_holdout_by_group_leaves_a_group_to_train_on_and_refuses_a_single_one(folder, machine):
    grouped_folder(folder, {"a": 3, "b": 3})
    held = card(groups=DRIVE, view={"holdout": 0.95, "holdout_by": "group"})
    assert len(open_split(held, "train", machine)) == 3
    grouped_folder(folder, {"a": 3})
    with pytest.raises(DataError, match="all images of train are of one drive"):
        open_split(held, "train", machine)


def test_a_holdout_by_group_needs_groups_and_they_are_part_of_what_is_trained():
    with pytest.raises(ValidationError, match="says of no image which group it is in"):
        card(view={"holdout": 0.2, "holdout_by": "group"})
    plain = card(view={"holdout": 0.2})
    by_image = card(view={"holdout": 0.2, "holdout_by": "image"}, groups=DRIVE)
    assert plain.identity() == by_image.identity()
    by_group = by_image.revised(view={"holdout": 0.2, "holdout_by": "group"})
    finer = by_group.revised(groups={"pattern": "(?P<frame>.)"})
    digests = {each.identity_digest() for each in (plain, by_group, finer)}
    assert len(digests) == 3


def test_camvid_s_validation_images_are_one_drive_that_was_trained_on(shared_data, tmp_path):
    camvid = Catalog((built_in_root(),)).dataset("camvid")
    here = Machine(data=(str(shared_data),), cache=str(tmp_path))
    noted = noted_groups([camvid], here)["camvid"]
    assert noted.groups.noun == "drive"
    assert noted.splits["val"].sizes == {"0016E5": 101}
    assert noted.splits["train"].sizes == {"0001TP": 62, "0006R0": 101, "0016E5": 204}
