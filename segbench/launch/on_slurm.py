"""Kept for one release: jobs that the last release queued call `run_element` by this module's name."""

from segbench.launch.slurm.launcher import run_element

__all__ = ["run_element"]
