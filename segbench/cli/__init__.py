"""The command line: the only place that prints, exits, and configures logging.

One module for the commands that belong together. Commands that need no tensors do not load torch.
"""

from segbench.cli import cards, pages, planning, run, scoring, timing, watching  # noqa: F401 - they join it
from segbench.cli.app import app


def main() -> None:
    """Run the command line: the console script and `python -m segbench`."""
    app()


__all__ = ["app", "main"]
