"""Images that come in groups: every table, page and verdict knows of them."""

import pytest
from drawn_run import made_run

from segbench.report.write import read_run, write_report
from segbench.runs.record import load_run
from segbench.schema.cards import Groups
from segbench.schema.groups import NotedGroups, grouped_split

CLAIMS = """
claims:
  - kind: compare
    says: resnet18 is better
    left: {backbone: resnet18}
    right: {backbone: googlenet}
    where: {protocol: native}
"""


def grouped_run(folder, pattern, *, seeds=4):
    """Write a run on 30 images that come in groups; half of its groups are in training too."""
    run_folder = made_run(
        folder, heads=("fcn8s",), datasets={"few": ("background", "cat")}, extra=CLAIMS, seeds=seeds
    )
    groups = Groups(pattern=pattern)
    names = [f"image {index:03d}" for index in range(30)]
    val = grouped_split(names, [groups.of(name) for name in names])
    train = grouped_split(names[:10], [groups.of(name) for name in names[:10]])
    noted = NotedGroups(groups=groups, splits={"val": val, "train": train})
    record = load_run(run_folder)
    record.revised(groups={"few": noted}).write_to(run_folder / "run.json")
    write_report(run_folder)
    return run_folder


def texts(run_folder):
    return {
        name: " ".join((run_folder / name).read_text().split())
        for name in ("claims.md", "leaderboard.md", "report.html")
    }


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return grouped_run(tmp_path_factory.mktemp("few"), "image (?P<drive>0[0-9])")


def test_with_too_few_groups_there_is_no_verdict_on_new_images_and_a_reason(few):
    verdict = read_run(few).verdicts[0]
    assert verdict.outcome == "undecided"
    for text in texts(few).values():
        assert (
            "The 30 images of val are of 3 drives, of which 1 has 10 images in train too." in text
        )
        assert "fewer than 5 do not show how groups differ" in text


def test_with_too_few_groups_models_are_ranked_on_these_images(few):
    board = read_run(few).boards[0]
    assert [model.standing.place for model in board.models] == ["1", "2"]
    assert {model.standing.varies for model in board.models} == {"seeds"}
    assert "speak of these very images" in board.reading_note
    assert board.rivals[0].comparison.on == "these_images"
    assert board.rivals[0].certainty.startswith("Significant on these very images after")
    assert "95 % interval: confidence interval of mean IoU over new seeds." in (
        (few / "exports" / "leaderboard_native_few.tex")
        .read_text()
        .replace("\\,", " ")
        .replace("\\", "")
    )


def test_with_enough_groups_intervals_are_wider_and_verdicts_speak_of_new_images(tmp_path):
    pattern = "image 0(?P<drive>[0-9][0-9])"  # each image alone: 30 groups
    alone = read_run(grouped_run(tmp_path / "alone", pattern)).boards[0]
    tens = "image 0[0-9](?P<drive>[0-9])"
    ten = read_run(grouped_run(tmp_path / "ten", tens))
    plain = read_run(
        made_run(
            tmp_path / "plain",
            heads=("fcn8s",),
            datasets={"few": ("background", "cat")},
            extra=CLAIMS,
        )
    ).boards[0]

    def widths(board):
        return [model.standing.high - model.standing.low for model in board.models]

    assert widths(alone) == pytest.approx(widths(plain))
    assert widths(ten.boards[0]) != pytest.approx(widths(plain))
    assert ten.boards[0].models[0].standing.varies == "seeds and images"
    assert ten.verdicts[0].outcome == "holds"
    assert any("10 groups and count as so many" in note for note in ten.verdicts[0].notes)
