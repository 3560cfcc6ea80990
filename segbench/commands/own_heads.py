"""Heads of the user's: built and tried before anything is trained.

Loads torch only for a head that was not tried before.
"""

import contextlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from segbench.errors import CardError, ResultError
from segbench.files import digest, write_text
from segbench.schema.trial import Trial


def wrong_heads(trials: Iterable[Trial], cache: Path) -> list[str]:
    """Return a sentence for each head of the user's that does not do what a head must.

    The cache remembers which passed, as long as neither they nor their code change.
    """
    sentences = []
    for trial in _distinct(trials):
        channels = {stage.stride: stage.channels for stage in trial.backbone.stages}
        read = {stride: channels[stride] for stride in trial.head.strides}
        num_classes = trial.dataset.num_classes
        what = [trial.head.identity(), read, num_classes, trial.code, version("torch")]
        mark = cache / "tried_heads" / f"{trial.head.name}-{digest(what, length=16)}"
        if mark.exists():
            continue
        from segbench.models.heads.own import verify_own_head

        try:
            verify_own_head(trial.head, read, num_classes)
        except CardError as error:
            sentences.append(str(error))
            continue
        with contextlib.suppress(ResultError):  # what cannot be written is told with the rest
            write_text(mark, "")
    return list(dict.fromkeys(sentences))


def _distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial for each head of the user's, backbone and data set."""
    return list(
        {
            (id(trial.head), id(trial.backbone), id(trial.dataset)): trial
            for trial in trials
            if trial.head.builder is not None
        }.values()
    )
