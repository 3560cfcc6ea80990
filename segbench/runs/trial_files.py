"""The record of one trial, the files that hold it, and how many are read at once. No torch here.

A trial's folder, `results/<experiment>/trials/<id>/`:

  trial.json                     the trial, its cards inside
  result.json                    done, failed (kind, message) or skipped; facts; digests
  evaluations/<protocol>.json    one protocol's figures
  evaluations/<protocol>.npz     its counts per image and class, and its confusion matrix
  provenance.json                versions, device, times: what may differ between equal results
  log.jsonl, events.out.*        the training
  model.safetensors              the last step's weights
  traceback.txt                  of a failure

All but provenance, log and events are equal bytes for equal trials on equal hardware.
Knows nothing of how results come about.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from segbench.code.own import code_in_use, difference
from segbench.errors import CardError, DataError, ResultError
from segbench.files import read_json, write_atomically
from segbench.metrics import values_of
from segbench.metrics.blank import Blank, why_blank
from segbench.metrics.counts import Counted, per_class_iou
from segbench.schema.base import Spec
from segbench.schema.cards import DatasetCard
from segbench.schema.matched import matched_classes
from segbench.schema.protocol import Protocol
from segbench.schema.trial import Trial
from segbench.schema.yamlfile import dotted

WEIGHTS = "model.safetensors"
AnyValue = TypeVar("AnyValue")
AnyRecord = TypeVar("AnyRecord", bound=Spec)


class Result(Spec):
    """How a trial ended.

    kind: for a failure its word: diverged, out_of_memory, data, error, killed, time_limit ...
    facts: what is true of the model without any image: parameters, flops, num_classes.
    first_loss, final_loss: as logged; the first is None where the training goes on from another's.
    training_pixels, training_images: how many of each class the training split had, in the order of
    the classes; empty where the trial was not trained here.
    """

    trial_id: str
    status: Literal["done", "failed"]
    kind: str = ""
    message: str = ""
    facts: dict[str, float] = {}
    digests: dict[str, str] = {}
    first_loss: float | None = None
    final_loss: float | None = None
    training_pixels: tuple[int, ...] = ()
    training_images: tuple[int, ...] = ()

    @property
    def loss_rose(self) -> bool:
        """Whether the training's loss ended above its start, as far as both are known."""
        if self.first_loss is None or self.final_loss is None:
            return False
        return self.final_loss > self.first_loss


class Evaluation(Spec):
    """One protocol's figures on one split: fractions in [0, 1], per class None where absent.

    trained_index: the index of each class among those that the model was trained with, where these
    are others; empty where they are the same. num_trained_on: how many of the images the trial was
    trained on, None where that is not known.
    blank: how the predictions show that the model did not learn (`counts.why_blank`).
    other_code: how the user's code that built the model differs from the trial's, empty where it does
    not.
    """

    trial_id: str
    protocol: Protocol
    split_fingerprint: str
    num_images: int
    class_names: tuple[str, ...]
    background: int | None
    figures: dict[str, float | None]
    per_class_iou: tuple[float | None, ...]
    trained_index: tuple[int, ...] = ()
    num_trained_on: Annotated[int, Field(ge=0)] | None = None
    blank: Blank | None = None
    other_code: str = ""

    @property
    def scored_classes(self) -> tuple[int, ...]:
        """The indices of the classes that enter the means."""
        without = None if self.protocol.with_background else self.background
        return tuple(index for index in range(len(self.class_names)) if index != without)

    def of_trained(self, values: Sequence[AnyValue]) -> tuple[AnyValue, ...]:
        """Return values of the classes that the model was trained with for those that are scored."""
        return tuple(values[index] for index in self.trained_index or range(len(values)))


class Provenance(Spec):
    """Where, when and with what a trial ran; never part of a comparison.

    forward_ms: from an image to its score map, see `segbench.engine.cost.forward_ms`.
    weights_sha256: of the file that the trunk started from; empty where it started from random ones.
    """

    code_version: str
    packages: dict[str, str]
    device: str
    host: str
    started: str
    finished: str
    attempts: int
    train_seconds: float
    evaluate_seconds: float
    step_seconds: float | None = None
    forward_ms: float | None = None
    peak_memory_mib: float
    train_split_fingerprint: str = ""
    weights_sha256: str = ""
    submitted_code_version: str | None = None


def evaluation_of(
    counts: Counted,
    *,
    trial_id: str,
    protocol: Protocol,
    dataset: DatasetCard,
    split_fingerprint: str,
    with_own: bool = True,
) -> Evaluation:
    """Return the figures that the protocol reads off these counts.

    dataset: the card of the model's training; the protocol may score another. with_own: also the
    metrics of the user's own, whose code is run.

    Raises:
        CardError: a metric of the user's own is not trusted, or other than the protocol's.
        DataError: no pixel is labelled, so that there are no figures.
    """
    card = protocol.scored_card(dataset)
    if not counts.label.any():
        raise DataError(f"{card.name} {protocol.split}: every pixel is void: nothing to score")
    is_same = card.class_names == dataset.class_names
    trained_index = () if is_same else matched_classes(card, dataset)
    kept = scored_classes(card, protocol)
    scored = counts.as_counts(card.seen_background)
    iou = map(_or_none, per_class_iou(scored.sums, protocol.absent_class).tolist())
    own = _own_metrics(protocol) if with_own else ()
    figures = values_of(scored, protocol.absent_class, kept, own)
    return Evaluation(
        trial_id=trial_id,
        protocol=protocol,
        split_fingerprint=split_fingerprint,
        num_images=len(counts.names),
        class_names=card.class_names,
        background=card.seen_background,
        figures={name: _or_none(value) for name, value in figures.items()},
        per_class_iou=tuple(value if index in kept else None for index, value in enumerate(iou)),
        trained_index=trained_index,
        blank=why_blank(scored.sums, protocol.absent_class, kept),
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _own_metrics(protocol: Protocol) -> tuple[str, ...]:
    """Return the protocol's metrics of the user's own, whose code is what it was planned with."""
    own = protocol.metrics
    if changed := difference(protocol.code if own else {}, code_in_use(own)):
        raise CardError(
            f"protocol {protocol.name}: its metrics were other code when it was planned: {changed}; "
            "start again, which scores by what is here under another digest"
        )
    return own


_BLANK_IN_WORDS = {
    "one_class": "it predicts one class alone",
    "no_better": "its mean IoU is no better than that of one class everywhere",
}


def why_not_learnt(result: Result | None, blank: Blank | None) -> str:
    """Return how a training or its predictions show that it did not learn, empty where neither does.

    The one rule of terminal, leaderboard, page and claims. blank: of one evaluation of it.
    """
    if result is not None and result.loss_rose:
        return (
            f"its loss ended at {result.final_loss:.3g}, above its start at {result.first_loss:.3g}"
        )
    return _BLANK_IN_WORDS.get(blank or "", "")


def scored_classes(dataset: DatasetCard, protocol: Protocol) -> tuple[int, ...]:
    """Return the indices of the classes that enter the protocol's means, before it has figures."""
    without = None if protocol.with_background else dataset.seen_background
    return tuple(index for index in range(dataset.num_classes) if index != without)


def trial_folder(run_folder: Path, trial_id: str) -> Path:
    """Return the folder of a trial in a run's folder."""
    return run_folder / "trials" / trial_id


def write_trial(workdir: Path, trial: Trial) -> None:
    """Write the trial where it is not there yet, or where its file is torn."""
    if read_json(workdir / "trial.json") is None:
        trial.write_to(workdir / "trial.json")


def write_result(workdir: Path, result: Result) -> None:
    """Write how the trial ended."""
    result.write_to(workdir / "result.json")


def write_failure(
    workdir: Path, trial_id: str, *, kind: str, message: str, digests: dict[str, str] | None = None
) -> None:
    """Write that the trial failed, and why."""
    write_result(
        workdir,
        Result(
            trial_id=trial_id, status="failed", kind=kind, message=message, digests=digests or {}
        ),
    )


def write_provenance(workdir: Path, provenance: Provenance) -> None:
    """Write where and when the trial ran."""
    provenance.write_to(workdir / "provenance.json")


def write_evaluation(workdir: Path, evaluation: Evaluation, counts: Counted) -> None:
    """Write the counts, then the figures: a reader that sees the figures finds the counts."""
    write_counts(counts_path(workdir, evaluation.protocol), counts)
    evaluation.write_to(evaluation_path(workdir, evaluation.protocol))


def evaluation_path(workdir: Path, protocol: Protocol) -> Path:
    """Return the file of a protocol's figures."""
    return workdir / "evaluations" / f"{protocol.digest()}.json"


def counts_path(workdir: Path, protocol: Protocol) -> Path:
    """Return the file of a protocol's counts."""
    return workdir / "evaluations" / f"{protocol.digest()}.npz"


def load_trial(workdir: Path) -> Trial:
    """Return the trial of a folder; ResultError where it is missing or damaged."""
    trial = load_record(workdir / "trial.json", Trial)
    if trial is None:
        raise ResultError(f"{workdir}: holds no trial.json; is it a trial's folder?")
    return trial


def load_result(workdir: Path) -> Result | None:
    """Return how the trial ended; None while it has not, or where the file is torn."""
    return load_record(workdir / "result.json", Result, torn_is_missing=True)


def load_failure(workdir: Path) -> Result | None:
    """Return how the trial failed; None where it did not, or has not ended."""
    result = load_result(workdir)
    return result if result is not None and result.status == "failed" else None


def load_provenance(workdir: Path) -> Provenance | None:
    """Return where the trial ran, or None."""
    return load_record(workdir / "provenance.json", Provenance, torn_is_missing=True)


def load_evaluation(workdir: Path, protocol: Protocol) -> Evaluation | None:
    """Return a protocol's figures, or None where they or their counts are missing or torn."""
    evaluation = load_record(evaluation_path(workdir, protocol), Evaluation, torn_is_missing=True)
    return evaluation if zipfile.is_zipfile(counts_path(workdir, protocol)) else None


def counted_alike(workdir: Path, protocol: Protocol) -> Evaluation | None:
    """Return figures under another protocol whose counts serve this one, or None."""
    found = load_evaluations(workdir)
    return next((source for source in found if protocol.counts_like(source.protocol)), None)


def copy_evaluation(
    workdir: Path, source: Evaluation, protocol: Protocol, dataset: DatasetCard
) -> Evaluation:
    """Write and return the protocol's figures, read off the counts of `source` (`counted_alike`)."""
    counts = load_counts(counts_path(workdir, source.protocol))
    if protocol.false_positives == "labelled_images":
        counts = counts.in_labelled_images()
    evaluation = evaluation_of(
        counts,
        trial_id=source.trial_id,
        protocol=protocol,
        dataset=dataset,
        split_fingerprint=source.split_fingerprint,
    ).revised(num_trained_on=source.num_trained_on, other_code=source.other_code)
    write_evaluation(workdir, evaluation, counts)
    return evaluation


def load_evaluations(workdir: Path) -> list[Evaluation]:
    """Return the figures of every protocol that the folder has figures and counts for."""
    found = (
        load_record(path, Evaluation, torn_is_missing=True)
        for path in sorted((workdir / "evaluations").glob("*.json"))
    )
    return [
        e for e in found if e is not None and zipfile.is_zipfile(counts_path(workdir, e.protocol))
    ]


def torn_files(workdir: Path) -> list[Path]:
    """Return the records and counts of a trial that are there and cannot be read; they say nothing.

    The same command makes them again, from the trained model where that is there.
    """
    found = []
    records = [(workdir / "result.json", Result)]
    records += [(path, Evaluation) for path in sorted((workdir / "evaluations").glob("*.json"))]
    for path, kind in records:
        if path.exists() and load_record(path, kind, torn_is_missing=True) is None:
            found.append(path)
        counts = path.with_suffix(".npz")
        if kind is Evaluation and counts.exists() and not zipfile.is_zipfile(counts):
            found.append(counts)
    return found


def is_done(workdir: Path, protocols: tuple[Protocol, ...]) -> bool:
    """Return whether the trial is done under all protocols, so that nothing is left to compute."""
    result = load_result(workdir)
    return (
        result is not None
        and result.status == "done"
        and all(load_evaluation(workdir, protocol) is not None for protocol in protocols)
    )


def clear_failure(workdir: Path) -> None:
    """Forget that the trial failed, so that it can be tried again from where it was."""
    if load_failure(workdir) is not None:
        (workdir / "result.json").unlink(missing_ok=True)


def write_counts(path: Path, counts: Counted) -> None:
    """Write counts sparsely: only the classes that an image has, or is predicted to have.

    A thousandth of the size of confusion matrices per image; equal counts give equal bytes.
    """
    present = (counts.tp + counts.label + counts.pred) > 0  # (N, C)
    image, klass = np.nonzero(present)
    arrays: dict[str, Any] = {
        "names": np.frombuffer("\n".join(counts.names).encode(), dtype=np.uint8),
        "shape": np.asarray(counts.tp.shape, dtype=np.int64),
        "classes_per_image": np.bincount(image, minlength=len(counts.names)).astype(np.uint16),
        "classes": klass.astype(np.uint8),
        "tp": counts.tp[present].astype(np.uint32),
        "label": counts.label[present].astype(np.uint32),
        "pred": counts.pred[present].astype(np.uint32),
        "confusion": counts.confusion.astype(np.int64),
    }
    if counts.boundary is not None:
        arrays["boundary"] = counts.boundary[:, present].astype(np.uint32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_counts(path: Path) -> Counted:
    """Return the counts of a file.

    Raises:
        ResultError: missing, damaged, or not a file of counts.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            num_images, num_classes = (int(side) for side in arrays["shape"])
            names = tuple(arrays["names"].tobytes().decode().split("\n")) if num_images else ()
            image = np.repeat(np.arange(num_images), arrays["classes_per_image"])
            place = image, arrays["classes"]
            shape = num_images, num_classes
            dense = [_dense(arrays[key], place, shape) for key in ("tp", "label", "pred")]
            boundary = None
            if "boundary" in arrays:
                boundary = np.stack([_dense(part, place, shape) for part in arrays["boundary"]])
            return Counted(names, *dense, confusion=arrays["confusion"], boundary=boundary)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: there are no counts here") from error
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise ResultError(
            f"{path}: is not a sound file of counts ({type(error).__name__}: {error}); delete it and "
            "run again"
        ) from error


def _dense(
    values: NDArray, place: tuple[NDArray, NDArray], shape: tuple[int, int]
) -> NDArray[np.int64]:
    table = np.zeros(shape, dtype=np.int64)
    table[place] = values
    return table


def trial_folders(run_folder: Path) -> Iterator[Path]:
    """Yield the folders of all trials of a run, sorted."""
    yield from sorted(path for path in (run_folder / "trials").glob("*") if path.is_dir())


def load_record(
    path: Path, record: type[AnyRecord], *, torn_is_missing: bool = False
) -> AnyRecord | None:
    """Return the record in a file; None where there is no such file.

    Raises:
        ResultError: it is damaged, unless `torn_is_missing`.
    """
    try:
        return record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:  # pydantic.ValidationError is a ValueError
        if torn_is_missing:
            return None
        raise ResultError(f"{path}: is damaged or of another version ({_first(error)})") from error


def _first(error: Exception) -> str:
    """Return the first thing that is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{dotted(first['loc'])}: {first['msg']}".removeprefix(": ")
    return str(error).splitlines()[0]
