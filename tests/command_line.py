"""Commands of segbench as somebody types them, run in the test's own process: torch is loaded there."""

from click.testing import Result
from typer.testing import CliRunner

from segbench.cli import app


def invoked(*words: object, **options: object) -> Result:
    """Return how a command ended and what it printed; a crash is raised again."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, **options)


def segbench(*words: object) -> tuple[int, str]:
    """Return a command's exit code and all that it printed, its white space put together."""
    done = invoked(*words)
    return done.exit_code, " ".join(done.output.split())
