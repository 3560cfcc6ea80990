"""Time and memory of the report of 189 trials with the main experiment's claims, at full size.

python benchmarks/report_180_trials.py

The sweep of experiments/googlenet_vs_vgg.yaml with seven seeds: counts of VOC's 1449, ADE20K's 2000
and COCO-Stuff's 5000 validation images are made up, everything else is as in a real run.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from drawn_run import record_run  # noqa: E402

from segbench.commands.run import Flags, prepare_run  # noqa: E402
from segbench.metrics.counts import Counted  # noqa: E402
from segbench.report.write import judged_claims, write_report  # noqa: E402
from segbench.runs import trial_files  # noqa: E402
from segbench.runs.record import load_rows, load_run  # noqa: E402
from segbench.runs.trial_files import Provenance, Result  # noqa: E402
from segbench.schema.protocol import Protocol  # noqa: E402
from segbench.schema.trial import Trial  # noqa: E402

IMAGES = {"voc2012": 1449, "ade20k": 2000, "cocostuff164k": 5000}
WORTH = {"vgg16": 0.62, "googlenet": 0.55, "inception_v3": 0.6, "fcn32s": 0.0, "fcn16s": 0.02}


def main() -> None:
    """Write the made-up run, then time the claims alone and the whole report."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_run(
            ROOT / "experiments" / "googlenet_vs_vgg.yaml",
            Flags(settings=("sweep.seeds=7",), results=Path(folder)),
        )
        record_run(prepared)
        protocols = prepared.asked.experiment.evaluate.values()
        for trial_id, trial in prepared.asked.trials.items():
            _write(
                trial_files.trial_folder(prepared.run_folder, trial_id), trial_id, trial, protocols
            )
        number = len(prepared.asked.trials)
        record = load_run(prepared.run_folder)
        started = time.perf_counter()
        judged_claims(prepared.run_folder, record, list(load_rows(prepared.run_folder, record)))
        claims = time.perf_counter() - started
        started = time.perf_counter()
        write_report(prepared.run_folder)
        whole = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{number} trials, {len(record.experiment.claims)} claims: the claims alone "
            f"{claims:.1f} s, the whole report {whole:.1f} s, peak {peak:.2f} GiB"
        )


def _write(workdir: Path, trial_id: str, trial: Trial, protocols: Iterable[Protocol]) -> None:
    images, classes = IMAGES[trial.dataset.name], trial.dataset.num_classes
    scene = np.random.default_rng(classes)
    label = scene.integers(1, 50_000, (images, classes)) * (scene.random((images, classes)) < 0.05)
    rng = np.random.default_rng(int(trial_id, 16))
    worth = WORTH[trial.backbone.name] + WORTH.get(trial.head.name, 0.03) + rng.normal(0, 0.005)
    tp = rng.binomial(label, worth)
    confusion = np.zeros((classes, classes + 1), dtype=np.int64)
    confusion[range(classes), range(classes)] = tp.sum(0)
    confusion[:, classes] = (label - tp).sum(0)
    stored = Counted(tuple(map(str, range(images))), tp, label, tp, confusion)
    trial_files.write_trial(workdir, trial)
    for protocol in protocols:
        evaluation = trial_files.evaluation_of(
            stored, trial_id=trial_id, protocol=protocol, dataset=trial.dataset,
            split_fingerprint="made up",
        )  # fmt: skip
        trial_files.write_evaluation(workdir, evaluation, stored)
    trial_files.write_provenance(
        workdir,
        Provenance(
            code_version="0", packages={}, device="made up", host="", started="", finished="",
            attempts=1, train_seconds=9, evaluate_seconds=1, peak_memory_mib=1, forward_ms=100 * worth,
        ),
    )  # fmt: skip
    trial_files.write_result(
        workdir,
        Result(
            trial_id=trial_id, status="done",
            facts={"parameters": 1000 * worth, "num_classes": classes},
            training_pixels=tuple(range(classes, 0, -1)),
            training_images=tuple(range(classes, 0, -1)),
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
