"""Noun phrases and prepositional phrases in English and German.

Chapter: Noun phrases in two languages
Exported from chapters/91_fragment.md; edit it there, not here.
"""

from dataclasses import dataclass
from functools import cache

from num2words import num2words

from transformer.fragment.nouns import ADJECTIVES, NOUNS, Adjective, Noun, Preposition

__all__ = [
    "NounPhrase",
    "PrepositionalPhrase",
    "adjective_ending",
    "determiners",
    "english_number",
    "english_phrase",
    "german_determiner",
    "german_noun",
    "german_number",
    "german_phrase",
    "phrase",
]


@cache
def english_number(number: int) -> str:
    """Write a number in English words: 243 is "two hundred forty-three"."""
    return num2words(number).replace(" and ", " ")


@cache
def german_number(number: int) -> str:
    """Write a number as one German word: 243 is "zweihundertdreiundvierzig"."""
    return num2words(number, lang="de")


@dataclass(frozen=True)
class NounPhrase:
    """A determiner ("the", "a", "my", "her" or a number from 2), adjective, noun."""

    determiner: str | int
    adjective: Adjective | None
    noun: Noun
    plural: bool


def english_phrase(phrase: NounPhrase) -> str:
    """Write a noun phrase in English, with "an" before a vowel."""
    noun = phrase.noun.english_plural if phrase.plural else phrase.noun.english
    words = [phrase.adjective.english, noun] if phrase.adjective else [noun]
    determiner = phrase.determiner
    if isinstance(determiner, int):
        determiner = english_number(determiner)
    elif determiner == "a" and words[0][0] in "aeiou":
        determiner = "an"
    return " ".join([determiner, *words])


_BY_FORM = {form: n for n in NOUNS.values() for form in (n.english, n.english_plural)}


@cache
def determiners() -> dict[str, str | int]:
    """What can stand before an English noun phrase, and what the record says for it."""
    numbers = {english_number(n): n for n in range(2, 1000) if n % 100 != 1}
    return {"the": "the", "a": "a", "an": "a", "my": "my", "her": "her"} | numbers


def phrase(text: str) -> NounPhrase:
    """Read an English noun phrase: the inverse of `english_phrase`.

    Raises KeyError for a word that the lexicon does not hold.
    """
    *words, last = text.split()
    noun = _BY_FORM[last]
    adjective = ADJECTIVES[words.pop()] if words[-1] in ADJECTIVES else None
    determiner = determiners()[" ".join(words)]
    return NounPhrase(determiner, adjective, noun, plural=last == noun.english_plural)


_DEFINITE = {
    "nominative": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}

_STRONG = {
    "nominative": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "p": "en"},
}

_EIN_WORDS = {"a": "ein", "my": "mein", "her": "ihr"}
_BARE = {("nominative", "m"), ("nominative", "n"), ("accusative", "n")}


def german_determiner(determiner: str | int, gender: str, case: str) -> tuple[str, bool]:
    """Write a determiner in German; say if it shows gender (p: plural) and case."""
    if isinstance(determiner, int):
        return german_number(determiner), False
    if determiner == "the":
        return _DEFINITE[case][gender], True
    if (case, gender) in _BARE:
        return _EIN_WORDS[determiner], False
    return _EIN_WORDS[determiner] + _STRONG[case][gender], True


def adjective_ending(gender: str, case: str, shown: bool) -> str:
    """Return the strong ending, or the weak one if the determiner shows the case."""
    if not shown:
        return _STRONG[case][gender]
    like_nominative = _DEFINITE[case][gender] == _DEFINITE["nominative"][gender]
    return "e" if like_nominative and gender != "p" else "en"


def german_noun(noun: Noun, plural: bool, case: str) -> str:
    """Write a noun; the dative plural adds -n unless there is one already."""
    word = noun.german_plural if plural else noun.german
    marked = plural and case == "dative" and not word.endswith("n")
    return word + "n" if marked else word


def german_phrase(phrase: NounPhrase, case: str) -> str:
    """Write a noun phrase in German in the given case."""
    gender = "p" if phrase.plural else phrase.noun.gender
    determiner, shown = german_determiner(phrase.determiner, gender, case)
    noun = german_noun(phrase.noun, phrase.plural, case)
    if phrase.adjective is None:
        return f"{determiner} {noun}"
    ending = adjective_ending(gender, case, shown)
    return f"{determiner} {phrase.adjective.stem}{ending} {noun}"


@dataclass(frozen=True)
class PrepositionalPhrase:
    """A preposition with its noun phrase."""

    preposition: Preposition
    phrase: NounPhrase

    @property
    def english(self) -> str:
        return f"{self.preposition.english} {english_phrase(self.phrase)}"

    @property
    def german(self) -> str:
        phrase = german_phrase(self.phrase, self.preposition.case)
        text = f"{self.preposition.german} {phrase}"
        return text.replace("in dem ", "im ").replace("an dem ", "am ")
