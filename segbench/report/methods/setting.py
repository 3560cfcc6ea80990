"""What was trained, how it was scored, and what that took.

Knows nothing of statistics.
"""

from collections import Counter
from collections.abc import Iterator

from segbench.errors import counted
from segbench.report.methods.parts import Known, Paragraph, Reference, joined
from segbench.report.numbers import amount, duration
from segbench.runs.observed import shared_times
from segbench.runs.tuning import tuned_in_words
from segbench.schema.cards import BackboneCard, DatasetCard
from segbench.schema.recipe import Recipe, TrainStage


def models(known: Known) -> Paragraph:
    """Return which models were compared, and from what they started."""
    record = known.record
    axes = {
        axis: list(dict.fromkeys(row.cell.axes[axis] for row in known.done))
        for axis in record.axis_names
    }
    cells = {tuple(row.cell.axes.items()) for row in known.done}
    cards = {trial.backbone.name: trial.backbone for trial in known.trials}
    data = {trial.dataset.name: trial.dataset for trial in known.trials}
    others = [
        f"{axis} {joined(values)}"
        for axis, values in axes.items()
        if axis not in {"backbone", "dataset"} and any(values)
    ]
    backbones = joined(f"{card.title} [@{_key(card)}]" for card in cards.values())
    datasets = joined(f"{card.title} [@{_key(card)}]" for card in data.values())
    starts = dict.fromkeys(
        f"{cards[model.axes['backbone']].title} from {start.name} weights"
        for model in known.models
        for start in model.starts
        if start.name and model.axes["backbone"] in cards
    )
    follows = (", ".join(filter(None, (s.paper, s.table))) for s in record.experiment.source)
    return Paragraph(
        "Models",
        (
            *(f"The experiment follows {source}." for source in follows),
            f"{counted(len(cells), 'model')} with {counted(len(cards), 'backbone')} ({backbones}), "
            f"{'; '.join(others)}, were trained on {datasets}.",
            f"Each model was trained with {known.seeds} random seeds; the seed fixes the order of the "
            "data, their augmentation and the layers that start from random values.",
            *([f"Trunks started as follows: {'; '.join(starts)}."] if starts else []),
        ),
    )


def training(known: Known) -> Paragraph:
    """Return the recipe, and how its settings were chosen as far as that is on record."""
    experiment = known.record.experiment
    recipe = experiment.train
    changed = [
        word
        for word, is_there in (
            ("overrides", experiment.overrides),
            ("variants", experiment.variants),
            ("settings of the sweep", experiment.sweep.settings),
        )
        if is_there
    ]
    return Paragraph(
        "Training",
        (
            f"Training took {counted(recipe.steps, 'step')} in all on the split `{recipe.split}`, with "
            f"{recipe.batch_size * recipe.accumulate} images a step in {recipe.precision}; "
            f"{_images_in_words(recipe)}.",
            *map(_stage_in_words, recipe.stages),
            *(
                [f"Some models differ from this by {joined(changed)}, which `run.json` lists."]
                * bool(changed)
            ),
            "The weights of the last step were scored; no checkpoint was chosen by its figures.",
            *_chosen(known),
        ),
    )


def _images_in_words(recipe: Recipe) -> str:
    images = recipe.images
    parts = [
        f"images were resized to {images.squash[0]} x {images.squash[1]}" if images.squash else "",
        f"scaled by {images.scale[0]:g} to {images.scale[1]:g}"
        if images.scale != (1.0, 1.0)
        else "",
        f"cropped to {images.crop[0]} x {images.crop[1]}" if images.crop else "",
        "half of them mirrored" if images.flip else "",
    ]
    told = ", ".join(filter(None, parts))
    return told if images.squash else f"images were {told or 'taken whole'}"


def _stage_in_words(stage: TrainStage) -> str:
    optimizer, schedule = stage.optimizer, stage.schedule
    parts = [
        f"learning rate {optimizer.lr:g}",
        f"momentum {optimizer.momentum:g}" if optimizer.name == "sgd" else "",
        f"weight decay {optimizer.weight_decay:g}",
        f"{schedule.name} schedule",
        f"{schedule.warmup_steps} steps of warm-up" if schedule.warmup_steps else "",
        f"frozen: {', '.join(stage.frozen)}" if stage.frozen else "",
    ]
    told = ", ".join(filter(None, parts))
    return f"Stage `{stage.name}`: {counted(stage.steps, 'step')} of {optimizer.name} ({told})."


def _chosen(known: Known) -> Iterator[str]:
    """Yield how the settings were chosen."""
    record = known.record
    for tuned in record.tuned:
        yield f"Settings came from a search on held-out training images ({tuned_in_words(tuned)})."
        if tuned.warning:
            yield f"{tuned.warning[0].upper()}{tuned.warning[1:]}."
    notes = [record.experiment.notes, *(claim.notes for claim in record.experiment.claims)]
    if told := " ".join(" ".join(note.split()) for note in dict.fromkeys(notes) if note):
        yield f"The experiment file notes: {told.removesuffix('.')}."
    elif not record.tuned:
        yield "How the settings were chosen is not on record."


def scoring(known: Known) -> Paragraph:
    """Return which images were scored, and under which protocols."""
    sentences = []
    for board in known.boards:
        told = (
            f"Protocol `{board.protocol_name}` scores {counted(board.num_images, 'image')} of the split "
            f"`{board.protocol.split}` of {board.dataset}, {len(board.class_names)} classes: "
            f"{board.protocol.description(with_split=False)}"
        )
        if board.num_trained_on:
            told += f"; {board.num_trained_on} of these images were trained on"
        sentences.append(f"{told}.")
        for model in board.models:
            if blank := sum(map(bool, model.not_learnt)):
                sentences.append(
                    f"Of {model.name}, {blank} of {counted(len(model.not_learnt), 'training')} did not "
                    "learn; their figures say nothing of a trained model."
                )
    return Paragraph("Scoring", tuple(dict.fromkeys(sentences)))


def compute(known: Known) -> Paragraph:
    """Return on what the trials ran, how long, and with which code."""
    measured = [(row, row.provenance) for row in known.done if row.provenance is not None]
    if not measured:
        return Paragraph("Compute and code", ("On what the trials ran is not on record.",))
    trained = [shared_times(row).get("training_s", p.train_seconds) for row, p in measured]
    scored = sum(p.evaluate_seconds for _, p in measured)
    failed = sum(row.status == "failed" for row in known.rows)
    again = sum(p.attempts > 1 for _, p in measured)
    packages = Counter(
        f"{name} {version}"
        for _, p in measured
        for name, version in p.packages.items()
        if name in {"python", "torch", "torchvision", "numpy"}
    )
    return Paragraph(
        "Compute and code",
        (
            f"{counted(len(measured), 'training')} ran on {joined(p.device for _, p in measured)}: "
            f"{duration(min(trained))} to {duration(max(trained))} each, {duration(sum(trained))} of "
            f"training and {duration(scored)} of scoring in all, one after another, with up to "
            f"{amount(max(p.peak_memory_mib for _, p in measured))} MiB of memory.",
            f"{counted(failed, 'trial')} failed, {again} were started more than once; what was lost there "
            "is not in these times.",
            f"Code: segbench {joined(p.code_version for _, p in measured)} [@segbench], "
            f"{', '.join(sorted(packages))}; command: `{known.record.command}`.",
        ),
    )


def references(known: Known) -> list[Reference]:
    """Return the references of the cards and of segbench itself."""
    cards = [card for trial in known.trials for card in (trial.backbone, trial.dataset)]
    found = {_key(card): _reference(card) for card in cards}
    versions = joined(
        row.provenance.code_version for row in known.done if row.provenance is not None
    )
    own = Reference("segbench", "misc", {"title": "segbench", "note": f"Version {versions}"})
    return [*found.values(), own]


def _key(card: BackboneCard | DatasetCard) -> str:
    kind = "backbone" if isinstance(card, BackboneCard) else "dataset"
    return f"{kind}-{card.name}"


def _reference(card: BackboneCard | DatasetCard) -> Reference:
    fields = {"title": card.source.paper, "note": card.title}
    if card.source.url is not None:
        fields["url"] = card.source.url
    return Reference(_key(card), "misc", fields)


def missing(known: Known) -> Iterator[str]:
    """Yield what a reader may want to know of the setting and the record does not hold."""
    if not known.record.tuned:
        yield "how the settings of the training were chosen, beyond what notes say"
    external = {m.name for board in known.boards for m in board.models if m.is_external}
    if external:
        yield f"how predictions that were made elsewhere came about ({joined(sorted(external))})"
    yield "experiments that were tried and left out, and what they took"
    yield "the hardware beyond the names of devices, and energy"
    if any(row.cell.skipped for row in known.rows):
        skipped = {row.cell.skipped for row in known.rows if row.cell.skipped}
        yield f"results of {counted(len(skipped), 'combination')} that cannot be trained: {'; '.join(sorted(skipped))}"
