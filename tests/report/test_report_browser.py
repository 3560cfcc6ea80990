"""The page in a real browser: every control, two widths, no complaint of the console or of axe.

Needs Chromium and Playwright, and npm for axe-core; each test skips with a sentence without them.
Screenshots are kept in build/screenshots, to be looked at.
"""

import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from drawn_run import external_in, made_run

from segbench.commands.serve import new_server
from segbench.report.write import write_report
from segbench.runs.trial_files import load_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
NASTY = (
    "background",
    "<script>alert(1)</script>",
    "</script><b>x",
    "a&b",
    "a very long name of a class",
)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps"),
)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright (pip install playwright)"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with hostile names, several protocols and data sets, and an unfinished cell."""
    run_folder = made_run(
        tmp_path_factory.mktemp("made"),
        datasets={"few": NASTY, "many": tuple(f"class {i}" for i in range(30))},
    )
    trials = sorted(run_folder.glob("trials/*"))
    unfinished = next(folder for folder in trials if load_trial(folder).dataset.name == "few")
    (unfinished / "result.json").unlink()
    write_report(run_folder)
    return run_folder


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "--silent", "axe-core@4"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.skip("needs a network to fetch axe-core with npm")
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


class Opened:
    """A page with all that its console and its network said."""

    def __init__(
        self, browser, address: str, size: str = "desktop", scheme: str = "light", **options
    ) -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def __enter__(self):
        return self.page

    def __exit__(self, *_):
        said, asked = self.said, self.asked
        self.context.close()
        assert said == []
        assert not [
            url for url in asked if not url.startswith(("file:", "http://127.0.0.1:", "data:"))
        ]


def address_of(run_folder: Path) -> str:
    return (run_folder / "report.html").as_uri()


@pytest.mark.parametrize("size", SIZES)
def test_every_control_does_its_work(browser, made, size):
    with Opened(browser, address_of(made), size) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        rows = "#leaderboard [data-board]:not([hidden]) tbody tr:not([hidden])"
        page.select_option("#protocol", "native")
        page.select_option("#dataset", "many")
        assert page.inner_text("#leaderboard [data-board]:not([hidden]) p").startswith(
            "Protocol native"
        )
        assert page.locator(rows).count() == 4
        assert (
            page.locator("[data-board]:not([hidden])").count() == 2
        )  # the answer and the leaderboard
        page.select_option("[data-axis=head]", "fcn8s")
        assert page.locator(rows).count() == 2
        assert page.inner_text("#count") == "2 of 4 models shown."
        assert page.locator("#heat thead th").count() == 3
        page.select_option("[data-axis=head]", "")
        heads = page.locator("#leaderboard [data-board]:not([hidden]) thead button")
        first = [page.locator(rows).nth(0).inner_text()]
        for index in range(heads.count()):
            for _ in range(2):
                heads.nth(index).click()
                first.append(page.locator(rows).nth(0).inner_text())
        assert len(set(first)) > 1
        for order in ("iou", "share", "card"):
            page.select_option("#class-order", order)
        page.select_option("#model-a", "2")
        page.select_option("#model-b", "0")
        assert page.inner_text("#difference-note").startswith(
            "A is googlenet fcn32s, B is resnet18 fcn32s."
        )
        for cost in page.locator("#cost-kind option").evaluate_all(
            "all => all.map((o) => o.value)"
        ):
            page.select_option("#cost-kind", cost)
            assert page.locator("#cost-chart svg.chart path.front").count() == 1
        page.select_option("#confusion-model", "1")
        page.select_option("#confusion-seed", "3")
        assert "resnet18 fcn8s, seed 3" in page.inner_text("#confusion-caption")
        assert page.locator("#confusion-table tbody tr").count() == 21
        page.select_option("#theme", "dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        page.select_option("#theme", "light")
        for opener in (
            *("[data-board]:not([hidden]) [data-opens]", "#heat thead button"),
            *("#curves .legend button", "#frequency .legend button", "#heat td[data-model]"),
        ):
            page.locator(opener).first.click()
            assert page.locator("#details[open] table tbody tr").count() == 4
            assert "--only" in page.inner_text("#details pre >> nth=0")
            page.locator("#close").click()
            assert page.locator("#details[open]").count() == 0
        page.locator("#trials summary").click()
        page.locator("#trials tbody tr").first.wait_for()  # written when it opens
        assert page.locator("#trials tbody tr").count() == 32
        for link in page.locator("nav a").all():
            link.click()
        for place in page.locator("#trials a").evaluate_all("all => all.map((a) => a.href)")[:8]:
            assert Path(place.removeprefix("file://")).is_file()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=SCREENSHOTS / f"{size}.png", full_page=True)


def test_hostile_names_are_shown_as_they_are(browser, made):
    with Opened(browser, address_of(made)) as page:
        page.select_option("#dataset", "few")
        assert page.locator("#heat tbody th").all_inner_texts() == ["mean", *NASTY]
        assert page.inner_text(".question") == "Which <b>model</b> is better & by how much?"


def test_the_keyboard_reaches_and_works_everything(browser, made):
    with Opened(browser, address_of(made)) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("[data-board]:not([hidden]) [data-opens]").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#details[open]").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("#details[open]").count() == 0
        head = page.locator(
            "#leaderboard [data-board]:not([hidden]) thead button", has_text="mean IoU"
        )
        head.focus()
        page.keyboard.press("Enter")
        assert head.locator("..").get_attribute("aria-sort") == "descending"
        unreached = page.evaluate(
            "[...document.querySelectorAll('button, select, a[href], summary')]"
            ".filter((node) => node.tabIndex < 0).length"
        )
        assert unreached == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, made, axe, scheme):
    with Opened(browser, address_of(made), scheme=scheme, bypass_csp=True) as page:
        for opened in (False, True):
            if opened:
                page.locator("[data-board]:not([hidden]) [data-opens]").first.click()
            page.evaluate(axe)
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            serious = [
                (fault["id"], [node["html"][:200] for node in fault["nodes"][:3]])
                for fault in found
                if fault["impact"] in {"serious", "critical"}
            ]
            assert serious == []


def test_it_prints(browser, made, tmp_path):
    with Opened(browser, address_of(made)) as page:
        page.pdf(path=tmp_path / "report.pdf")
        page.emulate_media(media="print")
        assert page.locator(".controls").is_hidden()
        assert page.locator("#leaderboard table").first.is_visible()
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_without_javascript_the_leaderboards_are_there(browser, made):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address_of(made))
    assert page.locator("#leaderboard table").count() == 4
    assert "Without JavaScript" in page.inner_text("noscript")
    context.close()


def test_the_live_page_takes_new_results_by_itself(browser, tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=2, images=5)
    hidden = next(run_folder.glob("trials/*/result.json"))
    kept = hidden.read_bytes()
    hidden.unlink()
    with new_server(run_folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with Opened(browser, server.address) as page:
                rows = "#leaderboard [data-board]:not([hidden]) tbody tr"
                assert page.locator(rows).count() == 3
                page.locator("#live-line", has_text="7 done").wait_for()
                page.select_option("#protocol", "native")
                hidden.write_bytes(kept)
                page.locator(rows).nth(3).wait_for(timeout=60_000)
                assert page.locator("#protocol").input_value() == "native"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_of_1000_trials_filters_and_draws_the_best_forty(browser, tmp_path):
    """How fast it does so, benchmarks/report_page.py says."""
    run_folder = made_run(
        tmp_path, variants=50, seeds=5, images=6, datasets={"few": ("a", "b", "c")}, log_lines=20
    )
    write_report(run_folder)
    with Opened(browser, address_of(run_folder)) as page:
        rows = "#leaderboard [data-board]:not([hidden]) tbody tr:not([hidden])"
        assert page.locator(rows).count() == 200
        assert page.locator("#heat thead th").count() == 41
        assert page.inner_text("#heat-note").startswith("The 40 best of 200 models")
        page.select_option("[data-axis=head]", "fcn8s")
        assert page.locator(rows).count() == 100
        names = page.locator("#heat thead button").all_inner_texts()
        assert len(names) == 40
        assert all("fcn8s" in name for name in names)
        page.select_option("[data-axis=variant]", "v7")
        assert page.locator("#heat thead button").count() == 2
        assert page.locator("#heat tbody tr").count() == 4
        first = page.locator("#heat tbody tr").first.locator("td").first.inner_text()
        shown = page.locator(rows).first.locator("td.number").nth(1).inner_text()
        assert shown.startswith(first[:3])


def test_an_external_method_opens_without_trials(browser, tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat", "dog")}, seeds=1)
    external_in(run_folder)
    write_report(run_folder)
    with Opened(browser, address_of(run_folder)) as page:
        page.select_option("#protocol", "native")
        page.locator("[data-board]:not([hidden]) [data-opens]", has_text="theirs").click()
        assert "made elsewhere" in page.inner_text("#details-body")
        assert "--predictions" in page.inner_text("#details pre")
        page.locator("#close").click()
        page.select_option("#confusion-model", "0")
        assert "theirs, seed \u2013" in page.inner_text("#confusion-caption")
