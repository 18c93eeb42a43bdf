"""Clauses and sentences in English and German.

Chapter: Verbs that come in two pieces
Exported from chapters/92_clauses.md; edit it there, not here.
"""

from dataclasses import dataclass

from transformer.fragment.phrases import NounPhrase, PrepositionalPhrase, english_phrase, german_phrase
from transformer.fragment.verbs import MODALS, Tense, Time, Verb, english_verb, german_verb

__all__ = [
    "Clause",
    "LINKS",
    "Sentence",
    "english",
    "english_clause",
    "german",
    "german_clause",
    "noun_phrases",
    "phenomena",
]


@dataclass(frozen=True)
class Clause:
    """One verb with everything that belongs to it.

    `to` says that English puts the recipient last ("gave a hat to the king"); `front`
    says what stands before the subject: "time", "place" or nothing.
    """

    subject: NounPhrase
    verb: Verb
    tense: Tense
    direct: NounPhrase | None = None
    recipient: NounPhrase | None = None
    to: bool = False
    place: PrepositionalPhrase | None = None
    time: Time | None = None
    front: str = ""


def _join(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _german(phrase: NounPhrase | None, case: str) -> str:
    return german_phrase(phrase, case) if phrase else ""


def english_clause(clause: Clause) -> str:
    """Write a clause in English: subject, verb, objects, place, time."""
    subject = english_phrase(clause.subject)
    verb = english_verb(clause.verb, clause.tense, clause.subject.plural)
    direct = english_phrase(clause.direct) if clause.direct else ""
    recipient = english_phrase(clause.recipient) if clause.recipient else ""
    objects = (direct, "to", recipient) if clause.to else (recipient, direct)
    adverbials = {
        "place": clause.place.english if clause.place else "",
        "time": clause.time.english if clause.time else "",
    }
    front = adverbials.pop(clause.front, "")
    return _join(front, subject, verb, *objects, *adverbials.values())


def _middle(clause: Clause) -> dict[str, str]:
    """The middle of a German clause, in order; what is missing is empty."""
    case = "dative" if clause.verb.case == "dative" else "accusative"
    parts = {
        "time": clause.time.german if clause.time else "",
        "recipient": _german(clause.recipient, "dative"),
        "direct": _german(clause.direct, case),
        "place": clause.place.german if clause.place else "",
    }
    if clause.direct and clause.direct.determiner not in ("the", "my", "her"):
        parts["direct"] = parts.pop("direct")  # to the end
    return parts


def german_clause(clause: Clause, order: str = "second") -> str:
    """Write a clause in German, its finite verb "second", "first" or "last"."""
    finite, rest = german_verb(clause.verb, clause.tense, clause.subject.plural)
    subject = german_phrase(clause.subject, "nominative")
    middle = _middle(clause)
    if order == "last":
        end = _join(rest, finite) if clause.tense.german_form else rest + finite
        return _join(subject, *middle.values(), end)
    front = middle.pop(clause.front, "") if order == "second" else ""
    if order == "first" or front:
        return _join(front, finite, subject, *middle.values(), rest)
    return _join(subject, finite, *middle.values(), rest)


@dataclass(frozen=True)
class Sentence:
    """A main clause and perhaps a subordinate clause, which may come first."""

    main: Clause
    link: str = ""
    subordinate: Clause | None = None
    subordinate_first: bool = False


LINKS = {"because": "weil", "although": "obwohl", "when": "wenn", "that": "dass"}


def english(sentence: Sentence) -> str:
    """Write a sentence in English, in lower case, its tokens separated by spaces."""
    main = english_clause(sentence.main)
    if sentence.subordinate is None:
        return f"{main} ."
    subordinate = f"{sentence.link} {english_clause(sentence.subordinate)}"
    if sentence.subordinate_first:
        return f"{subordinate} , {main} ."
    return f"{main} {subordinate} ."


def german(sentence: Sentence) -> str:
    """Write a sentence in German, nouns capitalised, its tokens separated by spaces."""
    if sentence.subordinate is None:
        return f"{german_clause(sentence.main)} ."
    past = sentence.subordinate.tense.name == "past"
    link = "als" if sentence.link == "when" and past else LINKS[sentence.link]
    subordinate = f"{link} {german_clause(sentence.subordinate, 'last')}"
    if sentence.subordinate_first:
        return f"{subordinate} , {german_clause(sentence.main, 'first')} ."
    return f"{german_clause(sentence.main)} , {subordinate} ."


def noun_phrases(sentence: Sentence) -> list[NounPhrase]:
    """List the noun phrases of a sentence, clause by clause."""
    found: list[NounPhrase | None] = []
    for clause in filter(None, (sentence.main, sentence.subordinate)):
        place = clause.place.phrase if clause.place else None
        found += [clause.subject, clause.recipient, clause.direct, place]
    return [phrase for phrase in found if phrase]


def _clause_phenomena(clause: Clause) -> set[str]:
    signs = {
        "separable": clause.verb.prefix,
        "dative verb": clause.verb.case == "dative",
        "two objects": clause.recipient,
        "objects swapped": clause.to,
        "inversion": clause.front,
    }
    tense = "modal" if clause.tense.name in MODALS else clause.tense.name
    return {tense, *(name for name, there in signs.items() if there)}


def phenomena(sentence: Sentence) -> frozenset[str]:
    """Name what is worth looking at in a sentence."""
    phrases = noun_phrases(sentence)
    signs = {
        "verb last": sentence.subordinate,
        "inversion": sentence.subordinate_first,
        "adjective": any(phrase.adjective for phrase in phrases),
        "number": any(isinstance(phrase.determiner, int) for phrase in phrases),
    }
    names = {name for name, there in signs.items() if there}
    for clause in filter(None, (sentence.main, sentence.subordinate)):
        names |= _clause_phenomena(clause)
    return frozenset(names)
