"""The experiment files: constants with their sources, variants that turn what they say, claims."""

import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from segbench.models.segmenter import build_segmenter
from segbench.spec.catalog import Catalog
from segbench.spec.experiment import read_experiment
from segbench.spec.protocol import Crf
from segbench.spec.sweep import expand

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
FAITHFUL = ("fcn_table1", "fcn_skips", "fcn_googlenet_two_stage", "kth_protocol")


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
    assert [line for line in bare if line not in repeated and "steps: 50000" not in line] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiments_models_can_be_built(path):
    for trial in plan_of(path.stem).trials.values():
        key = (trial.backbone.name, repr(trial.head), trial.model.geometry)
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
        else:
            assert all(set(stage.frozen) & {"batch_norm", "backbone"} for stage in stages)


def test_each_backbone_of_table_1_has_its_own_rate():
    rates = {c.axes["backbone"]: c.trial.train.stages[0].optimizer.lr for c in cells("fcn_table1")}
    assert rates == {"alexnet": 1e-3, "vgg16": 1e-4, "googlenet": 5e-5}


@pytest.mark.parametrize(
    ("name", "all_together", "one_at_a_time"),
    [
        ("kth_protocol", "paper", ["unsquashed", "void_ignored", "scores", "batch_20"]),
        ("kth_protocol_small", "paper", ["size_321", "void_ignored", "scores", "batch_20"]),
    ],
)
def test_all_together_turns_exactly_what_is_turned_one_at_a_time(name, all_together, one_at_a_time):
    variants = plan_of(name).experiment.variants
    together = {}
    for variant in one_at_a_time:
        together.update(variants[variant])
    assert variants[all_together] == together


def test_the_kth_protocol_is_the_studys_and_its_other_end_the_papers():
    study, paper = (cells("kth_protocol", variant=v)[0].trial for v in ("kth", "paper"))
    assert (study.dataset.num_classes, paper.dataset.num_classes) == (22, 21)
    assert (study.train.images.squash, paper.train.images.squash) == ((224, 224), None)
    assert (study.train.batch_size, paper.train.batch_size) == (3, 20)
    assert (study.head.fuse, paper.head.fuse) == ("features", "scores")
    assert study.train.stages[0].optimizer.lr == 3.2e-4
    assert study.train.steps == 100_000
    assert {t.train.images.flip for t in (study, paper)} == {False}  # neither of them augments
    protocols = plan_of("kth_protocol").experiment.evaluate
    assert (protocols["kth"].max_images, protocols["kth"].score_at) == (900, "input")
    assert (
        protocols["paper"].description()
        == "whole images at native size, single scale, void ignored"
    )


@pytest.mark.parametrize("name", ["kth_protocol", "kth_protocol_small"])
def test_each_of_the_kth_protocols_turns_one_field_more_to_the_papers(name):
    turned = [p.identity() for p in plan_of(name).experiment.evaluate.values()]
    for one, other in itertools.pairwise(turned):
        assert len({key for key in {*one, *other} if one.get(key) != other.get(key)}) == 1


def test_every_model_of_the_small_kth_experiment_is_shown_3000_images():
    recipes = [c.trial.train for c in cells("kth_protocol_small")]
    assert {recipe.steps * recipe.batch_size for recipe in recipes} == {3000}


def test_the_two_stages_are_the_studys_with_its_void_class_and_its_900_images():
    trials = [c.trial for c in cells("fcn_googlenet_two_stage")]
    assert {(t.dataset.name, t.dataset.num_classes) for t in trials} == {
        ("voc2012", 22), ("ade20k", 151),
    }  # fmt: skip
    assert {t.train.steps for t in trials} == {100_000}
    squashed = plan_of("fcn_googlenet_two_stage").experiment.evaluate["squashed"]
    assert (squashed.size, squashed.score_at, squashed.max_images) == ((224, 224), "input", 900)


def test_class_counts_vary_by_views_alone_and_the_kept_classes_are_nested():
    trials = {c.axes["variant"]: c.trial for c in cells("more_classes", backbone="vgg16")}
    assert {name: t.dataset.num_classes for name, t in trials.items()} == {
        "keep_5": 6, "keep_10": 11, "keep_20": 21, "merge_4": 5,
    }  # fmt: skip
    kept = [set(trials[name].dataset.class_names) for name in ("keep_5", "keep_10", "keep_20")]
    assert kept[0] < kept[1] < kept[2]
    contents = {(t.dataset.content_digest(), t.train.identity_digest()) for t in trials.values()}
    assert len(contents) == 1


def test_thinning_varies_by_the_view_alone():
    trials = [c.trial for c in cells("rare_classes") if c.seed == 0]
    assert len({(t.dataset.content_digest(), t.train.identity_digest()) for t in trials}) == 1
    shares = [set(t.dataset.view.thin.values()) for t in trials]
    assert shares == [set(), {0.5}, {0.25}, {0.1}]


def test_the_crfs_of_the_studies_have_their_constants_and_train_without_the_held_out_images():
    evaluate = plan_of("crf").experiment.evaluate
    assert evaluate["crf_kth"].crf == Crf()
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
