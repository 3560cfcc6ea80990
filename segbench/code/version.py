"""Name the code that runs: package version, commit, and a digest where no commit tells the files."""

import hashlib
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def code_version() -> str:
    """Return `0.1.0+g1a2b3c4d5e6f`, or what tells files apart that are no commit's.

    Uncommitted changes of the package add `.dirty` and its digest; outside a checkout the digest
    stands alone, as in `0.1.0+s1a2b3c4d5e6f`. Cards and experiments do not count: a trial's
    identity holds them.
    """
    version = metadata.version("segbench")
    commit = _git("rev-parse", "--short=12", "HEAD") if _is_checkout() else ""
    if not commit:
        return f"{version}+s{package_digest(_PACKAGE)}"
    changed = _git("status", "--porcelain", "--", _PACKAGE.name)
    return f"{version}+g{commit}" + (f".dirty.s{package_digest(_PACKAGE)}" if changed else "")


def package_digest(package: Path) -> str:
    """Return 12 hexadecimal digits that tell a package folder's Python files, paths included."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:12]


def _is_checkout() -> bool:
    return (_PACKAGE.parent / ".git").exists()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
