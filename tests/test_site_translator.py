"""The translator of chapter 17 in a real browser: torch's tokens, whatever one types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser
from visit import Visit

from chapters import ROOT
from transformer.corpora import fragment_corpus
from transformer.data import pad
from transformer.decoding import greedy_decode
from transformer.run_files import load_run

PAGE = ROOT / "_build" / "html" / "chapters" / "17_try.html"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="there is no site yet: make book builds it")

DEMO = "demo-translator"
HOSTILE = [
    "a" * 10_000,
    "<img src=x onerror=\"document.title='broken'\"> <script>document.title='broken'</script>",
    "<img/src=x/onerror=alert(1)><svg/onload=alert(1)>",
    "🙂 👩\u200d👩\u200d👧 e\u0301\u0301\u0301",
    "\u202eשלום עולם\u202c مرحبا",
    "the\0cat\0sees the dog",
    "__proto__ constructor toString",
    "\t\u00a0\u3000 . , .",
    "",
]


class TranslatorVisit(Visit):
    """The chapter, opened from its folder."""

    def __init__(self, browser: Browser, **options: Any):
        super().__init__(browser, PAGE.as_uri(), **{"viewport": {"width": 1280, "height": 900}} | options)
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.demo = self.page.locator(DEMO)

    def __enter__(self) -> "TranslatorVisit":
        return self

    def type(self, text: str) -> None:
        """Put any text into the field, also what a keyboard cannot, and press Enter."""
        self.demo.locator("input[type=text]").evaluate("(field, text) => { field.value = text; }", text)
        before = self.says()
        self.demo.locator("input[type=text]").press("Enter")
        self.page.wait_for_function(
            "([name, before]) => { const text = document.querySelector(`${name} [role=status]`).textContent;"
            " return text && !text.startsWith('Loading') && text !== before; }",
            arg=[DEMO, before],
        )

    def press(self, name: str) -> None:
        self.demo.get_by_role("button", name=name).click()
        self.page.wait_for_selector(f"{DEMO} .tokens[lang=de] li")

    def says(self) -> str:
        text: str = self.demo.get_by_role("status").inner_text()
        return text

    def tokens(self, side: str = "de") -> list[int]:
        items = self.demo.locator(f".tokens[lang={side}] li")
        ids: list[int] = items.evaluate_all("items => items.map(item => Number(item.dataset.token))")
        return ids

    def weights(self) -> list[list[float]]:
        rows: list[list[float]] = self.demo.locator(".numbers tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.querySelectorAll('[data-weight]')]"
            ".map(cell => Number(cell.dataset.weight)))"
        )
        return rows


@pytest.fixture
def visit(browser: Browser) -> Iterator[TranslatorVisit]:
    with TranslatorVisit(browser) as visit:
        yield visit
        assert visit.complaints == [] and visit.foreign("file:") == []


@pytest.fixture(scope="module")
def expected() -> dict[str, list[int]]:
    """What torch says to twenty held-out sentences, in tokens."""
    model, tokenizer = load_run(ROOT / "chapters" / "models" / "fragment", torch.device("cpu"))
    corpus = fragment_corpus()
    sources = [source for source, _ in corpus.test[-10:] + corpus.unseen[-10:]]
    said = greedy_decode(model, pad([[*tokenizer.encode(text), tokenizer.eos_id] for text in sources]))
    rows = [[token for token in row[1:] if token != tokenizer.pad_id] for row in said.tolist()]
    return dict(zip(sources, rows, strict=True))


def test_nothing_is_loaded_before_it_is_asked_for(visit: TranslatorVisit) -> None:
    visit.page.wait_for_timeout(300)
    assert not any("model" in Path(url).name or "transformer.js" in url for url in visit.asked)
    assert visit.demo.locator("table").count() == 2, "the example of the page"
    visit.press("Translate")
    assert sum("fragment-model.js" in url for url in visit.asked) == 1
    visit.press("Next token")
    assert sum("fragment-model.js" in url for url in visit.asked) == 1


def test_the_pages_tokens_are_torchs(visit: TranslatorVisit, expected: dict[str, list[int]]) -> None:
    same = []
    for source, tokens in expected.items():
        visit.type(source)
        same.append(visit.tokens() == tokens)
    assert sum(same) >= len(same) - 1, "one tie may break the other way"


def test_step_by_step_is_the_same(visit: TranslatorVisit, expected: dict[str, list[int]]) -> None:
    source, tokens = next(iter(expected.items()))
    visit.demo.locator("input[type=text]").fill(source)
    for count in range(1, len(tokens) + 1):
        visit.press("Next token")
        visit.demo.locator(f".tokens[lang=de] li:nth-child({count})").wait_for()
        assert visit.tokens() == tokens[:count]
    visit.press("Next token")
    visit.page.wait_for_function(f"document.querySelectorAll('{DEMO} .tokens[lang=de] li').length === 1")
    assert visit.tokens() == tokens[:1], "after the end it begins again"


def test_a_head_in_numbers(visit: TranslatorVisit) -> None:
    visit.press("Translate")
    queries, keys = len(visit.tokens()), len(visit.tokens("en"))
    for kind, shape in (
        ("encoder", (keys, keys)),
        ("decoder", (queries, queries)),
        ("cross", (queries, keys)),
    ):
        visit.demo.get_by_label(f"show {kind}, layer 2, head 3").check(force=True)
        weights = visit.weights()
        assert (len(weights), len(weights[0])) == shape
        assert all(abs(sum(row) - 1) < 1e-6 for row in weights)
        if kind == "decoder":
            assert all(row[i + 1 :] == [0] * (queries - i - 1) for i, row in enumerate(weights))
        heads = visit.demo.locator(".numbers th[scope=row], .numbers th[scope=col]").all_inner_texts()
        assert len(heads) == len(weights) + len(weights[0]) + 1 and all(heads)
        assert visit.demo.locator(".numbers caption").inner_text().endswith(".")


def test_heads_off_and_on(visit: TranslatorVisit) -> None:
    visit.press("Translate")
    whole, said, weights = visit.tokens(), visit.says(), visit.weights()
    boxes = visit.demo.get_by_role("checkbox", name="on: cross")
    for box in boxes.all():
        box.uncheck()
    assert visit.tokens() != whole
    assert "With every head: " + said in " ".join(visit.says().split())
    visit.demo.get_by_role("button", name="Switch all heads on").click()
    assert (visit.tokens(), visit.says(), visit.weights()) == (whole, said, weights)
    assert all(box.is_checked() for box in boxes.all())


def test_a_model_that_did_not_come_can_be_asked_for_again(visit: TranslatorVisit) -> None:
    visit.page.route("**/fragment-model.js*", lambda route: route.fulfill(content_type="text/javascript"))
    visit.page.reload()  # only what is loaded afterwards passes by the route
    visit.type("the dog sees the cat .")
    assert "could not be loaded" in visit.says()
    visit.page.unroute("**/fragment-model.js*")
    visit.type("the dog sees the cat .")
    assert visit.demo.locator(".translation").inner_text() == "der Hund sieht die Katze ."


def test_unknown_words_get_a_kind_answer(visit: TranslatorVisit) -> None:
    visit.type("The Elephant sees forty-two cats")
    assert "elephant" in visit.says() and "forty" not in visit.says()
    shown = visit.demo.inner_text().lower()
    assert all(word in shown for word in ("nouns", "mouse, mice", "behind", "yesterday", "because"))
    visit.type("The  mouse sees forty-two cats")  # capitals, spaces and the full stop are forgiven
    assert visit.demo.locator(".translation").inner_text() == "die Maus sieht zweiundvierzig Katzen ."


def test_signs_lengths_and_examples_are_taken_as_a_reader_means_them(visit: TranslatorVisit) -> None:
    visit.type("the mouse sees forty-two cats!")
    assert visit.demo.locator(".translation").inner_text() == "die Maus sieht zweiundvierzig Katzen ."
    visit.type(" ., ")
    assert "Type an English sentence" in visit.says()
    visit.type("a" * 300)
    assert "never met" in visit.says()
    visit.type("a" * 301)
    assert "301 characters" in visit.says()
    field, choice = visit.demo.locator("input[type=text]"), visit.demo.locator("select")
    first = choice.locator("option").first.inner_text()
    field.fill("the dog sees the cat .")
    choice.select_option(first)
    assert field.input_value() == first


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_hostile_text_gets_an_answer_or_a_message(visit: TranslatorVisit, text: str) -> None:
    title, elements = visit.page.title(), "img, script, svg, iframe, style, link"
    visit.type(text)
    assert visit.says()
    assert visit.demo.locator(elements).count() == 0 and visit.page.title() == title
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 1280
    visit.type("the dog sees the cat .")
    assert visit.demo.locator(".translation").inner_text() == "der Hund sieht die Katze ."


def test_with_the_keyboard_alone(visit: TranslatorVisit) -> None:
    visit.demo.locator("input[type=text]").focus()
    visit.page.keyboard.press("Enter")
    visit.demo.locator(".tokens[lang=de] li").first.wait_for()
    reached = []
    for _ in range(100):
        visit.page.keyboard.press("Tab")
        focus: Any = visit.page.evaluate(
            f"""() => {{
                const e = document.activeElement.closest("{DEMO}") && document.activeElement;
                const drawn = e && (e.type === "radio" ? e.nextElementSibling : e);
                return e && [e.type ?? e.className, getComputedStyle(drawn).outlineStyle !== "none"];
            }}"""
        )
        if not focus:
            break
        reached.append(focus)
    kinds = [kind for kind, _ in reached]
    assert all(visible for _, visible in reached), reached
    assert kinds[:3] == ["select-one", "submit", "button"] and kinds[-1] == "numbers"
    assert kinds.count("checkbox") == 24 and kinds.count("radio") == 1
    visit.demo.locator("input[type=radio]:checked").focus()
    before = visit.demo.locator(".numbers caption").inner_text()
    visit.page.keyboard.press("ArrowRight")
    assert visit.demo.locator(".numbers caption").inner_text() != before


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_for_axe_to_find(browser: Browser, scheme: Any, width: int) -> None:
    with TranslatorVisit(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as visit:
        for act in (lambda: None, lambda: visit.press("Next token"), lambda: visit.type("a blue whale")):
            act()
            assert visit.violations(DEMO) == []
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_token_takes_less_than_fifty_milliseconds(visit: TranslatorVisit) -> None:
    """Arithmetic, page and drawing, in the thread's own time, so that a busy machine does not matter."""
    visit.press("Next token")
    session = visit.context.new_cdp_session(visit.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(1000 * metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    before = used()
    visit.page.evaluate(
        """async (name) => {
            const next = document.querySelector(`${name} .buttons button:last-child`);
            for (let i = 0; i < 20; i++) {
                next.click();
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            }
        }""",
        DEMO,
    )
    assert 1 < (used() - before) / 20 < 50


def test_without_scripts_the_example_stays(browser: Browser) -> None:
    with TranslatorVisit(browser, java_script_enabled=False) as visit:
        assert visit.demo.locator("table").count() == 2 and visit.demo.locator("form").count() == 0
