"""`segbench evaluate`, `compare`, `crf-search`, `export`, `predict`: trained models, and results of anybody."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segbench.cli import console
from segbench.cli.app import OUT, app, progress_bars
from segbench.cli.flags import (
    Computer,
    Dataset,
    Encoding,
    Mapping,
    Model,
    OtherCode,
    Out,
    Places,
    ProtocolSettings,
    Results,
    RunFolder,
    Trial,
)
from segbench.cli.pages import show_report
from segbench.cli.records import takes_records
from segbench.errors import ExperimentError, counted

if TYPE_CHECKING:
    from segbench.commands.compare import CompareFlags
    from segbench.commands.evaluate import EvaluateFlags


@dataclass(frozen=True)
class ScoreOptions:
    """What `evaluate` scores, and how."""

    predictions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of PNGs of anybody, `<image name>.png`."),
    ] = None
    dataset: Dataset = None
    split: Annotated[
        str | None, typer.Option(metavar="S", help="The split (else the protocol's).")
    ] = None
    encoding: Encoding = None
    mapping: Mapping = None
    name: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="What the method, or the new protocol, is called."),
    ] = None
    of_run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run whose leaderboard the method joins."),
    ] = None
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the run's protocols, to start from.")
    ] = None
    settings: ProtocolSettings = None
    other_code: OtherCode = False
    results: Results = Path("results")

    def flags(self, cards: tuple[Path, ...]) -> "EvaluateFlags":
        """Return what they say about the protocol."""
        from segbench.commands.evaluate import EvaluateFlags

        settings = tuple(self.settings or ())
        return EvaluateFlags(settings, self.split, self.protocol, self.name, self.other_code, cards)


@app.command("evaluate")
@takes_records
def evaluate_command(
    scored: ScoreOptions,
    computer: Computer,
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's folder, for its trained trials.")
    ] = None,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIAL...]", help="Ids' first digits; all trained trials where left out."
        ),
    ] = None,
) -> None:
    """Score trained trials by another protocol, or a folder of predictions of anybody."""
    from segbench.commands import evaluate as work

    cards = tuple(computer.cards or ())
    asked, machine = scored.flags(cards), computer.machine()
    with progress_bars() as progress:
        if scored.predictions is not None:
            if scored.dataset is None or run is not None:
                raise ExperimentError(
                    "segbench evaluate --predictions DIR needs --dataset NAME; the run whose "
                    "leaderboard it joins goes to --run"
                )
            encoding = work.said_encoding(scored.encoding, scored.mapping)
            source = work.Predictions(scored.predictions, scored.dataset, encoding, cards)
            done = work.score_external(
                source, asked, machine, scored.of_run, scored.results, progress
            )
        elif run is not None:
            done = work.score_run(run, tuple(trials or ()), asked, machine, progress)
        else:
            raise ExperimentError(
                "segbench evaluate: name a RUN, or a folder of --predictions with its --dataset"
            )
    for line in done.lines:
        OUT.print(line)
    if done.run_folder is not None:
        show_report(done.run_folder)


@dataclass(frozen=True)
class CompareOptions:
    """How `compare` reads its two sides, and what of them it compares."""

    dataset: Dataset = None
    split: Annotated[str | None, typer.Option(metavar="S", help="Its split (else val).")] = None
    encoding: Encoding = None
    mapping: Mapping = None
    seeds: Annotated[
        bool,
        typer.Option("--seeds", help="A and B hold one folder or .npz file for each seed."),
    ] = False
    metric: Annotated[str, typer.Option(help="The figure to compare.")] = "mean_iou"
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where trials were scored by several protocols."),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How predictions are scored, e.g. with_background=false. Repeatable.",
        ),
    ] = None
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Which images belong together: a pattern such as '^(?P<drive>[^_]+)_', or a file of "
            "names and groups (else as cards and runs say).",
        ),
    ] = None
    on: Annotated[
        str, typer.Option(help="The images that p speaks of: new_images or these_images.")
    ] = "new_images"
    margin: Annotated[
        float,
        typer.Option(help="Test whether A lies above B by more than so many percentage points."),
    ] = 0.0
    equivalent: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="Test whether A and B lie within so many percentage points."
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = (
        False
    )
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here too.")
    ] = None

    def flags(self, cards: tuple[Path, ...]) -> "CompareFlags":
        """Return what the work behind the command takes."""
        from segbench.commands.compare import CompareFlags, known_population
        from segbench.commands.evaluate import said_encoding

        return CompareFlags(
            dataset=self.dataset,
            encoding=said_encoding(self.encoding, self.mapping),
            settings=tuple(self.settings or ()),
            split=self.split,
            protocol_name=self.protocol,
            metric=self.metric,
            has_seeds=self.seeds,
            cards=cards,
            groups=self.groups,
            on=known_population(self.on),
            margin=self.margin,
            equivalent=self.equivalent,
        )


@app.command("compare")
@takes_records
def compare_command(
    left: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A folder of predictions, a file of counts (.npz), a trial's folder, or "
            "RUN:axis=value[,axis=value].",
        ),
    ],
    right: Annotated[str, typer.Argument(metavar="B", help="The same of the other.")],
    compared: CompareOptions,
    places: Places,
) -> None:
    """Compare two result sets of anybody on the same images: difference, interval, p, each class."""
    from segbench.commands.compare import compare_results
    from segbench.files import write_text
    from segbench.report.claims_page import render_comparison
    from segbench.report.comparison_json import comparison_json

    asked = compared.flags(tuple(places.cards or ()))
    with progress_bars() as progress:
        found = compare_results(left, right, asked, places.machine(threads=1), progress)
    render = comparison_json if compared.json else render_comparison
    text = render(found.comparison, left, right, found.notes)
    OUT.print(text, end="")
    if compared.output is not None:
        write_text(compared.output, text)


@app.command("crf-search")
@takes_records
def crf_search_command(
    run: RunFolder,
    trial: Trial,
    samples: Annotated[
        int, typer.Option(min=1, help="Settings to try, of DeepLab's 128; above that all of them.")
    ] = 20,
    images: Annotated[
        int | None, typer.Option(min=1, help="Held-out images to try them on (else all).")
    ] = None,
    *,
    computer: Computer,
) -> None:
    """Look for CRF parameters on the images that a trial's training left out."""
    from segbench.commands.export import first_protocol
    from segbench.runs.record import find_trial
    from segbench.work.crf_search import search_crf

    workdir, _ = find_trial(run, trial)
    with progress_bars() as progress:
        found = search_crf(
            workdir, first_protocol(workdir).revised(crf=None), computer.machine(),
            samples=samples, max_images=images,
            progress=lambda done, of: progress("held-out images", done, of),
        )  # fmt: skip
    rows = []
    for one in found[:10]:
        settings = {} if one.crf is None else one.crf.model_dump(exclude_defaults=True)
        shown = ", ".join(f"{key}: {value:g}" for key, value in settings.items())
        rows.append(
            (f"{100 * one.mean_iou:.2f}", f"crf={{{shown}}}" if one.crf else "without a CRF")
        )
    OUT.print(console.plain_table(("mean IoU, held-out images", "--set"), rows))


@app.command("export")
def export_command(trial: Model, out: Out) -> None:
    """Write a trained model with its cards and figures, for somebody else to use."""
    from segbench.commands.export import export_model, find_model

    for path in export_model(find_model(trial), out):
        OUT.print(console.shown_path(path))


@dataclass(frozen=True)
class LabelOptions:
    """What `predict` labels, and how."""

    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE...]", help="Photographs, or folders of them."),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Instead of IMAGE: a split of the data set that its protocol scores, else its own.",
        ),
    ] = None
    crf: Annotated[bool, typer.Option("--crf", help="Refine with a CRF (extra `crf`).")] = False
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write NAME_probabilities.npz too.")
    ] = False
    settings: ProtocolSettings = None
    other_code: OtherCode = False


@app.command("predict")
@takes_records
def predict_command(model: Model, out: Out, labelled: LabelOptions, computer: Computer) -> None:
    """Label photographs with a trained model: palette PNGs, and overlays with a legend."""
    if bool(labelled.images) == (labelled.split is not None):
        raise ExperimentError(
            "segbench predict: name photographs, or a --split of the model's data"
        )
    from segbench.commands import evaluate as work
    from segbench.commands.export import find_model, first_protocol
    from segbench.work.label_images import LabelFlags, as_predicted, label_images

    folder = find_model(model)
    machine = computer.machine()
    asked = LabelFlags(
        out,
        tuple(labelled.images or ()),
        labelled.split,
        with_crf=labelled.crf,
        with_probabilities=labelled.probabilities,
        with_other_code=labelled.other_code,
    )
    changed = work.changed(
        first_protocol(folder), tuple(labelled.settings or ()), cards=tuple(computer.cards or ())
    )
    protocol = as_predicted(changed, asked)
    OUT.print(f"protocol: {protocol.description()}")
    with progress_bars() as progress:
        written = label_images(
            folder, asked, protocol, machine, lambda done, of: progress("images", done, of)
        )
    OUT.print(f"{counted(len(written), 'image')} labelled: {console.shown_path(out)}")
