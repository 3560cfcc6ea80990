"""The methods of a run, put together."""

from segbench.errors import ResultError
from segbench.report.methods import checklist, inference, setting
from segbench.report.methods.parts import Known, Methods, Paragraph


def methods_of(known: Known) -> Methods:
    """Return what a paper has to say of the run.

    Raises:
        ResultError: no model of the run is complete, or a trial's file is damaged.
    """
    if not known.boards:
        raise ResultError(
            f"{known.run_folder}: no model of this run is complete, so there is nothing to report yet; "
            "segbench status says what is missing"
        )
    return Methods(
        name=known.record.experiment.name,
        paragraphs=(
            setting.models(known),
            setting.training(known),
            setting.scoring(known),
            inference.estimands(known),
            inference.uncertainty(known),
            inference.tests(known),
            inference.assumptions(known),
            setting.compute(known),
            Paragraph("Limits of the record", (checklist.not_on_record(known),)),
        ),
        answers=checklist.answers(known),
        references=(*inference.REFERENCES, *setting.references(known)),
    )
