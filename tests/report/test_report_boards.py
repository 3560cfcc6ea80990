"""What the page shows is what the files hold."""

import json

import numpy as np
import pytest
from drawn_run import boards_of, drawn_counts, external_in, made_run

from segbench.report.boards import Confusion, _confusion
from segbench.runs import trial_files
from segbench.runs.external import ExternalMethod, write_external
from segbench.runs.record import load_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def found(made):
    return boards_of(made)


def test_protocols_and_data_sets_never_share_a_board(made, found):
    assert [(b.protocol_name, b.dataset, len(b.models)) for b in found] == [
        (protocol, dataset, 4) for protocol in ("native", "flipped") for dataset in ("few", "more")
    ]


def test_a_models_figures_are_the_means_of_its_files(made, found):
    board = found[-1]
    for model in board.models:
        found = []
        for row in model.rows:
            path = (
                made
                / "trials"
                / row.cell.trial_id
                / "evaluations"
                / f"{board.protocol.digest()}.json"
            )
            found.append(json.loads(path.read_text()))
        assert model.figures["mean_iou"].mean == pytest.approx(
            np.mean([f["figures"]["mean_iou"] for f in found])
        )
        assert model.standing.mean == pytest.approx(
            100 * np.mean([f["figures"]["mean_iou"] for f in found])
        )
        assert model.class_iou[1].mean == pytest.approx(
            np.mean([f["per_class_iou"][1] for f in found])
        )


def test_models_stand_best_first_and_the_leader_has_its_rivals(made, found):
    board = found[0]
    means = [model.standing.mean for model in board.models]
    assert means == sorted(means, reverse=True)
    assert [rival.model.name for rival in board.rivals] == ["resnet18 fcn8s", "googlenet fcn32s"]
    assert board.rivals[0].comparison.difference == pytest.approx(means[0] - means[1])
    assert board.rivals[1].is_decided
    assert board.rivals[1].certainty.startswith("Significant after correction")


def test_an_incomplete_cell_is_on_no_board(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=2)
    cell = load_run(run_folder).cells[0]
    (trial_files.trial_folder(run_folder, cell.trial_id) / "result.json").unlink()
    for board in boards_of(run_folder):
        assert len(board.models) == 3
        assert cell.axes not in [model.axes for model in board.models]


def test_shares_are_those_of_the_labelled_pixels(made, found):
    board = found[0]
    counts = trial_files.load_counts(
        trial_files.counts_path(
            made / "trials" / board.models[0].rows[0].cell.trial_id, board.protocol
        )
    )
    assert board.label_share == pytest.approx(counts.label.sum(0) / counts.label.sum())


def test_a_large_confusion_matrix_keeps_every_pixel_and_its_most_confused_classes():
    matrix = np.random.default_rng(0).integers(0, 9, (40, 41))
    matrix[7, 8] = 5000
    names = tuple(f"class {index}" for index in range(40))
    found = _confusion(matrix, names)
    assert len(found.names) == 21
    assert found.names[-1] == "20 others"
    assert np.sum(found.matrix) == matrix.sum()
    left, right = found.names.index("class 7"), found.names.index("class 8")
    assert found.matrix[left][right] == 5000
    assert (
        np.sum(found.matrix, axis=0)[-1] == matrix[:, -1].sum()
    )  # predictions outside the classes
    assert _confusion(matrix[:21, :22], names[:21]) == Confusion(
        names[:21], tuple(map(tuple, matrix[:21, :22].tolist()))
    )


def test_equal_models_are_called_equal(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1)
    record = load_run(run_folder)
    first, *others = (trial_files.trial_folder(run_folder, cell.trial_id) for cell in record.cells)
    for workdir in others:
        for path in (first / "evaluations").iterdir():
            (workdir / "evaluations" / path.name).write_bytes(path.read_bytes())
    for board in boards_of(run_folder):
        assert board.rivals[0].certainty == "Equal: both have the same mean."


def test_costs_are_what_the_trials_measured(found):
    for model in found[0].models:
        size = len(model.axes["backbone"])
        assert model.costs == pytest.approx(
            {
                "parameters": 1e6 * size,
                "flops": 1e9 * size,
                "forward_ms": 2.0 * size,
                "step_ms": 100 + 50 * size,
                "training_s": 60 * (0.1 + 0.05 * size),
                "peak_memory_mib": 500,
            }
        )


def test_times_that_trials_measured_beside_each_other_are_no_costs(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=2, timed=False)
    record = load_run(run_folder)
    slow = trial_files.trial_folder(run_folder, record.cells[0].trial_id)
    provenance = trial_files.load_provenance(slow)
    assert provenance is not None
    trial_files.write_provenance(slow, provenance.revised(forward_ms=519.0))
    resnet = next(m for m in boards_of(run_folder)[0].models if m.name == "resnet18 fcn32s")
    assert set(resnet.costs) == {"parameters", "flops", "peak_memory_mib"}
    assert resnet.shared_times["forward_ms"] == (16, 519)
    assert resnet.shared_times["step_ms"] == pytest.approx((500, 500))
    assert set(resnet.shared_times) == {"forward_ms", "step_ms", "training_s"}


def test_shares_are_of_the_training_split_where_it_was_counted(found):
    few = next(board for board in found if board.dataset == "few")
    assert few.training_share == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_backbones_meet_where_all_else_is_alike(found):
    duels = found[0].duels
    assert [[model.name for model in duel.models] for duel in duels] == [
        ["resnet18 fcn32s", "googlenet fcn32s"],
        ["resnet18 fcn8s", "googlenet fcn8s"],
    ]
    assert all(duel.is_decided for duel in duels)


def test_an_external_method_stands_on_its_board_without_a_letter(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")})
    evaluation = external_in(run_folder)
    native, flipped = boards_of(run_folder)
    assert not any(model.is_external for model in flipped.models)
    first = native.models[0]
    assert (first.name, first.is_external, first.rows) == ("theirs", True, ())
    assert first.standing.mean == pytest.approx(100 * evaluation.figures["mean_iou"])
    assert (first.standing.letters, first.standing.num_seeds) == ("", 1)
    assert [rival.certainty for rival in native.rivals[:1]] == [
        "One seed on a side: this compares these trained weights, not the methods."
    ]
    assert not any(model.is_external for duel in native.duels for model in duel.models)
    assert (first.confusions[0].matrix[0][0]) > 0


def test_an_external_method_under_a_protocol_of_its_own_has_a_board_of_its_own(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")}, seeds=1)
    record = load_run(run_folder)
    trial = trial_files.load_trial(next(trial_files.trial_folders(run_folder)))
    protocol = record.protocols["native"].revised(name="squashed", size=(32, 32))
    counts = drawn_counts(np.random.default_rng(5), 3, 30, 0.8)
    evaluation = trial_files.evaluation_of(
        counts, trial_id="", protocol=protocol, dataset=trial.dataset, split_fingerprint="few val"
    )
    method = ExternalMethod(name="theirs", dataset="few", predictions_digest="0" * 64)
    write_external(run_folder, method, evaluation, counts)
    found = boards_of(run_folder)
    assert [(b.protocol_name, len(b.models)) for b in found] == [
        ("native", 4), ("flipped", 4), ("squashed", 1),
    ]  # fmt: skip
