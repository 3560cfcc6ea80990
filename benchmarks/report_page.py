"""How fast a report page of 1,000 trials is built, loads, sorts and filters, in headless Chromium.

python benchmarks/report_page.py

Needs Chromium, and Playwright of the extra `dev`. A filter's time ends when everything that it
changes is drawn and laid out: the leaderboard, the heat map and the charts. Sixteen filters at each
of three loads. `cpu`: what the page's thread worked, which a busy machine changes little.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from drawn_run import made_run

from segbench.report.write import page_of, read_run

FILTERED = """async (value) => {
    const choice = document.querySelector("[data-axis=head]");
    const start = performance.now();
    choice.value = value;
    choice.dispatchEvent(new Event("change"));
    document.body.getBoundingClientRect();
    return performance.now() - start;
}"""
SORTED = """() => {
    const button = document.querySelectorAll("[data-board]:not([hidden]) thead button")[4];
    const start = performance.now();
    button.click();
    document.body.getBoundingClientRect();
    return performance.now() - start;
}"""


def main() -> None:
    """Measure and print one line of JSON; times in ms, of this machine's CPU."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        page, built_s = _built(Path(folder))
        size = page.stat().st_size
        loads, filters, cpu, sorts = [], [], [], []
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for _ in range(3):
                opened: Any = browser.new_page(viewport={"width": 1280, "height": 900})
                opened.goto(page.as_uri())
                opened.wait_for_selector("html[data-ready]")
                loads.append(
                    opened.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
                )
                session = opened.context.new_cdp_session(opened)
                session.send("Performance.enable", {"timeDomain": "threadTicks"})
                for value in ("fcn8s", "", "fcn32s", "") * 4:
                    before = _worked_ms(session)
                    filters.append(opened.evaluate(FILTERED, value))
                    cpu.append(_worked_ms(session) - before)
                sorts += [opened.evaluate(SORTED) for _ in range(4)]
                opened.close()
            browser.close()
    found = {
        "page_mb": round(size / 1e6, 2),
        "built_s": round(built_s, 1),
        "load_ms": _spread(loads),
        "filter_ms": _spread(filters),
        "filter_cpu_ms": _spread(cpu),
        "sort_ms": _spread(sorts),
    }
    print(json.dumps(found))


def _built(folder: Path) -> tuple[Path, float]:
    classes = tuple(f"class number {index}" for index in range(21))
    run_folder = made_run(
        folder,
        variants=25,
        seeds=5,
        images=6,
        datasets={"voc": classes, "few": classes[:5]},
        log_lines=100,
    )
    started = time.process_time()
    text = page_of(run_folder, read_run(run_folder))
    built_s = time.process_time() - started
    path = run_folder / "report.html"
    path.write_text(text)
    return path, built_s


def _worked_ms(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def _spread(values: list[float]) -> dict[str, int]:
    return {
        "least": round(min(values)),
        "median": round(statistics.median(values)),
        "most": round(max(values)),
    }


if __name__ == "__main__":
    main()
