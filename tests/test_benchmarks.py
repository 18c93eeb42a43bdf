"""The comparison with other implementations: the same model, the same work, and honest arithmetic.

The others are measured where they are installed, as in the environment of `make bench`; elsewhere their tests
are skipped. PyTorch's is always there.
"""

import gzip
import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import copy_weights
from torch import nn

import transformer.products
from chapters import ROOT
from transformer.data import Batch, Corpus, Tokenizer
from transformer.multi_head import MultiHeadAttention
from transformer.recurrent import AdditiveAttention

sys.path.append(str(ROOT / "benchmarks"))
ablations: Any = importlib.import_module("ablations")
gpu: Any = importlib.import_module("gpu")
peers: Any = importlib.import_module("peers")
records: Any = importlib.import_module("record")
side_by_side: Any = importlib.import_module("side_by_side")
training: Any = importlib.import_module("training")
multi30k: Any = importlib.import_module("multi30k")
multi30k_bpe: Any = importlib.import_module("multi30k_bpe")
scores: Any = importlib.import_module("scores")

TOY = peers.SIZES["toy"]
SOURCE = torch.tensor([[7, 40, 3, 299, 12], [5, 6, 77, 123, 11], [250, 9, 9, 31, 4]])
MARIAN = {  # our word → Marian's, in this order
    "embedding": "model.shared", "encoder.": "model.encoder.", "decoder.": "model.decoder.",
    "self_attention": "self_attn", "cross_attention": "encoder_attn", "query": "q_proj", "key": "k_proj",
    "value": "v_proj", "output": "out_proj", "feed_forward.0": "fc1", "feed_forward.2": "fc2",
}  # fmt: skip
NORMS = {
    "encoder": ["self_attn_layer_norm", "final_layer_norm"],
    "decoder": ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
}


def installed(name: str, *arguments: Any) -> Any:
    """The toy model of a peer; the test is skipped where it is missing.

    On a CI server one that is "not installed" fails the test, see conftest.py; JoeyNMT says something else.
    """
    if reason := peers.PEERS[name].missing():
        pytest.skip(reason)
    torch.manual_seed(0)
    return peers.PEERS[name](TOY, *arguments)


def in_marians_names(ours: nn.Module) -> dict[str, torch.Tensor]:
    """Our weights as MarianMTModel calls them, positions included."""
    renamed = {}
    for name, weight in ours.state_dict().items():
        for side, norms in NORMS.items():
            for number, norm in enumerate(norms if name.startswith(side) else [], start=1):
                name = name.replace(f"add_norm{number}.norm", norm)
        for word, theirs in MARIAN.items():
            name = name.replace(word, theirs)
        renamed[name] = weight
    positions = {
        f"model.{side}.embed_positions.weight": ours.get_submodule("positions").table for side in NORMS
    }
    return renamed | positions


def with_equal_weights(name: str) -> tuple[Any, Any]:
    """Ours and another with the same random weights, which make no special token probable.

    The embeddings are of one length, or the longest would be said over and over.
    """
    ours = installed("ours")
    for weight in ours.parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.3)
    embedding = ours.model.embedding
    embedding.weight.data = 2 * nn.functional.normalize(embedding.weight.data)
    embedding.weight.data[:3] = 0
    other = installed(name, ours.model) if name == "ctranslate2" else installed(name)
    if name == "torch":
        for weight in other.model.stacks.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.3)
        copy_weights(other.model.stacks, ours.model)
        other.model.embedding.load_state_dict(embedding.state_dict())
    elif name == "marian":
        result = other.model.load_state_dict(in_marians_names(ours.model), strict=False)
        tied = {"lm_head.weight", *(f"model.{side}.embed_tokens.weight" for side in NORMS)}
        assert not result.unexpected_keys and set(result.missing_keys) <= tied | {"final_logits_bias"}
    for peer in (ours, other):
        if peer.model:
            peer.model.eval()
    return ours, other


@pytest.mark.parametrize("name", [name for name, peer in peers.PEERS.items() if peer.loss])
def test_all_peers_have_the_same_number_of_weights(name: str) -> None:
    attentions, norms = 3 * TOY.num_layers, 5 * TOY.num_layers
    # x-transformers: no biases in attention and in norms, but a scale for the positions of each side
    fewer = {"x-transformers": 4 * attentions * TOY.d_model + norms * TOY.d_model - 2}
    ours, other = (sum(map(torch.numel, installed(each).parameters())) for each in ("ours", name))
    assert ours - other == fewer.get(name, 0)


@pytest.mark.parametrize("name", ["torch", "marian"])
def test_equal_weights_have_an_equal_loss(name: str) -> None:
    ours, other = with_equal_weights(name)
    ours.model.double()
    other.model.double()
    target = torch.tensor([[1, 8, 50, 33, 2], [1, 60, 2, 0, 0], [1, 5, 299, 2, 0]])
    source = torch.tensor([[7, 40, 3, 2], [5, 2, 0, 0], [250, 9, 2, 0]])
    batch = Batch(source, target)
    torch.testing.assert_close(other.loss(batch), ours.loss(batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["torch", "marian", "ctranslate2"])
def test_equal_weights_write_the_same(name: str) -> None:
    ours, other = with_equal_weights(name)
    source = torch.randint(3, TOY.vocab_size, (40, 6))
    said, searched = ours.greedy(source, 9), ours.beam(source, 3, 9)
    assert len(said.unique()) > 5 and not torch.equal(said, searched)  # else little would be compared
    assert torch.equal(other.greedy(source, 9), said)
    if other.beam:
        assert torch.equal(other.beam(source, 3, 9), searched)


def test_an_endless_model_never_ends() -> None:
    model = installed("ours").model
    wish = model.embedding.weight[2:3]  # the end is what comes nearest to itself
    assert model.project(wish).argmax() == 2 != peers.endless(model).project(wish).argmax()
    assert model.project(wish).argmax() == 2  # it is still what it was


@pytest.mark.parametrize("name", [name for name, peer in peers.PEERS.items() if peer.greedy])
@pytest.mark.parametrize("sentences", [1, 3])
def test_every_peer_writes_exactly_the_tokens_asked_for(name: str, sentences: int) -> None:
    peer = installed(name)
    if peer.model:
        peer.model.eval()
    for tokens in (1, 9):
        assert peer.greedy(SOURCE[:sentences], tokens).shape == (sentences, tokens)
        if peer.beam:
            assert peer.beam(SOURCE[:sentences], 4, tokens).shape == (sentences, tokens)


@pytest.mark.parametrize("name", [name for name, peer in peers.PEERS.items() if peer.loss])
def test_every_peer_learns(name: str) -> None:
    if name == "torch-compiled":
        pytest.skip("compiling takes a minute")
    peer = installed(name)
    batch = Batch(SOURCE, torch.tensor([[1, 8, 50, 2], [1, 60, 2, 0], [1, 5, 299, 2]]))
    before = peer.model.eval() and peer.loss(batch).item()
    training.learning(peer, [batch] * 10)()
    assert peer.model.training  # dropout was on
    assert peer.model.eval() and peer.loss(batch).item() < before
    assert all(weight.grad is not None for weight in peer.parameters())


def test_the_batches_are_as_long_as_those_of_multi30k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTI30K_DIR", raising=False)
    batches = training.make_batches(side_by_side.captions(8000), 8000, 2048)
    assert len(batches) == 4
    lengths = [(batch.target[:, 1:] != 0).sum(1) for batch in batches]  # (sentences,) each
    assert min(map(min, lengths)) >= 8 and max(map(max, lengths)) <= 36
    tokens = [int(each.sum()) for each in lengths]
    assert max(tokens) <= 2048 and sum(tokens) > 4 * 1700
    widest = [max(batch.source.numel(), batch.target.numel()) for batch in batches]
    assert all(1900 < places <= 2048 for places in widest)


def test_a_round_takes_all_in_turn_and_the_first_does_not_count() -> None:
    order: list[str] = []
    seconds = side_by_side.interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 2)
    assert "".join(order) == "abcabcabc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_speeds_and_ratios() -> None:
    def times(*walls: float) -> list[Any]:
        return [side_by_side.Seconds(2 * wall, wall) for wall in walls]

    # the second round was slow for all: a ratio compares what ran side by side
    seconds = {"ours": times(1, 3, 1), "quick": times(2, 6, 2), "slow": times(4, 12, 5)}
    speed = side_by_side.speeds(seconds, 100)
    assert [speed[name]["tokens_per_second"] for name in seconds] == [100, 50, 20]
    assert [speed[name]["tokens_per_cpu_second"] for name in seconds] == [50, 25, 10]
    assert [speed[name]["ratio_wall"] for name in seconds] == [2, 1, 0.5]
    assert speed["ours"]["cpu_seconds"] == [2, 6, 2]
    assert side_by_side.speeds({"ours": times(1)}, 100)["ours"]["ratio_cpu"] == 1


def test_padding_is_no_work() -> None:
    lengths = [(3, 2), (2, 4)]  # of source and target
    single = [Batch(torch.full((1, s), 5), torch.full((1, 1 + t), 5)) for s, t in lengths]
    source, target = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
    for row, (s, t) in enumerate(lengths):
        source[row, :s], target[row, : 1 + t] = 5, 5
    assert training.work_of(TOY, [Batch(source, target)]) == training.work_of(TOY, single) > 0


def test_a_record_keeps_what_was_measured_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for size, value in (("small", 1), ("base", 2), ("small", 3)):
        same, rows = {"size": size, "threads": 1}, [{"value": value}]
        side_by_side.report("x", "about", {}, same, rows, record=True, folder=tmp_path)
    runs = json.loads((tmp_path / "bench_x.json").read_text())["runs"]
    assert [(run["size"], run["value"]) for run in runs] == [("base", 2), ("small", 3)]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_record_does_not_mix_settings_and_says_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.json"
    assert records.load_runs(path, {"steps": 2}) == []
    records.save_runs(path, "about", {"steps": 2}, [{"value": 1}])
    assert records.load_runs(path, {"steps": 2}) == records.load_runs(path) == [{"value": 1}]
    with pytest.raises(SystemExit, match=r"runs\.json"):
        records.load_runs(path, {"steps": 3})
    monkeypatch.setattr(sys, "argv", ["here.py", "--only", "1 head"])
    assert shlex.split(records.provenance(0, 1.0)["command"])[-2:] == ["--only", "1 head"]


def rows_of(script: str, *options: str) -> list[dict[str, Any]]:
    """What a benchmark prints in its smoke test."""
    command = [sys.executable, ROOT / "benchmarks" / script, "--smoke", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMER_CHECK_SHAPES": "0"}
    done = subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("maker", "family", "widest", "called"),
    [
        ("AuthenticAMD", 26, "AVX512", "so and so, Zen 5"),
        ("AuthenticAMD", 25, "AVX512", "so and so, Zen 4"),
        ("AuthenticAMD", 25, "AVX2", "so and so, Zen 3"),
        ("AuthenticAMD", 23, "AVX2", "so and so, family 23"),
        ("GenuineIntel", 6, "AVX512", "so and so"),
        ("", 0, "AVX2", "something else"),
    ],
)
def test_a_record_tells_generations_of_one_name_apart(
    maker: str, family: int, widest: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "cpuinfo"
    if maker:
        about.write_text(f"vendor_id\t: {maker}\ncpu family\t: {family}\nmodel name\t: so and so\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    for module in (records, transformer.products):
        monkeypatch.setattr(module, "Path", lambda name: about)
    monkeypatch.setattr("platform.processor", lambda: "something else")
    assert records.processor() == called


@pytest.mark.parametrize("script", ["training.py", "decoding.py"])
def test_the_comparisons_run_at_toy_sizes(script: str) -> None:
    rows = rows_of(script)
    measured = {row["peer"] for row in rows if "ratio_cpu" in row}
    assert {"ours", "torch"} <= measured
    for row in rows:
        if row["peer"] in measured:
            assert row["tokens_per_cpu_second"] > 0 and row["provenance"]["torch"] == torch.__version__
            assert row["version"].split()[1]
        else:
            assert row["peer"] == "yardstick" or "missing" in row["not_run"]
    if script == "training.py":
        assert all(row["peak_mib"] >= row["start_mib"] > 50 for row in rows if row["peer"] in measured)
        assert all(0 < row["mfu"] < 1 for row in rows if row["peer"] in measured)
    else:
        cases = [(row["beam"], row["sentences"]) for row in rows if row["peer"] == "ours"]
        assert cases == [(1, 1), (1, 3), (4, 1), (4, 3)]


def test_the_small_benchmarks_run_at_toy_sizes() -> None:
    rows = rows_of("attention.py")
    assert [row["kind"] for row in rows] == ["explicit", "fused"]
    assert all(row["cpu_seconds"] > 0 and row["memory_mib"] >= 0 for row in rows)
    growth = {row["kind"]: row["milliseconds"] for row in rows_of("growth.py")}
    assert list(growth) == ["self-attention", "additive", "recurrent", "convolutional"]
    assert min(growth.values()) > 0
    assert all(row["sentences_per_second"] > 0 for row in rows_of("pipeline.py"))
    products = rows_of("products.py")
    assert all(row["mkl"] > 0 for row in products if "mkl" in row)
    assert ("in_blocks" in products[-1]) == transformer.products.HAS_BOTH
    alone_and_in_a_token = ["rows" in row for row in products if row.get("looked_up", 0) > 0]
    assert alone_and_in_a_token == [True, False]
    ladders = [row["ladder"] for row in rows_of("changes.py")]
    assert [ladders.count(ladder) for ladder in dict.fromkeys(ladders)] == [6, 6, 6]


def test_a_gpu_is_measured_by_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "H200": 989e12, "H200 NVL": 835e12}
    peaks |= {"A100-SXM4-80GB": 312e12, "L40S": 362e12, "L4": 121e12}
    for name, peak in {**peaks, "B999": None}.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: f"NVIDIA {name}")
        assert gpu.peak_of(torch.device("cuda")) == peak, name


def test_what_is_measured_on_a_gpu_runs_at_toy_sizes() -> None:
    rows = rows_of("gpu_peers.py")
    measured = [row for row in rows if row.get("peer") == "ours"]
    assert [row["task"] for row in measured] == ["training"] + ["decoding"] * 4
    shares = [row["share"] for row in rows if row.get("task") == "profile"]
    assert 0.3 < sum(shares) < 1.001 and shares == sorted(shares, reverse=True)


THEIRS = [
    ("a man on a ro@@ of .", "ein mann auf ei@@ nem da@@ ch ."),
    ("a dog r@@ uns .", "ein hu@@ nd rennt ."),
]


def their_files(folder: Path) -> Path:
    """Three splits in pieces, some of them packed."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "valid", "test.2016"):
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in THEIRS * 40).encode()
            if split == "valid":
                (folder / f"{split}.{language}").write_bytes(text)
            else:
                (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(text))
    return folder


def test_pieces_that_others_made_stay_as_they_are(tmp_path: Path) -> None:
    corpus = multi30k_bpe.their_corpus(their_files(tmp_path))
    assert corpus.train[:2] == THEIRS and len(corpus.validation) == len(corpus.test) == 80
    texts = [text for pair in THEIRS for text in pair]
    tokenizer = multi30k_bpe.pieces_between_spaces(texts)
    assert len(tokenizer) == 4 + len({piece for text in texts for piece in text.split()})
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    tokenizer.save(tmp_path / "tokenizer.json")
    again = type(tokenizer).load(tmp_path / "tokenizer.json")
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert again.encode("a unicorn") == [*again.encode("a"), 3]
    (tmp_path / "valid.de").unlink()
    with pytest.raises(FileNotFoundError, match="valid.de"):
        multi30k_bpe.their_corpus(tmp_path)


def test_their_bleu_counts_words_and_not_pieces() -> None:
    wanted = [german for _, german in THEIRS] * 2
    assert multi30k_bpe.their_bleu(wanted, wanted).score == pytest.approx(100)
    otherwise_cut = [text.replace("@@ ", "").replace("dach", "d@@ ach") for text in wanted]
    assert multi30k_bpe.their_bleu(otherwise_cut, wanted).score == pytest.approx(100)
    wrong = [text.replace("mann", "hund") for text in wanted]
    score, signature = multi30k_bpe.their_bleu(wrong, wanted)
    assert score < 90 and "tok:none" in signature and "case:lc" in signature


def test_a_training_on_their_pieces_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, record = their_files(tmp_path / "data"), tmp_path / "run", tmp_path / "record.json"
    monkeypatch.setattr(multi30k, "PATH", record)
    for registry in (multi30k_bpe.CORPORA, multi30k_bpe.RECIPES):
        monkeypatch.setitem(registry, multi30k_bpe.NAME, None)  # and take it out again afterwards
    monkeypatch.setattr(sys, "argv", ["multi30k_bpe.py", str(data), str(run), "--steps", "3"])
    for _ in range(2):  # which says the same again
        multi30k_bpe.main()
    (row,) = json.loads(record.read_text())["runs"]
    tokenizer = json.loads((run / "tokenizer.json").read_text())
    assert row["settings"]["vocab_size"] == len(tokenizer["model"]["vocab"]) == 23
    assert row["recipe"] == "tiny, on their BPE" and "bleu" not in row
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["validation_loss"] for entry in metrics] + [metrics[-1]["average_loss"]]
    assert row["validation_loss"] == min(losses)


def some_words() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five words that ask seven others, of which the second sentence has only four."""
    torch.manual_seed(0)
    asking, asked = (torch.randn(2, n, 16, dtype=torch.float64) for n in (5, 7))
    return asking, asked, (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]


def test_unscaled_scores_are_those_of_longer_queries() -> None:
    asking, asked, mask = some_words()
    unscaled, ours = scores.Unscaled(16, 4).double(), MultiHeadAttention(16, 4).double()
    ours.load_state_dict(unscaled.state_dict())
    for parameter in ours.query.parameters():
        parameter.data *= 2  # √d_k
    torch.testing.assert_close(unscaled(asking, asked, asked, mask), ours(asking, asked, asked, mask))


def test_additive_scores_are_those_of_the_recurrent_translator() -> None:
    asking, asked, mask = some_words()
    additive = scores.Additive(16, 2).double()
    found, _ = additive(asking, asked, asked, mask)
    value = scores.split_heads(additive.value(asked), 2)  # (batch, heads, keys, d_v)
    told = []
    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        theirs = AdditiveAttention(8).double()
        theirs.of_state.load_state_dict({"weight": torch.eye(8), "bias": additive.key.bias[rows]})
        theirs.score.weight.data = additive.v[head].T
        keys = asked @ additive.key.weight[rows].T
        queries = additive.query(asking)[..., rows]
        told.append([theirs(query, keys, value[:, head], mask[:, 0, 0])[0] for query in queries.unbind(1)])
    expected = additive.output(torch.cat([torch.stack(words, 1) for words in told], -1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("score", scores.SCORES)
def test_every_attention_of_a_model_gets_the_scores(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models, teach = [], ablations.taught
    monkeypatch.setattr(scores, "taught", lambda model, *rest: models.append(model) or teach(model, *rest))
    monkeypatch.setattr(ablations, "SETTINGS", ablations.SETTINGS | {"steps": 2, "warmup": 1})
    pairs = [("one two", "eins zwei"), ("two", "zwei")] * 5
    corpus = Corpus(pairs, pairs, pairs)
    tokenizer = Tokenizer.train([text for pair in pairs for text in pair], 270)
    row = scores.run(corpus, tokenizer, score, heads=4, seed=0)
    assert {type(each) for each in sum(models[0].attentions().values(), [])} == {scores.SCORES[score]}
    assert row["d_k"] == 32 and 0 < row["surprise"] < 10
