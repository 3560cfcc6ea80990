"""`segbench predict`, then `evaluate --predictions`: one score; and nothing is written over."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import segbench
from PIL import Image

from segbench.engine.checkpoint import save_weights
from segbench.files import read_json
from segbench.runs import trial_files
from segbench.runs.external import load_externals
from segbench.runs.predicted import names_of_split
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.phases import new_segmenter
from segbench.work.predictions import score_trial

NAMES = ("aachen/a_1", "aachen/a_2", "bonn/b_1")
CARDS = {
    "plain": {},
    "first1": {"encoding": {"first": 1, "ignore": [0]}},
    "ids": {"encoding": {"ids": [7, 200, 30], "ignore": "others"}},
    "void": {"view": {"void_as_class": True}},
    "merged": {"view": {"merge": {"thing": ["car", "person"]}}},
    "dropped": {"view": {"drop": ["road"]}},
}


def new_card(folder: Path, name: str) -> DatasetCard:
    """A card of nested photographs with Cityscapes' kind of names, its files, and what it is of."""
    fields = {
        "name": name,
        "title": name,
        "splits": {
            "val": {
                "images": "leftImg8bit/val/{name}_leftImg8bit.png",
                "labels": "gtFine/val/{name}_labelIds.png",
                "list": "val.txt",
            }
        },
        "classes": ["road", "car", "person"],
        "palette": [[9, 9, 9], [200, 0, 0], [0, 0, 200]],
        "encoding": {"ignore": [255]},
        "licence": "ours",
        "source": {"paper": "none"},
        **CARDS[name],
    }
    path = folder / "cards" / "datasets" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(fields))
    card = DatasetCard.model_validate_json(json.dumps(fields))
    rng = np.random.default_rng(0)
    root = folder / "data" / name
    values = np.array([*card.raw_values, *(card.encoding.ignored_values or (99,))])
    for index, image in enumerate(NAMES):
        size = 33 + index, 47
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", 255 * rng.integers(0, 2, (*size, 3))),
            ("gtFine", "labelIds", values[rng.integers(0, 4, size)]),
        ):
            place = root / kind / "val" / f"{image}_{ending}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place)
    (root / "val.txt").write_text("\n".join(NAMES))
    return card


def new_model(workdir: Path, card: DatasetCard) -> Path:
    """Make the trial's folder one of a model of the card's classes, whose predictions vary."""
    trial = trial_files.load_trial(workdir).revised(dataset=card)
    for path in (workdir / "trial.json", workdir / "evaluations"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    trial_files.write_trial(workdir, trial)
    torch.manual_seed(1)
    segmenter = new_segmenter(trial)
    head = (
        segmenter.head.get_parameter("score.32.weight"),
        segmenter.head.get_parameter("score.32.bias"),
    )
    with torch.no_grad():
        head[0].normal_()
        images = torch.rand(8, 3, 64, 64).round()
        for _ in range(20):  # statistics under which features vary
            segmenter.train()(images)
        maps = segmenter.eval()(torch.rand(8, 3, 40, 47).round())
        head[1].sub_(maps.mean((0, 2, 3)))  # no class leads everywhere
    save_weights(workdir / trial_files.WEIGHTS, segmenter.state_dict())
    return workdir


@pytest.fixture
def workdir(toy_run):
    return next(trial_files.trial_folders(toy_run))


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("asked", ["photographs", "split"])
def test_predict_then_evaluate_gives_the_score_of_the_trial(name, asked, workdir, tmp_path):
    card = new_card(tmp_path, name)
    model = new_model(workdir, card)
    out, data = tmp_path / "out", tmp_path / "data"
    what = ["--split", "val"]
    if asked == "photographs":
        what = [data / name / "leftImg8bit" / "val"]
    code, said = segbench("predict", model, *what, "-o", out, "--data", data, "--device", "cpu")
    assert code == 0, said
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert found == {f"{place}{image}.png" for place in ("", "overlays/") for image in NAMES}
    words = ["--dataset", name, "--split", "val", "--data", data, "--cards", tmp_path / "cards"]
    code, said = segbench("evaluate", "--predictions", out, *words, "--results", tmp_path / "r")
    assert code == 0, said
    machine = Machine.from_environment(data=(data,), device="cpu")
    expected = score_trial(model, Protocol(split="val"), machine)
    ((method, (found,)),) = load_externals(tmp_path / "r")
    assert method.encoding == "index"
    assert found.figures == expected.figures
    assert found.per_class_iou == expected.per_class_iou
    assert len({round(value, 6) for value in found.per_class_iou if value}) > 1


def test_the_folder_says_who_predicted_and_overlays_lie_apart(workdir, tmp_path):
    out = tmp_path / "out"
    code, said = segbench("predict", workdir, "--split", "val", "-o", out, "--device", "cpu")
    assert code == 0, said
    names = [f"val_{index:05d}" for index in range(4)]
    assert sorted(path.name for path in out.iterdir()) == [
        "overlays", "segbench.json", *(f"{name}.png" for name in names)
    ]  # fmt: skip
    assert sorted(path.stem for path in (out / "overlays").iterdir()) == names
    about = read_json(out / "segbench.json")
    assert about["encoding"] == "index"
    assert about["class_names"] == ["background", "circle", "square"]
    assert about["dataset"] == "toyshapes"
    assert about["trial_id"] == workdir.name
    assert about["protocol"]["split"] == "val"
    assert sorted(about["images"]) == names
    code, said = segbench("compare", out, out, "--dataset", "toyshapes", "--split", "val")
    assert code == 0, said
    wanted = trial_files.load_evaluation(workdir, Protocol()).figures["mean_iou"]  # pyright: ignore[reportOptionalMemberAccess]
    assert f"{100 * wanted:.2f} - {100 * wanted:.2f}" in said  # pyright: ignore[reportOptionalOperand]


PREDICTED = {  # what --set of `predict` changes: what the same figures are asked for with
    "flip=true": {"flip": True},
    "size=[64,80]": {"size": (64, 80)},
    "absent_class=zero": {"absent_class": "zero"},
    "max_images=2": {"max_images": 2},
    "void=false_positive": {"void": "false_positive"},
}


@pytest.mark.parametrize("setting", PREDICTED)
def test_predictions_are_scored_by_the_protocol_that_they_were_made_under(
    setting, workdir, tmp_path
):
    card = new_card(tmp_path, "first1")
    model = new_model(workdir, card)
    places = ["--data", tmp_path / "data", "--device", "cpu"]
    out = tmp_path / "out"
    code, said = segbench("predict", model, "--split", "val", "--set", setting, "-o", out, *places)
    assert code == 0, said
    words = ["--dataset", "first1", "--cards", tmp_path / "cards", *places[:2]]
    code, said = segbench("evaluate", "--predictions", out, *words, "--results", tmp_path / "r")
    assert code == 0, said
    protocol = Protocol.model_validate(PREDICTED[setting])
    assert f"protocol {protocol.digest()}: {protocol.description()}" in said
    machine = Machine.from_environment(data=(tmp_path / "data",), device="cpu")
    ((_, (found,)),) = load_externals(tmp_path / "r")
    assert found.figures == score_trial(model, protocol, machine).figures
    code, said = segbench("compare", out, out, *words)
    assert code == 0, said
    assert f"Protocol: {protocol.description()}" in said


@pytest.mark.parametrize(
    ("made", "asked", "sentence"),
    [
        ("flip=true", "flip=false", "another protocol (flip True) than the one to score by (whole"),
        ("split=val", "crf={}", "(whole images at native size, single scale, void ignored) than"),
        ("size=[64,80]", "size=[80,64]", "(size 64x80) than the one to score by (size 80x64)"),
        (
            "size=[64,80]",
            "size=[64,80] score_at=input",
            "--set score_at=label scores them, and `segbench evaluate",
        ),
        ("flip=true", "with_background=false", ""),
        ("flip=true", "boundary=0.02", ""),
    ],
)
def test_predictions_are_not_scored_as_if_they_were_made_otherwise(
    made, asked, sentence, workdir, tmp_path
):
    out = tmp_path / "out"
    words = ("predict", workdir, "--split", "val", "-o", out, "--device", "cpu", "--set", made)
    assert segbench(*words)[0] == 0
    for command in (
        ("evaluate", "--predictions", out, "--results", tmp_path / "r"),
        ("compare", out, out),
    ):
        settings = (word for setting in asked.split() for word in ("--set", setting))
        code, said = segbench(*command, "--dataset", "toyshapes", *settings)
        assert code == (2 if sentence else 0), said
        assert sentence in said
        assert ("segbench.json: " in said) == bool(sentence)


def test_predict_says_that_it_labels_at_the_photographs_own_size(workdir, tmp_path):
    settings = ("--set", "size=[64, 64]", "--set", "score_at=input")
    words = ("predict", workdir, "--split", "val", "-o", tmp_path / "out", "--device", "cpu")
    code, said = segbench(*words, *settings)
    assert code == 0, said
    assert said.startswith("protocol: size 64x64 ")
    assert "score_at" not in said


def test_predictions_of_other_classes_are_refused(workdir, tmp_path):
    out = tmp_path / "out"
    segbench("predict", workdir, "--split", "val", "-o", out, "--device", "cpu")
    about = read_json(out / "segbench.json")
    (out / "segbench.json").write_text(json.dumps({**about, "class_names": ["circle", "square"]}))
    words = (
        "evaluate",
        "--predictions",
        out,
        "--dataset",
        "toyshapes",
        "--results",
        tmp_path / "r",
    )
    code, said = segbench(*words)
    assert code == 2
    assert (
        "speaks of indices of 2 classes (circle, square), but the classes of toyshapes are 3 classes "
        "(background, circle, square)" in said
    )
    assert segbench(*words, "--encoding", "index")[0] == 0
    (out / "segbench.json").write_text("{")
    assert "segbench.json: is damaged" in segbench(*words)[1]


def photograph(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def photographs_and_model(workdir: Path, tmp_path: Path, monkeypatch) -> Path:
    """Stand in a folder with photos/a.png, photos/deep/b.jpg, masks/a.png and the model `m`."""
    here = tmp_path / "here"
    photograph(here / "photos" / "a.png")
    photograph(here / "photos" / "deep" / "b.jpg")
    photograph(here / "masks" / "a.png")
    photograph(here / "other" / "a.png", seed=1)
    photograph(here / "twice" / "c.png")
    photograph(here / "twice" / "c.jpg")
    photograph(here / "named" / "overlays" / "a.png")
    (here / "npz").mkdir()
    (here / "npz" / "a_probabilities.npz").write_bytes(b"somebody's")
    (here / "link").symlink_to(here / "photos")
    shutil.copytree(workdir, here / "m")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "photos -o photos",
            "-o photos: photographs lie in this folder (2, the first is photos/a.png)",
        ),
        ("photos -o link", "photographs lie in this folder"),
        ("link -o photos", "photographs lie in this folder"),
        ("photos/a.png -o .", "photographs lie in this folder (1, the first is photos/a.png)"),
        (
            "photos -o photos/deep",
            "photographs lie in this folder (1, the first is photos/deep/b.jpg)",
        ),
        ("photos -o masks", "masks/a.png: is there already (1 such file) and is no prediction"),
        (
            "photos --probabilities -o npz",
            "npz/a_probabilities.npz: is there already (1 such file) and is no prediction",
        ),
        ("twice -o new", "would be written over"),
        ("photos/a.png other/a.png -o new", "would be written over"),
        ("named -o new", "overlays/a: a prediction of this name would lie among the overlays"),
        ("-o new", "name photographs, or a --split of the model's data"),
        ("photos --split val -o new", "name photographs, or a --split of the model's data"),
    ],
)
def test_nothing_that_is_read_or_not_ours_is_written_over(
    workdir, tmp_path, monkeypatch, words, sentence
):
    here = photographs_and_model(workdir, tmp_path, monkeypatch)
    before = contents(here)
    code, said = segbench("predict", "m", *words.split(), "--device", "cpu")
    assert code == 2, said
    assert sentence in said
    assert contents(here) == before


def test_a_split_is_not_labelled_into_the_folder_of_its_photographs(workdir, tmp_path):
    model = new_model(workdir, new_card(tmp_path, "plain"))
    photographs = tmp_path / "data" / "plain" / "leftImg8bit"
    before = contents(tmp_path / "data")
    words = ("predict", model, "--split", "val", "--data", tmp_path / "data", "--device", "cpu")
    code, said = segbench(*words, "-o", photographs / "val")
    assert code == 2, said
    first = photographs / "val" / "aachen" / "a_1_leftImg8bit.png"
    assert f"photographs lie in this folder (3, the first is {first})" in said
    assert contents(tmp_path / "data") == before


def test_a_split_of_another_card_is_not_labelled_among_its_photographs(workdir, tmp_path):
    model = new_model(workdir, new_card(tmp_path / "own", "first1"))
    new_card(tmp_path / "other", "plain")
    place = tmp_path / "other" / "data" / "plain" / "leftImg8bit" / "val"
    before = contents(place)
    words = ("predict", model, "--set", "dataset=plain", "--split", "val", "--device", "cpu")
    folders = ("--cards", tmp_path / "other" / "cards", "--data", tmp_path / "other" / "data")
    code, said = segbench(*words, *folders, "-o", place)
    assert code == 2, said
    assert f"photographs lie in this folder (3, the first is {place}/aachen/a_1_left" in said
    assert contents(place) == before


def test_a_second_run_labels_no_output_of_the_first_and_replaces_no_other_photographs(
    workdir, tmp_path, monkeypatch
):
    here = photographs_and_model(workdir, tmp_path, monkeypatch)
    assert segbench("predict", "m", "photos", "-o", "out", "--device", "cpu")[0] == 0
    before = contents(here / "out")
    for words, sentence in (
        ("out -o new", "out/segbench.json says; name the photographs alone"),
        ("out/a.png -o new", "out/a.png: is a prediction"),
        (
            "other -o out",
            "holds predictions of other photographs of the same names (1, the first is a)",
        ),
        ("photos -o out --set flip=true", "out: holds predictions of trial"),
    ):
        code, said = segbench("predict", "m", *words.split(), "--device", "cpu")
        assert code == 2, said
        assert sentence in said
        assert contents(here / "out") == before
    assert not (here / "new").exists()
    assert segbench("predict", "m", "photos", "-o", "out", "--device", "cpu")[0] == 0
    assert contents(here / "out") == before
    photograph(here / "extra" / "n.jpg")
    drawn = photograph(here / "out" / "n.png")  # by hand, into a folder of predictions
    code, said = segbench("predict", "m", "extra", "-o", "out", "--device", "cpu")
    assert code == 2, said
    assert "out/n.png: is there already (1 such file) and is no prediction of segbench" in said
    drawn.unlink()
    assert contents(here / "out") == before
    photograph(here / "all" / "photos" / "z.png")
    assert segbench("predict", "m", "all", "-o", "all/out", "--device", "cpu")[0] == 0
    code, said = segbench("predict", "m", "all", "-o", "all/out", "--device", "cpu")
    assert code == 2
    assert "-o all/out: photographs lie in this folder (2, the first is all/out/" in said
    photograph(here / "more" / "z.png")
    assert segbench("predict", "m", "more", "-o", "out", "--device", "cpu")[0] == 0
    assert sorted(read_json(here / "out" / "segbench.json")["images"]) == ["a", "deep/b", "z"]


def test_photographs_keep_their_names_unless_all_lie_as_the_card_says(tmp_path):
    card = new_card(tmp_path, "plain")
    inside = tmp_path / "x" / "leftImg8bit" / "val" / "bonn" / "b_leftImg8bit.png"
    assert names_of_split({"b_leftImg8bit": inside}, card) == {"bonn/b": inside}
    outside = tmp_path / "b.png"
    both = {"b_leftImg8bit": inside, "b": outside}
    assert names_of_split(both, card) == {}
    twin = tmp_path / "y" / "leftImg8bit" / "val" / "bonn" / "b_leftImg8bit.png"
    assert names_of_split({"one": inside, "two": twin}, card) == {}
    voc = card.revised(
        splits={"val": {"images": "JPEGImages/{name}", "labels": "masks/{name}.png"}}
    )
    path = Path("/data/VOC2012/JPEGImages/2007_000033.jpg")
    assert names_of_split({"2007_000033": path}, voc) == {"2007_000033": path}
    bare = card.revised(splits={"val": {"images": "{name}.jpg", "labels": "{name}.png"}})
    assert names_of_split({"deep/a": path}, bare) == {}


@pytest.mark.parametrize(
    ("exif", "size"), [(None, (60, 30)), ("apply", (60, 30)), ("stored", (30, 60))]
)
def test_the_data_sets_own_photographs_are_turned_as_its_card_says(exif, size, workdir, tmp_path):
    model = new_model(workdir, new_card(tmp_path, "plain").revised(exif=exif))
    turned = Image.Exif()
    turned[0x0112] = 6
    for place in ("x/leftImg8bit/val/a_leftImg8bit.png", "y/a.png"):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 60)).save(path, exif=turned)
    for place, expected in (("x", size), ("y", (60, 30))):
        out = tmp_path / f"out_{place}"
        code, said = segbench("predict", model, tmp_path / place, "-o", out, "--device", "cpu")
        assert code == 0, said
        with Image.open(next(out.glob("*.png"))) as found:
            assert found.size == expected
