"""A launcher of one's own: a process that goes on when the command has left. docs/on-a-cluster.md."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from segbench.files import read_json, write_json
from segbench.launch.base import Event, Launcher
from segbench.runs.status import ClusterJob


class Detached(Launcher):
    leaves = True  # the command need not wait

    def start(self, work, on_event):
        folder = work.run_folder / "jobs"
        command = [sys.executable, "-m", "segbench.work.worker", str(work.job.write())]
        submit = 'nohup "$@" >> "$0" 2>&1 & echo $!'  # yours may be qsub, which prints an id, too
        words = ["sh", "-c", submit, str(folder / "detached.log"), *command, *work.trials]
        pid = subprocess.check_output(words, text=True).strip()
        write_json(folder / f"detached-{pid}.json", {"trials": list(work.trials)})
        for trial_id in work.trials:
            on_event(Event("submitted", trial_id, f"process {pid}"))

    def jobs(self, run_folder):
        found = {}
        for path in sorted((run_folder / "jobs").glob("detached-*.json")):
            pid = path.stem.removeprefix("detached-")
            state = "running" if _lives(pid) else "completed"
            log = path.with_name("detached.log")
            job = ClusterJob(pid, state, f"process {pid}", logs=lambda log=log: [log])
            found |= dict.fromkeys(read_json(path)["trials"], job)
        return found

    def cancel(self, run_folder, trial_ids=()):
        queued = {t: job.job_id for t, job in self.jobs(run_folder).items() if job.is_queued}
        pids = {pid for t, pid in queued.items() if not trial_ids or t in trial_ids}
        for pid in pids:
            os.kill(int(pid), signal.SIGTERM)  # the worker saves its state
        return sorted(pids)


def _lives(pid):
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
