"""Pictures: chosen by the stated rule, drawn again from the weights, read without torch."""

import html
import json

import numpy as np
import pytest
from PIL import Image

from segbench.errors import DataError, ResultError
from segbench.metrics.counts import Counts
from segbench.metrics.of_images import per_image_iou
from segbench.report.write import page_of, read_run
from segbench.runs.panels import chosen_images, load_panels
from segbench.schema.machine import Machine
from segbench.work.panels import write_panels


def counts_with(ious: list[float]) -> Counts:
    """Counts of one class whose IoU in each image is this."""
    tp = np.array([round(1000 * iou) for iou in ious], dtype=int).reshape(-1, 1)
    label = np.full_like(tp, 1000)
    return Counts(tp, label, tp, [f"image {index}" for index in range(len(ious))])


def test_best_typical_and_worst_follow_the_rule():
    ious = [0.5, 0.1, 0.9, 0.55, 0.3, 0.8, 0.44]
    chosen = chosen_images(counts_with(ious))
    assert [(c.kind, c.place) for c in chosen] == [
        ("best", 2), ("best", 5), ("typical", 3), ("typical", 0), ("worst", 4), ("worst", 1)
    ]  # fmt: skip
    assert [c.iou for c in chosen] == pytest.approx([ious[c.place] for c in chosen])


def test_no_image_is_shown_twice_and_ties_go_by_name():
    assert [(c.kind, c.name) for c in chosen_images(counts_with([0.5, 0.5, 0.5]))] == [
        ("best", "image 0"), ("best", "image 1"), ("worst", "image 2")
    ]  # fmt: skip
    assert chosen_images(counts_with([])) == []


def test_pictures_show_the_images_labels_and_predictions_of_the_trial(toy_project, tmp_path):
    from segbench.commands.run import Flags, prepare_run, record_run
    from segbench.data.split import open_split
    from segbench.runs.trial_files import load_counts, trial_folder
    from segbench.work.trial import run_trial

    prepared = prepare_run(
        toy_project / "experiments" / "toy.yaml",
        Flags(results=toy_project / "results", seeds=1, only=("head=fcn8s",)),
    )
    record_run(prepared, "segbench run experiments/toy.yaml")
    (trial_id, trial), *_ = prepared.asked.trials.items()
    machine = Machine(cache=str(tmp_path / "cache"), device="cpu", threads=1)
    protocol = prepared.asked.experiment.evaluate["native"]
    workdir = trial_folder(prepared.run_folder, trial_id)
    assert run_trial(trial, workdir, machine=machine, protocols=(protocol,)) == "done"
    folder = write_panels(prepared.run_folder, trial_id[:4], machine, number=1)
    [(found_folder, panels)] = load_panels(prepared.run_folder)
    assert found_folder == folder
    assert [panel.kind for panel in panels.panels] == ["best", "typical", "worst"]
    counts = load_counts(workdir / "evaluations" / f"{protocol.digest()}.npz").as_counts()
    by_name = dict(zip(counts.names, per_image_iou(counts), strict=True))
    split = open_split(trial.dataset, "val", machine)
    for panel in panels.panels:
        assert panel.iou == pytest.approx(by_name[panel.name])
        index = split.names.index(panel.name)
        label = split.sample(index).label.numpy()
        drawn = {part: np.asarray(Image.open(folder / name)) for part, name in panel.files.items()}
        known = label != 255
        colours = np.array(trial.dataset.seen_palette)
        assert (drawn["label"][known] == colours[label[known]]).all()
        # the prediction's own pixels give the counts on file
        predicted = (drawn["prediction"][:, :, None] == colours).all(-1).argmax(-1)
        for index_of_class in range(3):
            tp = ((predicted == index_of_class) & (label == index_of_class)).sum()
            assert tp == counts.tp[index, index_of_class]
        assert (drawn["errors"][known] == np.where(predicted == label, 0, 255)[known]).all()
        assert (drawn["errors"][~known] == 128).all()
    text = page_of(prepared.run_folder, read_run(prepared.run_folder))
    assert text.count("data:image/jpeg;base64,") == 3
    assert text.count("data:image/png;base64,") == 9
    assert panels.rule in html.unescape(text)

    (workdir / "model.safetensors").unlink()
    with pytest.raises(ResultError, match="pictures are drawn where the weights are"):
        write_panels(prepared.run_folder, trial_id, machine)
    with pytest.raises(
        ResultError, match="has no results of protocol 'other'; the run has: native"
    ):
        write_panels(prepared.run_folder, trial_id, machine, protocol_name="other")
    path = workdir / "evaluations" / f"{protocol.digest()}.json"
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps({**evaluation, "split_fingerprint": "another"}))
    (workdir / "model.safetensors").touch()
    with pytest.raises(DataError, match=r"is not what .* was scored on"):
        write_panels(prepared.run_folder, trial_id, machine)


def test_a_picture_that_is_missing_is_named(tmp_path):
    folder = tmp_path / "panels" / "0123456789ab"
    folder.mkdir(parents=True)
    panel = {
        "kind": "best",
        "name": "x",
        "iou": 0.5,
        "files": {"image": "best_1_image.jpg"},
        "class_indices": [0],
    }
    record = {"trial_id": "0123456789ab", "protocol": "native", "rule": "r", "class_names": ["a"],
              "colours": [[0, 0, 0]], "panels": [panel]}  # fmt: skip
    (folder / "panels.json").write_text(json.dumps(record))
    with pytest.raises(
        ResultError, match=r"best_1_image\.jpg: is not there, but panels\.json names it"
    ):
        list(load_panels(tmp_path))
    panel["files"] = {"image": "../../secret.jpg"}
    (folder / "panels.json").write_text(json.dumps(record))
    with pytest.raises(ResultError, match=r"panels\.json: is damaged or of another version"):
        list(load_panels(tmp_path))
