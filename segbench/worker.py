"""Kept for one release: jobs that the last release queued start `python -m segbench.worker`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("segbench.work.worker", run_name="__main__")
