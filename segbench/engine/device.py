"""Choose the device of a trial and make it repeatable. Knows nothing of what runs on it."""

import contextlib
from pathlib import Path

import torch

from segbench.engine import ranks
from segbench.errors import LaunchError
from segbench.schema.machine import Machine


def chosen_device(machine: Machine) -> torch.device:
    """Return the device that the machine names; `auto` is the first GPU, or the CPU.

    Each of several processes that do a trial has a GPU of its own.

    Raises:
        LaunchError: the device does not exist here.
    """
    if machine.device in {"auto", "cuda"} and ranks.count() > 1 and torch.cuda.is_available():
        device = torch.device("cuda", ranks.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    if machine.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(machine.device)
    except RuntimeError as error:
        raise LaunchError(
            f"--device {machine.device}: is not a device; use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LaunchError(
            f"--device {machine.device}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu, or auto"
        )
    return device


def make_repeatable(machine: Machine, seed: int) -> None:
    """Fix the number of CPU threads and all random generators.

    On a CPU equal seeds and threads give equal bits. On a GPU some backward kernels add in an
    order that varies (bilinear upsampling among them); cuDNN's own choice is pinned.
    """
    torch.set_num_threads(machine.threads or 1)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def device_name(device: torch.device) -> str:
    """Return what the device calls itself, and how many ranks have one each, for provenance."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return name if ranks.count() == 1 else f"{ranks.count()} x {name}"


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak begin anew: the process may have done another trial before.

    Source: Linux's proc(5), clear_refs.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory that was allocated: on the GPU, or by the process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
