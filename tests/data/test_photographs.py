"""Photographs that EXIF turns, and those with fewer significant bits than their file."""

import io
import struct
import zlib

import numpy as np
import pytest
from command_line import invoked
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import AppendingTiffWriter

from segbench.data.labels import image_label
from segbench.data.photographs import checked_image
from segbench.data.split import decoded_image, open_split
from segbench.errors import DataError
from segbench.runs import trial_files
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 24 x 32


def oriented(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


def sixteen_bits(values: np.ndarray) -> bytes:
    """Return a PNG of (H, W) grey, (H, W, 2) with alpha, RGB or RGBA, written by its definition."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def tiff(values: np.ndarray, *, order: str = "<", packed: bool = False, **tags: int) -> bytes:
    """Return a TIFF file of 16 bits, (H, W) or (H, W, 3), in one strip or in one for each channel.

    tags: their names are `t` and the number.
    """
    height, width, channels = np.atleast_3d(values).shape
    whole = values.astype(f"{order}u2")
    strips = [whole[..., c] for c in range(channels)] if tags.get("t284") == 2 else [whole]
    data = [zlib.compress(s.tobytes()) if packed else s.tobytes() for s in strips]
    ends = 8 + np.cumsum([len(part) for part in data])
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [16] * channels),
        259: ("H", [8 if packed else 1]), 262: ("H", [1 if channels == 1 else 2]),
        273: ("I", [8, *map(int, ends[:-1])]), 277: ("H", [channels]), 278: ("I", [height]),
        279: ("I", list(map(len, data))),
    }  # fmt: skip
    entries |= {int(name[1:]): ("H", [value]) for name, value in tags.items()}
    start = int(ends[-1]) + int(ends[-1]) % 2
    after, table = start + 6 + 12 * len(entries), b""
    longer = b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed_numbers = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed_numbers) > 4:
            place = struct.pack(f"{order}I", after + len(longer))
            longer, packed_numbers = longer + packed_numbers, place
        table += struct.pack(f"{order}HHI", tag, "HI".index(kind) + 3, len(numbers))
        table += packed_numbers.ljust(4, b"\0")
    first = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
    body = (first + b"".join(data)).ljust(start, b"\0")
    return body + struct.pack(f"{order}H", len(entries)) + table + bytes(4) + longer


def ppm(values: np.ndarray, largest: int, *, plain: bool = False) -> bytes:
    kind = {(2, False): b"P5", (3, False): b"P6", (2, True): b"P2", (3, True): b"P3"}
    text = " ".join(map(str, values.ravel().tolist())).encode()
    head = b"%s %d %d %d\n" % (kind[values.ndim, plain], values.shape[1], values.shape[0], largest)
    return head + (text if plain else values.astype(">u2").tobytes())


def pixels_of(stored: bytes) -> np.ndarray:
    return decoded_image(stored).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_as_viewers_do_or_left_alone(orientation, kind):
    raw = oriented(orientation, kind)
    with Image.open(io.BytesIO(raw)) as image:
        as_shown = np.asarray(ImageOps.exif_transpose(image))
        as_stored = PIXELS if kind == "TIFF" else np.asarray(image)  # Pillow turns TIFF itself
    for exif, expected in (("apply", as_shown), ("stored", as_stored), (None, as_stored)):
        found = checked_image(raw, "a", exif=exif)
        assert found.is_turned == (orientation != 1)
        assert (found.height, found.width) == expected.shape[:2]
        np.testing.assert_array_equal(pixels_of(found.stored), expected)
        if exif == "apply":
            assert Image.open(io.BytesIO(found.stored)).getexif().get(0x0112, 1) == 1 or not (
                found.is_turned
            )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_read_as_they_lie_in_the_file(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[..., 0]).save(buffer, format=kind, exif=exif)
    np.testing.assert_array_equal(image_label(buffer.getvalue(), "a").values, PIXELS[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_photograph_with_damaged_exif_is_read(kind):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=kind, lossless=True, exif=b"Exif\0\0no header")
    found = checked_image(buffer.getvalue(), "a", exif="apply")
    assert not found.is_turned
    np.testing.assert_array_equal(pixels_of(found.stored), PIXELS)


def test_grey_labels_of_16_bits_with_alpha_keep_their_values():
    values = RNG.integers(0, 65536, (5, 7, 2)).astype(np.uint16)
    found = image_label(sixteen_bits(values), "a")
    np.testing.assert_array_equal(found.values, values[..., 0])


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_no_label(channels):
    raw = sixteen_bits(np.zeros((5, 7, channels), np.uint16))
    with pytest.raises(DataError, match="a: holds colours"):
        image_label(raw, "a")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("bits", [None, 16, 14, 12, 10, 8])
def test_the_upper_8_of_the_significant_bits_are_kept(shape, bits):
    values = RNG.integers(0, 2 ** (bits or 16), shape).astype(np.uint16)
    if shape[2:] in {(2,), (4,)}:
        values[..., -1] = 65535  # alpha
    found = checked_image(sixteen_bits(values), "a", bits=bits)
    seen = np.atleast_3d(values)[..., : 3 if shape[2:] > (2,) else 1]
    expected = seen >> ((bits or 16) - 8)
    np.testing.assert_array_equal(pixels_of(found.stored), np.broadcast_to(expected, (5, 7, 3)))
    assert found.brightest == seen.max()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_tiff_files_of_16_bits_are_read_whole(shape, order, packed):
    values = RNG.integers(0, 4096, shape).astype(np.uint16)
    raw = tiff(values, order=order, packed=packed)
    for bits, expected in ((None, values >> 8), (12, values >> 4)):
        found = checked_image(raw, "a", bits=bits)
        expected = np.broadcast_to(np.atleast_3d(expected), (5, 7, 3))
        np.testing.assert_array_equal(pixels_of(found.stored), expected)
        assert found.brightest == values.max()


COLOURS = RNG.integers(0, 4096, (5, 7, 3)).astype(np.uint16)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (tiff(COLOURS, t284=2), "has 16 bits per value, of which only 8 can be read"),
        (tiff(COLOURS, t284=2, packed=True), "has 16 bits per value, of which only 8 can be read"),
        (tiff(COLOURS[..., 0], t262=0), "has 16 bits per value with 0 for white"),
        (ppm(COLOURS, 65535), "has 16 bits per value, of which only 8 can be read"),
        (ppm(COLOURS, 65535, plain=True), "has 16 bits per value, of which only 8 can be read"),
        (ppm(COLOURS[..., 0], 65535), "has values of the kind I"),
        (ppm(COLOURS[..., 0], 4095), "has values of the kind I"),
    ],
)
def test_16_bits_that_cannot_be_read_whole_are_refused(raw, said):
    with pytest.raises(DataError, match=f"^a: {said}.*; save it as PNG"):
        checked_image(raw, "a", bits=12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("largest", [1023, 4095])
def test_a_file_that_says_what_is_white_is_scaled_by_it(largest, plain):
    values = np.minimum(COLOURS, largest)
    found = checked_image(ppm(values, largest, plain=plain), "a")
    np.testing.assert_allclose(pixels_of(found.stored), values * (255 / largest), atol=0.51)


def test_formats_whose_depth_is_not_looked_at_are_no_photographs():
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="SGI")
    with pytest.raises(DataError, match=r"^a: is none of JPEG, PNG, TIFF"):
        checked_image(buffer.getvalue(), "a")


def test_8_bit_files_are_read_as_they_are_whatever_the_card_says():
    raw = oriented(1)
    assert checked_image(raw, "a", bits=12).stored == raw


@pytest.fixture
def street(tmp_path):
    """Return a function: image files' bytes, label shape, card's fields -> the opened split."""

    def opened(images: list[bytes], shape=(24, 32), **fields):
        for kind in ("photos", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for index, raw in enumerate(images):
            (tmp_path / "photos" / f"im{index}.png").write_bytes(raw)
            label = Image.fromarray(np.ones(shape, dtype=np.uint8))
            label.save(tmp_path / "masks" / f"im{index}.png")
        card = {
            "name": "street",
            "title": "street",
            "splits": {"val": {"images": "photos/{name}", "labels": "masks/{name}.png"}},
            "classes": ("road", "car"),
            "palette": ((1, 1, 1), (2, 2, 2)),
            "licence": "ours",
            "source": {"paper": "none"},
            **fields,
        }
        machine = Machine(data=(str(tmp_path),), cache=str(tmp_path / "cache"))
        return open_split(DatasetCard.model_validate(card), "val", machine)

    return opened


def test_photographs_that_exif_turns_need_a_word_of_the_card(street, tmp_path):
    images = [oriented(1), oriented(3), oriented(6), oriented(6)]
    with pytest.raises(DataError) as error:
        street(images)
    assert str(error.value) == (
        f"{tmp_path}/photos/im1.png and 2 more: EXIF has them shown turned or mirrored, and the card "
        "does not say which pixels the labels are drawn on; add to the card `exif: apply` (as shown) "
        "or `exif: stored` (as they lie in the file)"
    )


@pytest.mark.parametrize(("exif", "shape"), [("stored", (24, 32)), ("apply", (32, 24))])
def test_the_card_says_which_pixels_labels_are_drawn_on(street, exif, shape):
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(oriented(6)))))
    split = street([oriented(6)], shape, exif=exif)
    expected = PIXELS if exif == "stored" else turned
    np.testing.assert_array_equal(split.sample(0).image.permute(1, 2, 0).numpy(), expected)


def test_sizes_that_differ_by_exif_name_it(street):
    with pytest.raises(DataError) as error:
        street([oriented(6)], (24, 32), exif="apply")
    assert "masks/im0.png: is 32x24 pixels, but the image 24x32, by EXIF's orient" in str(
        error.value
    )
    assert "the card's `exif: apply`; a pair must have one size" in str(error.value)


def test_a_split_of_fewer_significant_bits_is_not_read_as_black(street, tmp_path):
    values = [RNG.integers(0, 4096, (24, 32, 3)).astype(np.uint16) for _ in range(3)]
    values[1][0, 0] = 4095
    images = [sixteen_bits(v) for v in values]
    with pytest.raises(DataError) as error:
        street(images)
    assert str(error.value) == (
        f"{tmp_path}/photos/im0.png and 2 more: have 16 bits, and no value above 4095: they would "
        "be read as nearly black; scale them up, or add to the data set's card `image_bits: 12` (16 if "
        "they are so dark)"
    )
    split = street(images, image_bits=12)
    for index, expected in enumerate(values):
        seen = split.sample(index).image.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(seen, expected >> 4)
    assert street(images, image_bits=16).sample(0).image.max() == values[0].max() >> 8


def test_one_bright_photograph_shows_that_all_bits_count(street):
    images = [sixteen_bits(np.full((24, 32), value, np.uint16)) for value in (900, 40000)]
    assert street(images).sample(1).image.max() == 40000 >> 8


def test_values_above_the_card_s_bits_are_a_fault_of_the_card(street, tmp_path):
    images = [sixteen_bits(np.full((24, 32), value, np.uint16)) for value in (900, 5000, 6000)]
    with pytest.raises(DataError) as error:
        street(images, image_bits=12)
    assert str(error.value) == (
        f"{tmp_path}/photos/im1.png and 1 more: have values above 4095, the largest by the card's "
        "`image_bits: 12`, up to 6000; scale them down, or mend the card"
    )


def test_predict_warns_once_of_photographs_that_are_nearly_black(toy_run, tmp_path, caplog):
    workdir = next(trial_files.trial_folders(toy_run))
    for name in "ab":
        dark = RNG.integers(0, 4096, (24, 32)).astype(np.uint16)
        (tmp_path / f"{name}.png").write_bytes(sixteen_bits(dark))
    photographs = [str(tmp_path / name) for name in ("a.png", "b.png")]
    words = ["predict", str(workdir), *photographs, "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = invoked(*words)
    assert done.exit_code == 0, done.output
    (said,) = [r.getMessage() for r in caplog.records if "16 bits" in r.getMessage()]
    assert said.startswith(f"{tmp_path}/a.png and 1 more: have 16 bits, and no value above ")


def test_predict_labels_a_photograph_as_people_see_it(toy_run, tmp_path):
    workdir = next(trial_files.trial_folders(toy_run))
    (tmp_path / "phone.jpg").write_bytes(oriented(6, "JPEG"))
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "phone.jpg"))
    upright.save(tmp_path / "upright.png", exif=b"")
    photographs = [str(tmp_path / name) for name in ("phone.jpg", "upright.png")]
    words = ["predict", str(workdir), *photographs, "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = invoked(*words)
    assert done.exit_code == 0, done.output
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert len(written) == 4
    by_name = {path.stem: np.asarray(Image.open(path)) for path in written}
    for name, pixels in by_name.items():
        if name.startswith("phone"):
            np.testing.assert_array_equal(pixels, by_name[name.replace("phone", "upright")])
    assert by_name["phone"].shape == (32, 24)


def several(kind: str, *, mode: str = "RGB") -> bytes:
    pictures = [Image.fromarray(np.roll(PIXELS, 8 * turn, 0)).convert(mode) for turn in range(3)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format=kind, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "what"),
    [("TIFF", "pages"), ("GIF", "frames"), ("PNG", "frames"), ("WEBP", "frames")],
)
def test_a_file_of_several_pictures_is_neither_photograph_nor_label(kind, what):
    told = (
        rf"^a: holds 3 {what}, of which the first alone would be read; save the one that is meant"
    )
    with pytest.raises(DataError, match=told):
        checked_image(several(kind), "a")
    if kind != "WEBP":  # no label format
        with pytest.raises(DataError, match=told):
            image_label(several(kind, mode="L"), "a")


@pytest.mark.parametrize("kind_of_page", [1, 4])  # of lower resolution, a mask
def test_smaller_copies_and_masks_are_no_other_pictures(kind_of_page):
    buffer = io.BytesIO()
    with AppendingTiffWriter(buffer, new=True) as pages:
        Image.fromarray(PIXELS[..., 0]).save(pages, format="TIFF")
        pages.newFrame()
        small = Image.fromarray(PIXELS[::2, ::2, 0])
        small.save(pages, format="TIFF", tiffinfo={254: kind_of_page})
    raw = buffer.getvalue()
    np.testing.assert_array_equal(pixels_of(checked_image(raw, "a").stored)[..., 0], PIXELS[..., 0])
    np.testing.assert_array_equal(image_label(raw, "a").values, PIXELS[..., 0])
    phone = checked_image(several("MPO"), "a")  # a JPEG file with previews behind the photograph
    assert (phone.height, phone.width) == PIXELS.shape[:2]


@pytest.mark.parametrize("place", [3, 2**31])
def test_what_cannot_be_read_behind_the_first_picture_is_none(place):
    raw = bytearray(tiff(PIXELS[..., 0].astype(np.uint16)))
    raw[-4:] = struct.pack("<I", place)  # where the next page is said to lie
    np.testing.assert_array_equal(image_label(bytes(raw), "a").values, PIXELS[..., 0])


def test_photographs_of_several_pictures_are_a_line_for_each_cause(street, tmp_path):
    with pytest.raises(DataError) as error:
        street([oriented(1), several("TIFF"), several("GIF"), several("TIFF")])
    pages, frames = str(error.value).splitlines()
    assert pages == (
        f"{tmp_path}/photos/im1.png and 1 more: hold 3 pages, of which the first alone would be read; "
        "save those that are meant as PNG"
    )
    assert frames.startswith(f"{tmp_path}/photos/im2.png: holds 3 frames, of which")
