"""The methods of a run in words: what the record holds, and that the rest is not on record."""

import re
from pathlib import Path

import pytest
from command_line import segbench
from drawn_run import external_in, made_run

from segbench.errors import ResultError
from segbench.report.methods.of_run import methods_of
from segbench.report.methods.parts import Known
from segbench.report.methods.text import bibtex, html_methods, latex_methods, markdown_methods
from segbench.report.write import read_run
from segbench.runs import trial_files
from segbench.runs.record import load_run
from segbench.schema.cards import Groups
from segbench.schema.groups import GroupedSplit, NotedGroups
from segbench.schema.searched import Tuned

COMMITTED = Path(__file__).parents[2] / "results" / "voc_transfer"
CLAIMS = """
claims:
  - kind: compare
    says: resnet18 is better & cheaper_
    left: {backbone: resnet18}
    right: {backbone: googlenet}
    where: {protocol: native}
  - kind: compare
    says: it has fewer parameters
    metric: parameters
    left: {backbone: resnet18}
    right: {backbone: googlenet}
    relation: below
"""


def known(run_folder: Path) -> Known:
    return Known(run_folder, *read_run(run_folder))


def said(run_folder: Path) -> dict[str, str]:
    """Return the sentences of each paragraph, together."""
    return {p.title: " ".join(p.sentences) for p in methods_of(known(run_folder)).paragraphs}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(
        tmp_path_factory.mktemp("made"),
        heads=("fcn8s",),
        datasets={"few": ("background", "cat", "dog")},
        extra=CLAIMS,
    )


def test_the_numbers_are_those_of_the_record(made):
    told = said(made)
    assert (
        "2 models with 2 backbones (ResNet-18 [@backbone-resnet18] and GoogLeNet" in told["Models"]
    )
    assert "trained with 4 random seeds" in told["Models"]
    assert "60 steps in all on the split `train`, with 4 images a step in fp32" in told["Training"]
    assert "resized to 32 x 32, half of them mirrored" in told["Training"]
    assert "60 steps of sgd (learning rate 0.05, momentum 0.9, weight decay 0," in told["Training"]
    assert "`native` scores 30 images of the split `val` of few, 3 classes" in told["Scoring"]
    assert "`flipped` scores 30 images" in told["Scoring"]
    assert "2 claims stood in the experiment file, 1 of them about quantities" in told["Tests"]
    assert "by rule 2 of segbench" in told["Tests"]
    assert "A verdict takes at least 3 seeds a side." in told["Tests"]
    assert "Tests of these claims: Welch." in told["Tests"]
    assert "the number of parameters" in told["Estimands"]
    assert "8 trainings ran on made-up device" in told["Compute and code"]
    assert "segbench 0.1.0 [@segbench]" in told["Compute and code"]


def test_what_is_not_on_record_is_said_so(made):
    told = said(made)
    assert told["Training"].endswith("How the settings were chosen is not on record.")
    assert "how the settings of the training were chosen" in told["Limits of the record"]
    assert "experiments that were tried and left out" in told["Limits of the record"]
    answers = {answer.item[0]: answer.answer for answer in methods_of(known(made)).answers}
    assert answers == {"6": "No", "7": "Yes", "8": "Yes"}


def test_settings_of_a_search_are_told(made):
    found = known(made)
    tuned = Tuned(
        where={}, search="made-search", sample="sample3", settings={"train.batch_size": 4},
        metric="mean_iou", score=0.5, cells=1, tried=9, done=8,
    )  # fmt: skip
    searched = Known(made, found.record.revised(tuned=(tuned,)), *list(read_run(made))[1:])
    methods = methods_of(searched)
    training = " ".join(methods.paragraphs[1].sentences)
    assert "a search on held-out training images (best of 8 samples (9 tried): sample3" in training
    assert "not on record" not in training
    assert methods.answers[0].answer == "Yes"


def test_groups_are_told_and_data_sets_without_them_are_taken_as_independent(made):
    assert "Images of few are taken as independent" in said(made)["Uncertainty"]
    split = GroupedSplit(num_images=30, sizes={"a": 10, "b": 20}, digest="")
    noted = NotedGroups(groups=Groups(pattern="(?P<drive>.)"), splits={"val": split})
    found = list(read_run(made))
    grouped = Known(made, found[0].revised(groups={"few": noted}), *found[1:])
    told = {p.title: " ".join(p.sentences) for p in methods_of(grouped).paragraphs}
    assert "The 30 images of the split `val` of few come from 2 drives" in told["Uncertainty"]
    assert "nothing is said of new images of few, only of these" in told["Uncertainty"]
    assert "taken as independent" not in told["Uncertainty"]
    assert "independent draws of whole groups" in told["Assumptions"]


def test_one_seed_is_no_answer_to_the_question_of_significance(tmp_path):
    run_folder = made_run(
        tmp_path, heads=("fcn8s",), datasets={"few": ("background", "cat")}, seeds=1
    )
    external_in(run_folder)
    methods = methods_of(known(run_folder))
    significance = methods.answers[1]
    assert significance.answer == "No"
    assert dict(significance.points)["factors of variability"].startswith("test images alone")
    told = said(run_folder)
    assert "Models with one seed have intervals over images alone." in told["Uncertainty"]
    assert "predictions that were made elsewhere came about (theirs" in told["Limits of the record"]


def test_a_run_without_a_complete_model_has_no_methods(tmp_path):
    run_folder = made_run(
        tmp_path, heads=("fcn8s",), datasets={"few": ("background", "cat")}, seeds=1
    )
    for cell in load_run(run_folder).cells:
        (trial_files.trial_folder(run_folder, cell.trial_id) / "result.json").unlink()
    with pytest.raises(ResultError, match="no model of this run is complete"):
        methods_of(known(run_folder))
    code, told = segbench("methods", run_folder)
    assert (code, "segbench status says what is missing" in told) == (2, True)


def test_latex_cites_what_bibtex_has_and_escapes_the_rest(made):
    methods = methods_of(known(made))
    text, entries = latex_methods(methods), bibtex(methods)
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")}
    assert cited == set(re.findall(r"@\w+\{([^,]+),", entries))
    assert {"holm1979", "backbone-googlenet", "dataset-few", "segbench"} <= cited
    for each in (text, re.sub(r"url = .*", "", entries)):
        assert each.count("{") == each.count("}")
        plain = re.sub(r"\\cite\{[^}]*\}|@\w+\{[^,]*,", "", each)
        assert not re.findall(r"(?<!\\)[_#&%]", plain)
    assert "[@" not in text
    assert "`" not in text


def test_markdown_numbers_its_references_in_order(made):
    text = markdown_methods(methods_of(known(made)))
    body, _, listed = text.partition("## References\n\n")
    lines = listed.strip().splitlines()
    numbers = [int(n) for found in re.findall(r"\[([\d, ]+)\]", body) for n in found.split(",")]
    assert list(dict.fromkeys(numbers)) == list(range(1, len(lines) + 1))
    assert [line.split(".")[0] for line in lines] == [str(n + 1) for n in range(len(lines))]
    assert "[@" not in text


def test_the_page_shows_the_methods_and_nothing_of_a_stranger_s_as_html(made):
    found = known(made)
    record = found.record
    evil = record.revised(
        experiment=record.experiment.revised(notes="<script>x</script> & `y<z` [@nobody]")
    )
    shown = html_methods(methods_of(Known(made, evil, found.rows, found.boards, found.verdicts)))
    assert "<script>" not in shown
    assert "&lt;script&gt;x&lt;/script&gt; &amp;" in shown
    assert "<code>y&lt;z</code> [@nobody]" in shown


def test_the_methods_of_a_committed_run():
    told = said(COMMITTED)
    assert "Inception-v3 to Mixed_7a [@backbone-inception_v3_7a]" in told["Models"]
    assert "trained with 4 random seeds" in told["Models"]
    assert "scores 321 images of the split `val` of voc2012_2007, 21 classes" in told["Scoring"]
    assert "one learning rate for all, chosen with FCN-8s on the reported split" in told["Training"]
    assert "6 claims stood in the experiment file, 5 of them" in told["Tests"]
    assert "by rule 1 of segbench" in told["Tests"]
    assert "A verdict takes at least 4 seeds a side." in told["Tests"]
    trained = sum((path / "result.json").exists() for path in trial_files.trial_folders(COMMITTED))
    assert f"{trained} trainings ran on cpu" in told["Compute and code"]


def test_the_command_prints_markdown_and_writes_latex_with_its_bibtex(made, tmp_path):
    code, told = segbench("methods", made)
    assert code == 0
    assert told.startswith("# Methods: made ## Models")
    code, told = segbench("methods", made, "--format", "latex")
    assert "% BibTeX" in told
    code, told = segbench("methods", made, "--format", "latex", "-o", tmp_path / "methods.tex")
    assert code == 0
    methods = methods_of(known(made))
    assert (tmp_path / "methods.tex").read_text() == latex_methods(methods)
    assert (tmp_path / "methods.bib").read_text() == bibtex(methods)
    code, told = segbench("methods", made, "--format", "html")
    assert (code, "expected markdown or latex" in told) == (2, True)
