"""Strict YAML: every problem at once, each with its line and a suggestion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbench.errors import CardError, ExperimentError, SegbenchError
from segbench.schema import yamlfile
from segbench.schema.cards import DatasetCard
from segbench.schema.experiment import read_experiment
from segbench.schema.recipe import Recipe


def test_all_problems_come_at_once_each_with_file_line_and_key(write):
    path = write(
        "recipe.yaml",
        "batch_size: four\nstages:\n  - name: a\n    steps: 0\n    optimiser: {lr: 1}\n",
    )
    with pytest.raises(ExperimentError) as caught:
        yamlfile.read(path, Recipe, ExperimentError)
    lines = str(caught.value).splitlines()
    assert any(
        line.startswith(f"{path}:1: batch_size: should be a valid integer") for line in lines
    )
    assert any(line.startswith(f"{path}:4: stages[0].steps: ") and "0" in line for line in lines)
    assert any(
        f"{path}:5: stages[0].optimiser: unknown key; did you mean 'optimizer'?" in line
        for line in lines
    )
    assert any("stages[0].optimizer: is missing" in line for line in lines)


def test_rules_between_fields_are_told_along_with_an_unknown_key_of_the_same_record(write):
    text = "batch_size: 4\nstages: [{name: a, steps: 1, optimizer: {lr: 1}}]\nsplitt: train\n"
    with pytest.raises(ExperimentError) as caught:
        yamlfile.read(write("recipe.yaml", text), Recipe, ExperimentError)
    unknown, between = str(caught.value).splitlines()
    assert "recipe.yaml:3: splitt: unknown key; did you mean 'split'?" in unknown
    assert "batch_size 4 needs images of one size" in between


def test_sentences_speak_of_yaml_and_stand_in_the_order_of_the_lines(write):
    path = write(
        "e.yaml",
        "question: x\n"
        "sweep: {backbone: a, head: b, dataset: c}\n"
        "train:\n"
        "  batch_size: 1\n"
        "  images: {crop: 96}\n"
        "  stages: [{name: a, steps: 3, optimizer: {lr: 1e-3, betas: [0.9]}}]\n"
        "evaluate:\n"
        "  native: 3\n"
        "  small: {size: [8, 8]}\n"
        "claims:\n"
        "  - {kind: compare, says: a, left: {backbone: a}}\n",
    )
    with pytest.raises(ExperimentError) as caught:
        read_experiment(path)
    assert str(caught.value).splitlines() == [
        f"{path}:5: train.images.crop: should be a list, but got 96",
        f"{path}:6: train.stages[0].optimizer.betas: has too few values",
        f"{path}:8: evaluate.native: should be `key: value` lines, but got 3",
        f"{path}:9: evaluate.small.size[0]: should be greater than or equal to 16, but got 8",
        f"{path}:9: evaluate.small.size[1]: should be greater than or equal to 16, but got 8",
        f"{path}:11: claims[0].right: is missing",
    ]


def test_a_key_that_stands_twice_is_an_error_not_the_last_one(write):
    path = write("a.yaml", "name: x\ntitle: a\nname: y\n")
    with pytest.raises(CardError, match=r"a\.yaml:3: name: this key stands twice"):
        yamlfile.read(path, DatasetCard, CardError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-.5", -0.5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("012", 12),
        ("10:30", "10:30"),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("[a, 1]", ("a", 1)),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    assert yamlfile.parse_value(text, "it") == value
    assert type(yamlfile.parse_value(text, "it")) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "a: &a [*a]",
        "[" * 200 + "]" * 200,
        "a: 'unclosed",
        "{}: 1",
        "a: &x [1,2,3,4,5,6,7,8,9]\nb: &y [*x,*x,*x,*x,*x,*x,*x,*x,*x]\nc: &z [*y,*y,*y,*y,*y,*y,*y,*y]\n"
        "d: &w [*z,*z,*z,*z,*z,*z,*z,*z]\ne: &v [*w,*w,*w,*w,*w,*w,*w,*w]\nf: [*v,*v,*v,*v,*v,*v,*v,*v]\n",
    ],
)
def test_hostile_yaml_is_one_sentence_and_runs_nothing(text):
    with pytest.raises(SegbenchError):
        yamlfile.parse_document(text, "hostile.yaml", SegbenchError)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        yamlfile.parse_document(text, "any.yaml", SegbenchError)
    except SegbenchError as error:
        assert str(error).startswith("any.yaml:")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CardError, match="cannot be read"):
        yamlfile.read(tmp_path / "none.yaml", DatasetCard, CardError)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "train.stages.all.optimizer.lr=-1",
            "train.stages[0].optimizer.lr: should be greater than 0, but got -1",
        ),
        ("sweep.seeds=0", "sweep.seeds: should be greater than or equal to 1, but got 0"),
        ("sweep.seeds=three", "sweep.seeds: should be a valid integer, but got 'three'"),
        ("launch.workers=0", "launch.workers: should be greater than or equal to 1, but got 0"),
    ],
)
def test_one_mistake_is_one_line_that_names_the_setting_and_its_key(toy_project, setting, sentence):
    with pytest.raises(ExperimentError) as caught:
        read_experiment(toy_project / "experiments" / "toy.yaml", (setting,))
    assert str(caught.value) == f"--set {setting}: {sentence}"


def test_a_broken_item_does_not_make_its_list_too_short(write):
    path = write(
        "recipe.yaml", "batch_size: 1\nstages:\n  - {name: a, steps: 0, optimizer: {lr: 1}}\n"
    )
    with pytest.raises(ExperimentError) as caught:
        yamlfile.read(path, Recipe, ExperimentError)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}:3: stages[0].steps: should be greater than or equal to 1")
