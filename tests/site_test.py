"""The documentation site: links, references, search, and layout in a browser."""

import functools
import html.parser
import http.server
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest

from rrd_jax import objectives
from rrd_jax.config import fields, methods

pytest.importorskip("material")
_ROOT = pathlib.Path(__file__).parent.parent
_NETWORKS = ("resnet8", "resnet8x4", "vit_tiny_patch16_224")
_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("site")]


class _Page(html.parser.HTMLParser):
    """The anchors and links of a page, and the files that a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a":
            self.links += [attributes["href"]] if attributes.get("href") else []
        else:
            self.loaded += [attributes[key] for key in ("src", "href") if attributes.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, with the figures of three networks to save time."""
    folder = tmp_path_factory.mktemp("site")
    env = os.environ | {"DOCS_NETWORKS": ",".join(_NETWORKS), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    outcome = subprocess.run(command, cwd=_ROOT, env=env, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: _Page(path) for path in sorted(site.rglob("*.html"))}


def test_links_anchors_and_images_exist(site, pages):
    assert len(pages) > 40
    for path, page in pages.items():
        # Links of this page are relative to the root of the server.
        if path.name == "404.html":
            continue
        for target in (*page.links, *page.loaded):
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = path.parent / urllib.parse.unquote(parts.path) if parts.path else path
            file = (file / "index.html" if file.is_dir() else file).resolve()
            assert file.is_file(), f"{path.relative_to(site)}: {target}"
            if parts.fragment and file.suffix == ".html" and parts.fragment != "__skip":
                anchor = urllib.parse.unquote(parts.fragment)
                assert anchor in pages[file].anchors, f"{path.relative_to(site)}: {target}"


def test_pages_load_nothing_from_other_hosts(site, pages):
    for path, page in pages.items():
        assert not [target for target in page.loaded if "//" in target], path.relative_to(site)
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(encoding="utf-8")


def test_every_field_objective_and_network_is_documented(site, pages):
    anchors = pages[site / "reference" / "fields.html"].anchors
    assert not fields.FIELDS.keys() - anchors - {"objectives"}
    page = site / "reference" / "objectives.html"
    assert objectives.RECORDS.keys() <= pages[page].anchors
    text = page.read_text(encoding="utf-8")
    for name, options in methods.objectives().items():
        section = text.partition(f'<h2 id="{name}"')[2].partition("<h2 ")[0]
        for option in options:
            assert f"<code>{option}</code>" in section, f"{name}.{option}"
    text = (site / "reference" / "networks.html").read_text(encoding="utf-8")
    for name in _NETWORKS:
        assert f"<code>{name}</code>" in text
    for path in site.glob("reference/*.html"):
        assert "<!-- generated:" not in path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(site):
    """The address of a server of the site."""
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


# Search words of readers, and the page that must be among the first two hits.
_SEARCHES = {
    "resume": "resume",
    "installation": "installation",
    "mixed precision": "training",
    "multi-GPU": "multi_gpu_and_tpu",
    "gradient accumulation": "training",
    "early stopping": "training",
    "RGBA": "data",
    "throughput": "training",
    "overfitting": "training",
    "logging": "training",
}


def _first_hits(page, address, query):
    """Returns the links of the first two hits of a search."""
    page.goto(f"{address}/index.html?q={urllib.parse.quote(query)}")
    page.wait_for_selector(".md-search-result__item a", state="attached", timeout=30_000)
    items = page.locator(".md-search-result__item")
    hits = [items.nth(i).locator("a").first for i in range(min(2, items.count()))]
    return [urllib.parse.urlsplit(hit.get_attribute("href")).path for hit in hits]


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed")
def test_the_search_finds_the_pages_that_readers_look_for(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        for query, name in _SEARCHES.items():
            hits = _first_hits(page, address, query)
            assert any(hit.endswith(f"/{name}.html") for hit in hits), f"{query}: {hits}"
        browser.close()


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("where", "width"), [("server", 1400), ("disk", 1400), ("server", 390)])
def test_pages_fit_the_screen_and_the_search_finds_a_field(address, site, where, width):
    playwright = pytest.importorskip("playwright.sync_api")
    address = address if where == "server" else site.as_uri()
    messages, requests = [], []
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for name in ("index", "architecture", "training", "reference/objectives"):
            page.goto(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)"), name
        hits = _first_hits(page, address, "teacher.cache_dtype")
        browser.close()
    assert hits[0].endswith("reference/fields.html")
    assert messages == []
    assert [url for url in requests if not url.startswith(address)] == []
