"""Claims from plan to verdict on the command line, and seeds that are added under a rule."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from command_line import invoked

from segbench.cli import run as run_module
from segbench.commands import settle
from segbench.commands.run import Flags, prepare_run
from segbench.data.chosen import fingerprint_here
from segbench.metrics.counts import Counted
from segbench.runs import trial_files
from segbench.runs.record import add_protocol, load_run
from segbench.runs.registration import warnings_of
from segbench.runs.trial_files import Provenance, Result
from segbench.schema.machine import Machine
from segbench.statistics.power import SETTLE_LOOKS, settle_schedule

CLAIMS = """
claims:
  - kind: compare
    says: the finer head is better | by far
    left: {head: fcn8s}
    right: {head: fcn32s}
    source: {paper: a paper, table: Table 9, published: {fcn8s: 62.7, fcn32s: 59.4}}
  - kind: compare
    says: both heads have parameters
    metric: parameters
    left: {head: fcn8s}
    right: {head: fcn32s}
  - kind: correlate
    says: classes with more pixels are easier
    by: training_pixels
"""


def segbench(*words):
    done = invoked(*words)
    return done.exit_code, done.output


@pytest.fixture
def project(toy_project, monkeypatch):
    """The toy project with claims; trials are made up instead of trained."""
    monkeypatch.chdir(toy_project)
    file = toy_project / "experiments" / "toy.yaml"
    file.write_text(file.read_text().replace("seeds: 2", "seeds: 4") + CLAIMS)
    return toy_project


@pytest.fixture
def made_up(monkeypatch):
    """Replace training by made-up counts; return a dict: head -> (quality, spread over seeds)."""
    worth = {"fcn32s": (0.6, 0.02), "fcn8s": (0.635, 0.02)}

    def follow(prepared, record, left):
        for trial_id, trial in left.items():
            workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
            trial_files.write_trial(workdir, trial)
            _write(
                workdir,
                trial_id,
                trial,
                worth,
                prepared.asked.experiment.evaluate,
                prepared.machine,
            )

    monkeypatch.setattr(run_module, "start_and_show", follow)
    return worth


def _write(workdir, trial_id, trial, worth, protocols, machine):
    quality, spread = worth[trial.head.name]
    rng = np.random.default_rng([trial.seed, len(trial.head.strides)])
    scene = np.random.default_rng(7)
    label = scene.integers(500, 4000, (60, 3))
    share = np.clip(quality + rng.normal(0, spread) + scene.normal(0, 0.05, (60, 3)), 0, 1)
    tp = np.floor(label * share).astype(np.int64)
    confusion = np.zeros((3, 4), dtype=np.int64)
    confusion[range(3), range(3)] = tp.sum(0)
    confusion[:, 3] = (label - tp).sum(0)
    stored = Counted(tuple(map(str, range(60))), tp, label, tp, confusion)
    for protocol in protocols.values():
        fingerprint = fingerprint_here(
            trial.dataset, protocol.split, machine, max_images=protocol.max_images
        )
        evaluation = trial_files.evaluation_of(
            stored, trial_id=trial_id, protocol=protocol, dataset=trial.dataset,
            split_fingerprint=fingerprint or "made up",
        )  # fmt: skip
        trial_files.write_evaluation(workdir, evaluation, stored)
    trial_files.write_provenance(
        workdir,
        Provenance(
            code_version="0", packages={}, device="none", host="none", started="0", finished="0",
            attempts=1, train_seconds=1, evaluate_seconds=1, peak_memory_mib=1,
        ),
    )  # fmt: skip
    trial_files.write_result(
        workdir,
        Result(
            trial_id=trial_id, status="done", facts={"parameters": 10 * len(trial.head.strides)},
            training_pixels=(9, 5, 2), training_images=(3, 2, 1),
        ),
    )  # fmt: skip


def told_of(folder, words):
    """Return the warning of a run's record that has these words, empty where there is none."""
    return "".join(sentence for sentence in warnings_of(load_run(folder)) if words in sentence)


def test_plan_says_what_each_claim_could_show(project):
    code, said = segbench("plan", "experiments/toy.yaml")
    assert code == 0, said
    assert "the finer head is better | by far" in said
    assert "points" in said
    assert "any" in said
    assert "even a perfect order is too likely by chance" in " ".join(said.split())
    assert "0.70 / 0.30" in said
    assert " stated" in said
    assert " paired" in said  # two heads of one trunk
    stated = segbench("plan", "experiments/toy.yaml", "--seed-sd", "0.1", "--image-sd", "0")[1]
    assert "0.10 / 0.00" in stated
    assert " measured " not in stated.partition("found 4 times in 5:")[0]
    few = segbench("plan", "experiments/toy.yaml", "--set", "sweep.seeds=2")[1]
    assert "can never be decided with 2 seeds" in " ".join(few.split())


def test_a_run_with_claims_ends_in_verdicts_that_report_rebuilds_byte_for_byte(project, made_up):
    code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache")
    assert code == 0, said
    assert "# Claims" in said
    assert "How to read the details" not in said
    run_folder = project / "results" / "toy"
    page = (run_folder / "claims.md").read_text(encoding="utf-8")
    assert "the finer head is better \\| by far" in page
    assert "fcn32s 59.4, fcn8s 62.7 (a paper, Table 9)" in page
    assert "both heads have parameters" in page
    assert "| **holds**" in page
    before = {p.name: p.read_bytes() for p in run_folder.glob("*.*")}
    shutil.copytree(run_folder, project / "copy")
    for name in before:
        if name != "run.json":
            (project / "copy" / name).unlink()
    (project / "results" / "toy").rename(project / "aside")
    (project / "copy").rename(project / "results" / "toy")
    assert segbench("report", "results/toy")[0] == 0
    assert {p.name: p.read_bytes() for p in run_folder.glob("*.*")} == before


def test_plan_takes_the_spread_that_a_run_has_measured(project, made_up):
    segbench("run", "experiments/toy.yaml", "--cache", "cache")
    said = segbench("plan", "experiments/toy.yaml")[1].partition("found 4 times in 5:")[0]
    assert "measured" in said
    assert "0.70 / 0.30" not in said
    spreads = project / "results" / "toy" / "spreads.json"
    spreads.write_text("[{")
    code, said = segbench("plan", "experiments/toy.yaml")
    assert code == 2
    assert "spreads.json: is damaged" in " ".join(said.split())
    assert segbench("report", "results/toy")[0] == 0
    assert segbench("plan", "experiments/toy.yaml")[0] == 0


def test_settling_adds_seeds_until_a_claim_is_decided(project, made_up):
    code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache", "--settle")
    assert code == 0, said
    assert "4 to 7 seeds, for: the finer head is better | by far" in said
    record = load_run(project / "results" / "toy")
    assert record.looks == SETTLE_LOOKS
    assert "--settle" in record.command
    seeds = {cell.axes["head"]: 0 for cell in record.cells}
    for cell in record.cells:
        seeds[cell.axes["head"]] += 1
    assert set(seeds.values()) <= set(settle_schedule(4))
    assert max(seeds.values()) > 4
    page = (project / "results" / "toy" / "claims.md").read_text(encoding="utf-8")
    assert "compared with 1.67 %" in " ".join(page.split())
    # The plain command afterwards keeps the added seeds and the stricter level.
    code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache")
    assert code == 0, said
    assert f"{sum(seeds.values())} ended, 0 to run" in said
    again = (project / "results" / "toy" / "claims.md").read_text(encoding="utf-8")
    assert again == page.replace(" --settle`", "`")


def test_seeds_that_are_added_after_a_look_without_the_rule_are_told_of(project, made_up):
    run = ("run", "experiments/toy.yaml", "--cache", "cache")
    page = project / "results" / "toy" / "claims.md"
    for seeds, looked in ((2, ()), (4, ()), (6, (4,)), (6, (4,)), (8, (4, 6)), (5, (4, 6))):
        code, said = segbench(*run, "--seeds", seeds)
        assert code == 0, said
        assert load_run(project / "results" / "toy").judged_at == looked
        assert ("another test" in " ".join(said.split())) == bool(looked)
        assert ("Claims were judged at 4" in page.read_text(encoding="utf-8")) == bool(looked)


def test_the_schedule_is_fixed_at_the_first_look_and_more_seeds_than_it_gives_are_told(
    project, made_up
):
    run = ("run", "experiments/toy.yaml", "--cache", "cache")
    assert segbench(*run, "--settle")[0] == 0
    folder = project / "results" / "toy"
    first = load_run(folder)
    assert first.schedule == settle_schedule(4)
    assert first.judged_at == ()
    most = first.most_seeds
    code, said = segbench(*run, "--settle", "--seeds", most + 2)
    assert code == 0, said
    after = load_run(folder)
    assert after.schedule == first.schedule
    assert after.judged_at == (most,)
    assert "than --settle had fixed (4, 7, 11 seeds)" in " ".join(said.split())
    assert "than --settle had fixed" in (folder / "claims.md").read_text(encoding="utf-8")


def test_a_look_at_a_run_that_was_stopped_is_a_look(project, made_up):
    run = ("run", "experiments/toy.yaml", "--cache", "cache")
    assert segbench(*run, "--only", "head=fcn8s")[0] == 0
    assert segbench(*run)[0] == 0
    folder = project / "results" / "toy"
    last = load_run(folder).cells[-1].trial_id
    shutil.rmtree(folder / "trials" / last)  # as if it had not ended
    assert segbench("report", "results/toy")[0] == 0
    assert segbench(*run, "--seeds", 6)[0] == 0
    assert load_run(folder).judged_at == (4,)


def test_settling_leaves_decided_claims_alone_and_says_what_seeds_cannot_do(project, made_up):
    made_up.update({"fcn32s": (0.5, 0.005), "fcn8s": (0.8, 0.005)})
    code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache", "--settle")
    assert code == 0, said
    assert "not settled by more seeds: classes with more pixels are easier" in said
    assert "no claim is left that more seeds would settle" in said
    assert len(load_run(project / "results" / "toy").cells) == 8


def test_the_page_says_what_settling_gives_up(project, made_up):
    run = ("run", "experiments/toy.yaml", "--cache", "cache")
    page = project / "results" / "toy" / "claims.md"
    sentence = "--settle gives it no more seeds: more seeds cannot settle it, the number of classes"
    assert segbench(*run, "--settle")[0] == 0
    assert page.read_text(encoding="utf-8").count(sentence) == 1
    shutil.rmtree(project / "results")
    assert segbench(*run)[0] == 0
    assert sentence not in page.read_text(encoding="utf-8")


def test_a_plan_for_settling_has_the_stricter_level_and_the_last_look(project):
    plain, settled = (
        " ".join(segbench("plan", "experiments/toy.yaml", *words)[1].split())
        for words in ((), ("--settle",))
    )
    assert "at the last look" not in plain
    assert "--settle judges at 4, 7, 11 seeds, each time at 5 % / 3" in settled
    assert "at most 22 trials, if every cell gets the seeds of the last look" in settled
    assert "narrowed" not in settled
    (once,) = re.findall(r"by far ([0-9.]+) points", plain)
    ((now, last),) = re.findall(r"by far ([0-9.]+) points ([0-9.]+) points", settled)
    assert float(last) < float(once) < float(now)
    assert not (project / "results").exists()


def test_claims_that_are_changed_after_a_look_are_told_of(project, made_up):
    """A look below three seeds gives no verdict; words may change; what is put back was not changed."""
    file = project / "experiments" / "toy.yaml"
    folder = project / "results" / "toy"
    original = file.read_text()

    def told(text, *words):
        file.write_text(text)
        code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache", *words)
        assert code == 0, said
        page = (folder / "claims.md").read_text(encoding="utf-8")
        sentence = told_of(folder, "seen, claims were")
        assert (sentence in " ".join(said.split())) and (sentence in page)
        assert sentence in html.unescape((folder / "report.html").read_text(encoding="utf-8"))
        return sentence

    margin = original.replace(
        "kind: compare\n    says: the finer", "kind: compare\n    margin: 2\n    says: the finer"
    )
    assert margin != original
    assert told(margin, "--seeds", 2) == ""
    assert told(original) == ""  # nobody had seen a verdict
    assert told(original.replace("says: both heads", "says: the two heads")) == ""
    assert (
        "on 4 seeds had been seen, claims were changed 'the finer head is better | by far':"
        in told(margin)
    )
    kept, _, correlation = original.rpartition("  - kind: correlate")
    assert "claims were dropped 'classes with more pixels are easier':" in told(kept)
    added = original + "  - kind: correlate" + correlation.replace("pixels", "images")
    assert "claims were added 'classes with more images are easier':" in told(added)
    assert told(original) == ""


def test_a_sweep_that_is_changed_after_a_look_is_told_where_claims_are_asked_of_other_cells(
    project, made_up
):
    made_up["fcn16s"] = (0.62, 0.02)
    file = project / "experiments" / "toy.yaml"
    original = file.read_text()
    wider = original.replace("head: [fcn32s, fcn8s]", "head: [fcn32s, fcn8s, fcn16s]")
    again = original.replace("evaluate:\n", "evaluate:\n  large: {size: [64, 64]}\n")
    folder = project / "results" / "toy"

    def told(text, *words):
        file.write_text(text)
        code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache", *words)
        assert code == 0, said
        sentence = told_of(folder, "seen, the sweep")
        assert sentence in (folder / "claims.md").read_text(encoding="utf-8")
        return sentence

    assert told(original, "--only", "head=fcn8s") == ""
    assert told(original) == ""  # what the file had planned all along
    sentence = told(wider)
    assert "After verdicts on 4 seeds had been seen, the sweep or the protocols were" in sentence
    assert "other cells answer 'classes with more pixels are easier':" in sentence  # and no other
    assert told(original) == ""
    assert "'the finer head is better | by far', " in told(again)


def test_a_wrong_name_in_the_sweep_does_not_make_the_claims_wrong(project):
    code, said = segbench("run", "experiments/toy.yaml", "--set", "sweep.head=[fcn32, fcn8s]")
    assert code == 2
    assert "no head 'fcn32'; did you mean 'fcn32s'?" in said
    assert "claims" not in said


def test_a_protocol_that_is_added_after_a_look_answers_no_claim(project, made_up):
    segbench("run", "experiments/toy.yaml", "--cache", "cache")
    folder = project / "results" / "toy"
    before = (folder / "claims.md").read_text(encoding="utf-8")
    record = load_run(folder)
    (native,) = record.experiment.evaluate.values()
    added = native.revised(name="flipped", flip=True)
    add_protocol(folder, added)
    for cell in record.cells:
        workdir = trial_files.trial_folder(folder, cell.trial_id)
        trial = trial_files.load_trial(workdir)
        protocols = {"native": native, "flipped": added}
        machine = Machine(cache=str(project / "cache"))
        _write(workdir, cell.trial_id, trial, made_up, protocols, machine)
    assert segbench("report", folder)[0] == 0
    after = (folder / "claims.md").read_text(encoding="utf-8")
    assert "`flipped`" in after
    assert after.split("| claim ")[1] == before.split("| claim ")[1]


def test_settling_is_refused_after_a_look_at_the_full_level(project, made_up):
    segbench("run", "experiments/toy.yaml", "--cache", "cache")
    code, said = segbench("run", "experiments/toy.yaml", "--cache", "cache", "--settle")
    assert code == 2
    assert "was judged at one look already" in " ".join(said.split())
    assert json.loads((project / "results/toy/run.json").read_text())["looks"] == 1


def test_settling_needs_claims_and_a_number_of_seeds(project):
    code, said = segbench(
        "run", "experiments/toy.yaml", "--settle", "--dry-run", "--set", "sweep.seeds=[1,5]"
    )
    assert code == 2
    assert "sweep.seeds as a number of seeds" in " ".join(said.split())


def test_settling_with_looks_that_never_reach_a_verdict_is_refused(project):
    file = project / "experiments" / "toy.yaml"
    file.write_text(re.sub(r"(- kind: \w+)", r"\1\n    min_seeds: 4", file.read_text()))
    code, said = segbench(
        "run", "experiments/toy.yaml", "--settle", "--dry-run", "--set", "sweep.seeds=1"
    )
    assert code == 2
    assert "the looks are at 1, 2, 3 seeds" in " ".join(said.split())


def test_added_seeds_are_those_that_a_larger_sweep_would_have(project, made_up):
    """So nothing is trained twice when somebody raises `seeds:` instead."""
    segbench("run", "experiments/toy.yaml", "--cache", "cache", "--settle")
    settled = {c.trial_id for c in load_run(project / "results" / "toy").cells}
    flags = Flags(settings=("sweep.seeds=11",), results=project / "elsewhere")
    larger = prepare_run(project / "experiments" / "toy.yaml", flags)
    assert settled <= set(larger.asked.trials)
    assert settle.Settling().looks == 1


def test_trials_of_other_settings_are_not_passed_over_in_silence(project, made_up):
    segbench("run", "experiments/toy.yaml", "--cache", "cache", "--seeds", "1")
    said = segbench(
        "run", "experiments/toy.yaml", "--cache", "cache", "--set", "train.batch_size=2",
        "--seeds", "1",
    )[1]  # fmt: skip
    assert "2 trials in this folder belong to other settings" in said
