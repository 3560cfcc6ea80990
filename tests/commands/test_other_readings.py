"""Predictions in another encoding: both scores are told, and what to do."""

import numpy as np
import pytest
from command_line import segbench
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segbench.data.split import open_split
from segbench.metrics.counts import Sums
from segbench.metrics.mean_iou import mean_iou
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.other_readings import Tally, far_better
from segbench.work.reading import NamedValues, as_indices, as_labels, as_mapped, shifted

NAMES = ("road", "car", "person", "sky")


def card(**changes) -> DatasetCard:
    fields = {
        "name": "street",
        "title": "street",
        "splits": {"val": {"images": "photos/{name}.png", "labels": "masks/{name}.png"}},
        "classes": NAMES,
        "palette": tuple((9 * index, 1, 2) for index in range(len(NAMES))),
        "encoding": {"ids": (7, 200, 30, 3), "ignore": (255,)},
        "licence": "ours",
        "source": {"paper": "none"},
        **changes,
    }
    return DatasetCard.model_validate(fields)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    top=st.sampled_from((3, 250, 300, 65535)),
    void=st.sampled_from(("ignore", "false_positive")),
    by=st.sampled_from((-1, 0, 1)),
)
def test_the_score_of_a_reading_is_that_of_a_plain_loop_over_pixels(seed, top, void, by):
    rng = np.random.default_rng(seed)
    dataset, protocol = card(), Protocol(void=void)
    reading = shifted(as_labels(dataset), by)
    tally, tp, of_label, of_pred = Tally(4), np.zeros(4, int), np.zeros(4, int), np.zeros(4, int)
    for _ in range(2):
        values = rng.choice([7, 8, 200, 30, 3, 29, 255, int(rng.integers(0, top + 1))], (5, 6))
        label = rng.choice([0, 1, 2, 3, 255], (5, 6)).astype(np.uint8)
        tally.add(values.astype(np.uint16), label)
        for value, true in zip(values.ravel().tolist(), label.ravel().tolist(), strict=True):
            meant = {7: 0, 200: 1, 30: 2, 3: 3}.get(value - by)
            if true != 255:
                of_label[true] += 1
                tp[true] += meant == true
            if meant is not None and (true != 255 or void == "false_positive"):
                of_pred[meant] += 1
    expected = mean_iou(Sums(tp, of_label, of_pred))
    assert tally.mean_iou(reading, dataset, protocol) == pytest.approx(expected, abs=1e-12)


def told(chosen, dataset, values_of):
    """Return what is said of perfect predictions that hold `values_of` class index."""
    label = np.random.default_rng(0).integers(0, dataset.num_classes, (20, 20)).astype(np.uint8)
    tally = Tally(dataset.num_classes)
    tally.add(np.asarray(values_of, dtype=np.uint16)[label], label)
    return far_better(tally, chosen, dataset, Protocol())


def test_each_likely_encoding_is_recognised_with_both_scores():
    of = card()
    found = told(as_labels(of), of, [0, 1, 2, 3])
    assert found.name == "class indices (train ids)"
    assert found.mean_iou == 1
    assert found.chosen < 0.5
    assert found.in_words() == (
        "read as class indices (train ids) the same files score 100.00 mean IoU, not "
        f"{100 * found.chosen:.2f}: --encoding index reads them so"
    )
    assert told(as_indices(of), of, [7, 200, 30, 3]).name == "label values"
    assert told(as_labels(of), of, [8, 201, 31, 4]).name == "label values plus 1"
    assert told(as_indices(of), of, [1, 2, 3, 4]).name == "class indices plus 1"
    assert told(as_labels(of), of, [6, 199, 29, 2]).name == "label values minus 1"
    plain = card(encoding={})
    assert told(as_labels(plain), plain, [1, 2, 3, 4]).name == "label values plus 1"
    first = card(encoding={"first": 1, "ignore": (0,)})
    assert told(as_labels(first), first, [0, 1, 2, 3]).name == "class indices (train ids)"
    seen = card(view={"drop": ("road",)})
    assert told(as_labels(seen), seen, [1, 2, 3]).name == (
        "indices of the card's classes before its view"
    )


def test_nothing_is_said_of_files_that_agree_or_of_a_mapping():
    of = card()
    assert told(as_labels(of), of, [7, 200, 30, 3]) is None
    assert told(as_indices(of), of, [0, 1, 2, 3]) is None
    assert told(as_labels(of), of, [7, 7, 7, 7]) is None  # wrong, but under every reading
    mapped = as_mapped(of, NamedValues({0: "sky", 1: "car"}))
    assert told(mapped, of, [0, 1, 2, 3]) is None


@pytest.fixture
def predictions(toy_run, tmp_path):
    """Perfect predictions of the toy data set, void as background, with values 1, 2, 3."""
    from segbench.schema.catalog import Catalog

    split = open_split(Catalog.on_path().dataset("toyshapes"), "val", Machine.from_environment())
    folder = tmp_path / "theirs"
    folder.mkdir()
    for index, name in enumerate(split.names):
        label = split.label(index).numpy()
        pixels = np.where(label == 255, 0, label).astype(np.uint8) + 1
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_evaluate_and_compare_say_so_and_a_file_reads_them(predictions, tmp_path):
    flags = ("--dataset", "toyshapes", "--split", "val")
    words = ("evaluate", "--predictions", predictions, *flags, "--results", tmp_path / "r")
    code, said = segbench(*words)
    assert code == 0, said
    sentence = "theirs: read as label values plus 1 the same files score 100.00 mean IoU, not "
    assert sentence in said
    code, said = segbench("compare", predictions, predictions, *flags)
    assert code == 0, said
    assert sentence in said
    mapping = tmp_path / "m.yaml"
    mapping.write_text("1: background\n2: circle\n3: square\n")
    for flag in ("--encoding", "--mapping"):
        code, said = segbench(*words, flag, mapping, "--name", flag.strip("-"))
        assert code == 0, said
        assert "mean iou 100.00" in said
        assert "read as" not in said
    code, said = segbench("compare", predictions, predictions, *flags, "--encoding", mapping)
    assert "100.00 - 100.00" in said


def test_an_encoding_that_cannot_be_meant_is_one_sentence(predictions, tmp_path):
    words = ("evaluate", "--predictions", predictions, "--dataset", "toyshapes")
    code, said = segbench(*words, "--encoding", "indx")
    assert code == 2
    assert "--encoding indx: expected label, index or a file that is there; did you mean" in said
    code, said = segbench(*words, "--encoding", "index", "--mapping", "m.yaml")
    assert (code, "--mapping FILE is --encoding FILE; give one of the two" in said) == (2, True)


def test_files_that_are_refused_say_how_they_would_read(predictions, tmp_path):
    for path in predictions.glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        Image.fromarray(pixels - 1).save(path)
    cards = tmp_path / "cards" / "datasets"
    cards.mkdir(parents=True)
    (cards / "ids.yaml").write_text(
        "name: ids\nbase: toyshapes\nencoding: {ids: [7, 200, 30]}\n", encoding="utf-8"
    )
    words = ("--dataset", "ids", "--cards", tmp_path / "cards", "--results", tmp_path / "r")
    code, said = segbench("evaluate", "--predictions", predictions, *words)
    assert code == 2
    assert "is not encoded as the labels of ids: 100 % of the pixels of objects hold values" in said
    assert (
        "read as class indices (train ids) the same files score 100.00 mean IoU, not 0.00: --encoding "
        "index reads them so" in said
    )
    code, said = segbench("evaluate", "--predictions", predictions, *words, "--encoding", "index")
    assert code == 0, said
    assert "mean iou 100.00" in said
