"""The golden net: digests of what a change of structure must leave alone, as `digest  what` lines.

    python benchmarks/golden.py ids pages cards > before.txt      # seconds
    python benchmarks/golden.py > before.txt                      # with a one-seed quickstart: minutes

Run it before and after a change and compare with `diff`. A line that differs is a change of numbers,
of identity or of what people see: it wants a commit of its own that says so. Lines of pages hold for
one machine, since digits of a drawn page may differ in the last place from one processor to the next.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from segbench.commands.listing import description_of
from segbench.commands.run import Flags, prepare_run
from segbench.report.write import write_report
from segbench.schema.catalog import Catalog
from segbench.schema.heads import HEADS

ROOT = Path(__file__).parents[1]
Line = tuple[str, str]  # (digest, what)
# Times, hosts and logs differ between equal trainings.
MAY_DIFFER = {"provenance.json", "worker.log", "heartbeat.json"}


def main() -> None:
    """Print the lines of the parts that are named, of all where none is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    for part in parser.parse_args().parts or PARTS:
        for digest, what in PARTS[part]():
            print(f"{digest}  {what}", flush=True)


def ids() -> Iterator[Line]:
    """Yield one digest over the trial ids of each shipped experiment, cell by cell."""
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        cells = prepare_run(path, Flags()).whole.cells
        lines = [f"{cell.axes} {cell.seed} {cell.trial_id}" for cell in cells]
        yield _digest("\n".join(lines).encode()), f"ids of {path.stem} ({len(cells)} cells)"


def pages() -> Iterator[Line]:
    """Yield every file that `segbench report` writes for the committed runs."""
    for record in sorted((ROOT / "results").glob("*/run.json")):
        with tempfile.TemporaryDirectory() as temporary:
            copied = Path(temporary) / record.parent.name
            shutil.copytree(record.parent, copied)
            for path in sorted(write_report(copied)):
                yield _digest(path.read_bytes()), f"page {path.relative_to(temporary)}"


def cards() -> Iterator[Line]:
    """Yield what `segbench show` prints of every card and head."""
    catalog = Catalog.on_path(())
    for name in [*catalog.names("backbones"), *catalog.names("datasets"), *HEADS]:
        yield _digest(description_of(name, ()).encode()), f"card {name}"


def quickstart() -> Iterator[Line]:
    """Yield results, counts and weights of one seed of the quickstart, trained here."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "segbench", "run", "experiments/quickstart.yaml"]
        options = ["--seeds", "1", "--results", temporary, "--device", "cpu"]
        subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        trials = Path(temporary) / "quickstart" / "trials"
        for path in sorted(trials.glob("*/**/*.*")):
            if path.is_file() and path.name not in MAY_DIFFER and "events" not in path.name:
                yield _digest(path.read_bytes()), f"quickstart {path.relative_to(trials)}"


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "ids": ids,
    "pages": pages,
    "cards": cards,
    "quickstart": quickstart,
}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    main()
