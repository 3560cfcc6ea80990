"""A model is trained on one card and scored on another: classes by name, nothing dropped, overlap told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoked
from drawn_run import boards_of
from PIL import Image
from toy_world import TOY_BACKBONE

from segbench.commands import preflight
from segbench.commands.export import export_model
from segbench.commands.listing import prepare_all
from segbench.commands.run import Flags, prepare_run, record_run
from segbench.data.split import open_scored
from segbench.engine.checkpoint import load_weights, save_weights
from segbench.engine.predict import predict, score_map
from segbench.errors import ExperimentError
from segbench.report.write import page_of, read_run
from segbench.runs import trial_files
from segbench.runs.bundle import verified
from segbench.runs.observed import observations
from segbench.runs.record import load_rows, load_run
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog
from segbench.schema.job import Job
from segbench.schema.machine import Machine
from segbench.schema.matched import matched_classes, unknown_classes
from segbench.schema.protocol import Protocol
from segbench.work.panels import write_panels
from segbench.work.scoring import load_segmenter
from segbench.work.trial import run_trial

# The same label files under three cards. Raw values: 0 ground, 1 disc, 2 box, 255 void.
CARD = """
name: {name}
title: files that {name} describes
roots: [{root}]
splits:
  train: {{images: "train/{{name}}.png", labels: "train_labels/{{name}}.png"}}
  val: {{images: "val/{{name}}.png", labels: "val_labels/{{name}}.png"}}
classes: [{classes}]
palette: {palette}
background: {background}
encoding: {{ids: [{ids}], ignore: [{ignore}]}}
licence: CC0
source: {{paper: none}}
"""
CARDS = {
    "own": ("pictures", "ground, disc, box", 0, "0, 1, 2", "255"),
    "turned": ("pictures", "box, ground, disc", 1, "2, 0, 1", "255"),
    "fewer": ("pictures", "disc, ground", 1, "1, 0", "2, 255"),
    "more": ("pictures", "ground, disc, box, cone", 0, "0, 1, 2, 3", "255"),
    "elsewhere": ("others", "ground, disc, box", 0, "0, 1, 2", "255"),
}
EXPERIMENT = """
question: Does it matter which card is scored?
sweep: {backbone: [toynet], head: [fcn8s], dataset: [own, turned], seeds: 1}
model: {weights: none}
train:
  images: {squash: [32, 32], flip: false}
  batch_size: 4
  stages: [{name: all, steps: 4, optimizer: {name: adam, lr: 0.01}}]
evaluate:
  native: {boundary: 0.1}
  turned: {dataset: turned, boundary: 0.1}
  fewer: {dataset: fewer, void: false_positive, flip: true}
monitor: {log_every_steps: 2, checkpoint_every_steps: 2, validate_images: 2}
launch: {workers: 1}
claims:
  - {kind: correlate, says: frequent is easier, by: training_pixels, where: {dataset: own, protocol: fewer}}
"""


def _card_text(name: str) -> str:
    root, classes, background, ids, ignore = CARDS[name]
    palette = [[40 * index, 90, 10 * len(name)] for index in range(len(ids.split(",")))]
    return CARD.format(
        name=name, root=root, classes=classes, palette=palette, background=background, ids=ids,
        ignore=ignore,
    )  # fmt: skip


def _draw(folder: Path, *, images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        for kind in (split, f"{split}_labels"):
            (folder / kind).mkdir(parents=True)
        for index in range(images):
            label = np.kron(rng.choice([0, 0, 1, 2, 255], (4, 4)), np.ones((8, 8))).astype(np.uint8)
            shade = np.where(label == 255, 60, label * 100).astype(np.uint8)
            pixels = np.stack([shade, 255 - shade, np.full_like(shade, index)], axis=2)
            Image.fromarray(pixels).save(folder / split / f"{split}{index}.png")
            Image.fromarray(label).save(folder / f"{split}_labels" / f"{split}{index}.png")


def _project(folder: Path) -> Path:
    for kind in ("backbones", "datasets", "experiments"):
        (folder / kind).mkdir(parents=True)
    (folder / "backbones" / "toynet.yaml").write_text(TOY_BACKBONE)
    for name in CARDS:
        (folder / "datasets" / f"{name}.yaml").write_text(_card_text(name))
    (folder / "experiments" / "other.yaml").write_text(EXPERIMENT)
    _draw(folder / "data" / "pictures", images=6, seed=0)
    _draw(folder / "data" / "others", images=2, seed=1)
    return folder


def _flags(project: Path, *settings: str, only: tuple[str, ...] = ()) -> Flags:
    return Flags(
        settings=settings, only=only, data=(project / "data",), cache=project / "cache", device="cpu",
        results=project / "results",
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return _project(tmp_path_factory.mktemp("two_cards"))


@pytest.fixture(scope="module")
def prepared(project):
    return prepare_run(project / "experiments" / "other.yaml", _flags(project))


@pytest.fixture(scope="module")
def run(prepared):
    """The run's folder, made by workers that know the job's file and no card."""
    record_run(prepared, "segbench run experiments/other.yaml")
    job = Job(
        run_folder=str(prepared.run_folder), machine=prepared.machine, code_version="x",
        protocols=tuple(prepared.asked.experiment.evaluate.values()),
    )  # fmt: skip
    protocols = Job.read(job.write()).protocols
    for trial_id, trial in prepared.asked.trials.items():
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        run_trial(trial, workdir, machine=prepared.machine, protocols=())
        _tell_classes_apart(workdir, prepared.machine)
        assert run_trial(trial, workdir, machine=prepared.machine, protocols=protocols) == "done"
    return prepared.run_folder


def _tell_classes_apart(workdir, machine):
    """Put a random head into the model whose scores have mean 0: a few steps teach it one class."""
    path = workdir / trial_files.WEIGHTS
    weights = load_weights(path)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in weights.items():
        if name.startswith("head.score"):
            is_bias = name.endswith("bias")
            weights[name] = (0 if is_bias else 1) * torch.randn(tensor.shape, generator=generator)
    save_weights(path, weights)
    trial, segmenter = load_segmenter(workdir, machine)
    split = open_scored(trial.dataset, Protocol(), machine)
    maps = [score_map(segmenter, split.sample(i).image, Protocol()) for i in range(len(split))]
    weights["head.score.8.bias"] = -torch.stack(maps).mean((0, 2, 3))
    save_weights(path, weights)


def _found(run, prepared, dataset, protocol):
    """Return the evaluation and the counts of the trial that was trained on a card."""
    ((trial_id, _),) = [
        (i, t) for i, t in prepared.asked.trials.items() if t.dataset.name == dataset
    ]
    workdir = trial_files.trial_folder(run, trial_id)
    asked = prepared.asked.experiment.evaluate[protocol]
    return trial_files.load_evaluation(workdir, asked), trial_files.load_counts(
        trial_files.counts_path(workdir, asked)
    )


def test_the_same_classes_in_another_order_give_the_figures_of_the_own_card(run, prepared):
    own, counts = _found(run, prepared, "own", "native")
    other, others = _found(run, prepared, "own", "turned")
    assert np.count_nonzero(counts.confusion.sum(0)) == 3  # the model tells classes apart
    assert other.class_names == ("box", "ground", "disc")
    assert (own.background, other.background) == (0, 1)
    assert other.figures == pytest.approx(own.figures, abs=1e-12)
    assert dict(zip(other.class_names, other.per_class_iou, strict=True)) == pytest.approx(
        dict(zip(own.class_names, own.per_class_iou, strict=True))
    )
    order = [2, 0, 1]
    assert others.names == counts.names
    for name in ("tp", "label", "pred"):
        assert np.array_equal(getattr(others, name), getattr(counts, name)[:, order])
    assert np.array_equal(others.boundary, counts.boundary[:, :, order])
    assert np.array_equal(others.confusion, counts.confusion[order][:, [*order, 3]])


def test_the_validation_loss_of_permuted_labels_is_that_of_the_own_card(
    tmp_path, project, prepared
):
    trial = next(t for t in prepared.asked.trials.values() if t.dataset.name == "own")
    asked = prepared.asked.experiment.evaluate
    losses = []
    for name in ("native", "turned"):
        run_trial(trial, tmp_path / name, machine=prepared.machine, protocols=(asked[name],))
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        losses.append([line["validation_loss"] for line in lines if "validation_loss" in line])
    assert losses[0]
    assert losses[0] == losses[1]


def test_counts_of_matched_classes_are_those_of_a_plain_loop(run, prepared):
    evaluation, counts = _found(run, prepared, "own", "fewer")
    protocol = evaluation.protocol
    workdir = trial_files.trial_folder(run, evaluation.trial_id)
    trial, segmenter = load_segmenter(workdir, prepared.machine)
    split = open_scored(trial.dataset, protocol, prepared.machine)
    names = trial.dataset.class_names
    scored = {"disc": 0, "ground": 1}
    confusion = np.zeros((2, 3), dtype=int)
    on_void = np.zeros(2, dtype=int)
    for index in range(len(split)):
        sample = split.sample(index)
        prediction = predict(segmenter, sample.image, protocol)
        with Image.open(
            Path(prepared.machine.data[0]) / "pictures/val_labels" / f"{sample.name}.png"
        ) as raw:
            label = np.asarray(raw)
        for at in np.ndindex(label.shape):
            predicted = scored.get(names[int(prediction[at])], 2)
            true = {0: 1, 1: 0}.get(int(label[at]))  # raw 0 is ground, raw 1 is disc
            if true is not None:
                confusion[true, predicted] += 1
            elif predicted < 2:
                on_void[predicted] += 1
    assert confusion[:, 2].sum() > 0  # boxes, where the scored card has none
    assert np.array_equal(counts.confusion, confusion)
    assert np.array_equal(counts.label.sum(0), confusion.sum(1))
    assert np.array_equal(counts.pred.sum(0), confusion[:, :2].sum(0) + on_void)
    iou = confusion.diagonal()[:2] / (
        confusion.sum(1) + confusion[:, :2].sum(0) + on_void - confusion.diagonal()[:2]
    )
    assert evaluation.figures["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert evaluation.figures["pixel_accuracy"] == pytest.approx(
        confusion.diagonal()[:2].sum() / confusion.sum()
    )


def test_a_protocols_digest_tells_which_data_are_scored_and_the_trials_id_does_not(
    project, prepared
):
    catalog = Catalog.on_path(experiment=project / "experiments" / "other.yaml")
    card = catalog.dataset("turned")
    plain, named = Protocol(), Protocol(dataset=card)
    assert (
        len({plain.digest(), named.digest(), Protocol(dataset=catalog.dataset("own")).digest()})
        == 3
    )
    assert Protocol(dataset=card.revised(notes="n", title="t")).digest() == named.digest()
    assert Protocol(dataset=card.revised(view={"drop": ("box",)})).digest() != named.digest()
    assert not named.counts_like(plain)
    assert named.revised(absent_class="zero").counts_like(named)
    assert "dataset turned" in named.description()
    again = Protocol.model_validate_json(named.model_dump_json())
    assert again == named
    assert again.digest() == named.digest()
    alone = prepare_run(
        project / "experiments" / "other.yaml",
        _flags(project, "evaluate={native: {}}", "claims=[]"),
    )
    assert set(alone.asked.trials) == set(prepared.asked.trials)


def test_classes_are_matched_by_name():
    ours, theirs = (
        DatasetCard.model_validate(
            {
                "name": name, "title": "t", "drawn": None, "licence": "CC0", "source": {"paper": "none"},
                "splits": {"val": {"images": "a/{name}", "labels": "b/{name}"}},
                "classes": classes, "palette": tuple((0, 0, 0) for _ in classes),
                "view": {"void_as_class": name == "ours"},
            }
        )
        for name, classes in (("ours", ("sky", "car", "bus")), ("theirs", ("bus", "sky")))
    )  # fmt: skip
    assert matched_classes(ours, theirs) == (1, 255, 0, 255)  # car and void are none of theirs
    assert matched_classes(theirs, ours) == (2, 0)
    assert unknown_classes(ours, theirs) == ""
    assert unknown_classes(theirs, ours).startswith(
        "ours has classes that a model trained on theirs does not know: car, void; "
    )


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "{dataset: more}",
            "more has a class that a model trained on own does not know: cone; classes are matched by name",
        ),
        ("{dataset: turnd}", "no data set 'turnd'; did you mean 'turned'?"),
        ("{dataset: turned, split: test}", "turned has no split 'test'"),
        ("{dataset: turned, split: holdout}", "turned has no split 'holdout'"),
        ("{dataset: 3}", "evaluate.native.dataset"),
    ],
)
def test_a_card_that_cannot_be_scored_is_told_when_the_file_is_read(project, setting, told):
    with pytest.raises(ExperimentError) as caught:
        prepare_run(
            project / "experiments" / "other.yaml",
            _flags(project, f"evaluate={{native: {setting}}}", "claims=[]"),
        )
    assert told in str(caught.value)


def test_evaluate_scores_trained_models_on_another_card(run, cli):
    before = sorted(run.rglob("evaluations/*"))
    assert "does not know: cone" in cli("evaluate", str(run), "--set", "dataset=more", code=2)
    assert sorted(run.rglob("evaluations/*")) == before
    told = cli("evaluate", str(run), "--set", "dataset=turnd", code=2)
    assert "--set dataset=turnd: no data set 'turnd'; did you mean 'turned'?" in told
    told = cli("evaluate", str(run), "--protocol", "native", "--set", "dataset=turned")
    assert sorted(run.rglob("evaluations/*")) == before  # as the experiment's own protocol
    assert "on 6 images of turned val" in told
    told = cli("evaluate", str(run), "--set", "dataset=elsewhere", "--name", "far")
    assert "on 2 images of elsewhere val" in told
    assert load_run(run).protocols["far"].dataset.name == "elsewhere"
    told = cli("evaluate", str(run), "--protocol", "turned", "--set", "dataset=null")
    assert "on 6 images of val" in told


def test_predictions_of_anybody_are_matched_too(run, prepared, cli, tmp_path):
    evaluation, _ = _found(run, prepared, "own", "turned")
    trial_folder = trial_files.trial_folder(run, evaluation.trial_id)
    plain = ("--set", "flip=false", "--split", "val", "-o", str(tmp_path / "p"))
    cli("predict", str(trial_folder), *plain)
    cli(
        "evaluate", "--predictions", str(tmp_path / "p"), "--dataset", "own", "--name", "theirs",
        "--run", str(run), "--protocol", "turned",
    )  # fmt: skip
    board = next(b for b in boards_of(run) if b.protocol_name == "turned")
    mine = next(m for m in board.models if m.axes["dataset"] == "own" and not m.is_external)
    (external,) = [m for m in board.models if m.is_external]
    shutil.rmtree(run / "external")
    assert external.class_iou == mine.class_iou


def test_models_of_several_cards_share_the_board_of_the_scored_one(run, prepared):
    by_name = {}
    for board in boards_of(run):
        by_name.setdefault(board.protocol_name, []).append(board)
    assert [board.dataset for board in by_name["native"]] == ["own", "turned"]
    (board,) = by_name["turned"]
    assert board.dataset == "turned"
    assert board.title.startswith("turned (3 classes, 6 images of val), trained on own, protocol")
    assert sorted(m.name for m in board.models) == ["toynet own fcn8s", "toynet turned fcn8s"]
    assert all(duel.models == () for duel in board.duels)  # they differ in more than the backbone
    assert board.training_share is None
    (fewer,) = by_name["fewer"]
    assert fewer.class_names == ("disc", "ground")
    assert "1 classes of the training data are none of fewer: predictions of them count" in (
        fewer.reading_note
    )


def test_training_pixels_stand_beside_the_class_that_they_are_of(run, prepared):
    rows = list(load_rows(run, load_run(run)))
    found = {(o.axes["dataset"], o.protocol): o for o in observations(run, load_run(run), rows)}
    pixels = {
        key: dict(zip(o.class_names, o.training_pixels, strict=True)) for key, o in found.items()
    }
    truth = pixels["own", "native"]
    assert len(set(truth.values())) == 3
    for key, seen in pixels.items():
        assert seen == {name: truth[name] for name in found[key].class_names}, key


def test_pages_pictures_models_and_bundles_have_the_scored_classes(run, prepared, tmp_path):
    evaluation, _ = _found(run, prepared, "own", "fewer")
    folder = write_panels(
        run, evaluation.trial_id, prepared.machine, protocol_name="fewer", number=1
    )
    panels = json.loads((folder / "panels.json").read_text())
    assert panels["class_names"] == ["disc", "ground"]
    assert {i for panel in panels["panels"] for i in panel["class_indices"]} <= {0, 1}
    page = page_of(run, read_run(run))
    assert "turned (3 classes" in page
    workdir = trial_files.trial_folder(run, evaluation.trial_id)
    export_model(workdir, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    (box,) = [line for line in card.splitlines() if line.startswith("| box")]
    assert [cell.strip() for cell in box.split("|")].count(
        "-"
    ) == 1  # no figure of it on the card that lacks it
    assert verified(run, run).experiment == load_run(run).experiment


def test_images_that_one_card_trains_on_and_the_other_scores_are_counted(tmp_path):
    project = _project(tmp_path / "p")
    for index in range(
        2
    ):  # two images of own's train under other names, one stored in another form
        source = project / "data" / "pictures" / "train" / f"train{index}.png"
        target = project / "data" / "others" / "val" / f"same{index}.png"
        shutil.copy(source, target)
        if index:
            with Image.open(source) as image:
                image.save(target, compress_level=0)
        shutil.copy(
            project / "data" / "pictures" / "train_labels" / source.name,
            project / "data" / "others" / "val_labels" / target.name,
        )
    flags = _flags(
        project, "evaluate={far: {dataset: elsewhere}}", "claims=[]",
        "train.stages=[{name: all, steps: 1, optimizer: {lr: 0.1}}]", only=("dataset=own",),
    )  # fmt: skip
    prepared = prepare_run(project / "experiments" / "other.yaml", flags)
    told = "elsewhere val: {} of its 4 images {} in own train too, so figures on it are too high"
    (before,) = preflight.shared_images_in_words(prepared)
    assert before.startswith(told.format(1, "is"))  # by bytes
    record_run(prepared, "segbench run")
    ((trial_id, trial),) = prepared.asked.trials.items()
    workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
    (protocol,) = prepared.asked.experiment.evaluate.values()
    assert run_trial(trial, workdir, machine=prepared.machine, protocols=(protocol,)) == "done"
    (after,) = preflight.shared_images_in_words(prepared)
    assert after.startswith(told.format(2, "are"))  # by pixels
    assert trial_files.load_evaluation(workdir, protocol).num_trained_on == 2
    (board,) = boards_of(prepared.run_folder)
    assert board.reading_note.startswith("2 of these 4 images were trained on")
    (project / "data" / "others" / "val_labels" / "val0.png").unlink()
    assert any("elsewhere" in told for told in preflight.missing_files(prepared))


def test_what_is_missing_of_the_scored_card_is_told_before_a_run_and_prepare_knows_both(
    tmp_path, monkeypatch
):
    project = _project(tmp_path / "p")
    shutil.rmtree(project / "data" / "others" / "val")
    shutil.rmtree(project / "data" / "others" / "train")
    monkeypatch.chdir(project)
    flags = _flags(
        project, "evaluate={far: {dataset: elsewhere}}", "claims=[]", only=("dataset=own",)
    )
    prepared = prepare_run(project / "experiments" / "other.yaml", flags)
    (told,) = preflight.missing_files(prepared)
    assert told.startswith("elsewhere val: ")
    made = dict(
        prepare_all(
            ["experiments/other.yaml"],
            Machine.from_environment(data=(project / "data",), cache=project / "cache"),
            download=False,
        )
    )  # fmt: skip
    assert {"own", "turned", "fewer"} <= set(made)


def test_a_search_never_scores_the_other_card(project):
    flags = _flags(
        project, "search={parameters: {train.batch_size: {choice: [2, 4]}}, method: grid, holdout: 0.4}",
        "evaluate={far: {dataset: elsewhere}}", "claims=[]",
    )  # fmt: skip
    searching = Flags(**{**flags.__dict__, "search": True})
    prepared = prepare_run(project / "experiments" / "other.yaml", searching)
    (protocol,) = prepared.asked.experiment.evaluate.values()
    assert (protocol.dataset, protocol.split) == (None, "holdout")


def test_the_paper_s_own_split_is_what_fcn_skips_trains_and_scores():
    path = Path(__file__).parents[2] / "experiments" / "fcn_skips.yaml"
    plan = prepare_run(path, Flags(only=("head=fcn32s",), seeds=1)).asked
    ((_, trial),) = plan.trials.items()
    (protocol,) = plan.experiment.evaluate.values()
    assert (trial.dataset.name, trial.train.split) == ("sbd_seg11", "train")
    assert trial.dataset.encoding.format == "mat"
    scored = protocol.scored_card(trial.dataset)
    assert (scored.name, scored.encoding.format, protocol.split) == ("voc2011", "png", "seg11valid")
    assert scored.splits["seg11valid"].count == 736
    assert scored.splits["seg11valid"].list in trial.dataset.splits["train"].minus
    assert matched_classes(trial.dataset, scored) == tuple(range(21))


@pytest.fixture
def cli(project, monkeypatch):
    """Run a command in the project; return what it printed."""
    monkeypatch.chdir(project)

    def run(*words: str, code: int = 0) -> str:
        where = ["--data", str(project / "data"), "--cache", str(project / "cache")]
        done = invoked(*words, *where, env={"COLUMNS": "400"})
        assert done.exit_code == code, done.output
        return done.output

    return run
