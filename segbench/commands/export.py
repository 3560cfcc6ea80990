"""A trained model as a folder for somebody else: to predict with, to score, to fine-tune.

    model.safetensors       the last step's weights
    trial.json              the trial, its cards inside: what is needed to build the model
    protocol.json           the protocol that it predicts under unless told otherwise
    evaluations/            figures and counts, as in a trial's folder
    backbones/<name>.yaml   a card whose weights are this model's trunk
    README.md               the model card

Reading it executes nothing. Knows nothing of training. No torch.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from segbench.errors import ResultError
from segbench.files import make_folder, sha256_of_file, write_text
from segbench.report.table import Table, markdown, table_of
from segbench.report.tables import shown_metrics
from segbench.runs import trial_files
from segbench.runs.record import find_trial, load_run
from segbench.runs.trial_files import WEIGHTS, Evaluation
from segbench.schema.cards import BackboneCard
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial


def find_model(place: Path) -> Path:
    """Return a trial's or an exported folder; the last part may be the first digits of a trial's id.

    Raises:
        ResultError: there is no such folder, or no trained model in it.
    """
    folder, whole = place, place.resolve()
    if not folder.is_dir() and whole.parent.name == "trials":
        folder, _ = find_trial(whole.parent.parent, whole.name)
    if not (folder / "trial.json").is_file() or not (folder / WEIGHTS).is_file():
        raise ResultError(
            f"{place}: holds no trained model (trial.json and {WEIGHTS}); name a trial's folder, such "
            "as results/quickstart/trials/1a2b3c, or one that segbench export wrote"
        )
    return folder


def export_model(workdir: Path, folder: Path) -> list[Path]:
    """Write the model of a trial's folder, with its cards and figures; return the files.

    Raises:
        ResultError: the folder holds something else already, or cannot be written.
    """
    trial = trial_files.load_trial(workdir)
    if (folder / "trial.json").exists() and trial_files.load_trial(folder).id() != trial.id():
        raise ResultError(f"{folder}: holds another model already; name an empty folder with -o")
    protocol = first_protocol(workdir)
    evaluations = trial_files.load_evaluations(workdir)
    evaluations.sort(key=lambda e: e.protocol.digest() != protocol.digest())
    make_folder(folder)
    shutil.copyfile(workdir / WEIGHTS, folder / WEIGHTS)
    trial.write_to(folder / "trial.json")
    protocol.write_to(folder / "protocol.json")
    for evaluation in evaluations:
        counts = trial_files.load_counts(trial_files.counts_path(workdir, evaluation.protocol))
        trial_files.write_evaluation(folder, evaluation, counts)
    card = trunk_card(trial, folder / WEIGHTS)
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(folder / "backbones" / f"{card.name}.yaml", text)
    write_text(folder / "README.md", render_model_card(trial, evaluations, card.name))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def first_protocol(folder: Path) -> Protocol:
    """Return the protocol that a model predicts under: the exported one, or its run's first."""
    path = folder / "protocol.json"
    if path.is_file():
        return Protocol.model_validate_json(path.read_bytes())
    run_folder = folder.resolve().parent.parent
    if (run_folder / "run.json").is_file():
        return next(iter(load_run(run_folder).experiment.evaluate.values()))
    return Protocol()


def trunk_card(trial: Trial, weights: Path) -> BackboneCard:
    """Return the trial's backbone card with the trained trunk as its weights, for fine-tuning."""
    name = f"{trial.backbone.name}_{trial.id()}"[:64]
    trained = {
        "source": f"segbench trial {trial.id()}",
        "file": weights.name,
        "sha256": sha256_of_file(weights),
        "trained_on": f"{trial.dataset.title}, from {_start(trial)}",
        "licence": trial.backbone.licence if trial.weights is None else trial.weights.licence,
        "input": trial.model.input or (trial.weights and trial.weights.input),
        "notes": _NO_BATCH_NORM if trial.model.batch_norm == "removed" else "",
    }
    card = {**trial.backbone.model_dump(), "name": name, "weights": {"trained": trained}}
    return BackboneCard.model_validate({**card, "default_weights": "trained"})


_NO_BATCH_NORM = "trained without batch norm layers: fits `model.batch_norm: removed` alone"


def render_model_card(trial: Trial, evaluations: list[Evaluation], trunk_name: str) -> str:
    """Return the README of an exported model."""
    dataset = trial.dataset
    parts = [
        f"# {trial.backbone.title}, {trial.head.title or trial.head.name}, on {dataset.title}",
        f"A semantic segmentation model of {dataset.num_classes} classes, trained by segbench "
        f"(trial {trial.id()}, seed {trial.seed}). Weights of the last step.",
        "## Figures",
        "Per cent. Each protocol is a ranking of its own: figures of different protocols do not "
        "compare.",
        markdown(_figures(evaluations)),
        "## IoU of each class",
        markdown(_class_ious(dataset.class_names, evaluations)),
        *_training(trial),
        *_code_paragraph(trial),
        "## Licences",
        f"- training data: {dataset.licence}",
        f"- network: {trial.backbone.licence}",
        *([] if trial.weights is None else [f"- weights it started from: {trial.weights.licence}"]),
        "",
        "Whoever passes these weights on must respect all of them.",
        "## Use",
        "    segbench predict . photograph.jpg -o labelled\n"
        f"    segbench run FILE --cards . --weights . --set sweep.backbone=[{trunk_name}]",
        "The first labels photographs; the second trains any experiment from this model's trunk. "
        "Reading these files executes nothing.",
    ]
    return _joined(parts)


def _figures(evaluations: list[Evaluation]) -> Table:
    shown = shown_metrics(e.figures for e in evaluations)
    return table_of(
        ["protocol", "which is", "images", *shown.values()],
        [
            [
                e.protocol.name,
                f"split {e.protocol.split}; {e.protocol.description(with_split=False)}",
                e.num_images,
                *(_percent(e.figures.get(figure)) for figure in shown),
            ]
            for e in evaluations
        ],
    )


def _class_ious(class_names: Sequence[str], evaluations: list[Evaluation]) -> Table:
    class_ious = [dict(zip(e.class_names, e.per_class_iou, strict=True)) for e in evaluations]
    return table_of(
        ["class", *(e.protocol.name for e in evaluations)],
        ([name, *(_percent(iou.get(name)) for iou in class_ious)] for name in class_names),
    )


def _training(trial: Trial) -> list[str]:
    dataset, recipe = trial.dataset, trial.train
    return [
        "## Training",
        f"- data: {dataset.title}, split `{recipe.split}`"
        + (f", the first {recipe.max_images} images" if recipe.max_images else "")
        + f"; {dataset.source.paper}",
        f"- start: {_start(trial)}",
        *(
            f"- stage {stage.name}: {stage.steps} steps of {recipe.batch_size} x {recipe.accumulate} "
            f"images, {stage.optimizer.name} at {stage.optimizer.lr:g}"
            + (f", frozen: {', '.join(stage.frozen)}" if stage.frozen else "")
            for stage in recipe.stages
        ),
    ]


def _code_paragraph(trial: Trial) -> list[str]:
    """Return what a reader must have besides the folder, where the network is somebody's own."""
    if not trial.code:
        return []
    return [
        "## Code",
        "The network is built by code that is not in this folder; put its files beside this one, and "
        "its name into $SEGBENCH_TRUSTED. It is known again by:",
        *(f"- {module}: {digest}" for module, digest in trial.code.items()),
    ]


def _start(trial: Trial) -> str:
    if trial.start_from is not None:
        return f"the weights of trial {trial.start_from}"
    return "random weights" if trial.weights is None else trial.weights.source


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _joined(parts: list[str]) -> str:
    """Return the parts as paragraphs, items of a list on lines that follow each other."""
    text = ""
    for part in parts:
        is_item = part.startswith("- ") and text.rpartition("\n\n")[2].startswith("- ")
        text += ("\n" if is_item else "\n\n" if text else "") + part
    return text.replace("\n\n\n", "\n\n") + "\n"
