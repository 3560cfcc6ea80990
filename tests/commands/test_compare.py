"""`segbench compare`: two result sets of anybody, on the same images."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from command_line import invoked, segbench
from drawn_run import drawn_counts, made_run
from PIL import Image

from segbench.data.split import open_split
from segbench.metrics.mean_iou import mean_iou
from segbench.report.comparison_json import comparison_json
from segbench.runs import trial_files
from segbench.runs.observed import counts_of_evaluation
from segbench.runs.record import load_rows, load_run
from segbench.schema.catalog import Catalog
from segbench.schema.machine import Machine
from segbench.statistics.pairwise import ClassDifference, compare_two


def compare(*words):
    return segbench("compare", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("made") / "project", seeds=4)


def test_cells_of_a_run_are_compared_with_all_their_seeds(made):
    left, right = (f"{made}:backbone={b},head=fcn8s,dataset=few" for b in ("resnet18", "googlenet"))
    code, said = compare(left, right, "--protocol", "native")
    assert code == 0, said
    assert "4 and 4 seeds" in said
    assert "Question answered: the method: new seeds, and new images" in said
    record = load_run(made)
    counts = {"resnet18": [], "googlenet": []}
    for row in load_rows(made, record):
        if row.cell.axes["head"] == "fcn8s" and row.cell.axes["dataset"] == "few":
            counts[row.cell.axes["backbone"]].append(
                counts_of_evaluation(made, row, "native").as_counts()
            )
    expected = compare_two(counts["resnet18"], counts["googlenet"])
    assert f"{expected.left:.2f} - {expected.right:.2f} = +{expected.difference:.1f}" in said
    ious = [100 * mean_iou(one.sums) for one in counts["resnet18"]]
    assert expected.left == pytest.approx(np.mean(ious))
    for name in ("background", "cat", "dog"):
        assert f"| {name} |" in said


def test_json_holds_all_digits_of_what_is_printed_and_null_where_nothing_is_known(made, tmp_path):
    left, right = (f"{made}:backbone={b},head=fcn8s,dataset=few" for b in ("resnet18", "googlenet"))
    file = tmp_path / "found.json"
    done = invoked("compare", left, right, "--protocol", "native", "--json", "-o", file)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads(file.read_text())
    assert (found["left_is"], found["right_is"], found["seeds"]) == (left, right, [4, 4])
    assert found["difference"] == pytest.approx(found["left"] - found["right"], abs=1e-9)
    assert found["low"] < found["difference"] < found["high"]
    assert [row["name"] for row in found["per_class"]] == ["background", "cat", "dog"]
    assert found["notes"][0].startswith("Protocol: ")
    _, said = compare(left, right, "--protocol", "native")
    assert f"{found['left']:.2f} - {found['right']:.2f} = +{found['difference']:.1f}" in said


def test_json_says_null_of_an_interval_that_is_not_known():
    one, two = (
        [drawn_counts(np.random.default_rng(seed), 3, 9, 0.8).as_counts() for seed in seeds]
        for seeds in ((1, 2), (3, 4))
    )
    row = ClassDifference("rare", 2, 1.0, 2.0, -1.0, -math.inf, math.inf, 1.0, 1.0)
    found = replace(compare_two(one, two), per_class=(row,))
    text = comparison_json(found, "a", "b")
    assert json.loads(text)["per_class"][0]["low"] is None
    assert "Infinity" not in text


def test_the_same_weights_under_two_protocols_are_paired(made):
    record = load_run(made)
    row = next(row for row in load_rows(made, record) if row.is_done)
    cell = ",".join(f"{axis}={value}" for axis, value in row.cell.axes.items())
    code, said = compare(f"{made}:{cell}", f"{made}:{cell}", "--protocol", "native")
    assert code == 0, said
    assert "Both sides are the same trained weights, so their seeds are paired." in said
    assert "= 0.00" in said.replace("+0.00", "0.00")


def test_counts_of_anybody_are_compared_in_dense_files(made, tmp_path):
    record = load_run(made)
    rows = [r for r in load_rows(made, record) if r.cell.axes["dataset"] == "few" and r.is_done]
    stored = [counts_of_evaluation(made, row, "native") for row in (rows[0], rows[-1])]
    for name, one in zip("ab", stored, strict=True):
        arrays = {"tp": one.tp, "label": one.label, "pred": one.pred}
        np.savez(tmp_path / f"{name}.npz", names=np.array(one.names), **arrays)
    code, said = compare(tmp_path / "a.npz", tmp_path / "b.npz")
    assert code == 0, said
    expected = compare_two([stored[0].as_counts()], [stored[1].as_counts()])
    assert f"{expected.left:.2f} - {expected.right:.2f}" in said
    assert "these checkpoints, on new images of the same kind; not the method" in said
    assert "| class 0 |" in said
    protocol = record.protocols["native"]
    folders = [trial_files.trial_folder(made, row.cell.trial_id) for row in (rows[0], rows[-1])]
    again = compare(*(trial_files.counts_path(folder, protocol) for folder in folders))
    assert again[0] == 0, again[1]
    assert f"{expected.left:.2f} - {expected.right:.2f}" in again[1]
    assert "| background |" in again[1]


def test_folders_of_predictions_are_scored_and_compared(toy_run, tmp_path):
    split = open_split(Catalog.on_path().dataset("toyshapes"), "val", Machine.from_environment())
    for seed in (0, 1):
        for side in ("right", "wrong"):
            folder = tmp_path / side / str(seed)
            folder.mkdir(parents=True)
            for index, name in enumerate(split.names):
                label = split.label(index).numpy()
                pixels = np.where(label == 255, 0, label)
                if side == "wrong":
                    pixels = np.where(pixels == 1, 2, pixels)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    flags = ("--dataset", "toyshapes", "--split", "val", "--seeds")
    code, said = compare(tmp_path / "right", tmp_path / "wrong", *flags, "-o", tmp_path / "page.md")
    assert code == 0, said
    assert "2 and 2 seeds" in said
    assert said.split(" - ")[0].endswith("100.00")
    assert "| circle | 4 | 100.0 | 0.0 | +100.0" in said
    assert (tmp_path / "page.md").read_text(encoding="utf-8").split() == said.split()
    assert "very counts of another" in said  # both seeds of a side are the same files here
    shutil.copytree(tmp_path / "right" / "0", tmp_path / "My preds (v2)")
    code, said = compare(tmp_path / "My preds (v2)", tmp_path / "wrong" / "0", *flags[:-1])
    assert code == 0, said
    assert "1 and 1 seeds" in said
    assert "very counts of another" not in said


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ("{made}", "is a whole run; say which of its trials"),
        (
            "{made}:backbone=resnet18",
            "matches 4 cells, name one (they differ in dataset: few, more; head: ",
        ),
        ("{made}:bckbone=resnet18", "did you mean 'backbone'?"),
        ("{made}:head=fcn8", "no head 'fcn8' in the run; did you mean 'fcn8s'?"),
        ("{made}:backbone=resnet18,head=fcn8s,dataset=few", "say with --protocol which figures"),
        ("{made}/nothing", "there is no such file or folder"),
        ("{empty}", "to score a folder of predictions, name its --dataset"),
        ("{bad}", "is no file of counts; expected an .npz with the plain arrays"),
        ("{hollow}", "is no file of counts"),
        ("{lacking}", "lacks the arrays tp, label, pred"),
    ],
)
def test_a_side_that_cannot_be_read_is_one_sentence(made, tmp_path, left, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "lacking.npz", names=np.array(["a"]))
    (tmp_path / "hollow.npz").touch()
    places = {name: tmp_path / f"{name}.npz" for name in ("bad", "hollow", "lacking")}
    text = left.format(made=made, empty=tmp_path / "empty", **places)
    flags = () if "say with --protocol" in sentence else ("--protocol", "native")
    code, said = compare(text, text, *flags)
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"tp": np.array([[0.5, 1.0]])}, "tp holds 0.5; expected numbers of pixels, whole"),
        ({"label": np.array([[np.nan, 9.0]])}, "label holds nan"),
        ({"pred": np.array([[np.inf, 9.0]])}, "pred holds inf"),
        ({"tp": np.array([[-1, 1]])}, "tp holds -1"),
        ({"tp": np.array([["1", "1"]])}, "tp holds <U1, expected numbers of pixels"),
        ({"tp": np.array([[10, 1]])}, "tp must lie between 0 and both label and pred"),
        ({"tp": np.array([[1, 1, 1]])}, "must be (N, C) arrays with N names"),
        ({"names": np.array(["a", "a"])}, "names 'a' twice"),
        ({"names": np.array(["a"], dtype=object)}, "is no file of counts"),
        (dict.fromkeys(("tp", "label"), np.array([[0, 0]])), "`label` holds no pixel of any class"),
    ],
)
def test_counts_that_are_no_numbers_of_pixels_are_refused(tmp_path, changed, sentence):
    sound = {"names": np.array(["a"]), "tp": np.array([[1, 1]])}
    sound |= {"label": np.array([[2, 2]]), "pred": np.array([[2, 2]])}
    np.savez(tmp_path / "sound.npz", **sound)
    np.savez(tmp_path / "odd.npz", **(sound | changed))
    code, said = compare(tmp_path / "sound.npz", tmp_path / "odd.npz")
    assert code == 2
    assert sentence in said
    assert "allow_pickle" not in said


def predictions_of(split, folder, change):
    """Write the labels as predictions, void as background, each after `change` (values, label)."""
    folder.mkdir()
    for index, name in enumerate(split.names):
        label = split.label(index).numpy()
        values = change(np.where(label == 255, 0, label).astype(np.uint8), label)
        Image.fromarray(values).save(folder / f"{name}.png")
    return folder


def test_values_that_are_no_class_are_told_and_most_of_them_refused(toy_run, tmp_path):
    split = open_split(Catalog.on_path().dataset("toyshapes"), "val", Machine.from_environment())
    flags = ("--dataset", "toyshapes", "--split", "val")

    def first_row_left_out(values, _):
        values[0] = 255
        return values

    sound = predictions_of(split, tmp_path / "sound", lambda values, _: values)
    few = predictions_of(split, tmp_path / "few", first_row_left_out)
    labels = [split.label(index).numpy() for index in range(len(split))]
    lost = sum(int((label[0] != 255).sum()) for label in labels)
    code, said = compare(sound, few, *flags)
    assert code == 0, said
    assert f"few: {lost} labelled pixels with a value that is no class (255: {lost} pixels)" in said
    spread = predictions_of(split, tmp_path / "spread", lambda values, _: values * 60)
    code, said = compare(sound, spread, *flags)
    assert code == 2
    assert "is not encoded as the labels of toyshapes" in said
    assert "read as class indices" not in said
    assert "give --encoding FILE with a line for each value, such as `" in said
    names = Catalog.on_path().dataset("toyshapes").classes
    lines = [f"{60 * index}: {name}" for index, name in enumerate(names)]
    (tmp_path / "mapping.yaml").write_text("\n".join(lines), encoding="utf-8")
    mapped = ("--mapping", str(tmp_path / "mapping.yaml"), "--results", str(tmp_path))
    words = ["evaluate", "--predictions", str(spread), *flags, *mapped]
    evaluated = invoked(*words)
    assert evaluated.exit_code == 0, evaluated.output
    assert "mean iou 100.00" in evaluated.output


def test_other_images_are_not_compared(made):
    few, more = (f"{made}:backbone=resnet18,head=fcn8s,dataset={d}" for d in ("few", "more"))
    code, said = compare(few, more, "--protocol", "native")
    assert code == 2
    assert "one result has 3 classes and another 7" in said
    code, said = compare(few, few, "--protocol", "native", "--metric", "mean_uoi")
    assert code == 2
    assert "did you mean 'mean_iou'?" in said


def drives(folder, groups, images, *, gap=0.0):
    """Write counts of two methods, four seeds each, on images of several drives; return their folders."""
    names = [f"d{group}_{index:03d}" for group in range(groups) for index in range(images)]
    hard = np.repeat(np.random.default_rng(1).normal(0, 0.1, groups), images)
    for number, method in enumerate(("a", "b")):
        own = np.repeat(np.random.default_rng(2 + number).normal(0, 0.05, groups), images)
        for seed in range(4):
            rng = np.random.default_rng([number, seed])
            share = 0.6 + hard + own + gap * (1 - number) + rng.normal(0, 0.01)
            label = np.full((len(names), 2), 1000)
            tp = rng.binomial(label, np.clip(share, 0.01, 0.99)[:, None])
            path = folder / method / f"{seed}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                path, names=np.array(names), tp=tp, label=label, pred=tp + (label - tp)[:, ::-1]
            )
    return folder / "a", folder / "b"


def as_json(*words):
    done = invoked("compare", *words, "--seeds", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_groups_widen_the_interval_as_a_pattern_or_as_a_file(tmp_path, write):
    sides = drives(tmp_path, groups=12, images=8)
    pattern = "^(?P<drive>[^_]+)_"
    plain, grouped = as_json(*sides), as_json(*sides, "--groups", pattern)
    assert (plain["num_groups"], grouped["num_groups"]) == (None, 12)
    assert grouped["high"] - grouped["low"] > 1.3 * (plain["high"] - plain["low"])
    lines = (f"d{group}_{index:03d} d{group}\n" for group in range(12) for index in range(8))
    file = write("groups.txt", "".join(lines))
    from_file = as_json(*sides, "--groups", file)
    assert [from_file[key] for key in ("low", "high", "p")] == [
        grouped[key] for key in ("low", "high", "p")
    ]
    _, said = compare(*sides, "--seeds", "--groups", pattern)
    assert "come from 12 groups and count as so many" in said


def test_four_groups_say_nothing_of_new_images_and_something_of_these(tmp_path):
    sides = drives(tmp_path, groups=4, images=20, gap=0.2)
    few = ("--groups", "^(?P<drive>[^_]+)_")
    _, said = compare(*sides, "--seeds", *few)
    assert "fewer than 5 do not show how groups differ" in said
    assert "Question answered: none on new images" in said
    assert "`--on these_images` asks of these very images." in said
    assert as_json(*sides, *few)["p"] == 1
    here = as_json(*sides, *few, "--on", "these_images")
    assert here["p"] < 0.001
    assert here["low"] > 10


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--groups", "(?P<a>x)(?P<b>y)"), "--groups: expected one named part"),
        (("--groups", "(?P<drive>q)"), "gives no drive for 8 of 8 images"),
        (("--groups", "nowhere.txt"), "the groups of images cannot be read"),
        (("--on", "all"), "--on all: expected new_images or these_images"),
    ],
)
def test_groups_and_populations_that_are_none_are_refused(tmp_path, words, told):
    sides = drives(tmp_path, groups=2, images=4)
    code, said = compare(*sides, "--seeds", *words)
    assert code == 2
    assert told in said


def test_a_margin_moves_what_p_is_against(tmp_path):
    sides = drives(tmp_path, groups=30, images=4, gap=0.1)
    plain = as_json(*sides)
    assert plain["p"] < 0.001
    near = as_json(*sides, "--margin", plain["difference"])
    assert near["p"] == pytest.approx(1)
    assert (near["low"], near["high"]) == (plain["low"], plain["high"])
    for margin, outcome in (
        (1, "supported"),
        (30, "contradicted"),
        (plain["difference"], "undecided"),
    ):
        _, said = compare(*sides, "--seeds", "--margin", margin)
        assert (
            f"left lies above right by more than {margin:g} percentage points: {outcome};" in said
        )
    _, said = compare(*sides, "--seeds", "--margin", 2)
    assert "p is against a true difference of +2.00 percentage points." in said


def test_equivalence_is_two_one_sided_tests_at_five_per_cent(tmp_path):
    sides = drives(tmp_path, groups=30, images=4)
    plain, found = as_json(*sides), as_json(*sides, "--equivalent", 2)
    assert found["level"] == pytest.approx(0.9)
    assert found["high"] - found["low"] < plain["high"] - plain["low"]
    furthest = max(-found["low"], found["high"])
    for margin, outcome in ((1.02 * furthest, "supported"), (0.98 * furthest, "undecided")):
        # the 90 % interval within the margins, and p at most 5 %, are one and the same
        _, said = compare(*sides, "--seeds", "--equivalent", margin)
        assert f"percentage points of each other: {outcome};" in said
        at_margin = as_json(*sides, "--equivalent", margin)
        assert (at_margin["p"] <= 0.05) == (outcome == "supported")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--margin", 1, "--equivalent", 1), "give one"),
        (("--equivalent", 0), "give percentage points above 0"),
    ],
)
def test_margins_that_ask_nothing_are_refused(tmp_path, words, told):
    sides = drives(tmp_path, groups=2, images=4)
    code, said = compare(*sides, "--seeds", *words)
    assert code == 2
    assert told in said
