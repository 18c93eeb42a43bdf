"""Corpora of real sentences, downloaded and checked: Multi30k, Tatoeba.

Chapter: Words into numbers
Exported from chapters/10_words.md; edit it there, not here.
"""

import codecs
import gzip
import hashlib
import os
from collections.abc import Sequence
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.request import Request, urlopen
from zipfile import ZipFile

from tqdm import tqdm

from transformer.data import Corpus, Pair
from transformer.files import write_whole

__all__ = [
    "MULTI30K",
    "MULTI30K_FILES",
    "TATOEBA",
    "TATOEBA_SHA256",
    "fetch",
    "multi30k",
    "read_pairs",
    "split_by_source",
    "tatoeba",
    "text_lines",
]

MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
MULTI30K_FILES = {  # name → SHA-256
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}


def _download(url: str, name: str) -> bytes:
    """What is at an address, all of it."""
    # some servers turn away whoever does not say what it is
    request = Request(url, headers={"User-Agent": "attention-piece-by-piece"})
    with urlopen(request, timeout=60) as answer:
        size = int(answer.headers.get("Content-Length", 0))
        with tqdm.wrapattr(answer, "read", size or None, desc=name) as body:
            content = b"".join(iter(lambda: body.read(2**16), b""))
    if len(content) < size:
        raise IncompleteRead(content, size - len(content))
    return content


def fetch(url: str, path: Path, sha256: str) -> Path:
    """The file at `path`, downloaded first if it is not there.

    ValueError if the content is not the expected one, OSError if it cannot be had.
    """
    cached = path.exists()
    origin = f"{path} (delete it to have it downloaded again)" if cached else url
    try:
        content = path.read_bytes() if cached else _download(url, path.name)
    except (OSError, HTTPException) as error:
        raise OSError(f"{origin} cannot be read: {error!r}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"not the right file: {origin}: SHA-256 {found}, not {sha256}")
    if not cached:
        write_whole(path, lambda part: part.write_bytes(content))
    return path


def text_lines(content: bytes, name: str | Path) -> list[str]:
    """The lines of a text, without the space around them; ValueError if not UTF-8.

    Only a line feed ends a line.
    """
    content = content.removeprefix(codecs.BOM_UTF8)  # a mark that some editors put in front
    among = content.removesuffix(b"\n").split(b"\n") if content else []
    lines = []
    for number, line in enumerate(among, start=1):
        try:
            lines.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: not UTF-8: {error}") from error
    return lines


def read_pairs(source: str | Path, target: str | Path) -> list[Pair]:
    """Pairs from two files, plain or .gz, a sentence a line; ValueError if unequal."""
    sides = []
    for path in (Path(source), Path(target)):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        sides.append(text_lines(content, path))
    n, m = map(len, sides)
    if n != m:
        raise ValueError(f"{source} has {n} lines, but {target} has {m}")
    return list(zip(*sides, strict=True))


def _folder(given: str | Path | None, name: str) -> Path:
    """The folder given, else that of the variable NAME_DIR, else one in the cache."""
    home = f"~/.cache/attention-piece-by-piece/{name}"
    return Path(given or os.environ.get(f"{name.upper()}_DIR") or home).expanduser()


def multi30k(folder: str | Path | None = None, *, address: str = MULTI30K) -> Corpus:
    """Multi30k, English → German: 29,000 photo captions (Elliott et al., 2016).

    For non-commercial research and education only: our licence does not cover it.
    Reads `folder`, else MULTI30K_DIR, else a cache folder; downloads what is missing.
    ValueError if a file is not the one expected, OSError if it cannot be had.
    """
    folder = _folder(folder, "multi30k")
    for name, sha256 in MULTI30K_FILES.items():
        fetch(address + name, folder / name, sha256)
    splits = ("train", "val", "test_2016_flickr")
    files = [(folder / f"{split}.en.gz", folder / f"{split}.de.gz") for split in splits]
    return Corpus(*(read_pairs(*pair) for pair in files))


TATOEBA = "https://www.manythings.org/anki/deu-eng.zip"
TATOEBA_SHA256 = "b7688f84f99fa33c17397c14d8bd9cef1fdeb2ee0bf50074767023aee8926e28"  # 2018-05


def tatoeba(
    folder: str | Path | None = None,
    *,
    address: str = TATOEBA,
    sha256: str = TATOEBA_SHA256,
) -> Corpus:
    """170,000 everyday sentences, English → German, from tatoeba.org (CC-BY 2.0).

    Split by English sentence: a fiftieth each is for validation and test.
    Reads `folder`, else TATOEBA_DIR, else a cache folder; downloads what is missing.
    ValueError if the file is not the one expected, OSError if it cannot be had.
    """
    path = fetch(address, _folder(folder, "tatoeba") / "deu-eng.zip", sha256)
    with ZipFile(path) as archive:
        lines = text_lines(archive.read("deu.txt"), f"{path}: deu.txt")
    pairs = [line.split("\t")[:2] for line in lines]
    return split_by_source([(english, german) for english, german in pairs])


def split_by_source(pairs: Sequence[Pair]) -> Corpus:
    """A fiftieth of the sources each for validation and test, chosen by a hash."""
    corpus = Corpus([], [], [])
    for pair in pairs:
        digest = hashlib.sha256(pair[0].encode()).digest()
        part = int.from_bytes(digest[:2], "big") % 50  # 0 … 49
        {0: corpus.test, 1: corpus.validation}.get(part, corpus.train).append(pair)
    return corpus
