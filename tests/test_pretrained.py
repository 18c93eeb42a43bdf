"""Published weights in this package's modules: the same numbers as in their own library, or a clear error."""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from transformer import pretrained
from transformer.beam import beam_search
from transformer.decoding import greedy_decode
from transformer.pretrained import BertEncoder, load_bert, load_marian, mean_pooling, sentence_vectors

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 12}
STACK = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}
PAD, END, START = 9, 0, 10  # of the translator; START is the token that ours has besides
TOKENS = torch.tensor([[2, 17, 25, 9, 3], [2, 29, 3, 0, 0]])
SOURCE = torch.tensor([[5, 4, 3, 2, END], [8, 1, END, PAD, PAD]])
GIVEN = torch.tensor([[PAD, 3, 5, 8, 1, 2], [PAD, 7, 7, 1, 4, 6]])  # as the library has it
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


@pytest.fixture(scope="module")
def library() -> Any:
    """Hugging Face's, which takes seconds to import."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def stirred(model: Any) -> Any:
    """Every weight anew: a gain of 1 or a bias of 0 would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:  # the sinusoids are not
            nn.init.normal_(weight, std=0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def bert(library: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Their BERT, and the folder in which it saved itself."""
    folder = tmp_path_factory.mktemp("bert")
    model = stirred(library.BertModel(library.BertConfig(**SIZES)))
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def marian(library: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Their translator, and the folder in which it saved itself."""
    folder = tmp_path_factory.mktemp("marian")
    both = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in STACK.items()}
    config = library.MarianConfig(
        vocab_size=10, d_model=16, max_position_embeddings=64, scale_embedding=True,
        activation_function="swish", eos_token_id=END, forced_eos_token_id=None,
        pad_token_id=PAD, decoder_start_token_id=PAD, **both,
    )  # fmt: skip
    model = stirred(library.MarianMTModel(config))
    model.final_logits_bias.copy_(torch.linspace(-1, 1, 10).roll(3))
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a folder with other settings (None: without them) and other weights."""

    def change(folder: Path, weights: dict[str, Tensor | None] | None = None, **settings: Any) -> Path:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text(encoding="utf-8")) | settings
        config = {key: value for key, value in config.items() if key not in settings or value is not None}
        (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tensors = load_file(copy / "model.safetensors") | (weights or {})
        save_file({k: v for k, v in tensors.items() if v is not None}, copy / "model.safetensors")
        return copy

    return change


@torch.no_grad()
def their_states(model: Any, tokens: Tensor, **more: Any) -> Tensor:
    return model(tokens, attention_mask=(tokens != 0).long(), **more).last_hidden_state


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_bert_gives_its_own_states(bert: tuple[Any, Path], dtype: torch.dtype, tolerance: float) -> None:
    theirs, folder = bert
    ours = load_bert(folder).to(dtype)
    assert not ours.training and ours.config.pad_id == 0
    types = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    for tokens, kinds in ((TOKENS, None), (TOKENS[:1], None), (TOKENS, types)):
        wanted = their_states(theirs.to(dtype), tokens, token_type_ids=kinds)
        torch.testing.assert_close(ours(tokens, kinds), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
def test_the_config_says_which_activation(library: Any, tmp_path: Path, activation: str) -> None:
    config = library.BertConfig(**SIZES, hidden_act=activation, layer_norm_eps=0.1)
    theirs = stirred(library.BertModel(config))
    theirs.save_pretrained(tmp_path)
    ours = load_bert(tmp_path)
    torch.testing.assert_close(ours(TOKENS), their_states(theirs, TOKENS), rtol=0, atol=1e-5)


def test_dropout_is_theirs_when_it_trains(bert: tuple[Any, Path], changed: Callable[..., Path]) -> None:
    folder = changed(bert[1], hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    model = load_bert(folder)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.2}
    assert {layer.self_attention.dropout for layer in model.encoder.layers} == {0.3}
    assert not torch.equal(model.train()(TOKENS), model(TOKENS))


def test_what_stands_behind_the_encoder_is_left_out_only_on_request(library: Any, tmp_path: Path) -> None:
    theirs = stirred(library.BertForMaskedLM(library.BertConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cls\.predictions"):
        load_bert(tmp_path)
    ours = load_bert(tmp_path, without=["cls."])
    torch.testing.assert_close(ours(TOKENS), their_states(theirs.bert, TOKENS), rtol=0, atol=1e-5)


def test_old_names_and_half_precision(bert: tuple[Any, Path], changed: Callable[..., Path]) -> None:
    """As in the oldest files: LayerNorm.gamma and LayerNorm.beta. Half precision is widened."""
    theirs, folder = bert
    old: dict[str, Tensor | None] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        ancient = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old |= {name: None} | {ancient.replace("LayerNorm.bias", "LayerNorm.beta"): tensor.half()}
    ours = load_bert(changed(folder, old))
    assert ours.words.weight.dtype == torch.float32
    torch.testing.assert_close(ours(TOKENS), their_states(theirs.float(), TOKENS), rtol=0, atol=0.05)


KEYS = ["model_type", "vocab_size", "hidden_size", "hidden_act", "layer_norm_eps", "pad_token_id"]


@pytest.mark.parametrize("key", KEYS[1:])
def test_a_missing_key_is_named(bert: tuple[Any, Path], changed: Callable[..., Path], key: str) -> None:
    with pytest.raises(ValueError, match=f"does not say '{key}'"):
        load_bert(changed(bert[1], **{key: None}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "gpt2", "model_type.*gpt2"),
        ("model_type", None, "model_type"),
        ("position_embedding_type", "relative_key", "position_embedding_type.*relative_key"),
        ("is_decoder", True, "is_decoder.*True"),
        ("hidden_act", "tanh", "activation 'tanh'"),
        ("num_attention_heads", 3, "num_heads=3"),
    ],
)
def test_what_our_modules_cannot_do_is_refused(
    bert: tuple[Any, Path], changed: Callable[..., Path], key: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_bert(changed(bert[1], **{key: value}))


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"encoder.layer.1.output.dense.bias": None}, "encoder.layers.1.feed_forward.2.bias"),
        ({"embeddings.LayerNorm.weight": None}, "norm.weight"),
        ({"encoder.layer.2.output.dense.bias": torch.zeros(16)}, "encoder.layers.2.feed_forward.2.bias"),
        ({"encoder.surprise": torch.zeros(1)}, "encoder.surprise"),
        ({"embeddings.word_embeddings.weight": torch.zeros(31, 16)}, "words.weight"),
    ],
)
def test_every_weight_has_a_place_and_every_place_a_weight(
    bert: tuple[Any, Path], changed: Callable[..., Path], weights: dict[str, Tensor | None], named: str
) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        load_bert(changed(bert[1], weights))


def test_files_that_cannot_be_read(bert: tuple[Any, Path], changed: Callable[..., Path]) -> None:
    folder = changed(bert[1])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickle.*save_pretrained"):
        load_bert(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        load_bert(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_bert(folder)
    with pytest.raises(ValueError, match=r"no config\.json, only \[\]"):
        load_marian(folder / "nowhere")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_mean_is_over_real_tokens(dtype: torch.dtype) -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]]).repeat(2, 1, 1).to(dtype)
    real = torch.tensor([[True, True, False], [False, False, False]])
    pooled = mean_pooling(states, real)
    assert pooled.dtype == dtype and pooled.tolist() == [[2.0, 3.0], [0.0, 0.0]]


def toy_tokenizer() -> tokenizers.Tokenizer:
    model = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer


def test_sentence_vectors(bert: tuple[Any, Path]) -> None:
    """In the order given, whatever the batches and whatever padding the tokeniser adds by itself."""
    theirs, model, tokenizer = bert[0].float(), load_bert(bert[1]), toy_tokenizer()
    texts = ["a b b a b", "b", "a c", "b a b", "b"]
    vectors = sentence_vectors(model, tokenizer, texts, batch_size=2)
    assert not vectors.requires_grad
    for text, vector in zip(texts, vectors, strict=True):
        mean = their_states(theirs, torch.tensor([tokenizer.encode(text).ids])).mean(1)[0]
        torch.testing.assert_close(vector, mean / mean.norm(), rtol=0, atol=1e-5)
    tokenizer.enable_padding(length=12)
    torch.testing.assert_close(sentence_vectors(model, tokenizer, texts), vectors, rtol=0, atol=1e-5)
    assert sentence_vectors(model, tokenizer, []).shape == (0, 16)
    with pytest.raises(TypeError, match="a list"):
        sentence_vectors(model, tokenizer, "a b")
    with pytest.raises(ValueError, match="batch_size"):
        sentence_vectors(model, tokenizer, texts, batch_size=0)


@pytest.fixture
def server(
    bert: tuple[Any, Path], changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """An address with three small files, whose hashes are expected, and the folder that it serves."""
    folder = changed(bert[1])
    toy_tokenizer().save(str(folder / "tokenizer.json"))
    names = ("config.json", "model.safetensors", "tokenizer.json")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr(pretrained, "MINILM_FILES", hashes)
    handler = partial(type("Silent", (SimpleHTTPRequestHandler,), {"log_message": print}), directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


def test_minilm_is_downloaded_once_and_checked(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (address, served), here = server, tmp_path / "new" / "folder"
    model, tokenizer = pretrained.minilm(here, address=address)
    assert isinstance(model, BertEncoder) and tokenizer.encode("b a").ids == [3, 2]
    assert tokenizer.truncation["max_length"] == 256 and tokenizer.padding is None
    for file in served.iterdir():
        file.unlink()
    monkeypatch.setenv("MINILM_DIR", str(here))
    assert torch.equal(pretrained.minilm(address=address)[0](TOKENS), model(TOKENS))  # nothing is asked
    with pytest.raises(OSError, match=r"config\.json"):
        pretrained.minilm(tmp_path / "other", address=address)
    (here / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="not the right file"):
        pretrained.minilm(address=address)


def test_the_real_address_is_one_revision_with_three_hashes() -> None:
    assert pretrained.MINILM.startswith(
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/"
    )
    assert len(pretrained.MINILM.rstrip("/").split("/")[-1]) == 40
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in pretrained.MINILM_FILES.values())


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_translator_gives_its_own_logits(
    marian: tuple[Any, Path], dtype: torch.dtype, tolerance: float
) -> None:
    theirs, folder = marian
    ours, target = load_marian(folder).to(dtype), GIVEN.clone()
    target[:, 0] = ours.config.bos_id
    assert not ours.training and ours.config.bos_id == START and ours.config.pad_id == PAD
    mask = (SOURCE != PAD).long()
    with torch.no_grad():
        wanted = theirs.to(dtype)(SOURCE, attention_mask=mask, decoder_input_ids=GIVEN).logits
    logits = ours(SOURCE, target)
    torch.testing.assert_close(logits[..., :10], wanted, rtol=0, atol=tolerance)
    assert (logits[..., START] == -math.inf).all()


def words(rows: Tensor) -> list[list[int]]:
    return [[i for i in row[1:] if i != PAD] for row in rows.tolist()]


def test_a_translator_writes_its_own_sentences(marian: tuple[Any, Path]) -> None:
    """Greedily and by beam search, and in the same way whether cached or not."""
    theirs, ours = marian[0].double(), load_marian(marian[1]).double()
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(1, PAD, (20, 7), generator=generator)
    for row, length in zip(source, torch.randint(1, 7, (20,), generator=generator).tolist(), strict=True):
        row[length], row[length + 1 :] = END, PAD
    how = {"attention_mask": (source != PAD).long(), "do_sample": False, "max_new_tokens": 30}
    how |= {"suppress_tokens": [PAD], "length_penalty": 0.0, "early_stopping": "never"}
    for bias in (0.0, 2.0):  # the second makes sentences end earlier
        ours.output_bias[END] += bias
        theirs.final_logits_bias[0, END] += bias
        greedy = greedy_decode(ours.frozen(), source, max_length=30)
        plain = {**how, "length_penalty": None, "early_stopping": None}
        assert words(greedy) == words(theirs.generate(source, num_beams=1, **plain))
        found = beam_search(ours, source, beam=1, alpha=0.0, max_length=30)
        assert words(found) == words(greedy)
        found = beam_search(ours, source, beam=3, alpha=0.0, max_length=60)
        wanted = theirs.generate(source, num_beams=3, **{**how, "max_new_tokens": 60})
        ended = [i for i, row in enumerate(words(found)) if row[-1] == END]
        assert [words(found)[i] for i in ended] == [words(wanted)[i] for i in ended]
    theirs.final_logits_bias[0, END] -= 2


def test_positions_grow_beyond_the_table(marian: tuple[Any, Path]) -> None:
    positions = load_marian(marian[1]).positions
    x = torch.zeros(1, 3, 16)
    whole = positions(torch.zeros(1, 603, 16))
    torch.testing.assert_close(positions(x, 600), whole[:, 600:])


@pytest.mark.parametrize(
    "said",
    [
        {"model_type": "bart"}, {"scale_embedding": False}, {"scale_embedding": None},
        {"share_encoder_decoder_embeddings": False}, {"decoder_layers": 1}, {"decoder_ffn_dim": 23},
    ],
)  # fmt: skip
def test_translators_of_another_shape_are_refused(
    marian: tuple[Any, Path], changed: Callable[..., Path], said: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(said))):
        load_marian(changed(marian[1], **said))


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"model.shared.weight": None}, "embedding.weight"),
        ({"final_logits_bias": None}, "output_bias"),
        ({"lm_head.weight": torch.zeros(10, 16)}, "lm_head.weight"),
        ({"model.decoder.layers.1.fc1.bias": None}, "decoder.layers.1.feed_forward.0.bias"),
    ],
)
def test_translators_are_complete(
    marian: tuple[Any, Path], changed: Callable[..., Path], weights: dict[str, Tensor | None], named: str
) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        load_marian(changed(marian[1], weights))


def test_copies_of_one_weight_and_computed_tables_are_no_surprise(
    marian: tuple[Any, Path], changed: Callable[..., Path]
) -> None:
    """Older files have the embedding under several names, and the sinusoids."""
    shared = load_file(marian[1] / "model.safetensors")["model.shared.weight"]
    more = {"lm_head.weight": shared.clone(), "model.encoder.embed_tokens.weight": shared.clone()}
    table = {"model.decoder.embed_positions.weight": torch.zeros(64, 16)}
    model = load_marian(changed(marian[1], more | table))
    torch.testing.assert_close(model.state_dict(), load_marian(marian[1]).state_dict())


def test_a_translator_can_go_on_learning(marian: tuple[Any, Path]) -> None:
    model = load_marian(marian[1]).train()
    target = torch.cat([torch.full((2, 1), START), GIVEN[:, 1:]], 1)
    loss = nn.functional.cross_entropy(model(SOURCE, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
    loss.backward()
    assert loss.isfinite() and all(weight.grad.isfinite().all() for weight in model.parameters())
