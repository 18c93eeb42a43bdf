"""The built site at an address, and a browser to open it with."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from chapters import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class InPieces(SimpleHTTPRequestHandler):
    """Sends its pages in ten pieces, as over a slow line: what later pieces push about shows."""

    def log_message(self, *args: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not self.path.endswith(".html"):
            return super().copyfile(source, outputfile)
        content = source.read()
        size = len(content) // 10 + 1
        for start in range(0, len(content), size):
            outputfile.write(content[start : start + size])
            outputfile.flush()
            time.sleep(0.05)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    handler = partial(InPieces, directory=ROOT / "_build" / "html")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright  # only here, for `make test` needs no browser

    from print_book import find_browser

    if not (path := find_browser()):
        pytest.skip("no browser here: install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
