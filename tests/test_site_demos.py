"""The demos in a real browser, from the folder of the built site: drawn, dragged, clicked, typed at."""

import math
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator
from visit import Visit

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
DEMOS = {"dictionary": "01", "scores": "03", "masks": "05", "positions": "06", "beam": "13"}
each_demo = pytest.mark.parametrize("name", DEMOS)
SHIFT = """() => new Promise(done => {
    let shift = 0;
    new PerformanceObserver(list => { for (const e of list.getEntries()) shift += e.value })
        .observe({type: "layout-shift", buffered: true});
    setTimeout(() => done(shift), 200);
})"""
# what sticks out of a demo, to the right of the window or of the demo itself
STICKING_OUT = """(demo) => [...demo.querySelectorAll("*")]
    .filter(e => e.getBoundingClientRect().right > demo.getBoundingClientRect().right + 1)
    .map(e => e.outerHTML.slice(0, 100))"""
# the numbers of all tables, row by row, without captions
NUMBERS = """(demo) => [...demo.querySelectorAll("tr")]
    .map(row => [...row.cells].map(cell => cell.textContent.trim()))"""


class DemoVisit(Visit):
    """The page of a demo, opened from its folder and scrolled to it."""

    def __init__(self, browser: Browser, name: str, **options: Any):
        page = next(SITE.glob(f"chapters/{DEMOS[name]}_*.html"))
        super().__init__(browser, page.as_uri(), **options)
        self.demo: Locator = self.page.locator(f"demo-{name}")
        self.demo.scroll_into_view_if_needed()

    def __enter__(self) -> "DemoVisit":
        return self

    def numbers(self) -> list[list[str]]:
        return self.demo.evaluate(NUMBERS)

    def says(self) -> str:
        return self.demo.locator("[aria-live]").inner_text()

    def choose(self, label: str) -> None:
        self.demo.get_by_role("radio", name=label, exact=True).check()


def value(text: str) -> float:
    return float(text.replace("−", "-"))


def use(visit: DemoVisit) -> None:
    """What a reader might do: leave the opening state by each kind of control."""
    for slider in visit.demo.locator("input[type=range]").all():
        slider.press("ArrowRight")
    for radio in visit.demo.locator("input[type=radio]:not(:checked)").all():
        radio.check()
    for box in visit.demo.locator("input[type=checkbox]").all():
        box.click()
    for button in visit.demo.locator("button[tabindex='0'], .buttons button").all():
        button.press("Enter")


@each_demo
def test_it_opens_with_the_numbers_of_its_fallback(browser: Browser, name: str) -> None:
    with DemoVisit(browser, name, java_script_enabled=False) as asleep, DemoVisit(browser, name) as awake:
        assert asleep.demo.is_visible() and awake.demo.is_visible()
        fallback = asleep.demo.locator("tr").all()
        rows = [[cell.inner_text().strip() for cell in row.locator("th, td").all()] for row in fallback]
        assert rows == awake.numbers() and len(rows) > 3


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_demo
def test_it_is_accessible_and_fits(browser: Browser, name: str, scheme: Any, width: int) -> None:
    with DemoVisit(browser, name, viewport={"width": width, "height": 900}, color_scheme=scheme) as visit:
        for act in (lambda: None, lambda: use(visit)):  # before and after using it
            act()
            assert visit.violations(f"demo-{name}", preload=False) == []
            assert visit.demo.evaluate(STICKING_OUT) == []
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
@each_demo
def test_nothing_moves_when_it_wakes_or_is_used(browser: Browser, name: str, width: int) -> None:
    """The scripts come late, while the demo and the text below it are in the window."""
    with DemoVisit(
        browser, name, viewport={"width": width, "height": 1400}, java_script_enabled=False
    ) as asleep:
        page = asleep.page.url
    context = browser.new_context(viewport={"width": width, "height": 1400})
    try:
        tab = context.new_page()
        tab.route("**/demo/*.js*", lambda route: (tab.wait_for_timeout(400), route.continue_()))
        tab.goto(page, wait_until="commit")
        demo = tab.locator(f"demo-{name}")
        demo.wait_for()
        tab.evaluate("(name) => document.querySelector(`demo-${name}`).scrollIntoView()", name)
        tab.locator(f"demo-{name}[role=group]").wait_for()
        assert tab.evaluate(SHIFT) < 0.05
        before = demo.bounding_box()
        controls = demo.locator("input[type=radio]:not(:checked), .buttons button").all()
        assert controls or name == "scores"  # which has sliders alone
        for control in controls:
            control.click()
            after = demo.bounding_box()
            assert before and after and after["height"] == pytest.approx(before["height"], abs=1)
    finally:
        context.close()


def test_the_dictionary(browser: Browser) -> None:
    with DemoVisit(browser, "dictionary") as visit:
        assert visit.says().startswith("“fruit” → 7.99")
        slider = visit.demo.get_by_role("slider", name="Temperature")
        slider.press("Home")
        assert slider.get_attribute("aria-valuetext") == "0.01"
        for word, sold in {"apple": 10, "banana": 5, "chair": 2}.items():
            visit.choose(word)
            assert visit.says().startswith(f"“{word}” → {sold}.00")
        slider.press("End")
        assert visit.says().startswith("“chair” → 5.6")
        visit.demo.get_by_role("radio", name="chair", exact=True).press("ArrowRight")
        assert visit.says().startswith("“fruit”")


def test_the_query_is_dragged(browser: Browser) -> None:
    with DemoVisit(browser, "scores") as visit:
        handle, plane = visit.demo.get_by_role("slider", name="Query"), visit.demo.locator(".plane")
        handle.scroll_into_view_if_needed()
        box = plane.bounding_box()
        assert box
        scale = box["width"] / 82

        def point(x: float, y: float) -> tuple[float, float]:
            return box["x"] + scale * (41 + 10 * x), box["y"] + scale * (41 - 10 * y)

        visit.page.mouse.move(*point(1, 2))
        visit.page.mouse.down()
        visit.page.mouse.move(*point(2, 1), steps=4)
        assert handle.get_attribute("aria-valuetext") == "animal 2.0, action 1.0"  # while it is held
        visit.page.mouse.move(*point(3, -1), steps=4)
        visit.page.mouse.up()
        assert handle.get_attribute("aria-valuetext") == "animal 3.0, action −1.0"
        visit.demo.get_by_role("slider", name="Query").press("ArrowUp")
        assert handle.get_attribute("aria-valuetext") == "animal 3.0, action −0.9"
        for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowUp"):
            handle.press(key)
        assert handle.get_attribute("aria-valuetext") == "animal 4.0, action 0.1"
        scores = [(4 * x + 0.1 * y) / math.sqrt(2) for x, y in ((3, 0), (0, 3), (1, 0), (2, 1))]
        powers = [math.exp(score) for score in scores]
        shown = [value(row[-1]) for row in visit.numbers()[1:5]]
        assert shown == pytest.approx([power / sum(powers) for power in powers], abs=0.0051)
        # the plane is a place to click, too
        visit.page.mouse.click(*point(-2, -2))
        assert handle.get_attribute("aria-valuetext") == "animal −2.0, action −2.0"


def test_without_the_scale_a_wide_softmax_saturates(browser: Browser) -> None:
    with DemoVisit(browser, "scores") as visit:
        soft = visit.numbers()
        visit.demo.get_by_role("slider", name="Width").press("End")
        assert visit.numbers() == soft  # the scale takes the width out
        visit.demo.get_by_role("checkbox").uncheck()
        assert [row[-1] for row in visit.numbers()[1:5]] == ["0.00", "1.00", "0.00", "0.00"]
        assert "saturated" in visit.says()


def test_masks_by_click_and_by_keyboard(browser: Browser) -> None:
    with DemoVisit(browser, "masks") as visit:
        cells = visit.demo.locator(".grid button")
        cells.nth(3 * 6 + 2).click()  # jagt, Katze
        row = visit.numbers()[4]
        assert row[0] == "jagt" and row[3] == "0" and row[-1] == "1.00"
        assert sum(value(text) for text in row[1:-1]) == pytest.approx(1, abs=0.011)
        assert visit.demo.locator("input[name]:checked").count() == 1  # no preset
        # the first row by keyboard: its one allowed key is forbidden, and all is zero
        cells.nth(0).focus()
        visit.page.keyboard.press("Space")
        assert visit.numbers()[1] == ["<bos>", *["0"] * 6, "0"]
        assert "nothing is left to see" in visit.says()
        for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
            visit.page.keyboard.press(key)
        assert cells.nth(8).get_attribute("aria-pressed") == "true"
        assert "“die” may attend to “Katze”" in visit.says()
        visit.choose("in front")  # which begins anew, with the mask that was chosen last
        assert visit.demo.get_by_role("radio", name="both").is_checked()
        visit.choose("behind")
        visit.choose("none")
        assert "0" not in [text for row in visit.numbers()[1:] for text in row]
        visit.choose("both")
        visit.choose("in front")
        assert [row[-1] for row in visit.numbers()[1:]] == ["0", "0", "1.00", "1.00", "1.00", "1.00"]
        for words, *shown in (row[:-1] for row in visit.numbers()[1:]):
            assert words and shown.count("0") >= 2  # the padding


def test_positions(browser: Browser) -> None:
    with DemoVisit(browser, "positions") as visit:
        slider = visit.demo.get_by_role("slider", name="Position")
        slider.press("Home")
        rows = visit.numbers()
        assert rows[1] == ["bit", *["0"] * 6]
        assert rows[3][1:] == ["0.00"] * 6 and rows[4][1:] == ["1.00"] * 6  # all hands at noon
        slider.press("ArrowRight")
        assert visit.numbers()[3][1] == f"{math.sin(1):.2f}"
        visit.choose("map of codes")
        assert "position 1:" in visit.says() and "0.84, 0.54" in visit.says()
        # at position 0 sines are see-through and cosines orange
        pixels = visit.demo.locator("canvas").evaluate(
            "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 2, 1).data]"
        )
        assert pixels == [0, 0, 0, 0, 213, 94, 0, 255]
        visit.choose("likeness")
        visit.choose("512")
        slider.press("End")
        _, before, after = visit.numbers()
        assert before[1] == after[1] == "256.00" and before[1:] == after[1:]
        assert value(before[3]) < value(before[4])  # farther, and yet more alike


def test_stepping_through_a_beam(browser: Browser) -> None:
    with DemoVisit(browser, "beam") as visit:
        back, forward = (visit.demo.get_by_role("button", name=name) for name in ("Step back", "Next step"))
        for _ in range(5):
            forward.press("Enter")
        assert forward.get_attribute("aria-disabled") == "true"
        assert "“die Katze schläft” wins" in visit.says()
        assert visit.demo.locator("tr.winner").inner_text().startswith("die Katze schläft <eos>")
        visit.choose("0")
        assert "“die Katze” wins" in visit.says()
        visit.choose("1 (greedy)")
        assert "“der Hund” wins with −1.94, but “die Katze” has −1.68: step 1 dropped “die”." in visit.says()
        while back.get_attribute("aria-disabled") == "false":
            back.press("Enter")
        assert [row[-1] for row in visit.numbers()[1:]] == ["goes on", "dropped"]


def test_whoever_wants_no_motion_gets_none(browser: Browser) -> None:
    with DemoVisit(browser, "dictionary", reduced_motion="reduce") as visit:
        bar = visit.demo.locator("td.weight").first
        assert bar.evaluate("(cell) => getComputedStyle(cell).transitionDuration") == "0s"
