"""`segbench report`, `plot`, `serve`, `bundle`, `import`: what a run's folder shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from segbench.cli import console
from segbench.cli.app import OUT, app, fail, progress_bars
from segbench.cli.flags import Cache, Cards, Data, Device, Results, RunFolder
from segbench.cli.records import takes_records
from segbench.errors import counted


@dataclass(frozen=True)
class PanelOptions:
    """Whose predictions `report` draws, with what, and where code of the user's own lies."""

    panels: Annotated[
        str | None,
        typer.Option(
            "--panels",
            metavar="TRIAL",
            help="First draw this trial's best, typical and worst images.",
        ),
    ] = None
    protocol: Annotated[
        str | None, typer.Option(help="The protocol of --panels, the first where left out.")
    ] = None
    data: Data = None
    cache: Cache = None
    cards: Cards = None
    device: Device = "auto"

    def look_in(self, run: Path) -> None:
        """Let claims of the user's own be found where `run` finds them."""
        from segbench.code.own import look_in
        from segbench.schema.catalog import Catalog

        catalog = Catalog.on_path(tuple(self.cards or ()), experiment=run / "run.json")
        look_in(catalog.code_folders)

    def draw(self, run: Path) -> None:
        """Write the pictures of a run's trial, where one is named."""
        if self.panels is None:
            return
        from segbench.schema.machine import Machine
        from segbench.work.panels import write_panels

        machine = Machine.from_environment(
            data=self.data or (), cache=self.cache, device=self.device
        )
        with progress_bars() as progress:
            folder = write_panels(
                run, self.panels, machine, protocol_name=self.protocol,
                on_image=lambda done, of: progress("predicting", done, of),
            )  # fmt: skip
        OUT.print(f"written: {console.shown_path(folder)}")


@app.command()
@takes_records
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run's folder, such as results/quickstart; several with --merge.",
        ),
    ],
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Join the runs into a new one, by their trials' ids; conflicts are named.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the joined run goes."),
    ] = None,
    *,
    drawn: PanelOptions,
) -> None:
    """Rebuild a run's tables, exports and page from its files, byte for byte."""
    if len(runs) > 1 and not merge:
        fail(f"{len(runs)} runs: report takes one, or several with --merge -o DIR")
    if merge:
        from segbench.runs.bundle import merge_runs

        if output is None:
            fail("--merge: say with -o DIR where the joined run goes")
        merge_runs(runs, output)
    drawn.look_in(runs[0])
    drawn.draw(runs[0])
    show_report(output if merge and output is not None else runs[0])


@app.command()
def plot(
    run: RunFolder,
    kind: Annotated[
        str,
        typer.Option(
            help="heatmap, difference, confusion, images, curves, pareto, frequency, leaderboard."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf file.")
    ],
    dataset: Annotated[str | None, typer.Option(help="Needed where the run has several.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Needed where the run has several.")] = None,
    cost: Annotated[
        str,
        typer.Option(
            help="For pareto: parameters, flops, forward_ms, step_ms, training_s, peak_memory_mib."
        ),
    ] = "parameters",
) -> None:
    """Draw one figure of a run for a paper; the same results give the same bytes."""
    from segbench.report.figures import chosen_board, write_figure
    from segbench.report.write import read_run

    board = chosen_board(read_run(run, judged=False).boards, protocol, dataset)
    write_figure(output, kind, board, run, cost=cost)
    OUT.print(f"written: {console.shown_path(output)}")


@app.command("methods")
def methods_command(
    run: RunFolder,
    form: Annotated[
        str, typer.Option("--format", metavar="F", help="markdown, or latex with BibTeX.")
    ] = "markdown",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it here; BibTeX beside it, as .bib."
        ),
    ] = None,
) -> None:
    """Say how a run was made and judged, as a paper's methods section, from its record alone."""
    from segbench.files import write_text
    from segbench.report.methods.of_run import methods_of
    from segbench.report.methods.parts import Known
    from segbench.report.methods.text import bibtex, latex_methods, markdown_methods
    from segbench.report.write import read_run

    if form not in {"markdown", "latex"}:
        fail(f"--format {form}: expected markdown or latex")
    methods = methods_of(Known(run, *read_run(run)))
    texts = [latex_methods(methods), bibtex(methods)]
    if form == "markdown":
        texts = [markdown_methods(methods)]
    if output is None:
        OUT.print("\n% BibTeX\n\n".join(texts), end="")
        return
    for path, text in zip((output, output.with_suffix(".bib")), texts, strict=False):
        write_text(path, text)
        OUT.print(f"written: {console.shown_path(path)}")


@app.command()
def serve(
    run: RunFolder,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; others than loopback let others read the run."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Show a run's page in the browser, refreshed while trials run (ctrl-C ends it)."""
    from segbench.commands.serve import new_server

    with new_server(run, host=host, port=port) as server:
        OUT.print(f"{server.address} (ctrl-C ends it; what runs goes on)")
        server.serve_forever()


@app.command()
def bundle(
    run: RunFolder,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .zip file.")],
) -> None:
    """Pack a run's results, configuration and hashes, without weights, into one file."""
    from segbench.runs.bundle import write_bundle

    OUT.print(
        f"written: {console.shown_path(output)} ({counted(write_bundle(run, output), 'file')})"
    )


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of segbench bundle.")],
    results: Results = Path("results"),
) -> None:
    """Unpack a bundle after checking its hashes, records and figures, and write its report."""
    from segbench.runs.bundle import import_bundle

    show_report(import_bundle(file, results))


def show_report(run_folder: Path) -> None:
    """Write a run's report; show its leaderboard and its claims."""
    from segbench.report.write import write_report

    for path in write_report(run_folder):
        text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
        if path.name == "leaderboard.md":
            OUT.print(f"\n{text}")
        elif path.name == "claims.md":  # the table; its details are for the file
            OUT.print("\n" + text.partition("\n## ")[0])
    OUT.print(f"written: {console.shown_path(run_folder)}")
    _say_others(run_folder)


def _say_others(run_folder: Path) -> None:
    """Say which of the run's files are torn, and how many trials its settings no longer contain."""
    from segbench.runs import trial_files
    from segbench.runs.record import load_run

    shown = {cell.trial_id for cell in load_run(run_folder).cells}
    folders = list(trial_files.trial_folders(run_folder))
    for path in (path for f in folders if f.name in shown for path in trial_files.torn_files(f)):
        OUT.print(
            f"{console.shown_path(path)}: is damaged and counts as missing; the command that made it, "
            "run or evaluate, makes it again (delete it first if evaluate did)"
        )
    others = [f for f in folders if f.name not in shown]
    if others:
        belong = (
            "belongs to other settings and is"
            if len(others) == 1
            else "belong to other settings and are"
        )
        OUT.print(
            f"{counted(len(others), 'trial')} in this folder {belong} not shown; the command that made "
            f"{'it' if len(others) == 1 else 'them'} shows {'it' if len(others) == 1 else 'them'} again"
        )
