"""Bundles are believed only after every check; runs are joined by what their trials are."""

import hashlib
import json
import shutil
import zipfile

import pytest
from drawn_run import made_run

from segbench.errors import ResultError
from segbench.report.write import write_report
from segbench.runs import trial_files
from segbench.runs.bundle import MANIFEST, import_bundle, merge_runs, write_bundle
from segbench.runs.record import load_run
from segbench.runs.registration import warnings_of
from segbench.runs.trial_files import Result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(
        tmp_path_factory.mktemp("made"), datasets={"few": ("background", "cat")}, seeds=2, images=5
    )


@pytest.fixture
def bundle(made, tmp_path):
    path = tmp_path / "made.zip"
    write_bundle(made, path)
    return path


def rewritten(path, change, *, rehash=True):
    """Pack the bundle anew after `change(contents)`; with its hashes right if `rehash`."""
    with zipfile.ZipFile(path) as bundle:
        contents = {name: bundle.read(name) for name in bundle.namelist()}
    manifest = json.loads(contents.pop(MANIFEST))
    change(contents)
    if rehash:
        manifest["files"] = {
            name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
        }
    target = path.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as bundle:
        for name, content in {**contents, MANIFEST: json.dumps(manifest).encode()}.items():
            bundle.writestr(name, content)
    return target


def refused(path, tmp_path, match):
    with pytest.raises(ResultError, match=match):
        import_bundle(path, tmp_path / "imported")
    assert not [p for p in (tmp_path / "imported").rglob("*") if p.is_file()]


def test_what_was_packed_is_what_is_unpacked_and_reports_the_same(made, bundle, tmp_path):
    folder = import_bundle(bundle, tmp_path / "imported")
    assert folder == tmp_path / "imported" / "made"
    for one, two in zip(write_report(made), write_report(folder), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_weights_heartbeats_and_strange_files_stay_at_home(made, tmp_path):
    copied = tmp_path / "made"
    shutil.copytree(made, copied)
    workdir = next(trial_files.trial_folders(copied))
    for name in ("model.safetensors", "heartbeat.json", "worker.log", "note.txt"):
        (workdir / name).write_text("secret")
    write_bundle(copied, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as opened:
        assert b"secret" not in b"".join(map(opened.read, opened.namelist()))


def test_a_bundle_is_called_a_zip(made, tmp_path):
    with pytest.raises(ResultError, match=r"b\.tar: a bundle is a zip file"):
        write_bundle(made, tmp_path / "b.tar")


def test_equal_runs_give_equal_bundles(made, bundle, tmp_path):
    write_bundle(made, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_run_of_that_name_is_never_replaced(bundle, tmp_path):
    import_bundle(bundle, tmp_path / "imported")
    with pytest.raises(
        ResultError, match=r"is there already; import with --results another folder"
    ):
        import_bundle(bundle, tmp_path / "imported")


def test_a_changed_byte_is_found(bundle, tmp_path):
    def change(contents):
        contents["run.json"] = contents["run.json"].replace(b"better", b"wetter")

    refused(
        rewritten(bundle, change, rehash=False), tmp_path, r"run\.json does not have the sha256"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/evil",
        "trials/../../evil.json",
        "C:\\evil",
        "run.py",
        "trials/0123456789ab/model.pt",
    ],
)
def test_a_name_that_bundles_do_not_hold_is_refused(bundle, tmp_path, name):
    path = rewritten(bundle, lambda contents: contents.update({name: b"x"}))
    refused(path, tmp_path, "is not a file that bundles hold; nothing is imported")


@pytest.mark.parametrize("where", ["evaluate", "dataset"])
def test_a_name_that_would_leave_the_folder_as_a_file_is_refused(bundle, tmp_path, where):
    def change(contents):
        record = json.loads(contents["run.json"])
        protocols = record["experiment"]["evaluate"]
        if where == "evaluate":
            protocols["../native"] = protocols.pop("native")
        else:
            record["cells"][0]["axes"]["dataset"] = "../few"
        contents["run.json"] = json.dumps(record).encode()

    refused(rewritten(bundle, change), tmp_path, "a name has lower-case letters")


def test_a_file_that_is_not_listed_or_not_there_is_refused(bundle, tmp_path):
    with zipfile.ZipFile(bundle, "a") as opened:
        opened.writestr("panels/0123456789ab/panels.json", "{}")
    refused(bundle, tmp_path, "is not listed")


def test_a_missing_file_is_refused(bundle, tmp_path):
    refused(
        rewritten(bundle, lambda c: c.pop("run.json"), rehash=False),
        tmp_path,
        "is listed and missing",
    )


def test_figures_that_their_counts_do_not_give_are_refused(bundle, tmp_path):
    def embellish(contents):
        name = next(name for name in contents if "/evaluations/" in name and name.endswith(".json"))
        evaluation = json.loads(contents[name])
        evaluation["figures"]["mean_iou"] += 0.01
        contents[name] = json.dumps(evaluation).encode()

    refused(rewritten(bundle, embellish), tmp_path, "its figures are not what its counts give")


def test_a_trial_under_anothers_id_is_refused(bundle, tmp_path):
    def relabel(contents):
        name = next(name for name in contents if name.endswith("trial.json"))
        trial = json.loads(contents[name])
        trial["seed"] = 77
        contents[name] = json.dumps(trial).encode()

    refused(rewritten(bundle, relabel), tmp_path, "its configuration gives the id")


def test_damaged_records_and_counts_are_refused(bundle, tmp_path):
    def tear(ending):
        def change(contents):
            name = next(name for name in contents if name.endswith(ending))
            contents[name] = contents[name][:20]

        return rewritten(bundle, change)

    refused(tear("run.json"), tmp_path, r"run\.json: is damaged")
    refused(tear("/result.json"), tmp_path, "nothing is imported")
    refused(tear(".npz"), tmp_path, "is not a sound file of counts")


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"hello")
    refused(tmp_path / "a.zip", tmp_path, "is not a sound bundle")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as opened:
        opened.writestr("x", "y")
    refused(tmp_path / "b.zip", tmp_path, r"holds no manifest\.json")
    refused(tmp_path / "none.zip", tmp_path, "is not a sound bundle")


def halves(made, tmp_path):
    """The run as two people would have it: each has every other seed."""
    for number, name in enumerate("ab"):
        shutil.copytree(made, tmp_path / name)
        record = load_run(made)
        cells = tuple(cell for cell in record.cells if cell.seed % 2 == number)
        record.revised(cells=cells).write_to(tmp_path / name / "run.json")
        for cell in record.cells:
            if cell not in cells:
                shutil.rmtree(trial_files.trial_folder(tmp_path / name, cell.trial_id))
    return tmp_path / "a", tmp_path / "b"


def test_two_halves_merge_into_the_whole(made, tmp_path):
    merged = merge_runs(halves(made, tmp_path), tmp_path / "whole")
    assert merged == load_run(made) == load_run(tmp_path / "whole")
    for one, two in zip(write_report(made), write_report(tmp_path / "whole"), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_runs_that_become_one_keep_what_was_seen_before_they_were_changed(made, tmp_path):
    folders = halves(made, tmp_path)
    looked = load_run(folders[1]).model_copy(update={"judged_at": (4,), "first_seeds": 4})
    looked.write_to(folders[1] / "run.json")
    merged = merge_runs(folders, tmp_path / "whole")
    assert (merged.judged_at, merged.first_seeds) == ((4,), 4)
    assert "Claims were judged at 4 seeds before more were added" in warnings_of(merged)[0]


def test_different_results_of_one_trial_are_a_conflict_and_all_are_named(made, tmp_path):
    shutil.copytree(made, tmp_path / "other")
    changed = list(trial_files.trial_folders(tmp_path / "other"))[:2]
    for workdir in changed:
        result = trial_files.load_result(workdir)
        assert result is not None
        trial_files.write_result(workdir, result.revised(final_loss=9.0))
    with pytest.raises(ResultError) as caught:
        merge_runs((made, tmp_path / "other"), tmp_path / "whole")
    for workdir in changed:
        assert f"trials/{workdir.name}/result.json: " in str(caught.value)
    assert not (tmp_path / "whole").exists()


def test_a_done_trial_wins_over_a_failed_one(made, tmp_path):
    shutil.copytree(made, tmp_path / "other")
    workdir = next(trial_files.trial_folders(tmp_path / "other"))
    trial_files.write_result(workdir, Result(trial_id=workdir.name, status="failed", kind="killed"))
    for order in ((made, tmp_path / "other"), (tmp_path / "other", made)):
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        merge_runs(order, tmp_path / "whole")
        result = trial_files.load_result(trial_files.trial_folder(tmp_path / "whole", workdir.name))
        assert result is not None
        assert result.status == "done"


def test_runs_under_other_settings_or_protocols_are_not_joined(made, tmp_path):
    record = load_run(made)
    shutil.copytree(made, tmp_path / "other")
    cells = (record.cells[0].revised(trial_id="0123456789ab"), *record.cells[1:])
    record.revised(cells=cells).write_to(tmp_path / "other" / "run.json")
    with pytest.raises(
        ResultError, match=r"0123456789ab here and .* elsewhere: the settings differ"
    ):
        merge_runs((made, tmp_path / "other"), tmp_path / "whole")
    protocols = {
        **record.experiment.evaluate,
        "native": record.experiment.evaluate["native"].revised(max_images=3),
    }
    other = record.revised(experiment=record.experiment.revised(evaluate=protocols))
    other.write_to(tmp_path / "other" / "run.json")
    with pytest.raises(ResultError, match="its protocol 'native' is"):
        merge_runs((made, tmp_path / "other"), tmp_path / "whole")
