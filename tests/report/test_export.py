"""`segbench export` and `segbench predict`: a model that somebody else can use, read safely."""

import json

import numpy as np
import pytest
import torch
from command_line import segbench
from PIL import Image

from segbench.data.split import open_split
from segbench.engine.predict import predict
from segbench.errors import DataError
from segbench.models.segmenter import build_segmenter
from segbench.runs import trial_files
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, read_card
from segbench.schema.heads import Model
from segbench.schema.machine import Machine
from segbench.schema.protocol import Protocol
from segbench.work.scoring import load_segmenter


@pytest.fixture
def workdir(toy_run):
    return next(trial_files.trial_folders(toy_run))


@pytest.fixture
def exported(workdir, tmp_path):
    code, said = segbench("export", workdir.parent / workdir.name[:5], "-o", tmp_path / "model")
    assert code == 0, said
    return tmp_path / "model"


def photograph(path, height=40, width=52):
    rng = np.random.default_rng(height)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def test_an_exported_model_predicts_what_the_trial_predicts(workdir, exported):
    machine = Machine.from_environment(device="cpu")
    split = open_split(Catalog.on_path().dataset("toyshapes"), "val", machine)
    image = split.sample(0).image
    ours, theirs = (load_segmenter(folder, machine)[1] for folder in (workdir, exported))
    with torch.inference_mode():
        assert torch.equal(ours(image[None] / 255), theirs(image[None] / 255))


def test_the_model_card_names_protocol_figures_classes_data_and_licences(workdir, exported):
    readme = (exported / "README.md").read_text()
    (evaluation,) = trial_files.load_evaluations(workdir)
    assert f"{100 * (evaluation.figures['mean_iou'] or 0):.2f}" in readme
    assert "whole images at native size" in readme
    for index, name in enumerate(("background", "circle", "square")):
        value = evaluation.per_class_iou[index]
        line = next(line for line in readme.splitlines() if line.startswith(f"| {name}"))
        assert (f"{100 * value:.2f}" if value is not None else "-") in line
    assert "8 drawn images, split `train`" in readme
    assert "training data: CC0" in readme
    assert "network: Apache-2.0" in readme
    assert "6 steps of 4 x 1 images, sgd at 0.05" in readme


def test_the_exported_trunk_is_a_backbone_card_to_fine_tune_from(workdir, exported):
    (path,) = (exported / "backbones").glob("*.yaml")
    card = read_card(path, BackboneCard)
    trial, trained = load_segmenter(workdir, Machine.from_environment(device="cpu"))
    fresh = build_segmenter(
        card, trial.head, Model(weights="trained"), 7, weights_path=exported / "model.safetensors"
    )
    for name, tensor in fresh.trunk.state_dict().items():
        assert torch.equal(tensor, trained.trunk.state_dict()[name]), name
    assert Catalog.on_path((exported,)).backbone(card.name).default_weights == "trained"


def test_predictions_are_palette_pngs_of_the_images_size_with_the_models_classes(
    workdir, exported, tmp_path
):
    path = photograph(tmp_path / "one.png")
    code, said = segbench("predict", exported, path, "-o", tmp_path / "out", "--probabilities")
    assert code == 0, said
    with Image.open(tmp_path / "out" / "one.png") as found:
        assert (found.mode, found.size) == ("P", (52, 40))
        assert found.getpalette()[:9] == [0, 0, 0, 255, 0, 0, 0, 255, 0]  # pyright: ignore[reportOptionalSubscript]
        pixels = np.asarray(found)
    _, segmenter = load_segmenter(workdir, Machine.from_environment(device="cpu"))
    with Image.open(path) as image:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    np.testing.assert_array_equal(pixels, predict(segmenter, tensor, Protocol()).numpy())
    with np.load(tmp_path / "out" / "one_probabilities.npz", allow_pickle=False) as arrays:
        assert arrays["probabilities"].shape == (3, 40, 52)
        np.testing.assert_allclose(arrays["probabilities"].sum(0), 1, atol=2e-3)
        assert arrays["class_names"].tolist() == ["background", "circle", "square"]
    with Image.open(tmp_path / "out" / "overlays" / "one.png") as overlay:
        assert overlay.height == 40 + 18 * len(np.unique(pixels))


def test_folders_and_odd_sizes_are_labelled_and_what_is_no_image_is_listed(exported, tmp_path):
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    photograph(folder / "small.png", 7, 9)
    photograph(folder / "deep" / "long.jpg", 33, 130)
    (folder / "broken.jpg").write_bytes(b"no image")
    code, said = segbench("predict", exported, folder, "-o", tmp_path / "out")
    assert code == 2
    assert "broken.jpg: is none of JPEG" in said
    for name, size in {"small": (9, 7), "deep/long": (130, 33)}.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as found:
            assert found.size == size


def test_two_images_of_one_name_are_refused_before_anything_is_written(exported, tmp_path):
    (tmp_path / "a").mkdir()
    one, other = photograph(tmp_path / "x.png"), photograph(tmp_path / "a" / "x.png")
    code, said = segbench("predict", exported, one, other, "-o", tmp_path / "out")
    assert (code, "would be written over" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_the_crf_changes_a_prediction_and_needs_its_extra(exported, tmp_path, monkeypatch):
    pytest.importorskip("pydensecrf.densecrf")
    path = photograph(tmp_path / "one.png")
    assert segbench("predict", exported, path, "-o", tmp_path / "out", "--crf")[0] == 0
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf.densecrf", None)
    code, said = segbench("predict", exported, path, "-o", tmp_path / "out", "--crf")
    assert code == 2
    assert said.endswith(
        "a protocol with `crf` needs pydensecrf: pip install 'segbench[crf]', or drop `crf` from the "
        "protocol"
    )


def test_a_weights_file_that_would_execute_code_is_refused(exported, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (exported / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="not a sound safetensors file"):
        load_segmenter(exported, Machine.from_environment(device="cpu"))
    assert not (tmp_path / "executed").exists()


def test_a_builder_of_somebody_elses_package_is_not_run(exported, tmp_path):
    trial = json.loads((exported / "trial.json").read_text())
    trial["backbone"]["builder"] = "os:system"
    (exported / "trial.json").write_text(json.dumps(trial))
    code, said = segbench("predict", exported, photograph(tmp_path / "x.png"), "-o", tmp_path / "o")
    assert code == 2
    assert "is not trusted" in said


def test_a_folder_without_a_model_is_named(tmp_path):
    code, said = segbench("predict", tmp_path, tmp_path, "-o", tmp_path / "out")
    assert code == 2
    assert "holds no trained model" in said


def test_a_model_is_found_from_inside_its_folders(workdir, tmp_path, monkeypatch):
    photograph(tmp_path / "a.png")
    for number, (folder, name) in enumerate(((workdir, "."), (workdir.parent, workdir.name[:5]))):
        monkeypatch.chdir(folder)
        code, said = segbench("predict", name, tmp_path / "a.png", "-o", tmp_path / f"out{number}")
        assert code == 0, said
        code, said = segbench("export", name, "-o", tmp_path / f"model{number}")
        assert code == 0, said


def test_a_folder_that_cannot_be_made_is_one_sentence(workdir):
    code, said = segbench("export", workdir, "-o", "/proc/nowhere/model")
    assert code == 2
    assert "/proc/nowhere/model: cannot be made" in said
    assert "name another folder" in said
