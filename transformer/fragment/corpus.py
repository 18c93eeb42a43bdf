"""Random sentences of the grammar, and the corpus made of them.

Chapter: Thirty thousand sentences
Exported from chapters/93_corpus.md; edit it there, not here.
"""

import hashlib
import random
from collections.abc import Iterator
from functools import cache

from transformer.fragment.clauses import LINKS, Clause, Sentence, english, german, noun_phrases
from transformer.fragment.nouns import ADJECTIVES, NOUNS, PREPOSITIONS, Adjective, Noun, kinds
from transformer.fragment.phrases import NounPhrase, PrepositionalPhrase
from transformer.fragment.verbs import MODALS, TENSES, TIMES, VERBS, Verb

__all__ = [
    "combinations",
    "held_out",
    "random_clause",
    "random_phrase",
    "random_sentence",
    "split_sentences",
    "splits",
    "stream",
]


def combinations(sentence: Sentence) -> frozenset[tuple[str, str]]:
    """Return the (adjective, noun) pairs of a sentence, in English."""
    return frozenset((p.adjective.english, p.noun.english) for p in noun_phrases(sentence) if p.adjective)


def held_out(adjective: str, noun: str) -> bool:
    """Say whether training never sees this pair: true for about a tenth, by hash."""
    return hashlib.sha256(f"{adjective} {noun}".encode()).digest()[0] < 26


@cache
def _nouns(wanted: frozenset[str]) -> list[Noun]:
    return [noun for noun in NOUNS.values() if noun.kind in wanted]


@cache
def _adjectives(kind: str) -> list[Adjective]:
    return [adjective for adjective in ADJECTIVES.values() if kind in adjective.kinds]


_DETERMINERS = (*["the"] * 5, *["a"] * 3, *["my"] * 3, *["her"] * 3, "number")
_NOBODYS = ("man", "woman", "king")


def _random_number(rng: random.Random) -> int:
    number = int(2 * 500 ** (rng.random() ** 5))
    return number + (number % 100 == 1)


def random_phrase(
    rng: random.Random, wanted: frozenset[str], used: set[str], definite: bool = False
) -> NounPhrase:
    """Draw a phrase of one of the kinds; its noun is not in `used`, and is added."""
    noun = rng.choice([noun for noun in _nouns(wanted) if noun.english not in used])
    used.add(noun.english)
    adjective = rng.choice(_adjectives(noun.kind)) if rng.random() < 0.35 else None
    choices = ("the", "the", "my", "her") if definite else _DETERMINERS
    if noun.english in _NOBODYS:
        choices = tuple(word for word in choices if word not in ("my", "her"))
    determiner: str | int = rng.choice(choices)
    if determiner == "number":
        determiner = _random_number(rng)
    plural = isinstance(determiner, int) or (determiner != "a" and rng.random() < 0.3)
    return NounPhrase(determiner, adjective, noun, plural)


_ACTIONS = [*(verb for verb in VERBS.values() if verb.objects), VERBS["helfen"]]
_REPORTS = [verb for verb in VERBS.values() if not verb.objects]
_MOVING = tuple(VERBS[name] for name in ("bringen", "schicken", "einladen"))


def _random_place(rng: random.Random, verb: Verb, used: set[str]) -> PrepositionalPhrase:
    fitting = [p for p in PREPOSITIONS.values() if not p.verbs or verb.base in p.verbs]
    preposition = rng.choice(fitting)
    phrase = random_phrase(rng, preposition.kinds, used, definite=True)
    return PrepositionalPhrase(preposition, phrase)


def random_clause(rng: random.Random, tense: str, used: set[str], plain: bool = False) -> Clause:
    """Draw a clause in a tense; a plain one has neither place nor time."""
    verb = rng.choice(_ACTIONS)
    subject = random_phrase(rng, verb.subjects, used)
    recipient = None
    if verb.case == "both":
        recipient = random_phrase(rng, kinds("human"), used, definite=True)
    direct = random_phrase(rng, verb.objects, used)
    to = recipient is not None and rng.random() < 0.4
    place = time = None
    if not plain and verb not in _MOVING and rng.random() < 0.3:
        place = _random_place(rng, verb, used)
    if not plain and rng.random() < 0.35:
        time = rng.choice([time for time in TIMES.values() if tense in time.tenses])
    fronts = ["", "time"] if time else [""]
    if place and place.phrase.noun.kind in kinds("place"):
        fronts.append("place")
    parts = (direct, recipient, to, place, time, rng.choice(fronts))
    return Clause(subject, verb, TENSES[tense], *parts)


_TOGETHER = {"present": ("present", "present", *MODALS), "past": ("past", "pluperfect")}


def _two_clauses(rng: random.Random) -> Sentence:
    used: set[str] = set()
    link, tense = rng.choice(list(LINKS)), rng.choice(("present", "past"))
    if link == "that":
        subject = random_phrase(rng, kinds("human"), used)
        main = Clause(subject, rng.choice(_REPORTS), TENSES[tense])
        fitting = _TOGETHER[tense]
        if main.verb is VERBS["hoffen"]:
            fitting = tuple(name for name in fitting if name not in ("must", "should"))
        said = random_clause(rng, rng.choice(fitting), used, plain=True)
        return Sentence(main, link, said)
    other = tense if link == "when" else rng.choice(_TOGETHER[tense])
    main = random_clause(rng, tense, used, plain=True)
    subordinate = random_clause(rng, other, used, plain=True)
    return Sentence(main, link, subordinate, subordinate_first=rng.random() < 0.4)


_SINGLE = ("present", "present", "past", "past", "past", "pluperfect", *MODALS)


def random_sentence(rng: random.Random, longest: int = 20) -> Sentence:
    """Draw a sentence of at most `longest` English tokens."""
    while True:
        if rng.random() < 0.75:
            drawn = Sentence(random_clause(rng, rng.choice(_SINGLE), set()))
        else:
            drawn = _two_clauses(rng)
        if len(english(drawn).split()) <= longest:
            return drawn


def stream(seed: int) -> Iterator[Sentence]:
    """Yield random sentences without end, no two with the same German."""
    rng, seen = random.Random(seed), set()
    while True:
        drawn = random_sentence(rng)
        if (text := german(drawn)) not in seen:
            seen.add(text)
            yield drawn


@cache
def split_sentences() -> dict[str, list[Sentence]]:
    """Draw the corpus: held-out pairs in each sentence of `unseen`, nowhere else."""
    sizes = {"train": 30_000, "validation": 500, "test": 1_000, "unseen": 1_000}
    splits: dict[str, list[Sentence]] = {name: [] for name in sizes}
    for drawn in stream(seed=2017):
        new = any(held_out(*pair) for pair in combinations(drawn))
        fitting = ["unseen"] if new else ["train", "validation", "test"]
        wanting = [name for name in fitting if len(splits[name]) < sizes[name]]
        if wanting:
            splits[wanting[0]].append(drawn)
        elif all(len(splits[name]) == size for name, size in sizes.items()):
            break
    return splits


def splits() -> dict[str, list[tuple[str, str]]]:
    """Return the corpus as (English, German) pairs: train, validation, test, unseen."""
    return {
        name: [(english(drawn), german(drawn)) for drawn in sentences]
        for name, sentences in split_sentences().items()
    }
