"""Pages in a browser: completeness, errors, requests, width and interaction."""

import csv
import io
import pathlib
import re
import shutil

import pytest

from experiments.page import html, study_page
from experiments.study import records, statistics
from tests.page import synthetic

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MEASURED = ("methods-ce-seed0", "methods-rrd-seed0", "methods-rrd-seed1", "methods-rrd+kd-seed0")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = synthetic.study(tmp_path_factory.mktemp("page") / "made")
    synthetic.measure(folder, MEASURED)
    return folder


@pytest.fixture(scope="module")
def path(folder):
    path = folder / "report.html"
    path.write_text(html.render(study_page.page(records.read(folder))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, path):
    """A function that opens the page at a width; console messages and network requests fail."""
    messages, urls, contexts = [], [], []

    def open_page(width=1400, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=all]", timeout=120_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def _csv(page, figure):
    with page.expect_download() as download:
        page.locator(f"#{figure} .csv").click()
    text = pathlib.Path(download.value.path()).read_text()
    return download.value.suggested_filename, list(csv.DictReader(io.StringIO(text)))


def test_every_figure_has_marks_and_a_text_alternative_with_numbers(opened, path):
    assert path.stat().st_size < 5e6
    page = opened(scheme="dark")
    counts = page.evaluate(
        """[...document.querySelectorAll(".chart")].map((box) => {
             const marks = [...box.querySelectorAll("svg .role-mark path")];
             const drawn = marks.filter((mark) => mark.getAttribute("d").length > 10);
             return [box.closest("figure").id, drawn.length]; })"""
    )
    assert len(counts) > 24
    assert [name for name, count in counts if not count] == []
    names = {name.split("-", 1)[1] for name, _ in counts}
    assert names >= {"comparison", "map", "curve", "epochs"}
    assert names >= {"classes", "confusion", "reliability", "correlations", "tsne"}
    cells = page.locator("#temperatures-map .role-mark.mark-rect path").count()
    assert cells == len(synthetic.TEMPERATURES) ** 2
    lines = page.locator("#methods-epochs .panel:first-child .mark-line path").count()
    # A line per run, and the mean of each method.
    assert lines == 6 * 5 + 6
    texts = page.evaluate(
        "[...document.querySelectorAll('.charts[role=img]')].map((x) => x.ariaLabel)"
    )
    assert len(texts) == page.locator(".charts").count()
    assert [text for text in texts if len(text) < 30 or not re.search(r"\d", text)] == []
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 22, 26)"
    page.locator("#theme").click()
    assert page.evaluate(paper) == "rgb(253, 252, 249)"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_does_not_scroll_sideways(opened, width):
    page = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """[...document.querySelectorAll("svg, h1, h2, h3, p, dd, figcaption")]
           .filter((x) => !x.closest(".scroll") && x.getBoundingClientRect().right > innerWidth + 1)
           .map((x) => x.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    if width == 390:
        cut = (
            "[...document.querySelectorAll('.scroll')].filter((x) => x.scrollWidth > x.clientWidth)"
        )
        assert page.evaluate(f"{cut}.length") == 0


def test_tables_are_sorted_by_their_numbers(opened):
    page = opened()
    table = page.locator("#methods-table")
    names = table.locator("tbody th")
    assert names.all_inner_texts()[0] == "rrd+kd"
    head = table.locator("thead th", has_text="last epoch")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts()[0] == "rrd+kd"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names.all_inner_texts()[0] == "at"
    table.locator("thead th", has_text="p (Holm)").locator("button").click()
    # The baseline has no p.
    assert names.all_inner_texts()[-1] == "ce"


def test_downloads_contain_the_values(opened, folder):
    page = opened()
    grid = records.read(folder).grids[0]
    name, rows = _csv(page, "methods-comparison")
    assert name == "methods-comparison.csv"
    downloaded = {row["level"]: float(row["mean"]) for row in rows if row["kind"] == "mean"}
    (levels,) = grid.blocks().values()
    means = {
        level: statistics.summarize(records.values_by_seed(runs, grid.metric)).mean
        for level, runs in levels.items()
    }
    assert downloaded == pytest.approx(means, rel=1e-4)
    _, rows = _csv(page, "methods-epochs")
    last = grid.runs[0].rows[-1]
    assert {
        "panel": "test top-1 (%)",
        "level": "ce",
        "run": grid.runs[0].label,
        "epoch": str(last["epoch"]),
    }.items() <= rows[synthetic.EPOCHS - 1].items()
    assert float(rows[synthetic.EPOCHS - 1]["value"]) == pytest.approx(last["test/top1"], rel=1e-4)
    _, rows = _csv(page, "methods-table")
    assert rows[-1]["method"] == "at"
    assert rows[-1]["seeds"] == "4 of 5"
    assert rows[-1]["difference to ce (95 % interval)"].startswith("-0.")


def test_the_legend_highlights_a_level(opened):
    page = opened()
    figure = page.locator("#methods-epochs")
    button = figure.locator(".legend button", has_text=re.compile("^rrd$"))
    faint = "#methods-epochs .panel:first-child .mark-line path[opacity='0.12']"
    assert page.locator(faint).count() == 0
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    page.wait_for_selector(faint, state="attached")
    # The means of the other levels.
    assert page.locator(faint).count() == 5
    button.click()
    page.wait_for_selector(faint, state="detached")


def test_a_point_shows_its_image_on_hover(opened):
    page = opened()
    page.locator("#methods-tsne .chart .mark-symbol path").first.hover()
    image = page.locator("#vg-tooltip-element img")
    image.wait_for()
    assert image.evaluate("(x) => x.naturalWidth") == 8
    assert "label" in page.locator("#vg-tooltip-element").inner_text()
