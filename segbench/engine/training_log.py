"""What a training says while it runs: log.jsonl for programs, TensorBoard events for people.

log.jsonl holds no clock times, so a training that was interrupted leaves the same lines as one that
was not. Events are written where the extra `tensorboard` is installed. One process writes.
Knows nothing of models.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from segbench.files import read_json_lines

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TrainingLog:
    """Lines `{"step": ..., "stage": ..., "loss": ...}` in the trial's folder.

    first_step: lines of later steps are dropped, since they will be written again.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        path = folder / "log.jsonl"
        kept = [line for line in read_json_lines(path) if line["step"] <= first_step]
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            self._write(line)
        self._events = _event_writer(folder, first_step)

    def add(self, step: int, stage: str, **values: float) -> None:
        """Record values after optimizer step `step`, counted from 1 over all stages."""
        self._write({"step": step, "stage": stage, **values})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _event_writer(folder: Path, first_step: int) -> "SummaryWriter | None":
    """Return None where the extra is not installed: log.jsonl is the record."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1)
