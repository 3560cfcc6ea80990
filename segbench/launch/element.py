"""Kept for one release: what the last release started runs `python -m segbench.launch.element`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("segbench.launch.job", run_name="__main__")
