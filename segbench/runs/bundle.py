"""Carry runs between people: one zip with results, configuration and hashes; join several runs.

A bundle holds what reports are built from, without weights. Importing trusts nothing in it: names
follow one pattern, sizes are bounded, every hash is checked, every record is read strictly, and
every figure is computed again from its counts. Nothing is written until all of that is true.
"""

import hashlib
import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segbench.errors import ResultError
from segbench.fetch.bounds import Bounds
from segbench.files import make_folder, write_atomically
from segbench.runs import registration, trial_files
from segbench.runs.panels import load_panels
from segbench.runs.record import CellRecord, RunRecord, axes_key, load_run
from segbench.runs.status import label
from segbench.runs.timings import FILE, Timings, load_timings
from segbench.schema.protocol import Protocol

MANIFEST = "manifest.json"
FORMAT = "segbench bundle 1"
BOUNDS = Bounds(files=200_000, bytes=8 * 2**30)
_TRIAL = r"trials/[0-9a-f]{12}/"
_NAMES = re.compile(
    rf"run\.json|timings\.json|{_TRIAL}(trial|result|provenance)\.json|{_TRIAL}log\.jsonl|{_TRIAL}traceback\.txt"
    rf"|{_TRIAL}evaluations/[0-9a-f]{{8}}\.(json|npz)"
    r"|panels/[0-9a-f]{12}/(panels\.json|[a-z0-9_]+\.(jpg|png))"
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip knows no earlier time; equal files give equal bundles


def write_bundle(run_folder: Path, path: Path) -> int:
    """Write the run's bundle; return the number of its files.

    Raises:
        ResultError: the folder holds no run, or the file cannot be written.
    """
    if path.suffix != ".zip":
        raise ResultError(f"{path}: a bundle is a zip file; let its name end in .zip")
    record = load_run(run_folder)
    names = list(bundled_names(run_folder, record))
    contents = {name: (run_folder / name).read_bytes() for name in names}
    manifest = {
        "format": FORMAT,
        "run": record.experiment.name,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    contents[MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name in sorted(contents):
                item = zipfile.ZipInfo(name, _EPOCH)
                item.compress_type = zipfile.ZIP_DEFLATED
                item.external_attr = 0o644 << 16
                bundle.writestr(item, contents[name])

    write_atomically(path, write)
    return len(names)


def bundled_names(run_folder: Path, record: RunRecord) -> Iterator[str]:
    """Yield the files of the run that a bundle holds, relative to its folder, sorted."""
    known = {cell.trial_id for cell in record.cells if cell.trial_id}
    for path in sorted(run_folder.rglob("*")):
        name = path.relative_to(run_folder).as_posix()
        if not _NAMES.fullmatch(name) or not path.is_file():
            continue
        if "/" not in name or name.split("/")[1] in known:
            yield name


def import_bundle(path: Path, results_folder: Path) -> Path:
    """Unpack a bundle to `results_folder`/<run>; return that folder.

    Raises:
        ResultError: the file is damaged, holds anything unexpected or untrue, or a run of that name
            is there already.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            manifest = _manifest(path, bundle)
            contents = _contents(path, bundle, manifest["files"])
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ResultError(f"{path}: is not a sound bundle ({error}); ask for it again") from error
    make_folder(results_folder)
    with tempfile.TemporaryDirectory(dir=results_folder, prefix=".import-") as temporary:
        staged = Path(temporary) / "run"
        for name, content in contents.items():
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        name = verified(staged, path).experiment.name
        folder = results_folder / name
        if folder.exists():
            raise ResultError(
                f"{folder}: is there already; import with --results another folder, then join the "
                f"two with segbench report --merge {folder} ..."
            )
        staged.rename(folder)
    return folder


def _manifest(path: Path, bundle: zipfile.ZipFile) -> dict[str, Any]:
    names = [item.filename for item in bundle.infolist()]
    size = sum(item.file_size for item in bundle.infolist())
    if excess := BOUNDS.excess(len(names), size):
        raise ResultError(f"{path}: holds {excess}")
    if len(set(names)) < len(names):
        raise ResultError(f"{path}: holds a name twice; ask for the bundle again")
    if MANIFEST not in names:
        raise ResultError(f"{path}: holds no {MANIFEST}; is it a file of segbench bundle?")
    try:
        manifest = json.loads(bundle.read(MANIFEST))
        files = manifest["files"]
        is_sound = manifest["format"] == FORMAT and isinstance(files, dict)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ResultError(f"{path}: {MANIFEST} cannot be read ({error})") from error
    if not is_sound:
        raise ResultError(f"{path}: {MANIFEST} is of another format; expected {FORMAT!r}")
    if wrong := sorted(name for name in files if not _NAMES.fullmatch(name)):
        raise ResultError(
            f"{path}: {wrong[0]!r} is not a file that bundles hold; nothing is imported"
        )
    if odd := sorted(set(files) ^ (set(names) - {MANIFEST})):
        raise ResultError(
            f"{path}: {odd[0]!r} is {'listed and missing' if odd[0] in files else 'not listed'}; "
            "nothing is imported"
        )
    return manifest


def _contents(path: Path, bundle: zipfile.ZipFile, files: dict[str, str]) -> dict[str, bytes]:
    contents = {}
    for name, sha256 in files.items():
        contents[name] = bundle.read(name)  # never more than the size that was bounded above
        if hashlib.sha256(contents[name]).hexdigest() != sha256:
            raise ResultError(f"{path}: {name} does not have the sha256 of {MANIFEST}; ask again")
    return contents


def verified(run_folder: Path, source: Path) -> RunRecord:
    """Return the run's record after checking that its trials are what they say they are.

    Raises:
        ResultError: a record is damaged, a trial's content does not give its id, or a figure is not
            what its counts give; `source` is named.
    """
    try:
        record = load_run(run_folder)
        for workdir in trial_files.trial_folders(run_folder):
            _verify_trial(workdir)
        load_timings(run_folder)
        for folder, panels in load_panels(run_folder):
            if panels.trial_id != folder.name:
                raise ResultError(f"panels/{folder.name}: is of trial {panels.trial_id}")
    except (ResultError, ValidationError, OSError) as error:
        inside = str(error).replace(f"{run_folder}/", "")
        raise ResultError(f"{source}: {inside}; nothing is imported") from error
    return record


def _verify_trial(workdir: Path) -> None:
    trial = trial_files.load_trial(workdir)
    if trial.id() != workdir.name:
        raise ResultError(
            f"{workdir}: its configuration gives the id {trial.id()}; it was changed, or made by "
            "another version"
        )
    for kind in (trial_files.Result, trial_files.Provenance):
        path = workdir / f"{kind.__name__.lower()}.json"
        if path.exists():
            kind.model_validate_json(path.read_bytes())
    for path in sorted((workdir / "evaluations").glob("*.json")):
        claimed = trial_files.Evaluation.model_validate_json(path.read_bytes())
        computed = trial_files.evaluation_of(
            trial_files.load_counts(path.with_suffix(".npz")),
            trial_id=trial.id(),
            protocol=claimed.protocol,
            dataset=trial.dataset,
            split_fingerprint=claimed.split_fingerprint,
            with_own=False,
        ).revised(other_code=claimed.other_code, num_trained_on=claimed.num_trained_on)
        own = {key: claimed.figures.get(key) for key in claimed.protocol.metrics}  # not checked
        computed = computed.revised(figures={**computed.figures, **own})
        if path.stem != claimed.protocol.digest() or not _alike(claimed, computed):
            raise ResultError(f"{path}: its figures are not what its counts give")


def _alike(one: trial_files.Evaluation, two: trial_files.Evaluation) -> bool:
    """Return whether two evaluations agree, but for the last bits of sums made elsewhere."""
    numbers, others = [], []
    for each in (one, two):
        fields = each.model_dump(mode="json")
        if one.blank is None:  # a version that did not look at it
            del fields["blank"]
        figures, ious = fields.pop("figures"), fields.pop("per_class_iou")
        numbers.append([*(figures[key] for key in sorted(figures)), *ious])
        others.append([fields, sorted(figures), len(ious)])
    return others[0] == others[1] and all(
        left == right or (None not in (left, right) and math.isclose(left, right, abs_tol=1e-9))
        for left, right in zip(*numbers, strict=True)
    )


def merge_runs(run_folders: Sequence[Path], target: Path) -> RunRecord:
    """Join runs by their trials' ids into a new folder; return its record.

    Protocols, published figures and claims are those of all runs; question and the rest are the
    first's. Weights stay where they are.

    Raises:
        ResultError: axes or protocols differ, results of one trial differ, or the target is there;
            all conflicts at once.
    """
    if target.exists():
        raise ResultError(f"{target}: is there already; name a new folder with --output")
    records = [load_run(folder) for folder in run_folders]
    merged = _merged_record(run_folders, records)
    names = [set(bundled_names(f, r)) for f, r in zip(run_folders, records, strict=True)]
    sources = dict(_chosen_files(run_folders, names))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merge-") as temporary:
        staged = Path(temporary) / "run"
        for name, folder in sources.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, staged / name)
        merged.write_to(staged / "run.json")
        if (timings := _merged_timings(run_folders)) is not None:
            timings.write_to(staged / FILE)
        staged.rename(target)
    return merged


def _chosen_files(
    run_folders: Sequence[Path], names: Sequence[set[str]]
) -> Iterator[tuple[str, Path]]:
    """Yield each file of the merged run with the folder that it comes from.

    A trial comes from the run where it got furthest; done trials must agree wherever they are.
    """
    places: dict[str, dict[Path, set[str]]] = {}
    for folder, own in zip(run_folders, names, strict=True):
        for name in own - {"run.json", FILE}:
            unit = "/".join(name.split("/")[:2])
            places.setdefault(unit, {}).setdefault(folder, set()).add(name)
    conflicts = []
    for unit, found in sorted(places.items()):
        done = [folder for folder in found if _progress(folder / unit) == 2] or list(found)
        first = max(done, key=lambda folder: (_progress(folder / unit), len(found[folder])))
        files = dict.fromkeys(sorted(found[first]), first)
        for other in done if unit.startswith("trials/") and _progress(first / unit) == 2 else ():
            for name in sorted(found[other]):
                if (
                    _is_result(name)
                    and (files.get(name, other) / name).read_bytes() != (other / name).read_bytes()
                ):
                    conflicts.append(f"{name}: {files[name]} and {other} differ in the same trial")
                if "/evaluations/" in name:
                    files.setdefault(name, other)
        yield from files.items()
    if conflicts:
        raise ResultError("\n".join(conflicts) + "\nremove the wrong ones, then merge again")


def _progress(workdir: Path) -> int:
    """Return 2 for a trial that is done, 1 for one that has failed, else 0."""
    result = trial_files.load_result(workdir)
    return 0 if result is None else {"failed": 1, "done": 2}[result.status]


def _is_result(name: str) -> bool:
    """Return whether equal trials have equal bytes in the file."""
    return name.endswith(("/trial.json", "/result.json")) or "/evaluations/" in name


def _merged_record(run_folders: Sequence[Path], records: Sequence[RunRecord]) -> RunRecord:
    """Return the record of all; raises ResultError with all conflicts at once."""
    first, conflicts = records[0], []
    for folder, record in zip(run_folders[1:], records[1:], strict=True):
        if sorted(record.axis_names) != sorted(first.axis_names):
            conflicts.append(
                f"{folder}: its axes are {', '.join(record.axis_names)}, those of {run_folders[0]} "
                f"are {', '.join(first.axis_names)}"
            )
    evaluate = _merged_protocols(run_folders, records, conflicts)
    cells = _merged_cells(run_folders, records, conflicts)
    if conflicts:
        raise ResultError("\n".join(conflicts) + "\nonly runs of one kind can be merged")
    experiment = first.experiment.revised(
        evaluate=evaluate,
        published=_distinct(records, lambda record: record.experiment.published),
        claims=_distinct(records, lambda record: record.experiment.claims),
    )
    return RunRecord(
        experiment=experiment,
        command=" && ".join(dict.fromkeys(record.command for record in records)),
        cells=tuple(
            cell.revised(axes={axis: cell.axes[axis] for axis in first.axis_names})
            for cell in cells
        ),
        hidden_cards=tuple(dict.fromkeys(card for r in records for card in r.hidden_cards)),
        protocol_names=tuple(evaluate),
        top_ups=_distinct(records, lambda record: record.top_ups),
    ).model_copy(update=registration.merged(records))


def _merged_protocols(
    run_folders: Sequence[Path], records: Sequence[RunRecord], conflicts: list[str]
) -> dict[str, Protocol]:
    """Return the protocols of all by name; adds a conflict where one name means two."""
    evaluate = dict(records[0].experiment.evaluate)
    for folder, record in zip(run_folders[1:], records[1:], strict=True):
        for name, protocol in record.experiment.evaluate.items():
            known = evaluate.setdefault(name, protocol)
            if known.digest() != protocol.digest():
                conflicts.append(
                    f"{folder}: its protocol {name!r} is {protocol.digest()}, another one than "
                    f"{known.digest()} of the same name"
                )
    return evaluate


def _merged_cells(
    run_folders: Sequence[Path], records: Sequence[RunRecord], conflicts: list[str]
) -> list[CellRecord]:
    """Return each cell once, its seeds in order; adds a conflict where one cell has two trials."""
    cells: dict[tuple[tuple[tuple[str, str], ...], int], CellRecord] = {}
    for folder, record in zip(run_folders, records, strict=True):
        for cell in record.cells:
            known = cells.setdefault((axes_key(cell.axes), cell.seed), cell)
            if known.trial_id != cell.trial_id:
                conflicts.append(
                    f"{folder}: {label(cell.axes, cell.seed)} is {cell.trial_id or 'skipped'} here "
                    f"and {known.trial_id or 'skipped'} elsewhere: the settings differ"
                )
    first_seen = {axes: place for place, (axes, _) in enumerate(reversed(cells))}
    return [cells[key] for key in sorted(cells, key=lambda key: (-first_seen[key[0]], key[1]))]


def _merged_timings(run_folders: Sequence[Path]) -> Timings | None:
    """Return the times of all runs; where they were measured differently, those of the first alone."""
    merged: Timings | None = None
    for timings in map(load_timings, reversed(run_folders)):
        merged = merged if timings is None else timings.joined(merged)
    return merged


def _distinct(
    records: Iterable[RunRecord], part: Callable[[RunRecord], Sequence[Any]]
) -> tuple[Any, ...]:
    found = {str(item): item for record in records for item in part(record)}
    return tuple(found.values())
