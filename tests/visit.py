"""A page of the site in a window of its own, for the tests in the browser."""

from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page

# axe keeps the parts of each colour in WeakMaps of their own, and a quarter of its time went there: here it
# keeps them in the colour itself, under a name that nobody else has
AXE_WITHOUT_WEAK_MAPS = f"""(WeakMap => {{ {AXE_SCRIPT} }})(class {{
    #name = Symbol();
    has(object) {{ return Object.hasOwn(object, this.#name); }}
    get(object) {{ return object[this.#name]; }}
    set(object, value) {{ object[this.#name] = value; return this; }}
    delete(object) {{ return delete object[this.#name]; }}
}})"""
AXE = """async ([within, options]) => {
    const {violations} = await axe.run(within, {resultTypes: ["violations"], ...options});
    return violations.map(v => `${v.id}: ${v.nodes.length} × ${v.help}: ${v.nodes[0].html.slice(0, 200)}`);
}"""


class Visit:
    """One page in a new window with an empty cache, and all that it asked for and complained of."""

    def __init__(self, browser: Browser, url: str, **options: Any):
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # the machine may be busy
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self.note_failure)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.note)
        self.page.goto(url)

    def note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def note_failure(self, request: Any) -> None:
        # the page was left before all had come; or scripts are off, and one was asked for ahead of its time
        if request.failure not in ("net::ERR_ABORTED", "csp"):
            self.complaints.append(f"{request.failure}: {request.url}")

    def foreign(self, home: str) -> list[str]:
        return [url for url in self.asked if not url.startswith((home, "data:", "blob:"))]

    def violations(self, within: str = "html", **options: Any) -> list[str]:
        """What axe finds in this part of the page."""
        self.page.evaluate(AXE_WITHOUT_WEAK_MAPS)
        found: list[str] = self.page.evaluate(AXE, [within, options])
        return found

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *args: object) -> None:
        self.context.close()
