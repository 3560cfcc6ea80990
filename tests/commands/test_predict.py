"""Prediction with a CRF: spread over processes, searched on held-out images, missing its package."""

import sys

import numpy as np
import pytest
from command_line import invoked
from toy_world import train_all

from segbench.commands.run import Flags, prepare_run
from segbench.engine.crf import refine, refined_predictions
from segbench.errors import DataError
from segbench.files import read_json
from segbench.runs import trial_files
from segbench.schema.protocol import Crf


def maps(number):
    """Noisy probabilities of a square on images that show the square clearly."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        truth = np.zeros((40, 48), dtype=bool)
        truth[10:30, 12:36] = True
        image = np.where(truth[..., None], 220, 30).astype(np.uint8).repeat(3, axis=2)
        square = np.where(truth, 0.6, 0.4) + rng.normal(0, 0.15, truth.shape)
        square = square.clip(0.05, 0.95).astype(np.float32)
        yield truth, (np.ascontiguousarray(image), np.stack([1 - square, square]))


def test_the_crf_finds_the_edges_that_the_image_shows():
    pytest.importorskip("pydensecrf.densecrf")
    for truth, (image, probabilities) in maps(2):
        before = (probabilities.argmax(0) == truth).mean()
        refined = refine(image, probabilities, Crf())
        assert refined.shape == probabilities.shape
        np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
        assert (refined.argmax(0) == truth).mean() > max(before, 0.99)


def test_coordinates_yx_are_those_of_pydensecrf_s_generic_features():
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    from pydensecrf import utils

    crf = Crf(coordinates="yx", iterations=3)
    for _, (image, probabilities) in maps(2):
        field = dcrf.DenseCRF(image.shape[0] * image.shape[1], 2)
        unary = -np.log(probabilities.clip(1e-5, 1)).reshape(2, -1)
        field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
        options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_SYMMETRIC}
        features = utils.create_pairwise_gaussian(sdims=(10, 10), shape=image.shape[:2])
        field.addPairwiseEnergy(features, compat=3, **options)
        features = utils.create_pairwise_bilateral((50, 50), (20, 20, 20), image, chdim=2)
        field.addPairwiseEnergy(features, compat=10, **options)
        expected = np.asarray(field.inference(3)).reshape(probabilities.shape)
        np.testing.assert_allclose(refine(image, probabilities, crf), expected, atol=1e-5)
        other = refine(image, probabilities, crf.revised(coordinates="xy"))
        np.testing.assert_allclose(refine(image, probabilities, crf), other, atol=0.05)
        assert not np.array_equal(refine(image, probabilities, crf), other)


def test_three_processes_give_the_predictions_of_one_in_the_same_order():
    pytest.importorskip("pydensecrf.densecrf")
    settings = [Crf(iterations=1), Crf(iterations=5, bilateral_colour=5)]
    work = [(unrefined, crf) for _, unrefined in maps(4) for crf in settings]
    alone = list(refined_predictions(work))
    spread = list(refined_predictions(iter(work), processes=3))
    assert len(alone) == len(spread) == 8
    for one, other in zip(alone, spread, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_the_package_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(DataError) as error:
        next(refined_predictions([]))
    assert str(error.value) == (
        "a protocol with `crf` needs pydensecrf: pip install 'segbench[crf]', or drop `crf` from the "
        "protocol"
    )


def test_parameters_are_searched_on_held_out_images_alone(toy_run):
    pytest.importorskip("pydensecrf.densecrf")

    project = toy_run.parents[1]
    experiment = project / "experiments" / "held.yaml"
    toy = (project / "experiments" / "toy.yaml").read_text()
    experiment.write_text(
        toy.replace("steps: 6", "steps: 1")
        + "overrides: [{where: {}, set: {dataset.view.holdout: 0.4}}]\n"
    )
    flags = Flags(only=("head=fcn32s",), seeds=1, device="cpu", results=toy_run.parent)
    prepared = prepare_run(experiment, flags)
    (workdir,) = train_all(prepared)
    words = ["crf-search", prepared.run_folder, workdir.name, "--samples", 2, "--device", "cpu"]
    done = invoked(*words)
    assert done.exit_code == 0, done.output
    assert "without a CRF" in done.output
    assert "gaussian_width: 3" in done.output
    found = read_json(workdir / "crf_search.json")
    from segbench.data.split import open_split

    trial = trial_files.load_trial(workdir)
    train = set(open_split(trial.dataset, "train", prepared.machine).names)
    held = set(found["images"])
    assert held
    assert not held & train
    assert held == set(open_split(trial.dataset, "holdout", prepared.machine).names)
    scores = [one["mean_iou"] for one in found["found"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


def test_a_trial_that_saw_every_training_image_is_not_searched(toy_run):
    workdir = next(trial_files.trial_folders(toy_run))
    done = invoked("crf-search", toy_run, workdir.name)
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "parameters are not searched on val, which is reported" in said
