"""Save and load the state of a training so that a kill at any instruction loses little.

Two files: `last.ckpt` and `last.ckpt.previous`. Each begins with the sha256 of the rest, so a torn
or damaged file is noticed and the one before it is used. Knows nothing of what the state means.
"""

import hashlib
import io
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from segbench.errors import DataError, listed
from segbench.files import write_atomically
from segbench.models.trunk_weights import not_finite

LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 64


class CheckpointWriter:
    """Writes the checkpoints of one training in a thread, one at a time, while the training goes on.

    A state is copied on the spot. The next one, `wait` and the end of the `with` block wait until it
    is on the disk, and raise what writing it raised.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`, which may change from then on."""
        self.wait()
        self._written = self._pool.submit(save_checkpoint, self._folder, _copied(state))

    def wait(self) -> None:
        """Wait until the last state is on the disk."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the newest checkpoint, keeping the one before."""
    newest, previous = _paths(folder)

    def write(file: BinaryIO) -> None:
        file.write(bytes(_DIGEST_BYTES))  # its place
        hashed = _Hashed(file)
        torch.save(state, hashed)  # pyright: ignore[reportArgumentType]
        file.seek(0)
        file.write(hashed.digest.hexdigest().encode())

    if newest.exists():
        newest.replace(previous)
    write_atomically(newest, write)


class _Hashed(io.RawIOBase):
    """A file that can be written to alone, and the digest of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, part: Any) -> int:
        self.digest.update(part)
        return self._file.write(part)


def _copied(state: Any) -> Any:
    """Return plain containers with tensors of their own, on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return state


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest sound state, or None; a damaged file is named in the log and passed over.

    Nothing in the file is executed: only tensors and plain data are read.
    """
    damaged = []
    for path in _paths(folder):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue
        found = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if hashlib.sha256(found[1]).hexdigest().encode() != found[0]:
            damaged.append(str(path))
            continue
        if damaged:
            LOG.warning("%s: is damaged or half-written; going on from %s", damaged[0], path.name)
        return torch.load(io.BytesIO(found[1]), map_location=device, weights_only=True)
    if damaged:
        LOG.warning("%s: damaged or half-written; training starts again", ", ".join(damaged))
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a training that has ended."""
    for path in _paths(folder):
        path.unlink(missing_ok=True)


def save_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a model's parameters and buffers as safetensors; equal tensors give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    payload = save(tensors)
    write_atomically(path, lambda file: file.write(payload))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        DataError: the file is missing or damaged, or holds NaN or infinity.
    """
    try:
        found = load_file(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there are no trained weights here; has the trial ended?"
        ) from error
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: is not a sound safetensors file ({error}); delete it and run again"
        ) from error
    if wrong := not_finite(found):
        raise DataError(
            f"{path}: holds NaN or infinity in {listed(wrong, 3)}: the training diverged, or the file "
            "is damaged; delete it and run again"
        )
    return found


def load_into(model: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Give a model all its parameters and buffers, in place.

    source: the file that has them, for the message.

    Raises:
        DataError: names or shapes differ, so that these are the weights of another network.
    """
    own = model.state_dict()
    problems = [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{name} is too much" for name in state if name not in own),
        *(
            f"{name} is {_shape(state[name])} there and {_shape(own[name])} here"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ),
    ]
    if problems:
        raise DataError(
            f"{source}: holds the weights of another network than its trial.json and the code here "
            f"build: {listed(problems, 3)}"
        )
    model.load_state_dict(state)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / "last.ckpt", folder / "last.ckpt.previous"
