"""Read a file of trained parameters and copy them into a trunk, if they fit.

Nothing in a file is executed: safetensors, or torch files read with `weights_only`. Checkpoints of
other tools are seen through: a mapping around the state, and what wrappers put before every name.
Knows nothing of the parameters of trained segmenters (engine/checkpoint.py).
"""

import argparse
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from segbench.errors import DataError, listed
from segbench.models.trunk import Trunk, trunk_without_memory
from segbench.schema.cards import BackboneCard
from segbench.schema.heads import BatchNorm

_MOST_NAMES_SHOWN = 8
_NAMES_OF_A_STRANGER = 5
# Where training tools keep the state, the first that is there; ema alone where there is no other.
_STATE_KEYS = ("state_dict", "model", "model_state", "model_state_dict", "ema", "state_dict_ema")
_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "_orig_mod.")  # what wrappers put first
# Data that training tools keep beside the state; none of them runs anything when it is read.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np._core.multiarray.scalar,  # pyright: ignore[reportAttributeAccessIssue]
    *(type(np.dtype(kind)) for kind in "bBhHiIlLefd?"),
]


def load_trunk_weights(trunk: Trunk, path: Path) -> None:
    """Copy the parameters in the file into the trunk; raises as `fitting_weights` does."""
    trunk.network.load_state_dict(fitting_weights(trunk, path), strict=False)


def verify_weights(
    card: BackboneCard, strides: tuple[int, ...], path: Path, *, batch_norm: BatchNorm = "keep"
) -> None:
    """Compare the names and shapes in the file with those of the card's trunk, which takes no memory.

    Raises:
        DataError: as `fitting_weights`.
    """
    trunk = trunk_without_memory(card, strides, batch_norm=batch_norm)
    if trunk is not None:  # else the trial that builds it in earnest will tell
        fitting_weights(trunk, path)


def fitting_weights(trunk: Trunk, path: Path) -> dict[str, Tensor]:
    """Return the trunk's parameters as the file has them, in the trunk's shapes.

    The file may be a trained segmenter's: its head is passed over. So are names of the full
    network's other layers (classifier, auxiliary heads). Fully connected weights are read as the
    convolutions that they have become; numbers of other precisions become those of the trunk.

    Raises:
        DataError: the file cannot be read, its names or shapes are not the trunk's, or it holds
            NaN or infinity: all listed.
    """
    found = _of_trunk(read_state(path), trunk.prefix)
    own = {n.removeprefix(trunk.prefix): t for n, t in trunk.network.state_dict().items()}
    found = _without_prefix(found, trunk.full_names)
    if found and not found.keys() & trunk.full_names:
        raise DataError(
            f"{path}: no name in it is the network's: it has {_first(found)}; the network has "
            f"{_first(own)}"
        )
    needed = own.keys() - trunk.new_biases  # these start at 0, but a trained trunk has them
    missing = [n for n in own if n in needed and n not in found and not n.endswith("_tracked")]
    problems = _shown("missing", missing)
    problems += _shown("unknown", [n for n in found if n not in trunk.full_names])
    fitting: dict[str, Tensor] = {}
    misfits = []
    for name in own.keys() & found.keys():
        ours, theirs = tuple(own[name].shape), tuple(found[name].shape)
        if ours == theirs or (len(ours) == 4 and _flattened(ours) == theirs):
            fitting[name] = found[name].view(ours).to(own[name].dtype)
        else:
            misfits.append(f"{name} {theirs}, not {ours}")
    problems += _shown("of another shape", sorted(misfits))
    sentences = [f"does not fit the trunk: {'; '.join(problems)}"] if problems else []
    if wrong := sorted(not_finite(fitting)):
        sentences.append(f"holds NaN or infinity in {listed(wrong, _MOST_NAMES_SHOWN)}")
    if sentences:
        raise DataError(f"{path}: {'; '.join(sentences)}; is it the right file?")
    return {f"{trunk.prefix}{name}": tensor for name, tensor in fitting.items()}


def _of_trunk(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the trunk's part of a whole segmenter's parameters; others as they are."""
    start = f"trunk.{prefix}"
    trunk = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
    return trunk or state


def _without_prefix(state: dict[str, Tensor], known: Container[str]) -> dict[str, Tensor]:
    """Return the state without the prefixes that keep its names from being known ones.

    A prefix of some names alone leaves the others out: they are a head's, beside the `backbone.`.
    """
    count = sum(name in known for name in state)
    for prefix in _PREFIXES:
        inner = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        if inner:
            inner = _without_prefix(inner, known)
        if sum(name in known for name in inner) > count:
            return inner
    return state


def _first(names: Mapping[str, Tensor]) -> str:
    return ", ".join([*list(names)[:_NAMES_OF_A_STRANGER], "..."][: len(names)])


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or torch file, by name; nothing in it is executed.

    A torch file may hold them under one of the keys that training tools use.

    Raises:
        DataError: the file is neither, is damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file fails in any way
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise _unreadable(path, why) from error
    if isinstance(state, dict):
        inner = (state[key] for key in _STATE_KEYS if isinstance(state.get(key), dict))
        state = next(inner, state)
    if not isinstance(state, dict):
        raise _unreadable(path, "it is not a mapping from names to tensors")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{path}: is no mapping from names to tensors, nor has it one under "
            f"{', '.join(_STATE_KEYS)}; it has {listed(list(map(str, state)), 5)}"
        )
    return dict(state)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: cannot be read as weights: {why}; replace it, or delete "
        "it if `segbench prepare` fetched it, and run that again"
    )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, t in tensors.items() if t.numel() and not t.isfinite().all()]


def _flattened(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1] * shape[2] * shape[3]


def _shown(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {listed(names, _MOST_NAMES_SHOWN)}"] if names else []
