"""The built site in a real browser: every page, light and dark, wide and narrow (`make test-site`)."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Page, sync_playwright

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for folder in ("book", "chapters")
    for path in (SITE / folder).glob("*.html")
)
each_page = pytest.mark.parametrize("name", PAGES)

# everything that sticks out to the right, except in what may be scrolled by itself
STICKING_OUT = """() => [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility())
    .filter(e => !e.closest("pre, svg, table, dialog, .cell_output, .katex, .sidebar-primary"))
    .map(e => e.outerHTML.slice(0, 100))"""
SHIFT = """() => new Promise(done => {
    let shift = 0;
    new PerformanceObserver(list => { for (const e of list.getEntries()) shift += e.value })
        .observe({type: "layout-shift", buffered: true});
    setTimeout(() => done(shift), 200);
})"""
AXE = """() => axe.run().then(result => result.violations.map(
    v => `${v.id}: ${v.nodes.length} × ${v.help}: ${v.nodes[0].html.slice(0, 200)}`))"""


def test_the_site_is_built() -> None:
    assert PAGES, "there is no site to test: make book builds it"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("no browser here: install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One page in a new window, with all that it asked for and complained of."""

    def __init__(self, browser: Browser, url: str, host: str, **options: Any):
        self.context = browser.new_context(bypass_csp=True, **options)
        self.page: Page = self.context.new_page()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.size = 0
        self.page.on(
            "request", lambda r: None if r.url.startswith((host, "data:")) else self.foreign.append(r.url)
        )
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self.note)
        self.page.goto(url)
        self.page.wait_for_load_state("load")

    def note(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")
        self.size += int(response.headers.get("content-length", 0))

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *args: object) -> None:
        self.context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_page
def test_a_page(browser: Browser, address: str, name: str, scheme: Any, width: int) -> None:
    viewport: Any = {"width": width, "height": 900}
    with Visit(browser, address + name, address, viewport=viewport, color_scheme=scheme) as visit:
        page = visit.page
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert page.evaluate(SHIFT) < 0.05
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []
        page.add_script_tag(path=AXE_FILE_PATH)
        assert page.evaluate(AXE) == []
        assert visit.complaints == [] and visit.foreign == []
        assert visit.size < 1_000_000, "raw bytes of one page and all that it loads"


@each_page
def test_every_picture_says_what_one_sees(browser: Browser, address: str, name: str) -> None:
    with Visit(browser, address + name, address) as visit:
        pictures = visit.page.evaluate(
            """() => [...document.querySelectorAll(".bd-article img, .bd-article svg[role=img]")]
                .map(e => e.getAttribute("alt") || e.getAttribute("aria-label") || "")"""
        )
        assert all(len(text) > 20 for text in pictures), pictures
        bare = ".bd-article svg:not([role=img]):not([aria-hidden=true]):not(.sd-icon)"
        assert visit.page.locator(bare).count() == 0
        assert visit.page.locator(".bd-article .cell_output img[src*='_images']").count() == 0


@each_page
def test_a_page_from_a_folder_without_scripts(browser: Browser, name: str) -> None:
    """As in an unpacked zip, with scripts off: text, formulas and figures are all there."""
    url = (SITE / name).as_uri()
    with Visit(browser, url, "file://", java_script_enabled=False) as visit:
        assert visit.foreign == []
        assert visit.page.locator(".bd-article h1").first.is_visible()
        for formula in visit.page.locator(".bd-article .katex-html").all()[:3]:
            assert formula.bounding_box()
        text = visit.page.locator(".bd-article").inner_text()
        assert "$$" not in text and "\\frac" not in text
