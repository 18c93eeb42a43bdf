"""A small grammar of English and German sentence pairs.

Chapter: A small grammar of German
Exported from chapters/91_fragment.md; edit it there, not here.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

__all__ = [
    "ADJECTIVES",
    "Adjective",
    "Clause",
    "LINKS",
    "MODALS",
    "NOUNS",
    "Noun",
    "NounPhrase",
    "PREPOSITIONS",
    "Preposition",
    "PrepositionalPhrase",
    "Sentence",
    "TENSES",
    "TIMES",
    "Tense",
    "Time",
    "VERBS",
    "Verb",
    "adjective_ending",
    "combinations",
    "english",
    "english_clause",
    "english_number",
    "english_phrase",
    "english_verb",
    "german",
    "german_clause",
    "german_determiner",
    "german_noun",
    "german_number",
    "german_phrase",
    "german_verb",
    "held_out",
    "noun_phrases",
    "phenomena",
    "phrase",
    "random_clause",
    "random_phrase",
    "random_sentence",
    "sentence",
    "split_sentences",
    "splits",
    "stream",
]


def _table(text: str) -> list[list[str]]:
    """Split a table into rows of cells; ``_`` stands for a space, ``-`` for nothing."""
    rows = [line.split() for line in text.strip().splitlines()]
    return [["" if cell == "-" else cell.replace("_", " ") for cell in row] for row in rows]


_GROUPS = {
    "human": "adult,child",
    "living": "human,animal",
    "goods": "food,text,clothes,thing,box",
    "place": "room,spot",
    "any": "living,goods",
}


def _kinds(names: str) -> frozenset[str]:
    """Expand a comma-separated list of kinds and groups of kinds."""
    kinds: set[str] = set()
    for name in filter(None, names.split(",")):
        kinds |= _kinds(_GROUPS[name]) if name in _GROUPS else {name}
    return frozenset(kinds)


@dataclass(frozen=True)
class Noun:
    """A noun: English forms, German forms, gender (m, f, n) and the kind of thing it names."""

    english: str
    english_plural: str
    german: str
    gender: str
    german_plural: str
    kind: str


_LIVING = """
man      men       Mann      m  Männer      adult
woman    women     Frau      f  Frauen      adult
teacher  teachers  Lehrer    m  Lehrer      adult
farmer   farmers   Bäuerin   f  Bäuerinnen  adult
doctor   doctors   Ärztin    f  Ärztinnen   adult
king     kings     König     m  Könige      adult
child    children  Kind      n  Kinder      child
girl     girls     Mädchen   n  Mädchen     child
dog      dogs      Hund      m  Hunde       animal
cat      cats      Katze     f  Katzen      animal
horse    horses    Pferd     n  Pferde      animal
mouse    mice      Maus      f  Mäuse       animal
bird     birds     Vogel     m  Vögel       animal
cow      cows      Kuh       f  Kühe        animal
"""

_LIFELESS = """
apple      apples      Apfel      m  Äpfel      food
pear       pears       Birne      f  Birnen     food
egg        eggs        Ei         n  Eier       food
cake       cakes       Kuchen     m  Kuchen     food
book       books       Buch       n  Bücher     text
letter     letters     Brief      m  Briefe     text
newspaper  newspapers  Zeitung    f  Zeitungen  text
shirt      shirts      Hemd       n  Hemden     clothes
coat       coats       Mantel     m  Mäntel     clothes
jacket     jackets     Jacke      f  Jacken     clothes
key        keys        Schlüssel  m  Schlüssel  thing
lamp       lamps       Lampe      f  Lampen     thing
bicycle    bicycles    Fahrrad    n  Fahrräder  thing
box        boxes       Kiste      f  Kisten     box
suitcase   suitcases   Koffer     m  Koffer     box
package    packages    Paket      n  Pakete     box
garden     gardens     Garten     m  Gärten     room
kitchen    kitchens    Küche      f  Küchen     room
house      houses      Haus       n  Häuser     room
table      tables      Tisch      m  Tische     spot
door       doors       Tür        f  Türen      spot
window     windows     Fenster    n  Fenster    spot
"""
NOUNS: dict[str, Noun] = {row[0]: Noun(*row) for row in _table(_LIVING + _LIFELESS.lstrip())}


@dataclass(frozen=True)
class Adjective:
    """An adjective: English word, German stem, and the kinds of noun that it may describe."""

    english: str
    stem: str
    kinds: frozenset[str]


_ADJECTIVES = """
big        groß       any,place
small      klein      any,place
old        alt        adult,animal,text,clothes,thing,box,place
new        neu        text,clothes,thing,box,place
young      jung       living
clever     klug       living
tired      müd        living
hungry     hungrig    living
friendly   freundlich living
beautiful  schön      animal,text,clothes,thing,place
red        rot        clothes,thing,box,spot
green      grün       clothes,thing,box,spot
black      schwarz    animal,clothes,thing,box
expensive  teur       goods
fresh      frisch     food
"""
ADJECTIVES: dict[str, Adjective] = {
    english: Adjective(english, stem, _kinds(kinds)) for english, stem, kinds in _table(_ADJECTIVES)
}

_ENGLISH_SMALL = _table(
    "- one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)[0]
_ENGLISH_TENS = _table("- - twenty thirty forty fifty sixty seventy eighty ninety")[0]
_GERMAN_SMALL = _table(
    "- ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn"
)[0]
_GERMAN_TENS = _table("- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")[0]


def english_number(number: int) -> str:
    """Write a number from 1 to 999 in English words: 243 is "two hundred forty-three"."""
    hundreds, rest = divmod(number, 100)
    tens, unit = divmod(rest, 10)
    words = [_ENGLISH_SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_ENGLISH_TENS[tens] + (f"-{_ENGLISH_SMALL[unit]}" if unit else ""))
    elif rest:
        words.append(_ENGLISH_SMALL[rest])
    return " ".join(words)


def german_number(number: int) -> str:
    """Write a number from 2 to 999 as one German word: 243 is "zweihundertdreiundvierzig".

    Raises ValueError for numbers that end in 1 as a word of its own (1, 101, 201, …): such a number
    is inflected before a noun.
    """
    hundreds, rest = divmod(number, 100)
    tens, unit = divmod(rest, 10)
    if not 2 <= number <= 999 or rest == 1:
        raise ValueError(f"no uninflected German word for {number} before a noun")
    word = f"{_GERMAN_SMALL[hundreds]}hundert" if hundreds else ""
    if rest >= 20:
        return word + (f"{_GERMAN_SMALL[unit]}und" if unit else "") + _GERMAN_TENS[tens]
    return word + (_GERMAN_SMALL[rest] if rest else "")


@dataclass(frozen=True)
class NounPhrase:
    """A determiner ("the", "a", "my", "her" or a number from 2 on), perhaps an adjective, and a noun."""

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


def phrase(text: str) -> NounPhrase:
    """Read an English noun phrase: the inverse of ``english_phrase``.

    Raises KeyError for a word that the lexicon does not hold.
    """
    *words, last = text.split()
    noun = _BY_FORM[last]
    adjective = ADJECTIVES[words.pop()] if words[-1] in ADJECTIVES else None
    determiner = _READ_DETERMINER[" ".join(words)]
    return NounPhrase(determiner, adjective, noun, plural=last == noun.english_plural)


_BY_FORM = {form: noun for noun in NOUNS.values() for form in (noun.english, noun.english_plural)}
_READ_DETERMINER: dict[str, str | int] = {"the": "the", "a": "a", "an": "a", "my": "my", "her": "her"}
_READ_DETERMINER |= {english_number(number): number for number in range(2, 1000)}

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


def german_determiner(determiner: str | int, gender: str, case: str) -> tuple[str, bool]:
    """Write a determiner in German and say whether it shows gender and case (p: plural)."""
    if isinstance(determiner, int):
        return german_number(determiner), False
    if determiner == "the":
        return _DEFINITE[case][gender], True
    if (case, gender) in (("nominative", "m"), ("nominative", "n"), ("accusative", "n")):
        return _EIN_WORDS[determiner], False
    return _EIN_WORDS[determiner] + _STRONG[case][gender], True


def adjective_ending(gender: str, case: str, shown: bool) -> str:
    """Return the strong ending if no determiner has shown gender and case, else the weak one."""
    if not shown:
        return _STRONG[case][gender]
    return "e" if gender != "p" and _DEFINITE[case][gender] == _DEFINITE["nominative"][gender] else "en"


def german_noun(noun: Noun, plural: bool, case: str) -> str:
    """Write a noun; the dative plural adds -n unless there is one already."""
    word = noun.german_plural if plural else noun.german
    return word + "n" if plural and case == "dative" and not word.endswith("n") else word


def german_phrase(phrase: NounPhrase, case: str) -> str:
    """Write a noun phrase in German in the given case."""
    gender = "p" if phrase.plural else phrase.noun.gender
    determiner, shown = german_determiner(phrase.determiner, gender, case)
    noun = german_noun(phrase.noun, phrase.plural, case)
    if phrase.adjective is None:
        return f"{determiner} {noun}"
    return f"{determiner} {phrase.adjective.stem}{adjective_ending(gender, case, shown)} {noun}"


@dataclass(frozen=True)
class Preposition:
    """A preposition, the case that it asks for, the kinds of noun and the verbs that it goes with."""

    english: str
    german: str
    case: str
    kinds: frozenset[str]
    verbs: tuple[str, ...]


_PREPOSITIONS = """
in           in      dative      room    -
behind       hinter  dative      room    -
in_front_of  vor     dative      room    -
at           an      dative      spot    -
with         mit     dative      human   eat,open,translate,wash,look_for,find,buy
without      ohne    accusative  human   eat,open,translate,wash,look_for,find,buy
for          für     accusative  human   open,translate,wash,buy
"""
PREPOSITIONS: dict[str, Preposition] = {
    row[0]: Preposition(row[0], row[1], row[2], _kinds(row[3]), tuple(filter(None, row[4].split(","))))
    for row in _table(_PREPOSITIONS)
}


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
        text = f"{self.preposition.german} {german_phrase(self.phrase, self.preposition.case)}"
        if text.startswith(("in dem ", "an dem ")):
            return text[0] + "m" + text[6:]
        return text


@dataclass(frozen=True)
class Verb:
    """A verb: the kinds of subject and object that make sense, English forms, German forms.

    ``case`` is that of the object; "both" marks a verb with a recipient in the dative and an object
    in the accusative. ``infinitive`` and ``finite`` (third person singular) leave out the separable
    ``prefix``; ``perfect`` is the whole past participle.
    """

    subjects: frozenset[str]
    objects: frozenset[str]
    case: str
    base: str
    third: str
    past: str
    participle: str
    prefix: str
    infinitive: str
    finite: str
    perfect: str


_VERBS = """
see       sees       saw        seen       -   sehen      sieht     gesehen    living any            -
hear      hears      heard      heard      -   hören      hört      gehört     living living         -
find      finds      found      found      -   finden     findet    gefunden   living any            -
look_for  looks_for  looked_for looked_for -   suchen     sucht     gesucht    human  any            -
buy       buys       bought     bought     -   kaufen     kauft     gekauft    human  animal,goods   -
sell      sells      sold       sold       -   verkaufen  verkauft  verkauft   human  animal,goods   -
eat       eats       ate        eaten      -   essen      isst      gegessen   human  food           -
eat       eats       ate        eaten      -   fressen    frisst    gefressen  animal food           -
translate translates translated translated -   übersetzen übersetzt übersetzt  human  text           -
wash      washes     washed     washed     -   waschen    wäscht    gewaschen  human  animal,clothes -
help      helps      helped     helped     -   helfen     hilft     geholfen   living living         dative
open      opens      opened     opened     auf machen     macht     aufgemacht human  box            -
call      calls      called     called     an  rufen      ruft      angerufen  human  human          -
invite    invites    invited    invited    ein laden      lädt      eingeladen human  human          -
give      gives      gave       given      -   geben      gibt      gegeben    human  goods,animal   both
send      sends      sent       sent       -   schicken   schickt   geschickt  human  goods          both
show      shows      showed     shown      -   zeigen     zeigt     gezeigt    human  goods,animal   both
bring     brings     brought    brought    -   bringen    bringt    gebracht   human  goods          both
say       says       said       said       -   sagen      sagt      gesagt     human  -              -
know      knows      knew       known      -   wissen     weiß      gewusst    human  -              -
hope      hopes      hoped      hoped      -   hoffen     hofft     gehofft    human  -              -
"""
VERBS: dict[str, Verb] = {
    row[4] + row[5]: Verb(_kinds(row[8]), _kinds(row[9]), row[10] or "accusative", *row[:8])
    for row in _table(_VERBS)
}


@dataclass(frozen=True)
class Tense:
    """How each language builds a tense: auxiliary (singular, plural) and form of the main verb."""

    name: str
    english_singular: str
    english_plural: str
    english_form: str
    german_singular: str
    german_plural: str
    german_form: str


_TENSES = """
present     -         -        present     -       -        -
past        -         -        past        hat     haben    participle
pluperfect  had       had      participle  hatte   hatten   participle
can         can       can      base        kann    können   infinitive
must        must      must     base        muss    müssen   infinitive
should      should    should   base        sollte  sollten  infinitive
want        wants_to  want_to  base        will    wollen   infinitive
will        will      will     base        wird    werden   infinitive
"""
TENSES: dict[str, Tense] = {row[0]: Tense(*row) for row in _table(_TENSES)}
MODALS = ("can", "must", "should", "want", "will")


def english_verb(verb: Verb, tense: Tense, plural: bool) -> str:
    """Write a verb in English, with its auxiliary if the tense has one."""
    auxiliary = tense.english_plural if plural else tense.english_singular
    present = verb.base if plural else verb.third
    forms = {"present": present, "past": verb.past, "participle": verb.participle, "base": verb.base}
    return f"{auxiliary} {forms[tense.english_form]}".strip()


def german_verb(verb: Verb, tense: Tense, plural: bool) -> tuple[str, str]:
    """Write a verb in German as its two pieces: the finite verb, and what waits for the clause's end."""
    if not tense.german_form:
        return verb.infinitive if plural else verb.finite, verb.prefix
    auxiliary = tense.german_plural if plural else tense.german_singular
    return auxiliary, verb.perfect if tense.german_form == "participle" else verb.prefix + verb.infinitive


@dataclass(frozen=True)
class Time:
    """A phrase of time and the tenses that it goes with."""

    english: str
    german: str
    tenses: tuple[str, ...]


TIMES: dict[str, Time] = {
    english: Time(english, german, tenses)
    for english, german, tenses in [
        ("in the morning", "am Morgen", tuple(TENSES)),
        ("in the evening", "am Abend", tuple(TENSES)),
        ("at night", "in der Nacht", tuple(TENSES)),
        ("in winter", "im Winter", tuple(TENSES)),
        ("today", "heute", ("present", "past", *MODALS)),
        ("yesterday", "gestern", ("past", "pluperfect")),
        ("tomorrow", "morgen", MODALS),
    ]
}


@dataclass(frozen=True)
class Clause:
    """One verb with everything that belongs to it.

    ``to`` says that English puts the recipient last ("gave a hat to the king"); ``front`` says what
    stands before the subject: "time", "place" or nothing.
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


def english_clause(clause: Clause) -> str:
    """Write a clause in English: subject, verb, objects, place, time."""
    direct = english_phrase(clause.direct) if clause.direct else ""
    recipient = english_phrase(clause.recipient) if clause.recipient else ""
    adverbials = {
        "place": clause.place.english if clause.place else "",
        "time": clause.time.english if clause.time else "",
    }
    front = adverbials.pop(clause.front, "")
    subject = english_phrase(clause.subject)
    verb = english_verb(clause.verb, clause.tense, clause.subject.plural)
    objects = (direct, "to", recipient) if clause.to else (recipient, direct)
    return _join(front, subject, verb, *objects, *adverbials.values())


def german_clause(clause: Clause, order: str = "second") -> str:
    """Write a clause in German: with the verb second, first (after a fronted clause), or last."""
    finite, rest = german_verb(clause.verb, clause.tense, clause.subject.plural)
    subject = german_phrase(clause.subject, "nominative")
    case = "dative" if clause.verb.case == "dative" else "accusative"
    middle = {
        "time": clause.time.german if clause.time else "",
        "recipient": german_phrase(clause.recipient, "dative") if clause.recipient else "",
        "direct": german_phrase(clause.direct, case) if clause.direct else "",
        "place": clause.place.german if clause.place else "",
    }
    if order == "last":
        verb = _join(rest, finite) if clause.tense.german_form else rest + finite
        return _join(subject, *middle.values(), verb)
    if order == "first":
        return _join(finite, subject, *middle.values(), rest)
    if not clause.front:
        return _join(subject, finite, *middle.values(), rest)
    return _join(middle.pop(clause.front), finite, subject, *middle.values(), rest)


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
    return f"{subordinate} , {main} ." if sentence.subordinate_first else f"{main} {subordinate} ."


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
    """List the noun phrases of a sentence."""
    clauses = [sentence.main, *([sentence.subordinate] if sentence.subordinate else [])]
    found = []
    for clause in clauses:
        place = clause.place.phrase if clause.place else None
        found += [clause.subject, clause.recipient, clause.direct, place]
    return [phrase for phrase in found if phrase]


def combinations(sentence: Sentence) -> frozenset[tuple[str, str]]:
    """Return the (adjective, noun) pairs of a sentence, in English."""
    return frozenset((p.adjective.english, p.noun.english) for p in noun_phrases(sentence) if p.adjective)


def held_out(adjective: str, noun: str) -> bool:
    """Say whether training never sees this pair: true for about a tenth, by hash."""
    return hashlib.sha256(f"{adjective} {noun}".encode()).digest()[0] < 26


def phenomena(sentence: Sentence) -> frozenset[str]:
    """Name what is worth looking at in a sentence."""
    names = set()
    for clause in filter(None, (sentence.main, sentence.subordinate)):
        names.add("modal" if clause.tense.name in MODALS else clause.tense.name)
        names |= {"separable"} if clause.verb.prefix else set()
        names |= {"dative verb"} if clause.verb.case == "dative" else set()
        names |= {"two objects"} if clause.recipient else set()
        names |= {"objects swapped"} if clause.to else set()
        names |= {"inversion"} if clause.front else set()
    names |= {"inversion"} if sentence.subordinate_first else set()
    names |= {"verb last"} if sentence.subordinate else set()
    names |= {"number"} if any(isinstance(p.determiner, int) for p in noun_phrases(sentence)) else set()
    return frozenset(names)


@cache
def _nouns(kinds: frozenset[str]) -> list[Noun]:
    return [noun for noun in NOUNS.values() if noun.kind in kinds]


@cache
def _adjectives(kind: str) -> list[Adjective]:
    return [adjective for adjective in ADJECTIVES.values() if kind in adjective.kinds]


_DETERMINERS = (*["the"] * 5, *["a"] * 3, *["my"] * 3, *["her"] * 3, "number")


def random_phrase(
    rng: random.Random, kinds: frozenset[str], used: set[str], definite: bool = False
) -> NounPhrase:
    """Draw a noun phrase of one of the kinds whose noun is not in ``used``, and add it there."""
    noun = rng.choice([noun for noun in _nouns(kinds) if noun.english not in used])
    used.add(noun.english)
    adjective = rng.choice(_adjectives(noun.kind)) if rng.random() < 0.35 else None
    determiner: str | int = rng.choice(("the", "the", "my", "her") if definite else _DETERMINERS)
    if determiner == "number":
        number = int(2 * 500 ** (rng.random() ** 5))
        determiner = number + (number % 100 == 1)
    plural = isinstance(determiner, int) or (determiner != "a" and rng.random() < 0.3)
    return NounPhrase(determiner, adjective, noun, plural)


_ACTIONS = [*(verb for verb in VERBS.values() if verb.objects), VERBS["helfen"]]
_REPORTS = [verb for verb in VERBS.values() if not verb.objects]


def random_clause(rng: random.Random, tense: str, used: set[str], plain: bool = False) -> Clause:
    """Draw a clause in a tense; a plain one has neither place nor time."""
    verb = rng.choice(_ACTIONS)
    subject = random_phrase(rng, verb.subjects, used)
    recipient = random_phrase(rng, _kinds("human"), used, definite=True) if verb.case == "both" else None
    direct = random_phrase(rng, verb.objects, used)
    to = recipient is not None and rng.random() < 0.4
    place = time = None
    if not plain and rng.random() < 0.3:
        fitting = [p for p in PREPOSITIONS.values() if not p.verbs or verb.base in p.verbs]
        preposition = rng.choice(fitting)
        place = PrepositionalPhrase(preposition, random_phrase(rng, preposition.kinds, used, definite=True))
    if not plain and rng.random() < 0.35:
        time = rng.choice([time for time in TIMES.values() if tense in time.tenses])
    fronts = ["", "time"] if time else [""]
    if place and place.phrase.noun.kind in ("room", "spot"):
        fronts.append("place")
    return Clause(subject, verb, TENSES[tense], direct, recipient, to, place, time, rng.choice(fronts))


def _random_sentence(rng: random.Random) -> Sentence:
    used: set[str] = set()
    if rng.random() < 0.75:
        tense = rng.choice(("present", "present", "past", "past", "past", "pluperfect", *MODALS))
        return Sentence(random_clause(rng, tense, used))
    link = rng.choice(list(LINKS))
    tense = rng.choice(("present", "past"))
    later = {"present": ("present", "present", *MODALS), "past": ("past", "pluperfect")}[tense]
    if link == "that":
        subject = random_phrase(rng, _kinds("human"), used)
        main = Clause(subject, rng.choice(_REPORTS), TENSES[tense])
        return Sentence(main, link, random_clause(rng, rng.choice(later), used, plain=True))
    other = tense if link == "when" else rng.choice(later)
    main = random_clause(rng, tense, used, plain=True)
    subordinate = random_clause(rng, other, used, plain=True)
    return Sentence(main, link, subordinate, subordinate_first=rng.random() < 0.4)


def random_sentence(rng: random.Random, longest: int = 20) -> Sentence:
    """Draw a sentence of at most ``longest`` English tokens."""
    while len(english(drawn := _random_sentence(rng)).split()) > longest:
        pass
    return drawn


def sentence(rng: random.Random) -> tuple[str, str]:
    """Draw one (English, German) pair."""
    drawn = random_sentence(rng)
    return english(drawn), german(drawn)


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
    """Draw the corpus: train, validation and test without held-out pairs, unseen with one at least."""
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
    """Return the corpus as (English, German) pairs: train, validation, test and unseen."""
    return {
        name: [(english(drawn), german(drawn)) for drawn in sentences]
        for name, sentences in split_sentences().items()
    }
