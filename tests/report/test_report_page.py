"""The page: self-contained, escaped, small, the same bytes each time, and it says what is known."""

import html
import html.parser
import json
import re
import shutil

import pytest
from drawn_run import external_in, made_run

from segbench.claims.judge import judge
from segbench.report.numbers import duration
from segbench.report.page import command_of
from segbench.report.write import page_of, read_run, write_report
from segbench.runs import trial_files
from segbench.runs.observed import observations
from segbench.runs.record import load_run
from segbench.runs.trial_files import Result
from segbench.schema.claims import Compare
from segbench.statistics.inference import MIN_SEEDS

NASTY = ("background", "<script>alert(1)</script>", "</script><b>x", "a&b \u2028'\"|", "<!--")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("made"), datasets={"few": ("background", "cat", "dog")})


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("nasty"), datasets={"few": NASTY})


@pytest.fixture(scope="module")
def found(made):
    return read_run(made)


@pytest.fixture(scope="module")
def text(made, found) -> str:
    return page_of(made, found)


def page(run_folder) -> str:
    return page_of(run_folder, read_run(run_folder))


def data_of(text: str) -> dict:
    start = '<script type="application/json" id="data">'
    return json.loads(text.partition(start)[2].partition("</script>")[0])


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_class_called_script_is_text(nasty):
    text = page(nasty)
    scripts = [attributes for tag, attributes in Elements(text).found if tag == "script"]
    assert len(scripts) == 2
    assert data_of(text)["boards"][0]["classes"] == list(NASTY)
    body, _, rest = text.partition('<script type="application/json"')
    assert "<script" not in body
    assert "Which &lt;b&gt;model&lt;/b&gt; is better &amp; by how much?" in body
    assert "<!--" not in rest.partition("</script>")[0]


def test_nothing_is_loaded_from_anywhere(text):
    for tag, attributes in Elements(text).found:
        for key in ("src", "href", "action", "srcset"):
            assert re.match(r"#|trials/|data:image/|$", attributes.get(key) or ""), (
                tag,
                attributes,
            )
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag not in {"link", "iframe", "object", "embed", "base"}
    policy = dict(Elements(text).found[4][1])["content"]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "@import" not in text
    assert "url(" not in text


def test_equal_files_give_equal_bytes(made, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(made, copied)
    one, two = write_report(made), write_report(copied)
    assert [path.relative_to(made) for path in one] == [path.relative_to(copied) for path in two]
    for left, right in zip(one, two, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name
    again = {path: path.read_bytes() for path in one}
    write_report(made)
    assert again == {path: path.read_bytes() for path in one}


@pytest.mark.slow
def test_200_trials_stay_under_a_megabyte(tmp_path):
    classes = tuple(f"class number {index}" for index in range(21))
    run_folder = made_run(
        tmp_path, backbones=("resnet18", "googlenet"), heads=("fcn32s", "fcn8s"), variants=10,
        datasets={"voc": classes}, seeds=5, images=10, log_lines=300,
    )  # fmt: skip
    assert len(load_run(run_folder).cells) == 200
    assert len(page(run_folder).encode()) < 1_000_000


def test_the_short_answer_says_who_leads_by_how_much_and_whether_it_is_sure(found, text):
    answer = text[text.index('id="answer"') : text.index('id="leaderboard"')]
    board = found.boards[0]
    assert f"<strong>{board.models[0].standing.mean:.2f} %</strong>" in answer
    assert f"{board.rivals[0].comparison.difference:+.2f} percentage points" in answer
    assert board.rivals[0].certainty in answer
    assert "is not behind on any class" in answer
    assert "segbench run experiments/made.yaml" in text


def test_the_leaderboard_shows_places_letters_and_published_figures(text):
    board = text[text.index('id="leaderboard"') : text.index('id="classes"')]
    assert "61.5 mean IoU, 91.25 pixel acc. (A paper)" in board
    letters = re.findall(r'<td class="c-letters" data-value="(\w*)">\1</td>', board)
    assert {"a", "d"} <= set(letters)
    assert "images squashed" in text[text.index('id="again"') :]


def test_with_too_few_seeds_the_page_ranks_nothing(tmp_path):
    seeds = MIN_SEEDS - 1
    text = page(made_run(tmp_path, seeds=seeds, datasets={"few": ("background", "cat")}))
    assert f"No difference is tested: that takes {MIN_SEEDS} seeds for each model." in text
    assert f"Not tested: {seeds} seeds on a side, and a test takes {MIN_SEEDS}." in text


def test_incomplete_and_failed_trials_stand_apart(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=2)
    first, other = load_run(run_folder).cells[0], load_run(run_folder).cells[-1]
    failed = Result(
        trial_id=first.trial_id, status="failed", kind="diverged", message="the <loss> is nan"
    )
    trial_files.write_result(trial_files.trial_folder(run_folder, first.trial_id), failed)
    (trial_files.trial_folder(run_folder, other.trial_id) / "result.json").unlink()
    text = page(run_folder)
    apart = text[text.index('id="incomplete"') : text.index('id="failures"')]
    assert apart.count("<td>1 of 2</td>") == 4  # two cells under two protocols
    assert "failed: 1 diverged" in apart
    assert "the &lt;loss&gt; is nan" in text
    assert all(len(board["models"]) == 2 for board in data_of(text)["boards"])


def test_a_run_without_any_result_has_a_page(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    shutil.rmtree(run_folder / "trials")
    text = page(run_folder)
    assert "No cell of the sweep is complete yet" in text
    assert data_of(text)["boards"] == []


def test_claims_are_cards(made, found, text):
    assert 'id="claims"' not in text
    claim = Compare(
        kind="compare", says="resnet18 is <better>", left={"backbone": "resnet18"},
        right={"backbone": "googlenet"},
        where={"protocol": ("native",), "dataset": ("few",), "head": ("fcn8s",)},
    )  # fmt: skip
    verdicts = judge([claim], observations(made, found.record, found.rows), resamples=500)
    text = page_of(made, found._replace(verdicts=verdicts))
    card = text[text.index('id="claims"') : text.index('id="leaderboard"')]
    assert "resnet18 is &lt;better&gt;" in card
    assert f'<span class="badge {verdicts[0].outcome}">{verdicts[0].outcome}</span>' in card
    assert verdicts[0].reason in html.unescape(card)


def test_every_model_names_its_trials_files_and_command(made, text):
    data = data_of(text)
    model = data["boards"][0]["models"][0]
    assert model["command"] == (
        "segbench run experiments/made.yaml --only backbone=resnet18 --only head=fcn32s"
    )
    trials = [data["trials"][number] for number in model["trials"]]
    assert [trial["seed"] for trial in trials] == [0, 1, 2, 3]
    for trial in trials:
        assert trial["files"] == ["trial.json", "result.json", "provenance.json", "log.jsonl"]
        assert all((made / "trials" / trial["id"] / name).is_file() for name in trial["files"])


def test_each_run_of_a_merged_command_is_narrowed(made):
    record = load_run(made).revised(command="segbench run a.yaml && segbench run b.yaml")
    assert (
        command_of(record, {**record.cells[0].axes, "head": "it's"}).count(
            """--only 'head=it'"'"'s'"""
        )
        == 2
    )


def test_a_log_cut_off_by_a_kill_is_drawn_as_far_as_it_goes(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    log = trial_files.trial_folder(run_folder, load_run(run_folder).cells[0].trial_id) / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n'
        '{"step": 3, "loss": 1.5}\n{"step": 4, "lo'
    )
    training, validation, *_ = data_of(page(run_folder))["curves"]["series"]
    assert (training["x"], training["y"]) == ([1, 3], [2.5, 1.5])
    assert validation["y"] == []


def test_the_live_page_may_ask_its_own_server_and_nothing_else(made, found):
    text = page_of(made, found, live="abc")
    assert "connect-src 'self'" in html.unescape(text)
    assert 'data-version="abc"' in text


def test_costs_and_training_shares_reach_the_charts(text):
    data = data_of(text)
    board = data["boards"][0]
    assert {key for key, _ in data["costs"]} == set(board["models"][0]["costs"])
    resnet = next(m for m in board["models"] if m["axes"]["backbone"] == "resnet18")
    assert resnet["costs"]["flops"] == 8e9
    assert resnet["costs"]["forward_ms"] == 16
    frequency = board["charts"]["frequency"]
    assert frequency["xs"] == pytest.approx([100 / 7, 200 / 7, 400 / 7], rel=1e-4)
    assert frequency["x"]["title"] == "share of the training split's pixels, per cent"
    assert set(board["charts"]["costs"]) == set(board["models"][0]["costs"])


def test_the_script_subtracts_figures_that_were_not_rounded(made, found):
    """Rounded first, -0.5551 points of a class once stood as -0.55 on the page, and as -0.56 above."""
    boards = data_of(page_of(made, found))["boards"]
    for board, shown in zip(found.boards, boards, strict=True):
        columns = shown["charts"]["classes"]["columns"]
        for model, on_page, column in zip(board.models, shown["models"], columns, strict=True):
            ious = [model.figures["mean_iou"], *model.class_iou]
            assert column == [iou and 100 * iou.mean for iou in ious]
            assert on_page["figures"]["mean_iou"][0] == model.figures["mean_iou"].mean
            assert on_page["seeds"] == [e.figures["mean_iou"] for e in model.evaluations]


def test_an_external_method_is_on_the_page_with_how_it_was_scored(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")}, seeds=1)
    external_in(run_folder, name="their-net")
    text = page(run_folder)
    assert "how they were made is not on file." in text
    model = data_of(text)["boards"][0]["models"][0]
    assert (model["name"], model["trials"], len(model["seeds"])) == ("their-net", [], 1)
    assert model["command"] == (
        "segbench evaluate --predictions DIR --dataset few --name their-net --run results/made"
    )


def test_the_page_says_how_to_run_again_from_nothing(text):
    again = text[text.index('id="again"') :]
    assert "segbench prepare experiments/made.yaml" in again
    assert "segbench run experiments/made.yaml" in again
    assert "segbench report results/made" in again


def test_the_page_says_what_the_whole_run_took(made, text):
    steps = {8: 60 * 0.5, 9: 60 * 0.55}  # 60 steps, by the length of the backbone's name
    seconds = 8 * (steps[8] + 1) + 8 * (steps[9] + 1)
    assert (
        f"All 16 trials of this run together: {seconds / 60:.2g} min of training and evaluation"
        in text
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(59, "59 s"), (90, "1.5 min"), (3600, "1 h"), (45000, "12 h")]
)
def test_durations_are_short(seconds, words):
    assert duration(seconds) == words
