"""Name the code that runs: package version, commit, and whether files differ from the commit."""

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


@cache
def code_version() -> str:
    """Return `0.1.0`, `0.1.0+g1a2b3c4d5e6f` in a checkout, or `...-dirty` where package files differ."""
    version = metadata.version("segbench")
    if not (_ROOT / ".git").exists():
        return version
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "segbench")
    return f"{version}+g{commit}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
