"""The corpora, the tokeniser and the batches in use, and Multi30k's loader against a local server."""

import copy
import gzip
import hashlib
import io
import os
import pickle
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from transformer import corpora, data, downloads
from transformer.files import write_whole

TEXTS = {
    "train.en.gz": "a cow\ntwo\u2028cows \nthree cows\n",
    "train.de.gz": "eine Kuh\nzwei\u2028Kühe\ndrei Kühe\n",
    "val.en.gz": "a dog\n",
    "val.de.gz": "ein Hund\n",
    "test_2016_flickr.en.gz": "a cat\na hat\n",
    "test_2016_flickr.de.gz": "eine Katze\nein Hut\n",
}


class Server(ThreadingHTTPServer):
    """Serves `files` and remembers what was asked for; breaks off in the middle of what is in `broken`."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.broken, self.asked = files, set[str](), list[str]()
        self.address = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked.append(name)
        if self.headers["User-Agent"].startswith("Python-urllib"):
            self.send_error(403)  # as some servers answer whoever does not say what it is
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.broken else content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def files() -> dict[str, bytes]:
    return {name: gzip.compress(text.encode(), mtime=0) for name, text in TEXTS.items()}


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of six small files, whose hashes the loader expects, and no other Multi30k in reach."""
    monkeypatch.delenv("MULTI30K_DIR", raising=False)
    expect(files, monkeypatch)
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def expect(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(downloads, "MULTI30K_FILES", hashes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_download_gives_the_pairs_of_each_split(server: Server, tmp_path: Path) -> None:
    corpus = downloads.multi30k(tmp_path / "new" / "folder", address=server.address)
    assert corpus.train == [
        ("a cow", "eine Kuh"),
        ("two\u2028cows", "zwei\u2028Kühe"),
        ("three cows", "drei Kühe"),
    ]
    assert corpus.validation == [("a dog", "ein Hund")]
    assert corpus.test == [("a cat", "eine Katze"), ("a hat", "ein Hut")]
    assert corpus.unseen == []
    assert names(tmp_path / "new" / "folder") == set(TEXTS)


def test_cached_files_are_not_downloaded_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = partial(downloads.tqdm.wrapattr, disable=False)  # which tests are otherwise spared
    monkeypatch.setattr(downloads.tqdm, "wrapattr", shown)
    first = downloads.multi30k(tmp_path, address=server.address)
    assert sorted(server.asked) == sorted(TEXTS)
    bars = capsys.readouterr().err
    assert all(f"{name}: 100%" in bars for name in TEXTS)
    assert downloads.multi30k(tmp_path, address=server.address) == first
    assert len(server.asked) == len(TEXTS)
    (tmp_path / "val.de.gz").unlink()
    assert downloads.multi30k(tmp_path, address=server.address) == first
    assert server.asked[len(TEXTS) :] == ["val.de.gz"]
    assert set(re.findall(r"\S+\.gz", capsys.readouterr().err)) == {"val.de.gz"}


def test_folder_before_environment_before_home(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    downloads.multi30k(address=server.address)
    assert names(tmp_path / "home/.cache/attention-piece-by-piece/multi30k") == set(TEXTS)
    monkeypatch.setenv("MULTI30K_DIR", str(tmp_path / "named"))
    downloads.multi30k(address=server.address)
    assert names(tmp_path / "named") == set(TEXTS)
    downloads.multi30k(tmp_path / "given", address=server.address)
    assert names(tmp_path / "given") == set(TEXTS)


def test_wrong_content_is_named_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.files["train.en.gz"] = b"<html>please log in</html>"
    with pytest.raises(
        ValueError, match=r"not the right file: http://127\.0\.0\.1:\d+/train\.en\.gz: SHA-256 "
    ):
        downloads.multi30k(tmp_path, address=server.address)
    assert names(tmp_path) == set()


def test_a_damaged_cache_is_named_and_left_to_its_owner(server: Server, tmp_path: Path) -> None:
    downloads.multi30k(tmp_path, address=server.address)
    (tmp_path / "val.en.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"val\.en\.gz \(delete it to have it downloaded again\)"):
        downloads.multi30k(tmp_path, address=server.address)
    assert (tmp_path / "val.en.gz").read_bytes() == b"damaged"


def test_a_download_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.broken.add("train.de.gz")
    with pytest.raises(OSError, match=r"/train\.de\.gz cannot be read: IncompleteRead"):
        downloads.multi30k(tmp_path, address=server.address)
    assert names(tmp_path) == {"train.en.gz"}  # the file before it came whole
    server.broken.clear()
    assert len(downloads.multi30k(tmp_path, address=server.address).train) == 3


def test_a_missing_file_or_server_names_the_address(server: Server, tmp_path: Path) -> None:
    del server.files["val.en.gz"]
    with pytest.raises(OSError, match=r"/val\.en\.gz cannot be read: .*404"):
        downloads.multi30k(tmp_path, address=server.address)
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:1/val\.en\.gz cannot be read"):
        downloads.multi30k(tmp_path, address="http://127.0.0.1:1/")


def test_a_write_that_fails_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        downloads.multi30k(tmp_path, address=server.address)
    assert names(tmp_path) == set()


def test_unequal_numbers_of_lines_name_both_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["val.de.gz"] = gzip.compress(b"ein Hund\nnoch ein Hund\n")
    expect(server.files, monkeypatch)
    with pytest.raises(ValueError, match=r"val\.en\.gz has 1 lines, but .*val\.de\.gz has 2"):
        downloads.multi30k(tmp_path, address=server.address)


def test_invalid_utf8_names_file_and_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["train.de.gz"] = gzip.compress("eine Kuh\nzwei K\xfche\ndrei\n".encode("latin-1"))
    expect(server.files, monkeypatch)
    with pytest.raises(ValueError, match=r"train\.de\.gz, line 2: not UTF-8"):
        downloads.multi30k(tmp_path, address=server.address)


@pytest.mark.skipif(
    not os.environ.get("MULTI30K_DIR"), reason="MULTI30K_DIR does not name a copy of Multi30k"
)
def test_the_real_multi30k() -> None:
    corpus = downloads.multi30k()
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [29_000, 1_014, 1_000]
    assert corpus.validation[0][0] == "A group of men are loading cotton onto a truck"
    assert corpus.test[0][1].startswith("Ein Mann mit einem orangefarbenen Hut")
    everything = corpus.train + corpus.validation + corpus.test
    assert all(source and target for source, target in everything)


ARCHIVE = "Hi.\tHallo!\nHi.\tGrüß Gott!\nRun!\tLauf!\tCC-BY 2.0\n"


def zipped(text: str | bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("deu.txt", text)
    return file.getvalue()


def test_tatoeba_is_read_and_split_by_english_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = server.files["deu-eng.zip"] = zipped(ARCHIVE)
    monkeypatch.setenv("TATOEBA_DIR", str(tmp_path))
    address, sha256 = server.address + "deu-eng.zip", hashlib.sha256(content).hexdigest()
    corpus = downloads.tatoeba(address=address, sha256=sha256)
    parts = [corpus.train, corpus.validation, corpus.test]
    assert sorted(sum(parts, [])) == [("Hi.", "Grüß Gott!"), ("Hi.", "Hallo!"), ("Run!", "Lauf!")]
    assert sum(any(source == "Hi." for source, _ in part) for part in parts) == 1
    assert names(tmp_path) == {"deu-eng.zip"}
    assert downloads.tatoeba(address=address, sha256=sha256) == corpus and len(server.asked) == 1


def test_another_edition_of_tatoeba_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["deu-eng.zip"] = zipped("Hi.\tHallo!\n")
    with pytest.raises(ValueError, match=r"not the right file: .*deu-eng\.zip: SHA-256 "):
        downloads.tatoeba(tmp_path, address=server.address + "deu-eng.zip")
    assert names(tmp_path) == set()


@pytest.mark.skipif(not os.environ.get("TATOEBA_DIR"), reason="TATOEBA_DIR does not name a copy of Tatoeba")
def test_the_real_tatoeba() -> None:
    corpus = downloads.tatoeba()
    parts = [corpus.train, corpus.validation, corpus.test]
    assert sum(map(len, parts)) == 169_813
    assert all(2_500 < len(part) < 4_500 for part in parts[1:])
    assert len(set.union(*({source for source, _ in part} for part in parts))) == 135_534
    assert sum(len({source for source, _ in part}) for part in parts) == 135_534


def test_number_words() -> None:
    by_hand = {
        0: ("zero", "null"),
        1: ("one", "eins"),
        110: ("one hundred ten", "einhundertzehn"),
        243: ("two hundred forty-three", "zweihundertdreiundvierzig"),
        1_000: ("one thousand", "eintausend"),
        1_001: ("one thousand one", "eintausendeins"),
        16_017: ("sixteen thousand seventeen", "sechzehntausendsiebzehn"),
        101_101: ("one hundred one thousand one hundred one", "einhunderteintausendeinhunderteins"),
        999_999: (
            "nine hundred ninety-nine thousand nine hundred ninety-nine",
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
        ),
    }
    assert {number: corpora.number_words(number) for number in by_hand} == by_hand


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_number_words_refuses_what_it_cannot_say(number: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 999,999"):
        corpora.number_words(number)


def test_numbers_corpus_is_deterministic_and_split_by_number() -> None:
    small, large = corpora.numbers_corpus(1_000, 2_000), corpora.numbers_corpus(2_000, 2_000)
    assert corpora.numbers_corpus(1_000, 2_000) == small
    for split in ("train", "validation", "test"):
        assert set(getattr(small, split)) <= set(getattr(large, split))
    everything = sorted(large.train + large.validation + large.test)
    assert everything == sorted(map(corpora.number_words, range(2_000)))


@pytest.fixture(scope="module")
def tokenizer() -> data.Tokenizer:
    corpus = corpora.numbers_corpus(500)
    return data.Tokenizer.train((text for pair in corpus.train for text in pair), 300)


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back(tokenizer: data.Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 299) | st.just(2), max_size=30))
def test_any_ids_can_be_decoded_and_shown(tokenizer: data.Tokenizer, ids: list[int]) -> None:
    end = ids.index(2) if 2 in ids else len(ids)
    assert tokenizer.decode(ids) == tokenizer.decode([i for i in ids[:end] if i > 2])
    assert len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_cuts_as_its_original(tokenizer: data.Tokenizer, copy_of: Any) -> None:
    text = "a <eos> b <pad>"
    assert copy_of(tokenizer).encode(text) == tokenizer.encode(text)
    assert copy_of(tokenizer).decode(copy_of(tokenizer).encode(text)) == text


def test_a_file_is_for_whoever_a_new_file_is_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", lambda part: save_file({"w": torch.zeros(1)}, part))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_two_processes_may_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(part: Path) -> None:
        part.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: 0)
        write_whole(tmp_path / "a", lambda part: part.write_text("theirs"))

    write_whole(tmp_path / "a", write)
    assert (tmp_path / "a").read_text() == "ours" and names(tmp_path) == {"a"}


def test_examples_of_no_pairs(tokenizer: data.Tokenizer) -> None:
    assert tokenizer.examples([]) == []


def sentences(lengths: list[tuple[int, int]]) -> list[data.Example]:
    """Examples of these lengths, no two alike."""
    return [([3 + i] * source, [1, *[3 + i] * target]) for i, (source, target) in enumerate(lengths)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 19)), max_size=60),
    st.integers(20, 100),
    st.none() | st.integers(0, 5),
)
def test_token_batches(lengths: list[tuple[int, int]], bound: int, seed: int | None) -> None:
    examples = sentences(lengths)
    batches = data.token_batches(examples, bound, seed=seed)
    assert all(side.numel() <= bound for batch in batches for side in batch)
    assert all(len(batch.source) == len(batch.target) > 0 for batch in batches)
    rows = Counter(
        tuple(tuple(i for i in side.tolist() if i) for side in pair)
        for batch in batches
        for pair in zip(*batch, strict=True)
    )
    assert rows == Counter((tuple(source), tuple(target)) for source, target in examples)
    again = data.token_batches(examples, bound, seed=seed)
    assert [[x.tolist() for x in batch] for batch in again] == [[x.tolist() for x in b] for b in batches]


def test_token_batches_fill_up_to_the_bound() -> None:
    batches = data.token_batches(sentences([(10, 9)] * 10), 50)
    assert [len(batch.source) for batch in batches] == [5, 5]
    with pytest.raises(ValueError, match="11 tokens do not fit into max_tokens=10"):
        data.token_batches(sentences([(11, 4)]), 10)
