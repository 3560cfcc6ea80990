"""Claims as they are written in experiment files, and the sentences for those that are wrong."""

import textwrap

import pytest

from segbench.errors import ExperimentError
from segbench.metrics import METRICS
from segbench.schema import claims, yamlfile
from segbench.schema.base import Spec
from segbench.schema.claims import (
    Claim,
    Compare,
    Correlate,
    Order,
    PlannedCell,
    Trend,
    Value,
    check_cells,
    check_selectors,
)
from segbench.schema.yamlfile import dotted

AXES = {
    "backbone": ("vgg16", "googlenet"),
    "head": ("fcn32s", "fcn16s", "fcn8s", "fcn8s_learned"),
    "dataset": ("voc2011",),
    "train.batch_size": ("3", "10"),
    "protocol": ("native",),
}


class File(Spec):
    claims: tuple[Claim, ...] = ()


def read(text: str) -> tuple[Claim, ...]:
    document = yamlfile.parse_document(textwrap.dedent(text), "x.yaml", ExperimentError)
    return yamlfile.validate(document, File, ExperimentError).claims


def one(text: str) -> Claim:
    return read(f"claims: [{{says: s, {text}}}]")[0]


def documented() -> str:
    text = claims.__doc__ or ""
    return textwrap.dedent(text[text.index("    claims:") :])


def test_the_documented_examples_read_and_match_their_sweep():
    found = read(documented())
    assert [claim.kind for claim in found] == [
        "compare",
        "order",
        "equivalent",
        "trend",
        "correlate",
        "value",
    ]
    assert check_selectors(found, AXES) == []
    assert isinstance(found[0], Compare)
    assert found[0].source is not None
    assert found[0].source.published == {"vgg16": 56.0, "googlenet": 42.5}


def test_every_problem_comes_with_its_line():
    bad = documented().replace("margin: 1\n", "margn: 1\n").replace("falls", "fall")
    with pytest.raises(ExperimentError) as caught:
        read(bad)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("x.yaml:6: claims[0].margn: unknown key; did you mean 'margin'?")
    assert "claims[3].direction: expected 'falls' or 'rises', but got 'fall'" in lines[1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "kind: compare, left: {head: a}, right: {backbone: b}",
            "`left` and `right` must name the same axes, but name head and backbone",
        ),
        ("kind: compare, left: {head: a}, right: {head: a}", "two are the same"),
        (
            "kind: compare, left: {head: a}, right: {head: b}, where: {head: c}",
            "head: stands on both sides of the claim and again in `where` or `within`",
        ),
        (
            "kind: compare, left: {head: a}, right: {head: b}, within: [dataset], average: true",
            "give either `within` or `average: true`",
        ),
        (
            "kind: compare, left: {head: a}, right: {head: b}, metric: parameters, classes: [car]",
            "`classes` needs metric mean_iou or mean_accuracy or boundary_iou, but metric is parameters",
        ),
        (
            "kind: compare, left: {head: a}, right: {head: b}, metric: pixel_accuracy, "
            "per_class: true",
            "`per_class` needs metric mean_iou",
        ),
        (
            "kind: value, published: 0.56, tolerance: 1",
            "figures are per cent, as papers print them; did you mean 56?",
        ),
        ("kind: equivalent, left: {head: a}, right: {head: b}, margin: 0", "greater than 0"),
        (
            "kind: compare, left: {head: a}, right: {head: b}, margin: 150",
            "margin: mean_iou lies between 0 and 100, but this is 150",
        ),
        (
            "kind: value, published: 560, tolerance: 1",
            "published: mean_iou lies between 0 and 100, but this is 560",
        ),
        (
            "kind: compare, left: {head: a}, right: {head: b}, classes: [cat, dog, cat]",
            "classes: named twice: cat",
        ),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_in_a_sentence(text: str, sentence: str):
    with pytest.raises(ExperimentError) as caught:
        one(text)
    assert sentence in str(caught.value)


def test_a_claim_may_ask_for_any_metric_and_a_wrong_name_is_one_sentence():
    sides = "kind: compare, left: {head: a}, right: {head: b}"
    for name in METRICS:
        assert one(f"{sides}, metric: {name}")
    with pytest.raises(ExperimentError) as caught:
        one(f"{sides}, metric: boundry_iou")
    assert str(caught.value).count("metric:") == 1
    assert "no metric 'boundry_iou'; did you mean 'boundary_iou'?" in str(caught.value)


def test_a_claim_on_boundaries_needs_a_protocol_that_counts_them():
    claim = one("kind: compare, left: {head: a}, right: {head: b}, metric: boundary_iou")
    cells = [
        PlannedCell({"head": head, "protocol": name}, ("car",), has_boundary=name == "edges")
        for head in ("a", "b")
        for name in ("native", "edges")
    ]
    ((place, sentence),) = check_cells([claim], cells)
    assert place == ("claims", 0, "metric")
    assert "protocol native counts none; give it `boundary: 0.02`" in sentence
    assert check_cells([claim.revised(where={"protocol": ("edges",)})], cells) == []


def test_a_claim_that_is_asked_twice_is_found():
    same = "kind: compare, left: {head: a}, right: {head: b}"
    claims = (*(one(same) for _ in range(2)), one(f"{same}, margin: 1"))
    problems = check_selectors(claims, {"head": ("a", "b")})
    assert [place for place, _ in problems] == [("claims", 1, "says")]
    assert "asks the same as claims[0]" in problems[0][1]
    mirrored = one("kind: compare, left: {head: b}, right: {head: a}, relation: below")
    problems = check_selectors((claims[0], mirrored), {"head": ("a", "b")})
    assert "asks the same as claims[0]" in problems[0][1]


def test_a_selector_that_matches_nothing_is_found_before_anything_runs():
    found = read(
        """
        claims:
          - {kind: compare, says: s, left: {backbone: vgg61}, right: {backbone: googlenet}}
          - {kind: order, says: s, rising: [{haed: fcn32s}, {haed: fcn16s}]}
          - {kind: trend, says: s, along: train.batch_sise, direction: falls}
          - {kind: trend, says: s, along: head, direction: falls, within: [datset]}
          - {kind: value, says: s, where: {dataset: [voc2011, voc2012]}, published: 56,
             tolerance: 1}
        """
    )
    problems = [f"{dotted(place)}: {sentence}" for place, sentence in check_selectors(found, AXES)]
    assert problems[0] == (
        "claims[0].left: no backbone 'vgg61' in this sweep; did you mean 'vgg16'?; "
        "it has: vgg16, googlenet"
    )
    assert problems[1].startswith("claims[1].rising[0]: no axis 'haed'; did you mean 'head'?")
    assert (
        "claims[2].along: no axis 'train.batch_sise'; did you mean 'train.batch_size'?"
        in (problems[3])
    )
    assert problems[4].startswith("claims[3].within: no axis 'datset'; did you mean 'dataset'?")
    assert problems[5] == "claims[3].along: head has the value 'fcn32s', not a number"
    assert problems[-1] == (
        "claims[4].where: no dataset 'voc2012' in this sweep; did you mean 'voc2011'?; "
        "it has: voc2011"
    )


def test_a_sweep_narrowed_by_a_setting_is_told_how_to_keep_its_claims():
    claim = one("kind: compare, left: {backbone: alexnet}, right: {backbone: vgg16}")
    ((place, sentence),) = check_selectors([claim], AXES, {"backbone": {"alexnet", "vgg16"}})
    assert dotted(place) == "claims[0].left"
    assert "--only backbone=vgg16,googlenet narrows a sweep and keeps its claims" in sentence
    assert "--set 'claims=[]'" in sentence
    assert "--only" not in check_selectors([claim], AXES)[0][1]


NAMES = {"voc": ("background", "car"), "ade": ("wall", "sky")}


def planned(**axes: str) -> PlannedCell:
    return PlannedCell({**axes, "protocol": "native"}, NAMES[axes["dataset"]])


CELLS = [
    planned(backbone="vgg16", head="fcn8s", dataset="voc"),
    planned(backbone="vgg16", head="fcn32s", dataset="voc"),
    planned(backbone="googlenet", head="fcn32s", dataset="voc"),
    planned(backbone="vgg16", head="fcn32s", dataset="ade"),
    planned(backbone="resnet50", head="fcn16s", dataset="ade"),
]


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        (
            "kind: value, published: 56, tolerance: 1, where: {backbone: googlenet, head: fcn8s}",
            "claims[0].where",
            "no cell of the sweep is backbone googlenet, head fcn8s",
        ),
        (
            "kind: compare, left: {backbone: vgg16}, right: {backbone: googlenet}, "
            "where: {dataset: ade}",
            "claims[0].right",
            "no cell of the sweep is backbone googlenet where dataset ade",
        ),
        (
            "kind: order, rising: [{head: fcn32s}, {head: fcn8s}], where: {dataset: [ade]}",
            "claims[0].rising[1]",
            "no cell of the sweep is head fcn8s where dataset ade",
        ),
        (
            "kind: compare, left: {backbone: vgg16}, right: {backbone: googlenet}, "
            "where: {dataset: voc}, classes: [car, backgroud]",
            "claims[0].classes",
            "no class 'backgroud' in voc; did you mean 'background'?",
        ),
        (
            "kind: compare, left: {backbone: googlenet}, right: {backbone: resnet50}",
            "claims[0]",
            "backbone googlenet and backbone resnet50 never occur in cells that agree in all other "
            "axes, so there is nothing to compare",
        ),
        (
            "kind: trend, along: num_classes, direction: falls, within: [dataset]",
            "claims[0].along",
            "wherever this is judged num_classes has one level (2), and a trend needs two; "
            "`average: true` or `within` judge it over more cells at once",
        ),
    ],
)
def test_a_claim_that_no_cell_can_answer_is_found_before_anything_runs(
    text: str, place: str, sentence: str
):
    problems = check_cells([one(text)], CELLS)
    assert [(dotted(where), said) for where, said in problems] == [(place, sentence)]


def test_a_claim_that_some_cells_can_answer_stands():
    claim = one("kind: compare, left: {backbone: vgg16}, right: {backbone: googlenet}")
    named = one("kind: correlate, by: training_pixels, classes: [car], where: {dataset: voc}")
    assert check_cells([claim, named], CELLS) == []


def test_cells_that_a_setting_took_away_are_no_fault_of_a_claim_but_its_classes_are():
    gone = "kind: compare, left: {backbone: alexnet}, right: {backbone: vgg16}"
    assert check_cells([one(gone)], CELLS, is_narrowed=True) == []
    ((place, sentence),) = check_cells(
        [one(f"{gone}, classes: [sea]")], CELLS[:1], is_narrowed=True
    )
    assert (dotted(place), sentence) == ("claims[0].classes", "no class 'sea' in voc")


@pytest.mark.parametrize(
    ("claim", "levels", "expected"),
    [
        ("", ("1", "x"), "train.batch_size has the value 'x', not a number"),
        ("", ("1", "inf"), "train.batch_size has the value 'inf', not a number"),
        (
            ", scale: log",
            ("0", "3"),
            "train.batch_size has the value 0, which no doubling reaches; say `scale: linear`",
        ),
        (", scale: linear", ("0", "3"), None),
    ],
)
def test_a_trend_needs_numbers_and_doublings_need_them_above_zero(claim, levels, expected):
    trend = one(f"kind: trend, along: train.batch_size, direction: rises{claim}")
    problems = check_selectors([trend], {**AXES, "train.batch_size": levels})
    assert [said for _, said in problems] == ([expected] if expected else [])


def test_numbers_in_selectors_are_axis_values():
    claim = one(
        "kind: compare, left: {train.batch_size: 3}, right: {train.batch_size: 10}, "
        "where: {dataset: voc2011}"
    )
    assert isinstance(claim, Compare)
    assert claim.left == {"train.batch_size": "3"}
    assert claim.where == {"dataset": ("voc2011",)}
    assert check_selectors([claim], AXES) == []


def test_a_trend_over_a_fact_crosses_data_sets_and_one_over_an_axis_does_not():
    over_fact = Trend(says="s", along="num_classes", direction="falls")
    over_axis = Trend(says="s", along="train.batch_size", direction="rises")
    assert over_fact.fixed_axes() == {"dataset", "variant"}
    assert over_axis.fixed_axes() == {"train.batch_size"}
    assert check_selectors([over_fact, over_axis], AXES) == []


def test_claims_know_along_which_axes_they_compare():
    assert Order(says="s", rising=({"head": "a"}, {"head": "b"})).fixed_axes() == {"head"}
    assert Correlate(says="s", by="training_pixels").fixed_axes() == frozenset()
    assert Value(says="s", published=56.0, tolerance=1.0).sides() == ()
