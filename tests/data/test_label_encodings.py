"""What a label file's values, format and palette may be, and what the card says of them."""

import io
import json
import struct

import numpy as np
import pytest
from command_line import invoked
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from segbench.data.labels import class_lookup, decode_label
from segbench.errors import CardError, DataError
from segbench.schema import yamlfile
from segbench.schema.cards import VOID_COLOUR, DatasetCard
from segbench.schema.catalog import Catalog
from segbench.work.reading import NamedValues, as_indices, as_labels, as_mapped, read_mapping

COLOURS = ((10, 20, 30), (200, 0, 0), (0, 0, 200))


def card(**changes) -> DatasetCard:
    fields = {
        "name": "street",
        "title": "street",
        "splits": {"val": {"images": "photos/{name}", "labels": "masks/{name}.png"}},
        "classes": ("road", "car", "person"),
        "palette": COLOURS,
        "encoding": {"ignore": (255,)},
        "licence": "ours",
        "source": {"paper": "none"},
        **changes,
    }
    return DatasetCard.model_validate(fields)


def decoded(raw: bytes, of: DatasetCard) -> np.ndarray:
    return decode_label(raw, "masks/a.png", of, class_lookup(of))


def saved(pixels, kind="PNG", palette=None, **options) -> bytes:
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    if palette is not None:
        image.putpalette(np.asarray(palette, dtype=np.uint8).ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def card_text(encoding: str) -> str:
    return (
        "name: street\ntitle: street\n"
        "splits: {val: {images: 'photos/{name}', labels: 'masks/{name}.png'}}\n"
        f"classes: [road, car]\npalette: [[0, 0, 0], [255, 0, 0]]\n{encoding}\n"
        "licence: ours\nsource: {paper: none}\n"
    )


def test_the_old_key_is_read_with_one_sentence_and_is_the_same_card(write, caplog):
    old = write("old/street.yaml", card_text("encoding:\n  vanish: [255]"))
    new = write("new/street.yaml", card_text("encoding: {ignore: [255]}"))
    first = yamlfile.read(old, DatasetCard, CardError)
    yamlfile.read(old, DatasetCard, CardError)
    said = [
        f"{old}:7: encoding.vanish is called encoding.ignore now; the old name is read until the "
        "next release"
    ]
    assert caplog.messages == said
    second = yamlfile.read(new, DatasetCard, CardError)
    assert caplog.messages == said
    assert first == second
    assert first.identity_digest() == second.identity_digest()


def test_records_with_the_old_key_stay_readable():
    now = card()
    text = now.model_dump_json()
    assert "vanish" not in text
    before = json.loads(text)
    before["encoding"]["vanish"] = before["encoding"].pop("ignore")
    assert DatasetCard.model_validate_json(json.dumps(before)) == now
    assert DatasetCard.model_validate_json(text) == now


def test_check_says_that_a_key_has_another_name_now(tmp_path, caplog):
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "street.yaml").write_text(card_text("encoding: {vanish: [255]}"))
    done = invoked("check", folder / "street.yaml")
    assert done.exit_code == 0, done.output
    assert [line for line in caplog.messages if "encoding.ignore now" in line] == [
        f"{folder / 'street.yaml'}:6: encoding.vanish is called encoding.ignore now; the old name is "
        "read until the next release"
    ]


SETTINGS = {
    "override": "overrides: [{where: {}, set: {dataset.encoding.vanish: [254]}}]",
    "variant": "variants: {other: {dataset.encoding.vanish: [254]}}",
    "axis": "",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_setting_by_the_old_key_is_read_with_one_sentence(kind, toy_project, caplog):
    path = toy_project / "experiments" / "toy.yaml"
    text = f"{path.read_text()}{SETTINGS[kind]}\n"
    if kind == "axis":
        text = text.replace(
            "  seeds: 2", "  seeds: 2\n  settings: {dataset.encoding.vanish: [[254]]}"
        )
    path.write_text(text)
    done = invoked("check", path, "--cards", toy_project)
    assert done.exit_code == 0, done.output
    (said,) = [line for line in caplog.messages if "encoding.ignore now" in line]
    assert said.startswith(f"{path}:")
    assert said.endswith(
        "dataset.encoding.vanish is called encoding.ignore now; the old name is read until the next "
        "release"
    )


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("encoding: {ignore: [1]}", "encoding.ignore: the raw values [1] are classes too"),
        ("encoding: {vanish: [255], ignore: [254]}", "encoding.vanish: unknown key"),
        (
            "encoding: {ignore: [other]}",
            "encoding.ignore[0]: expected raw values in 0..65535 or the word `others`, but got 'other'",
        ),
        (
            "encoding: {ignore: -1}",
            "encoding.ignore: expected raw values in 0..65535 or the word `others`, but got -1",
        ),
        ("encoding: {vanish: [70000]}", "encoding.vanish[0]: expected raw values in 0..65535"),
    ],
)
def test_what_cannot_be_ignored_is_one_sentence(write, encoding, sentence):
    with pytest.raises(CardError) as caught:
        yamlfile.read(write("street.yaml", card_text(encoding)), DatasetCard, CardError)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("ignore", ["others", ("others",), (7, "others"), 255])
def test_others_are_all_values_that_are_no_class(ignore):
    lookup = class_lookup(card(encoding={"first": 3, "ignore": ignore}))
    expected = np.full(65536, 255 if ignore != 255 else 256)
    expected[[3, 4, 5]] = 0, 1, 2
    expected[255] = 255
    np.testing.assert_array_equal(lookup, expected)


def test_a_value_that_is_neither_a_class_nor_ignored_is_an_error():
    raw = saved([[0, 1], [2, 9]])
    with pytest.raises(DataError, match=r"has label values that street declares .*: 9;"):
        decoded(raw, card())
    np.testing.assert_array_equal(
        decoded(raw, card(encoding={"ignore": "others"})), [[0, 1], [2, 255]]
    )


def test_the_cards_that_come_with_segbench_use_the_new_key(caplog):
    catalog = Catalog.on_path()
    for name in catalog.names("datasets"):
        catalog.dataset(name)
    assert caplog.messages == []


LABEL = np.array([[0, 1, 1], [2, 255, 0]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("JPEG", {"quality": 100}, "JPEG data"),
        ("JPEG2000", {}, "JPEG 2000 data"),
        ("WEBP", {"quality": 50}, "WebP data"),
        ("WEBP", {"lossless": True}, "WebP data"),
        ("TIFF", {"compression": "jpeg"}, "jpeg data in a TIFF"),
    ],
)
def test_a_label_that_may_have_lost_values_is_refused_by_its_content(kind, options, named):
    with pytest.raises(DataError) as caught:
        decoded(saved(LABEL, kind, **options), card())
    assert str(caught.value) == (
        f"masks/a.png: a label must be lossless, but the file is {named}, whatever its name says; "
        "save it as PNG from its source"
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PNG", {"palette": COLOURS}),
        ("BMP", {"palette": COLOURS}),
        ("TIFF", {"palette": COLOURS}),
    ],
)
def test_formats_that_keep_every_value_are_read_alike(kind, options):
    pixels = np.where(LABEL == 255, 1, LABEL)
    np.testing.assert_array_equal(decoded(saved(pixels, kind, **options), card()), pixels)


def test_formats_that_run_other_programs_or_spread_values_are_no_labels():
    for raw in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n", b"P5 2 1 2\n\x00\x01"):
        with pytest.raises(DataError, match="is none of PNG, TIFF, BMP, GIF; mend"):
            decoded(raw, card())


def test_a_grey_tiff_of_four_bits_keeps_its_values():
    tags = [(256, 4, 4), (257, 4, 1), (258, 3, 4), (259, 3, 1), (262, 3, 1), (273, 4, 200)]
    tags += [(277, 3, 1), (278, 4, 1), (279, 4, 2)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    raw = head.ljust(200, b"\0") + bytes([0x01, 0x21])
    np.testing.assert_array_equal(decoded(raw, card()), [[0, 1, 2, 1]])


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_label_whose_values_programs_read_otherwise_is_refused(mode):
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray([[0, 255]], dtype=np.uint8)).convert(mode)
    image.save(buffer, format="TIFF", tiffinfo={262: 0})
    with pytest.raises(DataError, match=r"a.png: has 0 for white, so that programs read other"):
        decoded(buffer.getvalue(), card())


def test_a_label_of_fractions_is_not_said_to_hold_colours():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((3, 4), dtype=np.float32)).save(buffer, format="TIFF")
    with pytest.raises(DataError, match=r"a.png: holds fractions; a label must hold one whole"):
        decoded(buffer.getvalue(), card())


OTHER_COLOURS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
RAMP = tuple((value, value, value) for value in range(256))


@pytest.mark.parametrize(
    ("palette", "used", "is_refused"),
    [
        (COLOURS, [0, 1, 2], False),
        ((COLOURS[0], COLOURS[2]), [0, 1], True),  # two colours are left, renumbered
        ((COLOURS[0], COLOURS[2], COLOURS[1]), [0, 1, 2], True),
        ((COLOURS[0], COLOURS[2], COLOURS[1]), [0], False),  # the values in use are in order
        ((COLOURS[1],), [0], True),
        ((COLOURS[0], VOID_COLOUR, COLOURS[1]), [0, 1, 2], True),
        (OTHER_COLOURS, [0, 1, 2], False),
        ((OTHER_COLOURS[0], COLOURS[2], OTHER_COLOURS[1]), [0, 1, 2], False),  # one by chance
        (RAMP, [0, 1, 2, 255], False),
        ((*COLOURS, *(COLOURS[0],) * 253), [0, 255], False),  # 255 is ignored, 0 has its colour
        ((*COLOURS[:2], *(COLOURS[2],) * 254), [0, 1, 255], False),  # and 2, though it is not used
        ((*COLOURS[:2], *(COLOURS[1],) * 253, COLOURS[2]), [0, 1, 255], True),  # class 2 is lost
        ((OTHER_COLOURS[0], *(COLOURS[2],) * 255), [0, 255], False),  # colours of their own
        ((COLOURS[0], *OTHER_COLOURS[1:], *(COLOURS[1],) * 253), [0, 255], False),  # those of 1, 2
        ((*COLOURS[:2], *(VOID_COLOUR,) * 254), [0, 1, 255], False),
    ],
)
def test_a_palette_with_the_colours_of_other_classes_is_refused(palette, used, is_refused):
    raw = saved([used], palette=palette)
    if is_refused:
        with pytest.raises(DataError, match=r"the palette gives . of its values the colours of"):
            decoded(raw, card())
    else:
        np.testing.assert_array_equal(decoded(raw, card()), [used])


def test_the_grey_ramp_says_nothing_although_a_class_may_be_black():
    of = card(palette=((9, 9, 9), (0, 0, 0), (1, 1, 1)))
    np.testing.assert_array_equal(decoded(saved([[0, 1]], palette=RAMP), of), [[0, 1]])


@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
def test_a_palette_file_is_read_where_and_only_where_indices_and_colours_agree(order, seed):
    """Reference: the colours that a person sees, looked up in the card one by one."""
    colours = tuple((40 * index, 7, 200 - index) for index in range(6))
    of = card(classes=tuple("abcdef"), palette=colours)
    pixels = np.random.default_rng(seed).integers(0, 6, (3, 4))
    raw = saved(pixels, palette=[colours[index] for index in order])
    meant = [[colours.index(colours[order[value]]) for value in row] for row in pixels.tolist()]
    try:
        found = decoded(raw, of)
    except DataError:
        assert meant != pixels.tolist()
    else:
        np.testing.assert_array_equal(found, meant)


def seen(reading, *values):
    return [int(reading.classes[value]) for value in values]


def foreign(reading, *values):
    return [bool(reading.is_foreign[value]) for value in values]


@pytest.mark.parametrize("is_class", [False, True])
def test_no_class_is_never_a_hit_of_void_and_void_is_no_foreign_value_where_it_is_a_class(is_class):
    of = card(encoding={"ignore": (254,)}, view={"void_as_class": is_class})
    void = 3 if is_class else 255
    labels = as_labels(of)
    assert seen(labels, 0, 2, 254, 9, 255) == [0, 2, void, 255, 255]
    assert foreign(labels, 0, 2, 254, 9, 255) == [False, False, not is_class, True, True]
    mapped = as_mapped(of, NamedValues({7: "road", 8: "car"}, (11,)))
    assert seen(mapped, 7, 8, 11, 0, 254) == [0, 1, void, 255, 255]
    assert foreign(mapped, 7, 8, 11, 0, 254) == [False, False, False, True, True]
    indices = as_indices(of)
    assert seen(indices, 0, 2, 3, 4, 254) == [0, 2, void, 255, 255]
    assert foreign(indices, 0, 2, 3, 4, 254) == [False, False, not is_class, True, True]


def test_readings_follow_the_view_of_the_card():
    of = card(view={"merge": {"thing": ("car", "person")}})
    assert seen(as_labels(of), 0, 1, 2, 255) == [0, 1, 1, 255]
    assert seen(as_indices(of), 0, 1, 2) == [0, 1, 255]
    dropped = card(view={"drop": ("road",)})
    assert seen(as_labels(dropped), 0, 1, 2) == [255, 0, 1]
    assert foreign(as_labels(dropped), 0, 1, 2) == [False, False, False]


def test_void_as_a_class_needs_an_index_below_the_ignored_one():
    names, colours = tuple(f"c{i}" for i in range(255)), ((0, 0, 0),) * 255
    with pytest.raises(ValidationError, match="void_as_class makes more than 255 classes"):
        card(classes=names, palette=colours, view={"void_as_class": True})


def test_a_mapping_file_names_what_it_ignores_and_a_class_wins_over_a_reserved_word(write):
    path = write("m.yaml", "0: road\n9: void\n10: ignore\nignore: [11, others]\n")
    found = read_mapping(path, card())
    assert found == NamedValues({0: "road"}, (9, 10, 11, "others"))
    assert found.as_record() == {"0": "road", "ignore": "9, 10, 11, others"}
    of = card(classes=("void", "ignore", "others"))
    path = write("m.yaml", "0: void\n1: ignore\n2: others\nignore: 255\n")
    found = read_mapping(path, of)
    assert found == NamedValues({0: "void", 1: "ignore", 2: "others"}, (255,))
    assert seen(as_mapped(of, found), 0, 1, 2, 255) == [0, 1, 2, 255]
    assert foreign(as_mapped(of, found), 0, 1, 2, 255, 9) == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\u00b2: road\n", "1: \u00b2: a raw value must lie in 0..65535, but is '\u00b2'"),
        ("70000: road\n", "a raw value must lie in 0..65535, but is '70000'"),
        ("ignore: [x]\n", "1: ignore: a raw value must lie in 0..65535, but is 'x'"),
        ("0: raod\n", "1: 0: no class 'raod' in street; did you mean 'road'?"),
        ("0: road\nignore: 0\n", "2: ignore: 0 is a class too"),
        ("0: [road]\n", "1: 0: no class ('road',) in street"),
        ("- road\n", "expected lines such as `15: person`"),
    ],
)
def test_a_mapping_file_that_cannot_be_meant_is_one_sentence(write, text, sentence):
    with pytest.raises(DataError) as caught:
        read_mapping(write("m.yaml", text), card())
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
