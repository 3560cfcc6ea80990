"""What is noted of claims, seeds and cells that change after a verdict was seen."""

import pytest
from drawn_run import made_run

from segbench.commands.run import Flags, prepare_run, record_run
from segbench.runs.record import load_run, record_of, write_run
from segbench.runs.registration import merged, registered, warnings_of
from segbench.schema.cards import Groups
from segbench.schema.groups import NotedGroups

CLAIMS = """claims:
  - kind: compare
    says: the finer head is better
    left: {head: fcn8s}
    right: {head: fcn32s}
"""
ONE = {"few": ("background", "cat", "dog")}


@pytest.fixture
def run_folder(tmp_path):
    """A run of four seeds whose verdicts were seen."""
    folder = made_run(tmp_path, datasets=ONE, images=5, extra=CLAIMS, timed=False)
    (folder / "claims.md").write_text("verdicts")
    return folder


def again(run_folder, change=lambda text: text, **flags):
    """Run the changed file on the same folder, up to its record; return the record's warnings."""
    file = run_folder.parents[1] / "experiments" / "made.yaml"
    original = file.read_text()
    file.write_text(change(original))
    prepared = prepare_run(file, Flags(results=run_folder.parent, **flags))
    file.write_text(original)
    asked = registered(run_folder, record_of(prepared.asked, "segbench run"), prepared.whole)
    write_run(run_folder, asked, prepared.whole)
    return warnings_of(load_run(run_folder))


def test_the_same_command_and_a_narrower_one_change_nothing(run_folder):
    assert again(run_folder) == ()
    assert again(run_folder, only=("head=fcn8s",)) == ()
    assert again(run_folder, seeds=2) == ()
    assert again(run_folder) == ()


def test_seeds_that_no_rule_gave_are_noted_once(run_folder):
    (told,) = again(run_folder, seeds=6)
    assert told.startswith("Claims were judged at 4 seeds before more were added, without --settle")
    assert again(run_folder, seeds=6) == (told,)


def test_claims_are_compared_with_those_that_the_first_verdicts_were_about(run_folder):
    (told,) = again(run_folder, lambda text: text.replace("right:", "margin: 2\n    right:"))
    assert "After verdicts on 4 seeds had been seen, claims were changed 'the finer head" in told
    (told,) = again(run_folder, lambda text: text.replace("right:", "margin: 3\n    right:"))
    assert "claims were changed 'the finer head is better'" in told
    assert again(run_folder) == ()  # as they were registered


def test_a_sweep_that_gives_a_claim_other_cells_is_told_of(run_folder):
    def with_head(text):
        return text.replace("head: [fcn32s, fcn8s]", "head: [fcn32s, fcn8s, fcn16s]")

    def with_backbone(text):
        return text.replace("backbone: [resnet18,", "backbone: [resnet50, resnet18,")

    assert again(run_folder, with_head) == ()  # which no claim asks of
    (told,) = again(run_folder, with_backbone)
    assert "the sweep or the protocols were changed, so that other cells answer 'the finer" in told


def test_what_changes_before_a_verdict_was_seen_is_the_users_own_affair(run_folder):
    (run_folder / "claims.md").unlink()
    assert again(run_folder, lambda text: text.replace("right:", "margin: 2\n    right:")) == ()
    assert again(run_folder, seeds=6) == ()


def test_groups_that_are_named_or_changed_after_a_verdict_are_told_of(run_folder):
    file = run_folder.parents[1] / "experiments" / "made.yaml"
    card = run_folder.parents[1] / "datasets" / "few.yaml"
    plain = card.read_text()

    def with_groups(pattern):
        card.write_text(f'{plain}groups: {{pattern: "{pattern}"}}\n')
        prepared = prepare_run(file, Flags(results=run_folder.parent))
        return warnings_of(record_run(prepared, "segbench run"))

    seen = (run_folder / "claims.md").read_text()
    (run_folder / "claims.md").unlink()
    assert with_groups("(?P<one>.)") == ()  # before any verdict
    (run_folder / "claims.md").write_text(seen)
    assert with_groups("(?P<one>.)") == ()
    (told,) = with_groups("(?P<two>..)")
    assert told.startswith(
        "After verdicts on 4 seeds had been seen, the groups of images of few were"
    )
    assert with_groups("(?P<one>.)") == ()  # as they were registered


def test_runs_that_are_joined_keep_their_groups(run_folder):
    record = load_run(run_folder)
    noted = NotedGroups(groups=Groups(pattern="(?P<one>.)"))
    joined = merged([record, record.revised(groups={"few": noted})])
    assert joined["groups"] == {"few": noted}
