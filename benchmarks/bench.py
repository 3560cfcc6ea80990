"""Measure segbench beside its peers, the same work in turn in one process, as a Markdown table.

    python benchmarks/bench.py [--write] [ROW ...]      # rows whose names hold one of these words

All rows run in one process with one thread. CPU ms is the median of the CPU time of all
threads and child processes, which other work on the machine disturbs less than wall time; extra MiB
is the growth of the peak memory, load that of the machine when the row was done. `--write` puts the rows
that were measured into the table of results/performance.md and leaves the others.
"""

import argparse
import contextlib
import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_rows import ROWS, Bar, Row, Work

PAGE = Path(__file__).parents[1] / "results" / "performance.md"
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"
HEAD = (
    "| work | peer | peer: CPU ms / wall ms / extra MiB | segbench: CPU ms / wall ms / extra MiB "
    "| peer / segbench | bar | | load |\n|---|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    """Measure the rows that are asked for and print them one by one."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("words", nargs="*")
    arguments.add_argument("--write", action="store_true")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    condition, lines = _condition(), []
    print(condition, HEAD, sep="\n\n", end="", flush=True)
    names = [n for n in ROWS if not asked.words or any(word in n for word in asked.words)]
    for name in names:
        lines.append(_line(name, ROWS[name], _measured(ROWS[name])))
        print(lines[-1], end="", flush=True)
        if asked.write:
            _put(condition, lines)


def _put(condition: str, lines: Sequence[str]) -> None:
    """Put the lines of rows into the page's table, in the order of the rows."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    table, after = rest.split(END)
    known = {_name(line): line for line in [*table.splitlines(keepends=True), *lines]}
    rows = "".join(known[name] for name in ROWS if name in known)
    PAGE.write_text(f"{before}{BEGIN}{condition}\n\n{HEAD}{rows}{END}{after}", encoding="utf-8")


def _name(line: str) -> str:
    return line.removeprefix("| ").partition(" | ")[0]


def _line(name: str, row: Row, measured: dict[str, Any]) -> str:
    peer, ours = measured["peer"], measured["ours"]
    ratio = measured["ratio"]
    reached, bar = _judged(row.bar, peer[row.clock], ours[row.clock], ratio)
    cells = (
        f"{side['cpu']:.1f} / {side['wall']:.1f} / {side['extra']:.0f}" for side in (peer, ours)
    )
    of = "" if row.clock == "cpu" else " (wall)"
    load = f"{os.getloadavg()[0]:.1f}"
    columns = (name, row.peer, *cells, f"{ratio:.2f}{of}", bar, reached, load)
    return f"| {' | '.join(columns)} |\n"


def _judged(bar: Bar, peer: float, ours: float, ratio: float) -> tuple[str, str]:
    """Return whether the bar is reached, and the bar in words."""
    reached = {
        "times": ratio >= bar.value,
        "ms": ours <= bar.value,
        "ms more": ours <= peer + bar.value,
    }[bar.kind]
    words = {
        "times": f"ratio >= {bar.value:.3g}",
        "ms": f"<= {bar.value:g} ms",
        "ms more": f"<= peer + {bar.value:g} ms",
    }[bar.kind]
    return "reached" if reached else "missed", words


def _measured(row: Row) -> dict[str, Any]:
    """Return medians of both sides, which take turns, and the median of their ratios."""
    torch.manual_seed(0)
    works = dict(zip(("peer", "ours"), row.works(), strict=True))
    found = {side: [_once(work)] for side, work in works.items()}  # the first one warms up
    for turn in range(row.rounds):
        for side in ("peer", "ours") if turn % 2 else ("ours", "peer"):
            found[side].append(_once(works[side]))
    ratios = [
        p[row.clock] / o[row.clock]
        for p, o in zip(found["peer"][1:], found["ours"][1:], strict=True)
    ]
    sides = {
        side: {
            "cpu": 1000 * statistics.median(one["cpu"] for one in times[1:]) / row.per,
            "wall": 1000 * statistics.median(one["wall"] for one in times[1:]) / row.per,
            "extra": max(one["extra"] for one in times),
        }
        for side, times in found.items()
    }
    return {**sides, "ratio": statistics.median(ratios)}


def _once(work: Work) -> dict[str, float]:
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, cpu, wall = _peak_mib(), _cpu_seconds(), time.perf_counter()
    rest = work()
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    extra = _peak_mib() - before
    if callable(rest):
        rest()
    return {"cpu": cpu, "wall": wall, "extra": extra}


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _condition() -> str:
    from importlib.metadata import version

    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torchvision", "torchmetrics")
    )
    return (
        f"`python benchmarks/bench.py` on {os.cpu_count()} cores of {model} (Python "
        f"{platform.python_version()}, {packages}), one thread."
    )


if __name__ == "__main__":
    main()
