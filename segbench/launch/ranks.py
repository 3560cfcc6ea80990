"""One of several processes that do one trial together, and the one that starts them on a machine.

    python -m segbench.launch.ranks JOB.json LAUNCH_JSON TRIAL_ID

Which of them it is stands in torchrun's variables. If one of them ends badly all end, and all start
again from the last checkpoint. Exit codes: those of segbench.work.worker.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from segbench.code.own import move_current_folder_last
from segbench.errors import SegbenchError
from segbench.launch.node import end_with_parent, has_given_up, started_here, until_visible
from segbench.runs import trial_files
from segbench.schema.job import RANK_LOST, UNRECORDED, Job
from segbench.schema.launching import Launch

GRACE_SECONDS = 20.0  # how long the others may take to end by themselves, after one of them did
_POLL_SECONDS = 0.1


def run_rank(job_path: Path, trial_id: str, launch: Launch, *, restarts: int = 0) -> int:
    """Do this process's part of the trial; return the process's exit code."""
    from segbench.engine import ranks
    from segbench.work import worker

    worker.stop_on_signals()
    until_visible(job_path)
    job = Job.read(job_path)
    workdir = trial_files.trial_folder(Path(job.run_folder), trial_id)
    until_visible(workdir / "trial.json")
    mine = int(os.environ["RANK"])
    if mine == 0 and has_given_up(trial_id, workdir, launch.max_attempts, restarts):
        return 1
    try:
        with ranks.joined():
            outcome = worker.work(job, trial_id, log_name=log_name(mine))
    except RuntimeError as error:
        if not ranks.is_loss_of_a_rank(error):
            raise
        print(f"another rank is gone: {error}", file=sys.stderr)  # noqa: T201
        return RANK_LOST
    return worker.exit_code([outcome])


def log_name(rank: int) -> str:
    """Return the file in the trial's folder that has what this rank prints: one writer per file."""
    return "worker.log" if rank == 0 else f"worker.{rank}.log"


def variables(rank: int, ranks: int, *, address: str, port: int) -> dict[str, str]:
    """Return torchrun's variables; where all ranks are on one machine they meet on loopback."""
    found = {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    return {**found, "GLOO_SOCKET_IFNAME": "lo"} if address == "127.0.0.1" else found


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def start_all(job_path: Path, trial_id: str, launch: Launch) -> list[subprocess.Popen[bytes]]:
    """Start the trial's processes on this machine; what they print before their log goes to its."""
    port = free_port()
    workdir = trial_files.trial_folder(job_path.parents[1], trial_id)
    command = [sys.executable, "-m", "segbench.launch.ranks", str(job_path)]
    started = []
    for rank in range(launch.ranks_per_trial):
        own = variables(rank, launch.ranks_per_trial, address="127.0.0.1", port=port)
        with (workdir / log_name(rank)).open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*command, launch.model_dump_json(), trial_id],
                    env={**started_here(), **own},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def wait_for_all(processes: list[subprocess.Popen[bytes]]) -> int:
    """Return 0, or the code that says why: if one ends badly the others are not left alone."""
    codes: list[int | None] = [None] * len(processes)
    deadline = float("inf")
    while None in codes:
        codes = [process.poll() for process in processes]
        if any(codes) and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(_POLL_SECONDS)
    return worst(codes)


def worst(codes: list[int | None]) -> int:
    """Return the first bad code of ranks; that the results take no files says most."""
    bad = [code for code in codes if code]
    if UNRECORDED in bad:
        return UNRECORDED
    return bad[0] if bad else 0


if __name__ == "__main__":
    move_current_folder_last()
    end_with_parent()
    try:
        given = Launch.model_validate_json(sys.argv[2])
        sys.exit(run_rank(Path(sys.argv[1]), sys.argv[3], given))
    except SegbenchError as error:
        print(f"segbench rank: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(UNRECORDED)
