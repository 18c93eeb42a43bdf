"""Print the whole book into one PDF: Sphinx puts it on a single page, and Chromium prints that."""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import Page, sync_playwright

from chapters import ROOT, BookError

FOLDER = ROOT / "_build" / "singlehtml"
TARGET = ROOT / "_build" / "attention-piece-by-piece.pdf"
MARGIN = 16  # mm
TEXT_WIDTH = round((210 - 2 * MARGIN) / 25.4 * 96)  # what A4 leaves, in pixels
FOOTER = '<p style="width: 100%; text-align: center; font: 8px sans-serif" class="pageNumber"></p>'

# Every folded cell open, every link to a place on this page
PREPARE = """() => {
    document.documentElement.dataset.theme = "light";
    document.querySelectorAll("details").forEach(details => details.open = true);
    // each chapter counts its citations from id1, as the list of references does: that gets ids of its own
    for (const citation of document.querySelectorAll("div.citation")) {
        const links = document.querySelectorAll(`a[href$="#${citation.id}"]`);
        citation.id = "citation-" + citation.id;
        links.forEach(link => link.setAttribute("href", "#" + citation.id));
    }
    for (const link of document.querySelectorAll("a[href*='#']")) {
        const href = link.getAttribute("href");
        if (!/^https?:/.test(href)) link.setAttribute("href", "#" + href.split("#").pop());
    }
}"""
DEAD_LINKS = """() => [...document.querySelectorAll("article a[href^='#']")]
    .map(link => link.getAttribute("href").slice(1)).filter(id => id && !document.getElementById(id))"""
# what is wider than the paper, or scrolls, which paper does not
CLIPPED = """width => [...document.querySelectorAll("article :is(pre, table, svg, img, .katex, p, li)")]
    .filter(e => e.checkVisibility())
    .filter(e => e.getBoundingClientRect().right > width + 1
        || (e.matches("pre") && e.scrollWidth > e.clientWidth))
    .map(e => e.outerHTML.slice(0, 120) + " … " + e.textContent.slice(0, 80))"""


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def check(page: Page) -> None:
    if clipped := page.evaluate(CLIPPED, TEXT_WIDTH):
        raise BookError("wider than the paper:\n" + "\n".join(clipped))
    if dead := page.evaluate(DEAD_LINKS):
        raise BookError("links without an aim: " + ", ".join(sorted(set(dead))))


def print_book() -> None:
    path = find_browser()
    if not path:
        raise BookError("no browser here to print the book: install chromium")
    # its links to style sheets and pictures are those of a page that lies beside them
    source = FOLDER / "book.html"
    shutil.copy(FOLDER / "book" / "welcome.html", source)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        # without scripts nothing folds the solutions
        page = browser.new_page(java_script_enabled=False, viewport={"width": TEXT_WIDTH, "height": 900})
        page.set_default_timeout(0)  # it is a long page
        page.emulate_media(media="print", color_scheme="light")
        page.goto(source.as_uri())
        page.evaluate(PREPARE)
        check(page)
        margin = f"{MARGIN}mm"
        page.pdf(
            path=TARGET,
            format="A4",
            margin={"top": margin, "bottom": margin, "left": margin, "right": margin},
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            tagged=True,
            outline=True,
        )
        browser.close()
    print(f"open {TARGET}")


if __name__ == "__main__":
    try:
        print_book()
    except BookError as error:
        sys.exit(f"error: {error}")
