"""What a run needs and is not here, or is not what it was: told before anything starts.

Loads no torch, but for a backbone card or a head of the user's that was not seen before.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import reduce
from importlib.metadata import version
from operator import or_
from pathlib import Path

from segbench.claims.kinds import wrong_kinds
from segbench.code.own import difference
from segbench.commands.own_heads import wrong_heads
from segbench.commands.run import PreparedRun, groups_here
from segbench.errors import CardError, DataError, ResultError, counted
from segbench.files import digest, write_text
from segbench.runs import trial_files
from segbench.schema.cards import DatasetCard
from segbench.schema.catalog import Catalog, built_in_root
from segbench.schema.trial import Trial

Progress = Callable[[str, int, int | None], None]  # (what, done, of)


def missing_files(prepared: PreparedRun) -> list[str]:
    """Return a sentence for every data set and weights file that the run needs and that is not here.

    Raises:
        LaunchError: the device does not exist on this machine, where trials are to run.
    """
    from segbench.data.prepare import preflight
    from segbench.models.weights import missing_weights

    experiment = prepared.asked.experiment
    if prepared.launcher.place != "elsewhere" and prepared.machine.device not in {"auto", "cpu"}:
        from segbench.engine.device import chosen_device

        chosen_device(prepared.machine)
    trials = prepared.asked.trials.values()
    sentences = preflight(_splits(prepared), prepared.machine)
    backbones = [
        (trial.backbone, trial.model) for trial in _one_per_part(trials, "backbone", "weights")
    ]
    lacking_weights = missing_weights(backbones, prepared.machine)
    return [
        *_untrue_cards(prepared, with_weights=not lacking_weights),
        *wrong_heads(prepared.asked.trials.values(), Path(prepared.machine.cache)),
        *wrong_kinds(experiment.claims),
        *_wrong_groups(prepared),
        *sentences,
        *lacking_weights,
        *_unwritable(Path(prepared.machine.cache), "--cache or $SEGBENCH_CACHE"),
        *_unwritable(prepared.run_folder, "--results"),
    ]


def wrong_files(prepared: PreparedRun, progress: Progress | None = None) -> list[str]:
    """Return a sentence for each split with a wrong file; convert the others, as trials would.

    Where trials run elsewhere they convert what they read, and the files may be seen from there alone.
    """
    from segbench.data.prepare import convert

    if prepared.launcher.place == "elsewhere":
        return []
    return convert(_splits(prepared), prepared.machine, progress)


def _splits(prepared: PreparedRun) -> list[tuple[DatasetCard, str]]:
    """Return the card and name of each split that trains or is scored."""
    experiment = prepared.asked.experiment
    protocols = experiment.evaluate.values()
    trials = prepared.asked.trials.values()
    datasets = [trial.dataset for trial in _one_per_part(trials, "dataset")]
    needed = [(card, experiment.train.split) for card in datasets]
    return needed + [(p.scored_card(card), p.split) for card in datasets for p in protocols]


def _wrong_groups(prepared: PreparedRun) -> list[str]:
    """Return a sentence where a card gives an image no group."""
    try:
        groups_here(prepared)
    except (CardError, DataError) as error:
        return [str(error)]
    return []


def shared_images_in_words(prepared: PreparedRun) -> list[str]:
    """Return a sentence for every scored split that has images of the training split."""
    from segbench.data.shared import scored_part, shared_in_words, trained_part

    pairs = {
        (id(trial.dataset), trial.train.split, trial.train.max_images, protocol.digest()): (
            trained_part(trial),
            scored_part(trial, protocol),
        )
        for trial in prepared.asked.trials.values()
        for protocol in prepared.asked.experiment.evaluate.values()
    }
    found = (shared_in_words(*pair, prepared.machine) for pair in pairs.values())
    return list(dict.fromkeys(filter(None, found)))


def _untrue_cards(prepared: PreparedRun, *, with_weights: bool) -> list[str]:
    """Return a sentence for each backbone card that is not what its network or its weights are.

    Cards that come with segbench are held by its tests. Others are compared once, since that takes
    torch: the cache remembers which were true.
    """
    from segbench.models.weights import weights_file

    ours, sentences = Catalog((built_in_root(),)), []
    trials = prepared.asked.trials.values()
    for trial in _one_per_part(trials, "backbone", "weights"):
        card = trial.backbone
        if card.name in ours.names("backbones") and ours.backbone(card.name) == card:
            continue
        read = [Counter(t.head.strides) for t in trials if t.backbone is card]
        strides = tuple(sorted(reduce(or_, read).elements(), reverse=True))
        weights = trial.weights if with_weights else None
        caches = any(t.train.cache_features for t in trials if t.backbone is card)
        compared = [weights and weights.sha256, strides, trial.model.batch_norm, trial.code, caches]
        known = digest([card.model_dump(mode="json"), *compared, version("torchvision")], length=16)
        mark = Path(prepared.machine.cache) / "true_cards" / f"{card.name}-{known}"
        if mark.exists():
            continue
        try:
            path = None if weights is None else weights_file(weights, prepared.machine)
            _compare_card(trial, strides, path, caches=caches)
        except (CardError, DataError) as error:
            sentences.append(str(error))
            continue
        with contextlib.suppress(ResultError):  # what cannot be written is told with the rest
            write_text(mark, "")
    return list(dict.fromkeys(sentences))


def _compare_card(
    trial: Trial, strides: tuple[int, ...], weights: Path | None, *, caches: bool
) -> None:
    """Compare the card with its network, and with its weights' file where there is one.

    caches: whether its features are to be computed once for all steps.
    """
    from segbench.models.trunk import check_not_random, trunk_without_memory, verify_card
    from segbench.models.trunk_weights import verify_weights

    card = trial.backbone
    verify_card(card)
    if caches and (trunk := trunk_without_memory(card, strides)) is not None:
        check_not_random(card, trunk.network)
    if weights is not None:
        verify_weights(card, strides, weights, batch_norm=trial.model.batch_norm)


def check_same_files(prepared: PreparedRun) -> None:
    """Compare what finished trials were made from with the files that are here now.

    Splits that were not converted here yet are passed over: what they hold is not known.

    Raises:
        DataError: trials of this folder were made from other files, which no table may mix.
    """
    stale = _from_other_weights(prepared)
    for what, trial_ids in _from_other_images(prepared).items():
        stale.setdefault(what, []).extend(trial_ids)
    if stale:
        told = "; ".join(
            f"{counted(len(set(ids)), 'trial')} from other files of {what} than are here now (trials/{ids[0]})"
            for what, ids in stale.items()
        )
        raise DataError(
            f"{prepared.run_folder} holds {told}: name the folder of those files with --data or "
            "--weights, begin another --results folder, or delete these trials' folders to make "
            "them again"
        )


def _from_other_images(prepared: PreparedRun) -> dict[str, list[str]]:
    """Return the trials that were trained or scored on other files than are here, by split."""
    from segbench.data.chosen import fingerprint_here
    from segbench.data.shared import SplitPart, scored_part, trained_part

    known: dict[tuple[object, ...], str | None] = {}
    stale: dict[str, list[str]] = {}

    def here(part: SplitPart) -> str | None:
        card, split, max_images, subset_seed = part
        key = (id(card), split, max_images, subset_seed)
        if key not in known:
            known[key] = fingerprint_here(
                card, split, prepared.machine, max_images=max_images, subset_seed=subset_seed
            )
        return known[key]

    for trial_id, trial in prepared.asked.trials.items():
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        provenance = trial_files.load_provenance(workdir)
        if provenance is None:
            continue
        before = [(trained_part(trial), provenance.train_split_fingerprint)]
        for protocol in prepared.asked.experiment.evaluate.values():
            if (found := trial_files.load_evaluation(workdir, protocol)) is not None:
                before.append((scored_part(trial, protocol), found.split_fingerprint))
        for part, fingerprint in before:
            if fingerprint and here(part) not in {None, fingerprint}:
                stale.setdefault(f"{part.card.name} {part.split}", []).append(trial_id)
    return stale


def _from_other_weights(prepared: PreparedRun) -> dict[str, list[str]]:
    """Return the trials whose trunk started from another file than is here now, by what it is.

    Only for weights of which a card knows leading digits: whole ones are part of a trial's id.
    """
    from segbench.models.weights import sha256_here

    known: dict[int, str | None] = {}
    stale: dict[str, list[str]] = {}
    for trial_id, trial in prepared.asked.trials.items():
        weights = trial.weights
        provenance = trial_files.load_provenance(
            trial_files.trial_folder(prepared.run_folder, trial_id)
        )
        if weights is None or provenance is None or not provenance.weights_sha256:
            continue
        if id(weights) not in known:
            known[id(weights)] = sha256_here(weights, prepared.machine)
        if known[id(weights)] not in {None, provenance.weights_sha256}:
            what = f"{trial.backbone.name} weights {trial.model.weights}"
            stale.setdefault(what, []).append(trial_id)
    return stale


def made_from_other_code(prepared: PreparedRun) -> list[str]:
    """Return a sentence on trials of the folder that differ from the plan's in the user's code alone."""
    planned = {
        trial.model_copy(update={"code": {}}).id(): trial.code
        for trial in prepared.whole.trials.values()
        if trial.code
    }
    found: dict[str, str] = {}
    for workdir in trial_files.trial_folders(prepared.run_folder) if planned else ():
        with contextlib.suppress(ResultError):  # a damaged record is told where it is asked for
            trial = trial_files.load_trial(workdir)
            code = planned.get(trial.model_copy(update={"code": {}}).id(), trial.code)
            if changed := difference(trial.code, code):
                found[workdir.name] = changed
    if not found:
        return []
    first = next(iter(found))
    stay = "it stays" if len(found) == 1 else "they stay"
    return [
        f"made from other code: {counted(len(found), 'trial')} of {prepared.run_folder} (trials/{first}: "
        f"{found[first]}); {stay} there, and the code as it is now makes trials of its own"
    ]


def _unwritable(folder: Path, flags: str) -> list[str]:
    """Return a sentence if the folder cannot be written; each trial alone would fail of it."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return [
            f"{folder}: cannot be written ({error.strerror}); choose another folder with {flags}"
        ]
    return []


def _one_per_part(trials: Iterable[Trial], *parts: str) -> list[Trial]:
    found: dict[tuple[int, ...], Trial] = {}
    for trial in trials:
        found.setdefault(tuple(id(getattr(trial, part)) for part in parts), trial)
    return list(found.values())
