"""The built site in a real browser: every page, light and dark, wide and narrow (`make test-site`)."""

import importlib
import io
import re
import shutil
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from visit import Visit

from chapters import ROOT
from floors import MODULES

SITE = ROOT / "_build" / "html"
PAGES = sorted(
    path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts
)
PAGES = [name for name in PAGES if name != "index.html"]  # it only leads to the first page
CHAPTERS = [name for name in PAGES if name.startswith("chapters/")]
WIDE, NARROW = 1280, 390
each_page = pytest.mark.parametrize("name", PAGES)

# What sticks out to the right, except in what may be scrolled by itself
STICKING_OUT = """() => [...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility({visibilityProperty: true}))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .filter(e => !e.closest("pre, svg, table, dialog, .cell_output, .katex"))
    .map(e => e.outerHTML.slice(0, 100))"""
# Is seen, and has words of its own
HAS_WORDS = """e => e.checkVisibility({visibilityProperty: true})
    && [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())"""
# Words too small to read, in a drawing that shrinks with the page
TINY = f"""() => [...document.querySelectorAll(".bd-article svg text")].filter({HAS_WORDS}).filter(e => {{
    const {{a, b}} = e.getScreenCTM(), size = parseFloat(getComputedStyle(e).fontSize);
    return size * Math.hypot(a, b) < 7;
}}).map(e => e.textContent)"""
# How much of the page has moved by itself since it began to load, and what
SHIFTS = """async () => {
    await document.fonts.ready;
    const shifts = [];
    const observer = new PerformanceObserver(list => shifts.push(...list.getEntries()));
    observer.observe({type: "layout-shift", buffered: true});
    await new Promise(done => setTimeout(done, 300));
    const moved = shifts.flatMap(shift => shift.sources).map(source => source.node?.parentElement);
    return {
        sum: shifts.reduce((sum, shift) => sum + shift.value, 0),
        moved: moved.map(element => element?.outerHTML.slice(0, 100)),
    };
}"""
# Side bars glide out of a page that gets narrower
SETTLED = """() => new Promise(requestAnimationFrame)
    .then(() => Promise.allSettled(document.getAnimations().map(animation => animation.finished)))"""
# What scrolls, code or a table, can be reached by the keyboard, shortly after the window has changed
REACHABLE = """() => [...document.querySelectorAll("pre, .pst-scrollable-table-container")]
    .every(e => e.scrollWidth <= e.clientWidth || e.tabIndex >= 0)"""
DESCRIPTIONS = """() => [...document.querySelectorAll(".bd-article :is(img, svg)")]
    .filter(e => !e.closest("svg svg, [aria-hidden=true], .toggle-button, button"))
    .map(e => e.getAttribute("alt") ?? e.getAttribute("aria-label") ?? "")"""
# Words in drawings and in cells that a weight colours: their place in the drawing and their paint
WORDS = ".bd-article :is(svg text, svg tspan, .weight)"
DRAWINGS = f"""() => [...document.querySelectorAll(".bd-article :is(svg, table)")].map(drawing => {{
    const frame = drawing.getBoundingClientRect(), {{left, top}} = frame;
    const words = [...drawing.querySelectorAll("{WORDS}")].filter({HAS_WORDS}).map(e => {{
        const box = e.getBoundingClientRect(), {{color, fill, fillOpacity}} = getComputedStyle(e);
        const [red, green, blue, alpha = 1] = (e.closest("svg") ? fill : color).match(/[\\d.]+/g).map(Number);
        let opacity = alpha * fillOpacity;
        for (let part = e; part !== drawing; part = part.parentElement)
            opacity *= getComputedStyle(part).opacity;
        return {{
            text: e.textContent,
            box: [box.left - left, box.top - top, box.right - left, box.bottom - top],
            paint: [red, green, blue],
            opacity,
        }};
    }});
    return {{box: frame, words}};
}}).filter(drawing => drawing.words.length)"""
# Where the keyboard is: the place in the page's order, whether one sees it, and whether it is marked
FOCUS = """() => {
    const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
    return {
        place: [...document.querySelectorAll("*")].indexOf(e),
        tag: e.tagName,
        html: e.outerHTML.slice(0, 120),
        seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight
            && box.right > 0 && box.left < innerWidth,
        marked: style.outlineStyle !== "none" || style.boxShadow !== "none",
    };
}"""


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """Of two colours with parts from 0 to 255 (WCAG 2.2)."""
    parts = np.stack([one, other]) / 255
    parts = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(parts @ [0.2126, 0.7152, 0.0722])
    return (light + 0.05) / (dark + 0.05)


def weak_words(page: Page) -> list[str]:
    """Words in drawings with too little contrast; a picture of the drawing without them shows what is behind.

    Axe says nothing of these. The window is made as tall as the page, so that a place in it is one on the
    page; it stays like that, without the words.
    """
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": WIDE, "height": height})
    page.evaluate(SETTLED)
    drawings = page.evaluate(DRAWINGS)
    page.add_style_tag(content=f"{WORDS} {{ fill: transparent !important; color: transparent !important; }}")
    weak = []
    for drawing in drawings:
        picture = Image.open(io.BytesIO(page.screenshot(clip=drawing["box"]))).convert("RGB")
        for word in drawing["words"]:
            behind = np.median(np.asarray(picture.crop(word["box"])), axis=(0, 1))
            paint = word["opacity"] * np.array(word["paint"]) + (1 - word["opacity"]) * behind
            if (ratio := contrast(paint, behind)) < 4.5:
                weak.append(f"{word['text']}: {ratio:.1f}")
    return weak


def weight(asked: list[str], home: str) -> int:
    """The bytes of all that was asked for, except what the demos add."""
    paths = {SITE / unquote(urlsplit(url).path).lstrip("/") for url in asked if url.startswith(home)}
    return sum(path.stat().st_size for path in paths if path.is_file() and "demo" not in path.parts)


def test_the_site_is_built() -> None:
    assert CHAPTERS, "there is no site to test: make book builds it"


def check_layout(page: Page, width: int) -> None:
    page.evaluate(SETTLED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate(TINY) == []


@pytest.mark.parametrize(("scheme", "width", "other"), [("light", WIDE, NARROW), ("dark", NARROW, WIDE)])
@each_page
def test_a_page(browser: Browser, address: str, name: str, scheme: Any, width: int, other: int) -> None:
    viewport: Any = {"width": width, "height": 900}
    with Visit(browser, address + name, viewport=viewport, color_scheme=scheme) as visit:
        page = visit.page
        shifts = page.evaluate(SHIFTS)
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert shifts["sum"] < 0.05, shifts
        check_layout(page, width)
        # before axe, which asks for the style sheets once more
        assert visit.complaints == []
        assert visit.foreign(address) == []
        assert weight(visit.asked, address) <= 1_000_000
        assert visit.violations() == []
        page.set_viewport_size({"width": other, "height": 900})
        check_layout(page, other)
        page.wait_for_function(REACHABLE)
        assert visit.violations() == []
        assert weak_words(page) == []


@each_page
def test_a_page_from_a_folder_without_scripts(browser: Browser, name: str) -> None:
    """As in an unpacked zip, with scripts off: text, formulas, figures and solutions are all there."""
    with Visit(browser, (SITE / name).as_uri(), java_script_enabled=False) as visit:
        page = visit.page
        assert visit.foreign(SITE.as_uri()) == [] and visit.complaints == []
        assert page.locator("main h1:visible").count() == 1
        assert page.locator(".solution p:not(:visible)").count() == 0
        colour = "getComputedStyle(document.documentElement).getPropertyValue('--pst-color-background')"
        assert page.evaluate(colour), "without a theme the drawings are black on black"
        for formula in page.locator(".bd-article .katex-html:visible").all()[:3]:
            assert formula.bounding_box()
        text = page.locator("main").inner_text()
        assert "$$" not in text and "\\frac" not in text
        descriptions = page.evaluate(DESCRIPTIONS)
        assert all(len(text) > 20 and "_images" not in text for text in descriptions), descriptions
        assert descriptions or not re.match(r"chapters/[01]", name), "every chapter has a picture"


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["book/welcome.html", "chapters/03_attention.html"])
def test_the_keyboard_reaches_everything_in_order(
    browser: Browser, address: str, name: str, width: int
) -> None:
    with Visit(browser, address + name, viewport={"width": width, "height": 900}) as visit:
        page = visit.page
        assert page.locator("[tabindex]:not([tabindex='0'], [tabindex='-1'])").count() == 0
        stops = []
        for _ in range(500):
            page.keyboard.press("Tab")
            stop = page.evaluate(FOCUS)
            if not stop["seen"]:
                page.wait_for_timeout(400)  # the link to the main content slides into view
                stop = page.evaluate(FOCUS)
            stops.append(stop)
            if stop["tag"] == "BODY":
                break
        assert stops.pop()["tag"] == "BODY", "the focus never came to the end of the page"
        assert "Skip to main content" in stops[0]["html"]
        assert [stop["place"] for stop in stops] == sorted({stop["place"] for stop in stops})
        assert [stop["html"] for stop in stops if not (stop["seen"] and stop["marked"])] == []
        links = page.locator(".bd-article a[href]:visible").count()
        assert sum(stop["tag"].upper() == "A" for stop in stops) >= links


def test_the_menu_on_a_phone_opens_and_closes_by_keyboard(browser: Browser, address: str) -> None:
    viewport: Any = {"width": NARROW, "height": 800}
    with Visit(browser, address + "chapters/03_attention.html", viewport=viewport) as visit:
        page = visit.page
        entry = page.get_by_role("link", name="4. Many heads").locator("visible=true")
        before = entry.count()
        page.locator(".primary-toggle").focus()
        page.keyboard.press("Enter")
        entry.nth(before).wait_for()
        assert page.evaluate("!!document.activeElement.closest('dialog')")
        page.keyboard.press("Escape")
        entry.nth(before).wait_for(state="hidden")


def test_the_contents_on_a_phone_make_room_for_what_was_chosen(browser: Browser, address: str) -> None:
    viewport: Any = {"width": NARROW, "height": 800}
    with Visit(browser, address + "chapters/03_attention.html", viewport=viewport) as visit:
        page = visit.page
        page.locator(".secondary-toggle").click()
        page.locator("dialog[open] a", has_text="Equation 1").click()
        page.wait_for_url("**#equation-1")
        page.locator("dialog[open]").wait_for(state="detached")
        page.locator("h2", has_text="Equation 1").wait_for()


def test_paper_is_white(browser: Browser, address: str) -> None:
    ink = "getComputedStyle(document.querySelector('.bd-article p')).color"
    with Visit(browser, address + "chapters/03_attention.html", color_scheme="light") as visit:
        dark_ink = visit.page.evaluate(ink)
    with Visit(browser, address + "chapters/03_attention.html", color_scheme="dark") as visit:
        page = visit.page
        light_ink = page.evaluate(ink)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(ink) == dark_ink != light_ink
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(ink) == light_ink


@pytest.mark.parametrize(
    ("words", "chapter"),
    [
        ("softmax", "Scaled dot-product attention"),
        ("label smoothing", "Learning"),
        ("warm-up", "Learning"),
        ("install", "How to read and run this book"),
    ],
)
def test_the_search_finds_chapters(browser: Browser, address: str, words: str, chapter: str) -> None:
    with Visit(browser, address + "book/welcome.html") as visit:
        page = visit.page
        page.keyboard.press("Control+k")
        page.keyboard.type(words)
        page.keyboard.press("Enter")
        page.locator("#search-results li a", has_text=chapter).first.wait_for()
        page.wait_for_function("document.querySelector('#search-results p')?.textContent.includes('found')")
        first = page.locator("#search-results li").evaluate_all(
            "found => found.slice(0, 3).map(f => f.innerText)"
        )
        assert any(chapter in text for text in first), first
        page.wait_for_load_state("networkidle")
        assert visit.complaints == [] and visit.foreign(address) == []


def test_a_copy_in_another_folder_works_offline(browser: Browser, tmp_path: Path) -> None:
    """As an unpacked zip: nothing outside the folder is asked for, the search included."""
    home = shutil.copytree(SITE, tmp_path / "a folder of mine")
    with Visit(browser, (home / "index.html").as_uri(), offline=True) as visit:
        visit.page.wait_for_url("**/welcome.html")
        visit.page.locator(".right-next").click()
        visit.page.wait_for_url("**/how_to_read.html")
        assert visit.complaints == [] and visit.foreign(home.as_uri()) == []
    with Visit(browser, (home / "search.html").as_uri() + "?q=softmax", offline=True) as visit:
        # a browser may not read the pages from a folder, so that the results are titles without excerpts
        visit.page.locator("#search-results li a", has_text="Scaled dot-product attention").first.wait_for()
        assert visit.foreign(home.as_uri()) == []


def test_a_formula_says_what_its_symbols_mean(browser: Browser, address: str) -> None:
    shown = "e => getComputedStyle(e, '::after').content"
    with Visit(browser, address + "chapters/03_attention.html") as visit:
        formula = visit.page.locator("div.noted", has=visit.page.locator("#equation-eq-attention"))
        assert formula.evaluate(shown) == "none"
        formula.focus()
        assert "Q: the queries, one a row: n × d_k" in formula.evaluate(shown)
        formula.blur()
        symbol = visit.page.locator("a.noted[data-note^='d_k:']").first
        symbol.hover()
        assert "d_k: width of one query and of one key" in symbol.evaluate(shown)
        symbol.click()
        visit.page.wait_for_url("**/notation.html#symbols")


def test_the_picture_leads_to_the_chapters_whose_numbers_it_shows() -> None:
    text = (SITE / "book" / "welcome.html").read_text(encoding="utf-8")
    picture = re.search(r'(?s)<svg[^>]*class="transformer".*?</svg>', text)
    assert picture
    links = re.findall(r'(?s)<a href="\.\./chapters/(\d+)_[^"]*"[^>]*>(.*?)</a>', picture[0])
    assert len(links) > 20
    for chapter, content in links:
        for number in re.findall(r'class="chip"[^>]*>(\d+)<', content):
            assert int(number) == int(chapter), content


@pytest.mark.parametrize("name", MODULES)
def test_the_page_of_the_package_has_every_public_name(name: str) -> None:
    text = (SITE / "book" / "package.html").read_text(encoding="utf-8")
    module = importlib.import_module(f"transformer.{name}")
    assert f'href="#module-transformer.{name}"' in text  # in the table
    for public in module.__all__:
        thing = getattr(module, public)
        assert f'id="transformer.{name}.{public}"' in text or not (isfunction(thing) or isclass(thing))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_name_that_a_link_led_to_can_be_read(browser: Browser, address: str, scheme: Any) -> None:
    url = f"{address}book/package.html#transformer.model.Transformer.attentions"
    with Visit(browser, url, color_scheme=scheme) as visit:
        assert visit.page.locator("dt:target a[href*=MultiHeadAttention]").count() == 1
        assert visit.violations("dt:target") == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_and_exercises_are_numbered_in_their_order(name: str) -> None:
    text = (SITE / name).read_text(encoding="utf-8")
    place = int(Path(name).name[:2])
    chapter = str(place) if place < 90 else chr(ord("A") + place - 90)
    drawn = len(re.findall(r"<figure[^>]*>\s*<svg", text))
    assert drawn == len(re.findall("<svg[^>]*aria-label", text)), "each drawing is a figure"
    for kind, count in (("Figure", drawn), ("Exercise", len(re.findall('class="exercise ', text)))):
        numbers = re.findall(rf'class="caption-number">{kind} ([\w.]+)', text)
        assert numbers == [f"{chapter}.{number + 1}" for number in range(count)]


@each_page
def test_every_link_leads_somewhere(name: str) -> None:
    text = (SITE / name).read_text(encoding="utf-8")
    for address in set(re.findall(r'\s(?:href|src)="([^"]+)"', text)):
        parts = urlsplit(address)
        if parts.scheme:
            assert parts.scheme in ("https", "data", "mailto"), address
            continue
        target = (SITE / name).parent / unquote(parts.path) if parts.path else SITE / name
        assert target.is_file(), address
        if parts.fragment and target.suffix == ".html":
            assert f'id="{unquote(parts.fragment)}"' in target.read_text(encoding="utf-8"), address
