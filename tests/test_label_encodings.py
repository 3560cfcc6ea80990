"""What a label file's values, format and palette may be, and what the card says of them."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segbench.cli import app
from segbench.data.labels import class_lookup, decode_label
from segbench.errors import CardError, DataError
from segbench.spec import yamlfile
from segbench.spec.cards import DatasetCard
from segbench.spec.catalog import Catalog

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
    done = CliRunner().invoke(app, ["check", str(folder / "street.yaml")])
    assert done.exit_code == 0, done.output
    assert [line for line in caplog.messages if "encoding.ignore now" in line] == [
        f"{folder / 'street.yaml'}:6: encoding.vanish is called encoding.ignore now; the old name is "
        "read until the next release"
    ]


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
    with pytest.raises(DataError, match="1 pixels have the label value 9, which street declares"):
        decoded(raw, card())
    np.testing.assert_array_equal(
        decoded(raw, card(encoding={"ignore": "others"})), [[0, 1], [2, 255]]
    )


def test_the_cards_that_come_with_segbench_use_the_new_key(caplog):
    catalog = Catalog.on_path()
    for name in catalog.names("datasets"):
        catalog.dataset(name)
    assert caplog.messages == []
