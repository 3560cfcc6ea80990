"""The experiment files: constants with their sources, variants that turn what they say, claims."""

import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from segbench.models.segmenter import build_segmenter
from segbench.schema.catalog import Catalog
from segbench.schema.experiment import read_experiment
from segbench.schema.protocol import Crf, Protocol
from segbench.schema.sweep import expand

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
AS_IT_WAS = ("kth_as_it_was", "kth_as_it_was_mit", "fcn_googlenet_two_stage")
FAITHFUL = ("fcn_table1", "fcn_skips", "kth_protocol", *AS_IT_WAS)


BUILT: set = set()  # models that several files train are built once


@cache
def plan_of(name):
    path = ROOT / "experiments" / f"{name}.yaml"
    experiment, document = read_experiment(path)
    return expand(experiment, Catalog((ROOT,)), document)


def cells(name, **axes) -> list[Any]:
    return [c for c in plan_of(name).cells if all(c.axes[k] == v for k, v in axes.items())]


@pytest.mark.parametrize("name", FAITHFUL)
def test_every_constant_of_a_published_protocol_has_its_source_beside_it(name):
    text = (ROOT / "experiments" / f"{name}.yaml").read_text()
    settings = re.search(r"^model:.*?(?=^(?:evaluate|launch):)", text, re.DOTALL | re.MULTILINE)
    assert settings
    bare = [
        line
        for line in settings[0].splitlines()
        if re.search(r"[:\[] ?-?\d", line.split("#")[0]) and "#" not in line
    ]
    repeated = [
        line for line in bare if any(line.strip() in other for other in text.split(line)[1:])
    ]
    assert [line for line in bare if line not in repeated] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiments_models_can_be_built(path):
    for trial in plan_of(path.stem).trials.values():
        model = (trial.model.geometry, trial.model.batch_norm)
        key = (trial.backbone.name, repr(trial.head), model)
        if key not in BUILT:
            BUILT.add(key)
            with torch.device("meta"):
                build_segmenter(trial.backbone, trial.head, trial.model, trial.dataset.num_classes)


def test_the_skips_are_trained_as_the_reference_code_does():
    rates = {"fcn32s": 1e-10, "fcn16s": 1e-12, "fcn8s": 1e-14, "fcn8s_atonce": 1e-10}
    steps = {"fcn8s_atonce": 300_000}
    for head, rate in rates.items():
        for cell in cells("fcn_skips", head=head):
            recipe = cell.trial.train
            (stage,) = recipe.stages
            optimizer = stage.optimizer
            assert (optimizer.lr, stage.steps) == (rate, steps.get(head, 100_000))
            assert (optimizer.momentum, optimizer.weight_decay) == (0.99, 5e-4)
            assert (optimizer.bias_lr_factor, optimizer.bias_weight_decay) == (2, 0)
            assert (recipe.loss_reduction, recipe.batch_size, recipe.images.flip) == (
                "sum",
                1,
                False,
            )
            assert (cell.trial.model.geometry, cell.trial.model.dropout) == ("caffe", 0.5)
    (atonce,) = cells("fcn_skips", head="fcn8s_atonce")[:1]
    assert atonce.trial.head.skip_scale == (1.0, 0.01, 0.0001)


def test_16s_starts_from_its_seeds_32s_and_8s_from_its_16s_and_comes_later():
    order = [cell.trial_id for cell in plan_of("fcn_skips").cells]
    for fine, coarse in (("fcn16s", "fcn32s"), ("fcn8s", "fcn16s")):
        starts = {cell.seed: cell.trial_id for cell in cells("fcn_skips", head=coarse)}
        for cell in cells("fcn_skips", head=fine):
            assert cell.trial.start_from == starts[cell.seed]
            assert order.index(cell.trial_id) > order.index(starts[cell.seed])
    assert all(cell.trial.start_from is None for cell in cells("fcn_skips", head="fcn8s_atonce"))


def test_only_the_fixed_32s_freezes_its_trunk():
    for cell in cells("fcn_skips"):
        frozen = cell.trial.train.stages[0].frozen
        assert frozen == (("backbone",) if cell.axes["head"] == "fcn32s_fixed" else ())


@pytest.mark.parametrize(
    "name", ["fcn_table1", "fcn_googlenet_two_stage", "kth_protocol", "kth_search"]
)
def test_no_googlenet_trains_batch_norm_on_a_few_images_at_a_time(name):
    for cell in cells(name):
        stages = cell.trial.train.stages
        if cell.axes["backbone"] in {"alexnet", "vgg16"}:  # which have none
            assert [stage.frozen for stage in stages] == [()]
        elif cell.trial.model.batch_norm == "keep":
            assert all(set(stage.frozen) & {"batch_norm", "backbone"} for stage in stages)


def test_each_backbone_of_table_1_has_its_own_rate():
    rates = {c.axes["backbone"]: c.trial.train.stages[0].optimizer.lr for c in cells("fcn_table1")}
    assert rates == {"alexnet": 1e-3, "vgg16": 1e-4, "googlenet": 5e-5}


@pytest.mark.parametrize(
    ("name", "one_at_a_time", "steps"),
    [
        (
            "kth_protocol",
            ["as_pretrained", "unsquashed", "void_ignored", "scores", "batch_20", "epochs_175"],
            {"new_layers": 6405, "everything": 6405},  # 175 epochs of 1464 images, 20 a step
        ),
        (
            "kth_protocol_small",
            ["bilinear", "size_320", "void_ignored", "scores", "batch_20", "steps_430"],
            {},
        ),
    ],
)
def test_all_together_turns_exactly_what_is_turned_one_at_a_time(name, one_at_a_time, steps):
    variants = plan_of(name).experiment.variants
    together = {}
    for variant in one_at_a_time:
        together.update(variants[variant])
    together |= {f"train.stages.{stage}.steps": number for stage, number in steps.items()}
    assert variants["paper"] == together


def assert_is_the_study(trial, channels, classes):
    """The study's constants, from its code and report (deepest stage and classes differ by data)."""
    assert trial.dataset.view.void_as_class
    assert trial.dataset.num_classes == classes
    assert [stage.module for stage in trial.backbone.stages[1:]] == [
        "Mixed_5c", "Mixed_6e", "Mixed_7c",
    ]  # fmt: skip
    assert trial.backbone.average_pools == "exclude_padding"
    assert trial.head.fuse == "features"
    assert [(d.kernel, d.stride, d.channels) for d in trial.head.deconvolutions] == channels
    assert {(d.bias, d.start) for d in trial.head.deconvolutions} == {(True, "xavier")}
    assert trial.model.batch_norm == "removed"
    assert (trial.model.input.mean, trial.model.input.std) == ((0, 0, 0), (1, 1, 1))
    assert (trial.model.input.range, trial.model.input.order) == (255, "RGB")
    images = trial.train.images
    assert (images.squash, images.resize, images.flip) == ((224, 224), "nearest", False)
    assert (trial.train.batch_size, trial.train.accumulate) == (3, 1)
    assert [stage.steps for stage in trial.train.stages] == [100_001, 100_001]
    assert [stage.frozen for stage in trial.train.stages] == [("backbone",), ()]
    assert {(s.optimizer.name, s.optimizer.lr) for s in trial.train.stages} == {("adam", 3.2e-4)}


CHAIN = [(4, 2, 768), (3, 2, 288), (32, 8, None)]


@pytest.mark.parametrize(("name", "classes"), [("kth_as_it_was", 22), ("kth_as_it_was_mit", 151)])
def test_the_study_as_it_was_has_its_constants(name, classes):
    strides = {"study_32s": (32,), "study_16s": (32, 16), "study_8s": (32, 16, 8)}
    for head, reads in strides.items():
        for cell in cells(name, head=head):
            assert_is_the_study(cell.trial, CHAIN, classes)
            assert cell.trial.head.strides == reads


def test_the_studys_models_have_the_same_ids_in_every_file():
    whole = {c.trial_id for c in cells("kth_as_it_was")}
    finest = {c.trial_id for c in cells("kth_as_it_was", head="study_8s")}
    assert {c.trial_id for c in cells("fcn_googlenet_two_stage", variant="two_stage")} == whole
    assert {c.trial_id for c in cells("kth_protocol", variant="kth")} == finest
    assert {c.trial_id for c in cells("kth_search")} == finest


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("kth_as_it_was", "kth_val900"),
        ("kth_as_it_was_mit", "val"),
        ("fcn_googlenet_two_stage", "kth_val900"),
        ("kth_protocol", "kth_val900"),
        ("kth_search", "kth_val900"),
        ("kth_protocol_small", "kth_val187"),
    ],
)
def test_the_studys_figures_are_those_of_its_own_metric_and_images(name, split):
    assert plan_of(name).experiment.evaluate["kth"].revised(name="native") == Protocol(
        split=split,
        size=(224, 224),
        resize="nearest",
        score_at="input",
        absent_class="zero",
        false_positives="labelled_images",
    )


def test_the_studys_whole_table_stands_beside_ours():
    published = plan_of("kth_as_it_was").experiment.published
    rows = {  # the report: pixel accuracy, mean accuracy, mean IU, frequency-weighted IU
        "study_32s": (72.3, 22.5, 20.2, 60.2),
        "study_16s": (73.6, 28.5, 25.8, 62.3),
        "study_8s": (74.9, 29.7, 26.8, 64.4),
    }
    metrics = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
    theirs = [f for f in published if f.source == "KTH course study"]
    assert {(f.where["head"], f.metric): f.percent for f in theirs} == {
        (head, metric): percent
        for head, row in rows.items()
        for metric, percent in zip(metrics, row, strict=True)
    }
    assert {f.protocol for f in theirs} == {"kth"}


def test_the_other_end_of_the_kth_protocol_is_the_papers():
    trial = cells("kth_protocol", variant="paper")[0].trial
    assert (trial.dataset.num_classes, trial.head.fuse, trial.head.deconvolutions) == (
        21,
        "scores",
        (),
    )
    assert (trial.model.batch_norm, trial.model.input) == ("keep", None)
    assert (trial.train.images.squash, trial.train.images.flip) == (None, False)
    assert (trial.train.batch_size, trial.train.steps) == (20, round(175 * 1464 / 20))
    protocol = plan_of("kth_protocol").experiment.evaluate["paper"]
    assert protocol.description() == "whole images at native size, single scale, void ignored"


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("kth_protocol", "kth all_predictions field_rule all_images at_label bilinear paper"),
        ("kth_protocol_small", "field_rule at_label all_images"),
        ("kth_protocol_small", "bilinear at_label size_320"),
    ],
)
def test_each_protocol_turns_one_field_of_the_one_before(name, pairs):
    evaluate = plan_of(name).experiment.evaluate
    turned = [evaluate[protocol].identity() for protocol in pairs.split()]
    for one, other in itertools.pairwise(turned):
        assert len({key for key in {*one, *other} if one.get(key) != other.get(key)}) == 1


@pytest.mark.parametrize("name", ["kth_protocol", "kth_protocol_small"])
def test_every_peculiarity_has_a_tested_difference(name):
    experiment = plan_of(name).experiment
    asked = {
        side["variant"]
        for claim in experiment.claims
        for _, side in claim.sides()
        if "variant" in side
    }
    assert set(experiment.variants) == asked
    protocols = {
        value
        for claim in experiment.claims
        for _, side in claim.sides()
        for axis, value in side.items()
        if axis == "protocol"
    }
    assert set(experiment.evaluate) - protocols <= {"all_predictions"}


def test_class_counts_vary_by_views_alone_and_the_kept_classes_are_nested():
    trials = {c.axes["variant"]: c.trial for c in cells("more_classes", backbone="vgg16")}
    assert {name: t.dataset.num_classes for name, t in trials.items()} == {
        "keep_5": 6, "keep_10": 11, "keep_20": 21, "merge_4": 5,
    }  # fmt: skip
    kept = [set(trials[name].dataset.class_names) for name in ("keep_5", "keep_10", "keep_20")]
    assert kept[0] < kept[1] < kept[2]
    contents = {(t.dataset.content_digest(), t.train.identity_digest()) for t in trials.values()}
    assert len(contents) == 1


@pytest.mark.parametrize("name", ["more_classes", "rare_classes"])
def test_the_small_file_has_the_views_and_claims_of_the_whole_one(name):
    whole, small = (plan_of(stem).experiment for stem in (name, f"{name}_small"))
    assert small.variants == whole.variants
    assert small.claims == whole.claims
    assert small.sweep.seed_values == (0, 1, 2, 3)


def test_thinning_varies_by_the_view_alone():
    trials = [c.trial for c in cells("rare_classes") if c.seed == 0]
    assert len({(t.dataset.content_digest(), t.train.identity_digest()) for t in trials}) == 1
    shares = [set(t.dataset.view.thin.values()) for t in trials]
    assert shares == [set(), {0.5}, {0.25}, {0.1}]


def test_the_crfs_of_the_studies_have_their_constants_and_train_without_the_held_out_images():
    evaluate = plan_of("crf").experiment.evaluate
    assert evaluate["crf_kth"].crf == Crf(coordinates="yx")
    assert evaluate["crf_deeplab"].crf == Crf(
        gaussian_width=3,
        gaussian_weight=3,
        bilateral_width=49,
        bilateral_colour=5,
        bilateral_weight=4,
    )
    assert all(c.trial.dataset.view.holdout > 0 for c in cells("crf"))
    assert {p.split for p in evaluate.values()} == {"val"}


def test_the_literatures_claims_are_at_least_ten_and_each_has_a_source():
    claims = [claim for path in FILES for claim in plan_of(path.stem).experiment.claims]
    with_source = {claim.says for claim in claims if claim.source is not None}
    assert len(with_source) >= 10


def rows_of_the_readme():
    """Yield sentence, experiment and last cell of each row of README's table of claims."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| sentence | source | experiment | here |") :]
    for line in itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()[2:]):
        says, _, experiment, here = (cell.strip() for cell in line.strip("|").split(" | "))
        yield says, re.sub(r"^\[(\w+)\].*", r"\1", experiment), here


def test_each_claim_of_the_fcn_paper_and_of_the_study_has_its_row_in_the_readme():
    asked = {
        (claim.says, path.stem)
        for path in FILES
        for claim in plan_of(path.stem).experiment.claims
        if claim.source is not None and re.match(r"FCN|KTH|reference code", claim.source.paper)
    }
    rows = list(rows_of_the_readme())
    assert len(set(rows)) == len(rows)
    figures = {row[:2] for row in rows} - asked  # not claims of a file, but figures of a source
    assert asked <= {row[:2] for row in rows}
    assert all(re.search(r"reaches \d", says) for says, _ in figures)


def test_each_row_of_the_readme_has_the_verdict_of_its_run_or_the_command_that_settles_it():
    for says, experiment, here in rows_of_the_readme():
        linked = re.match(r"\*\*(\w+)\*\* \(\[claim (\d+)\]\(results/(\w+)/claims.md", here)
        if linked:
            verdict, number, run = linked.groups()
            claims = (ROOT / "results" / run / "claims.md").read_text()
            found = re.search(rf"^## {number}\. (.*): (\w+)$", claims, re.MULTILINE)
            assert found, (run, number)
            assert found.groups() == (says, verdict)
        else:
            command = (
                rf"\*not measured\*: `segbench run experiments/{experiment}\.yaml .*--data DIR"
            )
            assert re.match(command, here), here
