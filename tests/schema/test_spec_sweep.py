"""Experiment files multiply out into trials; every mistake is found before anything runs."""

import time

import pytest

from segbench.commands.run import Flags, narrowed, prepare_run
from segbench.errors import CardError, ExperimentError
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog, read_card
from segbench.schema.experiment import read_experiment
from segbench.schema.sweep import expand
from segbench.schema.trial import Trial


@pytest.fixture
def plan_of(toy_project):
    def plan(*settings: str, text: str = ""):
        path = toy_project / "experiments" / "toy.yaml"
        if text:
            path.write_text(path.read_text() + text)
        experiment, document = read_experiment(path, settings)
        return expand(experiment, Catalog.on_path(experiment=path), document)

    return plan


def test_lists_multiply(plan_of):
    plan = plan_of()
    assert len(plan.cells) == len(plan.trials) == 4
    assert [(c.axes["head"], c.seed) for c in plan.cells] == [
        ("fcn32s", 0), ("fcn32s", 1), ("fcn8s", 0), ("fcn8s", 1),
    ]  # fmt: skip


def test_a_cells_fast_id_is_the_id_of_the_trial_in_its_file(plan_of):
    for trial_id, trial in plan_of("model.weights=none").trials.items():
        assert Trial.model_validate_json(trial.model_dump_json()).id() == trial_id == trial.id()


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("train.batch_size=2", True),
        ("train.stages.0.steps=7", True),
        ("train.stages.all.optimizer.lr=0.1", True),
        ("model.geometry=caffe", True),
        ("model.dropout=0.1", True),
        ("train.images.flip=false", True),
        ("train.precision=bf16", True),
        ("train.loss_stride=2", True),
        ("question=Another?", False),
        ("launch.workers=2", False),
        ("launch.cpus_per_trial=2", False),
        ("monitor.log_every_steps=1", False),
        ("evaluate.native.flip=true", False),
        ("train.stages.0.name=other", False),
    ],
)
def test_the_id_changes_with_what_changes_weights_and_with_nothing_else(plan_of, setting, changes):
    assert (set(plan_of().trials) != set(plan_of(setting).trials)) is changes


def test_a_field_that_is_added_later_leaves_older_ids_alone():
    from segbench.schema.protocol import Protocol

    class Later(Protocol):
        new_field: int = 3

    assert Later().digest() == Protocol().digest()
    assert Later(new_field=4).digest() != Protocol().digest()


def test_seeds_and_cards_are_in_the_id_but_notes_are_not(plan_of, toy_project):
    before = plan_of()
    assert len({cell.trial_id for cell in before.cells}) == 4
    card = toy_project / "datasets" / "toyshapes.yaml"
    text = card.read_text()
    card.write_text(text + "notes: a remark\n")
    assert set(plan_of().trials) == set(before.trials)
    card.write_text(text.replace("train: 8", "train: 7"))
    assert not set(plan_of().trials) & set(before.trials)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sweep.backbone=toynt", "sweep.backbone: no backbone 'toynt'; did you mean 'toynet'?"),
        ("sweep.dataset=[toyshape]", "did you mean 'toyshapes'?"),
        ("sweep.head=fcn32", "no head 'fcn32'; did you mean 'fcn32s'?"),
        ("sweep.head=fcn4s", "fcn4s reads stride 4, which toynet does not have"),
        ("train.stages.0.optimizer.lr=-1", "should be greater than 0, but got -1"),
        ("train.batchsize=3", "unknown key; did you mean 'batch_size'?"),
        (
            "train.images.crop=[64, 31]",
            "train.images.crop: [64, 31] is too small for toynet with fcn32s: it takes at least 32",
        ),
        ("train.stages.all.schedule.warmup_steps=99", "warmup_steps 99 leaves none of the"),
        ("train.stages.all.schedule.name=step", "schedule `step` needs milestones"),
        ("train.split=trian", "toyshapes has no split 'trian'; did you mean 'train'?"),
        ("evaluate.native.split=test", "toyshapes has no split 'test'"),
        ("model.weights=imagenet", "toynet has no weights 'imagenet'; it has: none, default"),
        ("sweep.seeds=0", "greater than or equal to 1"),
        ("sweep.seeds=[2147483648]", "should be less than 2147483648, but got 2147483648"),
        ("evaluate={../up: {}}", "a name has lower-case letters"),
        ("variants={a/b: {}}", "a name has lower-case letters"),
        ("sweep.head=[fcn8s, fcn8s]", "a value stands twice"),
        ("train.stages.last.steps=3", "no item 'last' in a list of 1: all"),
        ("train", "expected key=value"),
        ("claims=[{kind: compar, says: x}]", "but got 'compar'; did you mean 'compare'?"),
        ("claims=[{says: x}]", "claims[0]: kind is missing"),
    ],
)
def test_mistakes_are_refused_with_a_sentence(plan_of, setting, sentence):
    with pytest.raises(ExperimentError) as caught:
        plan_of(setting)
    assert sentence in str(caught.value)


def test_every_wrong_setting_of_an_override_is_told_also_where_it_reaches_no_cell(plan_of):
    one = "  - {where: {head: %s}, set: {train.bach_size: 3, train.batch_size: -2, trian.x: 1}}\n"
    with pytest.raises(ExperimentError) as caught:
        plan_of(text="overrides:\n" + one % "fcn8s" + one % "fcn4s")
    for sentence in (
        "unknown key; did you mean 'batch_size'?",
        "greater than or equal to 1, but got -2",
        "begins with backbone, head, dataset, model, train; did you mean 'train'?",
    ):
        assert str(caught.value).count(sentence) == 2


@pytest.mark.parametrize(
    "settings",
    [
        "{train.stages.all.schedule.name: step, train.stages.all.schedule.milestones: [0.5]}",
        "{train.stages.all.schedule.milestones: [0.5], train.stages.all.schedule.name: step}",
        "{train.images.squash: null, train.batch_size: 1}",
        "{train.images.squash: null, train.images.crop: [32, 32], train.batch_size: 8}",
    ],
)
def test_settings_of_a_cell_are_looked_at_together(plan_of, settings):
    assert len(plan_of(text=f"variants:\n  a: {settings}\n").trials) == 4


def test_an_override_that_a_narrowed_sweep_does_not_reach_is_no_mistake(plan_of):
    text = (
        "overrides:\n"
        "  - where: {head: fcn8s}\n"
        "    set: {train.images.squash: null, train.batch_size: 1}\n"
    )
    assert len(plan_of(text=text).trials) == 4
    assert len(plan_of("sweep.head=fcn32s").trials) == 2
    with pytest.raises(ExperimentError, match="greater than or equal to 1, but got -2"):
        plan_of(
            "sweep.head=fcn32s", text="  - {where: {head: fcn8s}, set: {train.accumulate: -2}}\n"
        )


def test_exclusions_stay_right_where_the_sweep_is_narrowed(plan_of):
    text = "variants:\n  a: {}\n  b: {train.batch_size: 2}\n"
    exclude = "sweep.exclude=[{variant: b, head: fcn8s}]"
    assert len(plan_of(exclude, text=text).trials) == 6
    assert len(plan_of(exclude, "sweep.variant=a").trials) == 4


@pytest.mark.parametrize(
    ("exclude", "sentence"),
    [
        ("[{backbon: toynet}]", "no axis 'backbon' in the sweep; did you mean 'backbone'?"),
        ("[{head: fcn99}]", "head: fcn99 matches no cell"),
    ],
)
def test_what_is_to_be_left_out_is_in_the_sweep(plan_of, exclude, sentence):
    assert len(plan_of("sweep.exclude=[{head: fcn8s}]").cells) == 2
    with pytest.raises(ExperimentError) as caught:
        plan_of(f"sweep.exclude={exclude}")
    assert f"sweep.exclude[0]: {sentence}" in str(caught.value)


def test_a_published_figure_may_name_a_card_that_a_narrowed_sweep_lacks_but_no_typo(plan_of):
    figure = "  - {where: {dataset: %s}, percent: 5, source: x, differs: y}\n"
    assert plan_of(text="published:\n" + figure % "voc2012").cells
    with pytest.raises(ExperimentError, match="dataset: voc2021 matches no cell"):
        plan_of(text=figure % "voc2021")


def test_all_mistakes_of_a_file_come_at_once(plan_of):
    with pytest.raises(ExperimentError) as caught:
        plan_of("sweep.backbone=toynt", "sweep.dataset=toyshape", "sweep.head=fcn32")
    assert len(str(caught.value).splitlines()) == 3


def test_names_that_are_not_there_are_told_along_with_wrong_fields(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    wrong = ("sweep.backbone=toynt", "sweep.head=[fcn8s, fcn32]", "train.batch_size=0")
    with pytest.raises(ExperimentError) as caught:
        read_experiment(path, wrong, catalog=Catalog.on_path(experiment=path))
    said = str(caught.value)
    assert "batch_size" in said
    assert "did you mean 'toynet'?" in said
    assert "did you mean 'fcn32s'?" in said


def test_a_head_that_a_trunk_cannot_serve_is_skipped_with_its_reason_where_asked(plan_of):
    plan = plan_of("sweep.head=[fcn8s, fcn4s]", "sweep.unsupported=skip")
    assert [cell.skipped for cell in plan.cells if cell.axes["head"] == "fcn4s"] == [
        "fcn4s reads stride 4, which toynet does not have (its stages have strides 8, 16, 32)"
    ] * 2
    assert len(plan.trials) == 2


def test_variants_settings_and_overrides_change_their_cells_alone(plan_of):
    plan = plan_of(
        "sweep.settings={train.batch_size: [2, 4]}",
        text="variants:\n  slow: {train.stages.0.steps: 3}\n  fast: {}\n"
        "overrides:\n  - where: {head: fcn8s}\n    set: {model.dropout: 0.1}\n",
    )
    assert len(plan.trials) == 16
    for cell in plan.cells:
        assert cell.trial is not None
        assert cell.trial.train.batch_size == int(cell.axes["train.batch_size"])
        assert cell.trial.train.stages[0].steps == (3 if cell.axes["variant"] == "slow" else 6)
        assert cell.trial.model.dropout == (0.1 if cell.axes["head"] == "fcn8s" else 0.5)


def test_a_setting_that_is_wrong_for_a_cell_names_its_line(plan_of):
    with pytest.raises(ExperimentError, match=r"toy\.yaml:\d+: variants\.slow.*batch_size"):
        plan_of(text="variants:\n  slow: {train.batch_size: 0}\n")


def test_trials_start_from_others_in_an_order_that_allows_it(plan_of):
    plan = plan_of(
        "sweep.head=[fcn8s, fcn16s, fcn32s]",
        text="start_from:\n"
        "  - {where: {head: fcn16s}, take: {head: fcn32s}}\n"
        "  - {where: {head: fcn8s}, take: {head: fcn16s}}\n",
    )
    seen = set()
    for cell in plan.cells:
        assert cell.trial is not None
        if cell.axes["head"] == "fcn32s":
            assert cell.trial.start_from is None
        else:
            assert cell.trial.start_from in seen
        seen.add(cell.trial_id)
    assert {c.axes["head"] for c in narrowed(plan, ["head=fcn8s"], None).cells} == {
        "fcn8s", "fcn16s", "fcn32s",
    }  # fmt: skip


def test_a_circle_of_starts_is_refused(plan_of):
    with pytest.raises(ExperimentError, match="in a circle"):
        plan_of(
            text="start_from:\n  - {where: {head: fcn8s}, take: {head: fcn32s}}\n"
            "  - {where: {head: fcn32s}, take: {head: fcn8s}}\n"
        )


def test_narrowing_keeps_ids_and_refuses_unknown_values(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    whole = prepare_run(path, Flags())
    part = prepare_run(path, Flags(only=("head=fcn8s",), seeds=1))
    assert set(part.asked.trials) < set(whole.asked.trials)
    assert len(part.asked.trials) == 1
    more = prepare_run(path, Flags(seeds=3))
    assert set(whole.asked.trials) < set(more.asked.trials)
    with pytest.raises(ExperimentError, match="no head 'fcn9s' in the sweep; did you mean"):
        prepare_run(path, Flags(only=("head=fcn9s",)))


def test_more_seeds_than_a_file_names_are_refused(toy_project):
    path = toy_project / "experiments" / "toy.yaml"
    named = "sweep.seeds=[4, 7]"
    assert {
        cell.seed for cell in prepare_run(path, Flags(settings=(named,), seeds=1)).asked.cells
    } == {4}
    with pytest.raises(ExperimentError, match=r"--seeds 3: sweep\.seeds names 2 seeds; name more"):
        prepare_run(path, Flags(settings=(named,), seeds=3))
    with pytest.raises(ExperimentError, match="--seeds 5000: a sweep has 1000 seeds at most"):
        prepare_run(path, Flags(seeds=5000))


def test_ten_thousand_trials_are_planned_within_seconds(plan_of):
    start = time.process_time()
    plan = plan_of("sweep.seeds=1000", "sweep.settings={train.batch_size: [1, 2, 3, 4, 5]}")
    assert len(plan.trials) == 10_000
    assert time.process_time() - start < 30  # a guard against squares, not a benchmark


def test_a_users_card_hides_ours_and_the_catalog_says_so(toy_project, write):
    ours = Catalog.on_path((toy_project,))
    other = write(
        "other/datasets/toyshapes.yaml", (toy_project / "datasets/toyshapes.yaml").read_text()
    )
    catalog = Catalog.on_path((other.parent.parent, toy_project))
    assert [(h.name, h.used) for h in catalog.hidden] == [("toyshapes", other)]
    assert ours.dataset("toyshapes").name == "toyshapes"


def test_a_base_gives_what_a_card_leaves_out(toy_project):
    path = toy_project / "datasets" / "toyfew.yaml"
    path.write_text("base: toyshapes\nname: toyfew\ntitle: fewer\n")
    card = read_card(path, DatasetCard, catalog=Catalog.on_path((toy_project,)))
    assert (card.name, card.classes[1]) == ("toyfew", "circle")
    path.write_text("base: toyfew\nname: toyfew\n")
    with pytest.raises(CardError, match="in a circle"):
        read_card(path, DatasetCard, catalog=Catalog.on_path((toy_project,)))
    path.write_text("base: toyshape\nname: toyfew\n")
    with pytest.raises(CardError, match="did you mean 'toyshapes'"):
        read_card(path, DatasetCard, catalog=Catalog.on_path((toy_project,)))


def test_a_card_must_be_called_like_its_file(toy_project):
    path = toy_project / "datasets" / "othername.yaml"
    path.write_text((toy_project / "datasets" / "toyshapes.yaml").read_text())
    with pytest.raises(CardError, match=r"othername\.yaml:2: name: is 'toyshapes'"):
        read_card(path, DatasetCard, catalog=Catalog.on_path((toy_project,)))


@pytest.mark.parametrize("along", ["num_clases", "head"])
def test_a_trend_along_no_numbers_is_told_with_all_other_problems(plan_of, along):
    claims = (
        f"claims:\n  - {{kind: trend, says: s, along: {along}, direction: falls}}\n"
        "  - {kind: value, says: s, published: 5, tolerance: 1, where: {head: fcn9s}}\n"
    )
    with pytest.raises(ExperimentError) as caught:
        plan_of(text=claims)
    assert "claims[0].along" in str(caught.value)
    assert "claims[1].where" in str(caught.value)


STUDY = """
question: The study's network?
sweep: {backbone: [inception_v3_5c], head: [study], dataset: [toyshapes], seeds: 1}
heads:
  study:
    strides: [32, 16, 8]
    fuse: features
    deconvolutions:
      - {kernel: 4, stride: 2, channels: 768}
      - {kernel: 3, stride: 2, channels: 288}
      - {kernel: 32, stride: 8}
model: {batch_norm: removed, input: {mean: [0, 0, 0], std: [1, 1, 1], range: 255}}
train:
  images: {squash: [224, 224], flip: false}
  batch_size: 3
  stages: [{name: all, steps: 6, optimizer: {name: adam, lr: 3.2e-4}}]
evaluate: {kth: {size: [224, 224], score_at: input}, whole: {}}
"""


@pytest.fixture
def study_plan(toy_project):
    def plan(*settings: str):
        path = toy_project / "experiments" / "study.yaml"
        path.write_text(STUDY)
        experiment, document = read_experiment(path, settings)
        return expand(experiment, Catalog.on_path(experiment=path), document)

    return plan


def test_the_study_s_network_is_written_in_cards_and_fields(study_plan):
    (trial,) = study_plan().trials.values()
    assert trial.head.chain is not None
    assert trial.head.chain.reached == (16, 8, 1)
    assert trial.model.input is not None
    assert [stage.module for stage in trial.backbone.stages][1] == "Mixed_5c"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "train.images.squash=[224, 321]",
            "train.images.squash: [224, 321] does not fit the transposed convolutions of study on "
            "inception_v3_5c; the next sides that do are 320, 352",
        ),
        ("train.images.crop=[250, 250]", "train.images.crop: [250, 250] does not fit"),
        ("evaluate.kth.size=[225, 224]", "evaluate.kth.size: [225, 224] does not fit"),
        (
            "evaluate.whole.sliding={window: [200, 200], stride: [100, 100]}",
            "evaluate.whole.sliding.window: [200, 200] does not fit",
        ),
        ("model.geometry=aligned", "meet the stages of inception_v3_5c at no side of an image"),
        ("sweep.backbone=[inception_v3_7a_5c]", "batch norm is folded into the kernels of"),
        ("sweep.backbone=[vgg16]", "makes 768 channels at stride 16, where vgg16 has 512 to add"),
    ],
)
def test_what_does_not_fit_the_study_s_chain_is_told_before_it_runs(study_plan, setting, sentence):
    with pytest.raises(ExperimentError) as error:
        study_plan(setting)
    assert sentence in str(error.value)


def test_the_study_s_chain_wants_images_of_a_stated_size(study_plan):
    with pytest.raises(ExperimentError, match=r"give images\.squash or images\.crop"):
        study_plan("train.images.squash=null", "train.batch_size=1")
