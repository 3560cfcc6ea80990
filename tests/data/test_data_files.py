"""From raw files to checked Arrow rows: every fault is one sentence that names the file."""

import io
import os
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from raw_folder import card, grey_png, save

from segbench.data.chosen import fingerprint_here
from segbench.data.prepare import preflight, prepare_dataset
from segbench.data.split import open_split
from segbench.errors import DataError
from segbench.schema.machine import Machine


def test_a_users_folder_of_images_and_masks_needs_a_card_and_no_code(folder, machine):
    split = open_split(card(), "val", machine)
    assert split.names == ("im0", "im1", "im2")
    for index, sample in enumerate(split.sample(i) for i in range(3)):
        label = np.asarray(Image.open(folder / "masks" / "val" / f"im{index}.png"))
        np.testing.assert_array_equal(sample.label.numpy(), label)
        photograph = np.asarray(Image.open(folder / "photos" / "val" / f"im{index}.jpg"))
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), photograph)
    raw = np.concatenate([s.label.numpy().ravel() for s in map(split.sample, range(3))])
    assert split.class_pixels().tolist() == [int((raw == c).sum()) for c in range(3)]
    assert split.class_images().tolist() == [3, 3, 3]


def test_conversion_happens_once_and_leaves_few_files(folder, machine, tmp_path):
    open_split(card(), "train", machine)
    made = sorted(p.name for p in (tmp_path / "cache" / "arrow").rglob("*") if p.is_file())
    assert made == ["about.json", "part000.arrow", "pixels.npy"]
    os.utime(folder / "masks" / "train" / "im0.png")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "arrow").rglob("*.arrow")}
    open_split(card(), "train", machine, if_changed="pass_over")
    assert before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "arrow").rglob("*.arrow")
    }


def test_equal_files_have_one_fingerprint_and_a_changed_pixel_another(folder, machine, tmp_path):
    first = open_split(card(), "val", machine).fingerprint
    other = Machine(data=machine.data, cache=str(tmp_path / "other"))
    assert open_split(card(), "val", other).fingerprint == first
    path = folder / "masks" / "val" / "im0.png"
    label = np.asarray(Image.open(path)).copy()
    label[0, 0] = 1 if label[0, 0] != 1 else 2
    save(path, label)
    third = Machine(data=machine.data, cache=str(tmp_path / "third"))
    assert open_split(card(), "val", third).fingerprint != first


def test_greyscale_cmyk_alpha_and_palette_photographs_become_rgb(folder, machine):
    rng = np.random.default_rng(1)
    for index, (mode, kind) in enumerate([("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png")]):
        height, width = 33 + index, 47 + 2 * index
        (folder / "photos" / "val" / f"im{index}.jpg").unlink()
        pixels = rng.integers(0, 255, (height, width, 3))
        save(folder / "photos" / "val" / f"im{index}.{kind}", pixels, mode)
    split = open_split(card(), "val", machine)
    for index, kind in enumerate(["jpg", "jpg", "png"]):
        image = split.sample(index).image
        with Image.open(folder / "photos" / "val" / f"im{index}.{kind}") as original:
            expected = np.asarray(original.convert("RGB"))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_a_palette_label_is_read_as_indices_not_colours(folder, machine):
    path = folder / "masks" / "val" / "im0.png"
    label = np.asarray(Image.open(path))
    image = Image.fromarray(label).convert("P")
    image.putdata(label.ravel().tolist())
    image.putpalette([255 - v for v in range(256) for _ in range(3)])
    image.save(path)
    np.testing.assert_array_equal(open_split(card(), "val", machine).sample(0).label.numpy(), label)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_label_of_few_bits_keeps_its_indices(folder, machine, bits):
    label = np.arange(33 * 47, dtype=np.uint8).reshape(33, 47) % min(2**bits, 3)
    image = Image.fromarray(label)
    image.putpalette([17 * (v % 13) for v in range(3 * 2**bits)])  # its length makes the bits
    path = folder / "masks" / "val" / "im0.png"
    image.save(path)
    assert path.read_bytes()[24:26] == bytes([bits, 3])  # bits per value; 3 is a palette
    np.testing.assert_array_equal(open_split(card(), "val", machine).sample(0).label.numpy(), label)


def test_raw_values_are_mapped_as_the_card_says(folder, machine):
    mapped = card(encoding={"ids": (2, 0, 1), "ignore": (255,)})
    raw = np.asarray(Image.open(folder / "masks" / "val" / "im0.png"))
    label = open_split(mapped, "val", machine).sample(0).label.numpy()
    for klass, value in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(label == klass, raw == value)
    np.testing.assert_array_equal(label == 255, raw == 255)


def test_a_matlab_label_is_read_from_its_variable(folder, machine):
    from scipy.io import savemat

    for path in list((folder / "masks" / "val").iterdir()):
        savemat(path.with_suffix(".mat"), {"GTcls": {"Segmentation": np.asarray(Image.open(path))}})
    splits = {"val": {"images": "photos/val/{name}", "labels": "masks/val/{name}.mat"}}
    encoding = {"format": "mat", "variable": "GTcls.Segmentation", "ignore": (255,)}
    label = open_split(card(splits=splits, encoding=encoding), "val", machine).sample(1).label
    raw = np.asarray(Image.open(folder / "masks" / "val" / "im1.png"))
    np.testing.assert_array_equal(label.numpy(), raw)


def test_all_broken_pairs_are_reported_at_once_each_with_its_file(folder, machine, tmp_path):
    masks, photos = folder / "masks" / "train", folder / "photos" / "train"
    save(masks / "im0.png", np.full((33, 47), 7))
    save(masks / "im1.png", np.zeros((10, 10)))
    (photos / "im2.jpg").write_bytes((photos / "im2.jpg").read_bytes()[:200])
    (masks / "im3.png").write_bytes((masks / "im3.png").read_bytes()[:60])
    save(masks / "im4.png", np.zeros((37, 55, 3)))
    with pytest.raises(DataError) as caught:
        open_split(card(), "train", machine)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert f"{masks / 'im0.png'}: has label values that street declares neither" in lines[0]
    assert "is 10x10 pixels, but the image 49x34" in lines[1]
    assert f"{photos / 'im2.jpg'}: is not a readable image" in lines[2]
    assert f"{masks / 'im3.png'}: is not a readable label image" in lines[3]
    assert "holds colours (RGB); a label must hold one whole number per pixel" in lines[4]
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert left == []


def test_missing_files_and_wrong_counts_are_both_told(folder, machine):
    (folder / "photos" / "val" / "im1.jpg").unlink()
    splits = {"val": {"images": "photos/val/{name}", "labels": "masks/val/{name}.png", "count": 5}}
    with pytest.raises(DataError) as caught:
        open_split(card(splits=splits), "val", machine)
    first, second = str(caught.value).splitlines()
    assert "street val has 3 images, but the card says 5" in first
    assert "missing files: " in second
    assert "im1" in second
    assert preflight([(card(splits=splits), "val")], machine) == [str(caught.value)]


def test_what_was_converted_is_whole_whatever_became_of_its_files(folder, machine):
    assert preflight([(card(), "val")], machine) == []
    open_split(card(), "val", machine)
    (folder / "photos" / "val" / "im1.jpg").unlink()
    assert preflight([(card(), "val")], machine) == []


def test_files_that_were_changed_since_they_were_converted_are_told(folder, machine):
    before = open_split(card(), "val", machine).fingerprint
    assert fingerprint_here(card(), "val", machine, max_images=None) == before
    label = folder / "masks" / "val" / "im1.png"
    with Image.open(label) as image:
        save(label, np.zeros_like(np.asarray(image)))
    (sentence,) = preflight([(card(), "val")], machine)
    assert f"street val: files under {folder} were changed since they were converted" in sentence
    assert "`segbench prepare street` with the same --data converts them again" in sentence
    prepare_dataset(card(), machine, download_missing=False)
    assert preflight([(card(), "val")], machine) == []
    assert fingerprint_here(card(), "val", machine, max_images=None) != before
    assert fingerprint_here(card(), "test", machine, max_images=None) is None


def test_a_split_without_images_and_an_unknown_one_are_one_sentence(folder, machine):
    (folder / "none.txt").write_text("\n")
    pattern = {"images": "photos/val/{name}", "labels": "masks/val/{name}.png", "list": "none.txt"}
    with pytest.raises(DataError, match="street val has no images"):
        open_split(card(splits={"val": pattern}), "val", machine)
    sentence = "street: has no split 'test'; it has: train, val"
    assert preflight([(card(), "test")], machine) == [sentence]
    with pytest.raises(DataError, match=sentence):
        open_split(card(), "test", machine)


def test_arrow_files_do_without_the_raw_ones(folder, machine):
    before = open_split(card(), "val", machine)
    folder.rename(folder.with_name("elsewhere"))
    assert preflight([(card(), "val")], machine) == []
    assert open_split(card(), "val", machine).fingerprint == before.fingerprint
    assert "val 3 images; not here: train" in prepare_dataset(
        card(), machine, download_missing=False
    )
    assert len(preflight([(card(), "train")], machine)) == 1


def test_two_conversions_that_differ_are_not_guessed_between(folder, machine, tmp_path):
    open_split(card(), "val", machine)
    other = tmp_path / "other" / "street"
    other.parent.mkdir()
    folder.rename(other)
    save(other / "masks" / "val" / "im0.png", np.zeros((33, 47)))
    open_split(card(), "val", Machine(data=(str(other.parent),), cache=machine.cache))
    other.rename(tmp_path / "gone")
    with pytest.raises(DataError, match="was converted from different files"):
        open_split(card(), "val", machine)


def test_a_new_image_is_seen_at_once_and_a_changed_one_by_prepare(folder, machine):
    first = open_split(card(), "val", machine)
    path = folder / "masks" / "val" / "im0.png"
    path.write_bytes((folder / "masks" / "train" / "im0.png").read_bytes() + b"\0")
    prepare_dataset(card(), machine, download_missing=False)
    second = open_split(card(), "val", machine)
    assert second.fingerprint != first.fingerprint
    made = [p.stat().st_mtime_ns for p in (folder.parent / "cache").rglob("*.arrow")]
    prepare_dataset(card(), machine, download_missing=False)
    assert made == [p.stat().st_mtime_ns for p in (folder.parent / "cache").rglob("*.arrow")]
    for kind, suffix in (("photos", "jpg"), ("masks", "png")):
        source = folder / kind / "val" / f"im2.{suffix}"
        (folder / kind / "val" / f"im3.{suffix}").write_bytes(source.read_bytes())
    assert len(open_split(card(), "val", machine)) == 4


def test_a_torn_arrow_file_is_named_with_the_mend(folder, machine, tmp_path):
    open_split(card(), "val", machine)
    (path,) = (tmp_path / "cache").rglob("*.arrow")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"is damaged .*; delete it"):
        open_split(card(), "val", machine)


def test_a_torn_note_beside_the_arrow_files_is_made_again_by_prepare(folder, machine, tmp_path):
    before = open_split(card(), "val", machine).fingerprint
    (path,) = (tmp_path / "cache").rglob("about.json")
    path.write_bytes(path.read_bytes()[:40])
    prepare_dataset(card(), machine, download_missing=False)
    assert open_split(card(), "val", machine).fingerprint == before


def test_a_list_that_is_no_text_is_named(folder, machine):
    (folder / "all.txt").write_bytes(b"caf\xe9\n")
    split = {"images": "photos/val/{name}", "labels": "masks/val/{name}.png", "list": "all.txt"}
    with pytest.raises(
        DataError, match=r"all\.txt: the list of a split's images is not UTF-8 text"
    ):
        open_split(card(splits={"val": split}), "val", machine)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, machine, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the kernel refuses larger files
    try:
        with pytest.raises(DataError, match=r"cannot be written .*; free space or set --cache"):
            open_split(card(), "train", machine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    assert len(open_split(card(), "train", machine)) == 6


def test_of_two_workers_that_convert_at_once_both_read_one_copy(folder, machine, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: open_split(card(), "train", machine), range(2))
    assert first.fingerprint == second.fingerprint
    assert len(list((tmp_path / "cache" / "arrow").iterdir())) == 1


def test_converting_prints_nothing(folder, machine, capfd):
    open_split(card(), "train", machine)
    assert capfd.readouterr() == ("", "")


def test_without_files_one_sentence_says_which_where_and_the_command(tmp_path):
    machine = Machine(data=(str(tmp_path / "nowhere"),), cache=str(tmp_path / "cache"))
    (sentence,) = preflight([(card(), "val")], machine)
    assert "masks/val/{name}.png" in sentence
    assert str(tmp_path / "nowhere" / "street") in sentence
    assert sentence.endswith("with --data (the card names no archive to fetch)")
    fetched = card(archives=({"url": "https://example.org/street.zip"},))
    (sentence,) = preflight([(fetched, "val")], machine)
    assert "with --data, or run `segbench prepare street` on a machine with" in sentence
    with pytest.raises(DataError, match="no files here"):
        prepare_dataset(card(), machine, download_missing=False)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_label_of_few_bits_keeps_its_values(folder, machine, bits):
    values = np.arange(33 * 48).reshape(33, 48) % 2**bits % 3
    packed = np.zeros((33, 48 * bits // 8), dtype=np.uint8)
    for place in range(8 // bits):
        packed |= (values[:, place :: 8 // bits] << (8 - bits * (place + 1))).astype(np.uint8)
    save(folder / "photos" / "val" / "im0.jpg", np.zeros((33, 48, 3)))
    (folder / "masks" / "val" / "im0.png").write_bytes(grey_png(packed, 48, bits))
    label = open_split(card(), "val", machine).sample(0).label
    np.testing.assert_array_equal(label.numpy(), values)


def test_a_photograph_of_16_bits_keeps_its_upper_8(folder, machine):
    pixels = np.random.default_rng(2).integers(0, 65536, (33, 47)).astype(np.uint16)
    (folder / "photos" / "val" / "im0.jpg").unlink()
    Image.fromarray(pixels).save(folder / "photos" / "val" / "im0.png")
    image = open_split(card(), "val", machine).sample(0).image
    np.testing.assert_array_equal(image.numpy(), np.stack([pixels >> 8] * 3))


@pytest.mark.parametrize("value", [1.5, -1.0, float("nan"), 65537.0])
def test_a_matlab_label_of_other_than_whole_numbers_is_refused(folder, machine, value):
    from scipy.io import savemat

    savemat(folder / "masks" / "val" / "im0.mat", {"S": np.full((33, 47), value)})
    splits = {"val": {"images": "photos/val/{name}", "labels": "masks/val/{name}.mat", "count": 1}}
    encoding = {"format": "mat", "variable": "S", "ignore": (255, 65535)}
    with pytest.raises(DataError, match="must be a matrix of whole numbers"):
        open_split(card(splits=splits, encoding=encoding), "val", machine)


def test_void_as_a_class_counts_its_pixels(folder, machine):
    seen = open_split(card(view={"void_as_class": True}), "train", machine)
    labels = [seen.sample(i).label.numpy() for i in range(6)]
    counts = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=4)
    assert seen.class_pixels().tolist() == counts.tolist()
    assert seen.class_images().tolist() == [6, 6, 6, 6]


def test_a_list_names_the_images_and_minus_takes_some_away(folder, machine):
    for kind, suffix in (("photos", "jpg"), ("masks", "png")):
        place = folder / kind / "val"
        (place / f"im1.{suffix}").rename(place / f"im 1.{suffix}")
    (folder / "all.txt").write_text("im2\nim0\n\nim 1 \n")
    (folder / "without.txt").write_text("im0\n")
    splits = {
        "val": {
            "images": "photos/val/{name}.jpg", "labels": "masks/val/{name}.png",
            "list": "all.txt", "minus": ("without.txt",),
        }
    }  # fmt: skip
    assert open_split(card(splits=splits), "val", machine).names == ("im2", "im 1")


def test_an_image_that_is_named_twice_or_not_clear_or_its_own_mask_is_told(folder, machine):
    photos = folder / "photos" / "val"
    (folder / "all.txt").write_bytes(b"\xef\xbb\xbfim0\nim1\nim0\n")  # as Windows begins a text
    save(photos / "im1.png", np.zeros((34, 49, 3)))
    split = {"images": "photos/val/{name}", "labels": "masks/val/{name}.png", "list": "all.txt"}
    with pytest.raises(DataError) as caught:
        open_split(card(splits={"val": split}), "val", machine)
    twice, unclear = str(caught.value).splitlines()
    assert "street val: all.txt names twice: im0" in twice
    assert f"which is the image: {photos / 'im1.jpg'} or {photos / 'im1.png'}? Keep" in unclear
    alone = {"images": "masks/val/{name}", "labels": "masks/val/{name}.png"}
    with pytest.raises(DataError, match=r"missing files: .*im0 "):
        open_split(card(splits={"val": alone}), "val", machine)
    with pytest.raises(ValidationError, match="images and labels are the same files"):
        card(splits={"val": {"images": "a/{name}.png", "labels": "a/{name}.png"}})


def test_a_converted_folder_without_its_notes_is_made_again(folder, machine, tmp_path):
    before = open_split(card(), "val", machine).fingerprint
    (path,) = (tmp_path / "cache").rglob("about.json")
    path.unlink()
    assert open_split(card(), "val", machine).fingerprint == before


def test_masks_may_lie_among_the_photographs(folder, machine):
    for mask in (folder / "masks" / "val").iterdir():
        mask.rename(folder / "photos" / "val" / f"{mask.stem}_mask.png")
    split = {"images": "photos/val/{name}", "labels": "photos/val/{name}_mask.png"}
    names = ("im0", "im1", "im2")
    assert open_split(card(splits={"val": split}), "val", machine).names == names


def test_a_list_that_is_not_one_of_ours_is_told_with_the_place_for_it(folder, machine):
    split = {"images": "photos/val/{name}", "labels": "masks/val/{name}.png"}
    split["list"] = "card:lists/mine.txt"
    with pytest.raises(DataError, match=r"card:lists/mine\.txt: segbench brings no such list; put"):
        open_split(card(splits={"train": split}), "train", machine)


def test_a_label_of_16_bits_keeps_its_values(folder, machine):
    path = folder / "masks" / "val" / "im0.png"
    raw = np.asarray(Image.open(path)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(np.where(raw == 2, 700, raw).astype(np.uint16)).save(buffer, format="PNG")
    for other in ("im1", "im2"):
        (folder / "masks" / "val" / f"{other}.png").unlink()
        (folder / "photos" / "val" / f"{other}.jpg").unlink()
    path.write_bytes(buffer.getvalue())
    label = (
        open_split(card(encoding={"ids": (0, 1, 700), "ignore": (255,)}), "val", machine)
        .sample(0)
        .label
    )
    np.testing.assert_array_equal(label.numpy(), raw)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ({"drop": ("car",)}, {0: 0, 1: 255, 2: 1, 255: 255}),
        ({"keep": ("car", "person")}, {0: 255, 1: 0, 2: 1, 255: 255}),
        ({"merge": {"thing": ("car", "person")}}, {0: 0, 1: 1, 2: 1, 255: 255}),
        ({"void_as_class": True}, {0: 0, 1: 1, 2: 2, 255: 3}),
    ],
)
def test_a_view_changes_labels_and_nothing_else(folder, machine, view, expected):
    plain = open_split(card(), "val", machine)
    seen = open_split(card(view=view), "val", machine)
    for index in range(3):
        raw, label = plain.sample(index).label.numpy(), seen.sample(index).label.numpy()
        for value, target in expected.items():
            assert set(label[raw == value].tolist()) <= {target}
        assert (plain.sample(index).image == seen.sample(index).image).all()
    assert len(card(view=view).class_names) == len(set(expected.values()) - {255})


def test_holdout_and_train_share_no_image_and_lose_none(machine):
    drawn = {"train": 60, "val": 2, "height": 16, "width": 16}
    plain = card(name="drawn", splits={}, drawn=drawn, classes=("background", "circle", "square"))
    held = plain.revised(view={"holdout": 0.3})
    train, holdout = (set(open_split(held, s, machine).names) for s in ("train", "holdout"))
    assert not train & holdout
    assert train | holdout == set(open_split(plain, "train", machine).names)
    assert 8 <= len(holdout) <= 28


def test_thinning_takes_images_of_its_class_alone(machine):
    drawn = {"train": 60, "val": 2, "height": 32, "width": 32}
    plain = card(name="drawn", splits={}, drawn=drawn, classes=("background", "circle", "square"))
    whole = open_split(plain, "train", machine)
    thin = open_split(plain.revised(view={"thin": {"circle": 0.25}}), "train", machine)
    without = {whole.names[i] for i in range(60) if not (whole.sample(i).label == 1).any()}
    assert without <= set(thin.names)
    assert thin.class_images()[1] < whole.class_images()[1] * 0.5


def test_a_subset_is_the_same_for_everybody(folder, machine):
    first = open_split(card(), "train", machine, max_images=3)
    assert first.names == open_split(card(), "train", machine, max_images=3).names
    assert len(first) == 3
    others = {
        open_split(card(), "train", machine, max_images=3, subset_seed=s).names for s in range(8)
    }
    assert len(others) > 1


def test_voc_is_read_from_its_official_layout(shared_data, tmp_path):
    from segbench.schema.catalog import Catalog

    machine = Machine(data=(str(shared_data),), cache=str(tmp_path / "cache"))
    voc = Catalog.on_path().dataset("voc2012_2007")
    split = open_split(voc, "val", machine, max_images=4)
    root = shared_data / "voc2012_2007" / "VOCdevkit" / "VOC2012"
    for index in range(4):
        sample = split.sample(index)
        with Image.open(root / "SegmentationClass" / f"{sample.name}.png") as label:
            np.testing.assert_array_equal(sample.label.numpy(), np.asarray(label))


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [("ade20k_sample", 1, 3), ("cocostuff164k_sample", 13, 8), ("camvid", 367, 101)],
)
def test_the_other_official_layouts_are_read(shared_data, tmp_path, name, train, val):
    from segbench.schema.catalog import Catalog

    machine = Machine(data=(str(shared_data),), cache=str(tmp_path / "cache"))
    dataset = Catalog.on_path().dataset(name)
    splits = {"val": val} if name == "camvid" else {"train": train, "val": val}
    for split_name, number in splits.items():
        split = open_split(dataset, split_name, machine)
        assert len(split) == number
        labels = {v for i in range(min(number, 8)) for v in split.sample(i).label.unique().tolist()}
        assert labels <= {*range(dataset.num_classes), 255}
        assert len(labels) > 3


def test_an_image_without_a_label_and_a_label_without_an_image_are_told(folder, machine):
    (folder / "masks" / "train" / "im2.png").unlink()
    (folder / "photos" / "train" / "im4.jpg").unlink()
    with pytest.raises(DataError) as caught:
        open_split(card(), "train", machine)
    unlabelled, missing = str(caught.value).splitlines()
    photos = folder / "photos" / "train"
    assert f"images without a label: {photos / 'im2.jpg'}; a label is masks/" in unlabelled
    assert f"missing files: {photos / 'im4'} (.jpg, .png, " in missing
    assert "add them, take their names out of the labels, or mend the card's patterns" in missing


@pytest.mark.parametrize("kind", ["photos", "masks"])
def test_a_link_to_nothing_is_a_missing_file_before_anything_is_read(folder, machine, kind):
    path = folder / kind / "train" / ("im4.jpg" if kind == "photos" else "im4.png")
    target = folder / "moved" / path.name
    target.parent.mkdir()
    raw = path.read_bytes()
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(DataError) as caught:
        prepare_dataset(card(), machine, download_missing=False)
    assert f"street train: missing files: {path} (a link to nothing); add them" in str(caught.value)
    assert preflight([(card(), "train")], machine) == [str(caught.value)]
    target.write_bytes(raw)
    assert len(open_split(card(), "train", machine)) == 6


def test_images_that_nobody_labelled_may_lie_beside_when_the_card_counts_the_others(
    folder, machine
):
    (folder / "masks" / "train" / "im2.png").unlink()
    pattern = {"images": "photos/train/{name}", "labels": "masks/train/{name}.png"}
    counted = card(splits={"train": {**pattern, "count": 5}})
    assert len(open_split(counted, "train", machine)) == 5


def test_prepare_names_what_is_wrong_with_every_split(folder, machine):
    for split in ("train", "val"):
        (folder / "photos" / split / "im0.jpg").write_bytes(b"not an image")
        (folder / "photos" / split / "im1.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepare_dataset(card(), machine, download_missing=False)
    said = str(caught.value).splitlines()
    assert said == [
        f"{folder / 'photos' / split / name}.jpg: {what}; mend or replace the file"
        for split in ("train", "val")
        for name, what in (
            ("im0", "is none of JPEG, PNG, TIFF, BMP, GIF, WEBP, JPEG2000, AVIF, PPM"),
            ("im1", "is empty"),
        )
    ]
