"""Nouns, adjectives and prepositions, and the kinds of thing that they go with.

Chapter: Noun phrases in two languages
Exported from chapters/91_fragment.md; edit it there, not here.
"""

from dataclasses import dataclass
from functools import cache

__all__ = ["ADJECTIVES", "Adjective", "NOUNS", "Noun", "PREPOSITIONS", "Preposition", "kinds", "read_table"]


def read_table(text: str) -> list[list[str]]:
    """Split a table into rows of cells; "_" stands for a space, "-" for nothing."""
    rows = [line.split() for line in text.strip().splitlines()]
    blank = {"-": ""}
    return [[blank.get(cell, cell.replace("_", " ")) for cell in row] for row in rows]


_GROUPS = {
    "human": "adult,child",
    "living": "human,animal",
    "goods": "food,text,clothes,thing,box",
    "place": "room,spot",
    "any": "living,goods",
}


@cache
def kinds(names: str) -> frozenset[str]:
    """Expand a comma-separated list of kinds of thing, and of groups of kinds."""
    found: set[str] = set()
    for name in filter(None, names.split(",")):
        found |= kinds(_GROUPS[name]) if name in _GROUPS else {name}
    return frozenset(found)


@dataclass(frozen=True)
class Noun:
    """A noun in both languages, its gender (m, f, n) and the kind of thing it names."""

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

_NOUN_ROWS = read_table(_LIVING) + read_table(_LIFELESS)
NOUNS: dict[str, Noun] = {row[0]: Noun(*row) for row in _NOUN_ROWS}


@dataclass(frozen=True)
class Adjective:
    """An adjective: English word, German stem, the kinds of noun it may describe."""

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
    english: Adjective(english, stem, kinds(names)) for english, stem, names in read_table(_ADJECTIVES)
}


@dataclass(frozen=True)
class Preposition:
    """A preposition, its case, and the kinds of noun and the verbs it goes with."""

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
    row[0]: Preposition(row[0], row[1], row[2], kinds(row[3]), tuple(filter(None, row[4].split(","))))
    for row in read_table(_PREPOSITIONS)
}
