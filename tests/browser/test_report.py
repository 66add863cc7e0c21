"""The report's page in a real browser: Debian's Chromium, driven by Playwright. Run by name: pytest -m browser."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.made_up_runs import MadeUp, write_run, write_shapes
from matl_scale.report.comparison.results import Results
from matl_scale.report.page.page import write_page

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
WAIT_S = 60.0
DRAWN = "[...document.querySelectorAll('figure.drawn')].filter((f) => f.offsetParent).every((f) => f.matches('.ready'))"
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "<a href='javascript:window.broken = 3'><b>a</b></a>",
    "<svg onload='window.broken = 4'>",
    "%{x} {{ 7 * 7 }}",
    "plain",
    "last",
)


class Opened:
    """A page that is open, and what went wrong in it."""

    def __init__(self, page: "playwright.Page", path: Path) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        self.wait("performance.getEntriesByName('tables ready').length")

    def wait(self, condition: str) -> None:
        """Waits until a condition holds; Playwright's own way needs `eval`, which the page forbids."""
        end = time.monotonic() + WAIT_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def column(self, title: str) -> list[str]:
        """Returns the cells that are shown of a column of the table of tasks."""
        titles = [text.strip() for text in self.page.locator("#tasks-0 thead th").all_inner_texts()]
        column = titles.index(title) + 1
        return self.page.locator(f"#tasks-0 tbody td:nth-child({column})").all_inner_texts()

    def sort_by(self, title: str) -> None:
        self.page.locator("#tasks-0 thead th", has_text=title).first.click()

    def show_everything(self) -> None:
        """Scrolls down until every figure is drawn."""
        for figure in self.page.locator("figure.drawn:visible").all():
            figure.scroll_into_view_if_needed()
        self.wait(DRAWN)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, made_up = tmp_path_factory.mktemp("report"), MadeUp(num_tasks=40, num_samples=300)
    run = write_run(folder / "run", made_up, write_shapes(folder / "set", made_up).root.local)
    write_page(folder / "report.html", Results(runs=[run], split="test"), [])
    return folder / "report.html"


@pytest.fixture
def opened(browser: "playwright.Browser", report: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield Opened(context.new_page(), report)
    context.close()


def test_sorting_puts_empty_cells_last(opened: Opened) -> None:
    assert opened.column("balanced accuracy") == sorted(opened.column("balanced accuracy"))
    for descending in (False, True):
        opened.sort_by("AUROC")
        opened.page.locator("#tasks-0 .dt-length select").select_option("-1")
        cells = opened.column("AUROC")
        assert len(cells) == 40
        assert cells[-2:] == ["", ""]
        assert cells[:-2] == sorted(cells[:-2], reverse=descending)


def test_filter_by_text(opened: Opened) -> None:
    opened.page.locator("#tasks-0 .dt-search input").fill("wing_")
    assert len(opened.column("task")) == 4
    assert all(name.startswith("wing_") for name in opened.column("task"))


def test_only_tasks_with_a_note(opened: Opened) -> None:
    opened.page.get_by_label("only tasks with a note").check()
    assert 0 < len(opened.column("note")) < 25
    assert all(opened.column("note"))
    opened.page.get_by_label("only tasks with a note").uncheck()
    assert len(opened.column("note")) == 25


def test_first_rows_are_the_same_without_scripts(browser: "playwright.Browser", opened: Opened, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    plain = [row.strip().split("\t") for row in page.locator("#tasks-0 tbody tr").all_inner_texts()]
    ready = [row.strip().split("\t") for row in opened.page.locator("#tasks-0 tbody tr").all_inner_texts()]
    assert plain == ready
    context.close()


def test_it_draws_everything_and_asks_for_nothing(opened: Opened, report: Path) -> None:
    opened.show_everything()
    assert opened.page.locator("#plots-0 .main-svg").count() > 10
    assert opened.page.evaluate("[...document.images].every((image) => image.loading && image.src.startsWith('data:'))")
    assert opened.problems == []
    outside = [url for url in opened.requests if not url.startswith(("blob:", "data:"))]
    assert outside == [report.as_uri()]


def test_a_phone_need_not_scroll_sideways(browser: "playwright.Browser", report: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    opened = Opened(context.new_page(), report)
    opened.show_everything()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.problems == []
    context.close()


def test_names_run_nothing(browser: "playwright.Browser", tmp_path: Path) -> None:
    made_up = MadeUp(num_tasks=len(HOSTILE), num_samples=100, names=HOSTILE, classes=HOSTILE[:2])
    run = write_run(tmp_path / "<img src=x onerror=broken=5>", made_up)
    write_page(tmp_path / "report.html", Results(runs=[run], split="test"), [])
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Opened(context.new_page(), tmp_path / "report.html")
    opened.show_everything()
    assert opened.page.evaluate("window.broken") is None
    assert opened.page.locator("img, svg a, main b b, svg[onload]").count() == 0
    assert set(opened.column("task")) == set(HOSTILE)
    assert opened.page.locator(".yaxislayer-above text", has_text="onerror").count() > 0
    assert opened.problems == []
    context.close()


def test_another_run_can_be_chosen(browser: "playwright.Browser", tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, MadeUp(seed=seed)) for seed, name in enumerate("ab")]
    write_page(tmp_path / "report.html", Results(runs=runs, split="test"), [])
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Opened(context.new_page(), tmp_path / "report.html")
    opened.page.get_by_label("run").select_option("b")
    opened.wait("document.querySelector('#tasks-1 .grid.ready') !== null")
    opened.page.get_by_role("link", name="Plots").click()
    opened.show_everything()
    assert opened.page.locator("#plots-1 .main-svg").count() > 10
    assert opened.page.locator("#tasks-0").is_hidden()
    assert opened.problems == []
    context.close()


def test_how_soon_a_thousand_tasks_can_be_worked_with(browser: "playwright.Browser", tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MadeUp(num_tasks=1000, num_samples=500))
    write_page(tmp_path / "report.html", Results(runs=[run], split="test"), [])
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    start = time.monotonic()
    opened = Opened(context.new_page(), tmp_path / "report.html")
    opened.sort_by("AUROC")
    opened.wait("document.querySelector('#tasks-0 th[aria-sort=ascending]') !== null")
    sorted_s = time.monotonic() - start
    opened.wait("performance.getEntriesByName('plots ready').length")
    marks = opened.page.evaluate(
        "Object.fromEntries(['first-contentful-paint', 'tables ready', 'plots ready'].map((name) => "
        "[name, Math.round(performance.getEntriesByName(name)[0].startTime) / 1000]))"
    )
    print(
        f"\n1,000 tasks: {(tmp_path / 'report.html').stat().st_size / 1e6:.1f} MB, seconds: {marks}, sorted {sorted_s:.2f}"
    )
    assert opened.problems == []
    context.close()
