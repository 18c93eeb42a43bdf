"""Verbs, tenses and phrases of time.

Chapter: Verbs that come in two pieces
Exported from chapters/92_clauses.md; edit it there, not here.
"""

from dataclasses import dataclass

from transformer.fragment.nouns import kinds, read_table

__all__ = ["MODALS", "TENSES", "TIMES", "Tense", "Time", "VERBS", "Verb", "english_verb", "german_verb"]


@dataclass(frozen=True)
class Verb:
    """A verb: kinds of subject and object that make sense, English and German forms.

    `case` is that of the object; "both" marks a verb with a recipient in the dative and
    an object in the accusative. `infinitive` and `finite` (third person singular) leave
    out the separable `prefix`; `perfect` is the whole past participle.
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


_ENGLISH = """
see        sees        saw         seen
hear       hears       heard       heard
find       finds       found       found
look_for   looks_for   looked_for  looked_for
buy        buys        bought      bought
sell       sells       sold        sold
eat        eats        ate         eaten
translate  translates  translated  translated
wash       washes      washed      washed
help       helps       helped      helped
open       opens       opened      opened
call       calls       called      called
invite     invites     invited     invited
give       gives       gave        given
send       sends       sent        sent
show       shows       showed      shown
bring      brings      brought     brought
say        says        said        said
know       knows       knew        known
hope       hopes       hoped       hoped
"""

_GERMAN = """
see        -    sehen       sieht      gesehen     living  any             -
hear       -    hören       hört       gehört      living  living          -
find       -    finden      findet     gefunden    living  any             -
look_for   -    suchen      sucht      gesucht     human   any             -
buy        -    kaufen      kauft      gekauft     human   animal,goods    -
sell       -    verkaufen   verkauft   verkauft    human   animal,goods    -
eat        -    essen       isst       gegessen    human   food            -
eat        -    fressen     frisst     gefressen   animal  food            -
translate  -    übersetzen  übersetzt  übersetzt   human   text            -
wash       -    waschen     wäscht     gewaschen   human   animal,clothes  -
help       -    helfen      hilft      geholfen    living  living          dative
open       auf  machen      macht      aufgemacht  human   box             -
call       an   rufen       ruft       angerufen   human   human           -
invite     ein  laden       lädt       eingeladen  human   human           -
give       -    geben       gibt       gegeben     human   goods,animal    both
send       -    schicken    schickt    geschickt   human   goods           both
show       -    zeigen      zeigt      gezeigt     human   goods,animal    both
bring      -    bringen     bringt     gebracht    human   goods           both
say        -    sagen       sagt       gesagt      human   -               -
know       -    wissen      weiß       gewusst     human   -               -
hope       -    hoffen      hofft      gehofft     human   -               -
"""

_FORMS = {row[0]: row for row in read_table(_ENGLISH)}
VERBS: dict[str, Verb] = {
    row[1] + row[2]: Verb(kinds(row[5]), kinds(row[6]), row[7] or "accusative", *_FORMS[row[0]], *row[1:5])
    for row in read_table(_GERMAN)
}


@dataclass(frozen=True)
class Tense:
    """How each language builds a tense: auxiliary by number, form of the main verb."""

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
TENSES: dict[str, Tense] = {row[0]: Tense(*row) for row in read_table(_TENSES)}
MODALS = ("can", "must", "should", "want", "will")


def english_verb(verb: Verb, tense: Tense, plural: bool) -> str:
    """Write a verb in English, with its auxiliary if the tense has one."""
    auxiliary = tense.english_plural if plural else tense.english_singular
    forms = {
        "present": verb.base if plural else verb.third,
        "past": verb.past,
        "participle": verb.participle,
        "base": verb.base,
    }
    return f"{auxiliary} {forms[tense.english_form]}".strip()


def german_verb(verb: Verb, tense: Tense, plural: bool) -> tuple[str, str]:
    """Write a verb in German: the finite verb, and what waits for the clause's end."""
    if not tense.german_form:
        return verb.infinitive if plural else verb.finite, verb.prefix
    auxiliary = tense.german_plural if plural else tense.german_singular
    infinitive = verb.prefix + verb.infinitive
    return auxiliary, verb.perfect if tense.german_form == "participle" else infinitive


@dataclass(frozen=True)
class Time:
    """A phrase of time and the tenses that it goes with."""

    english: str
    german: str
    tenses: tuple[str, ...]


_TIMES = [
    ("in the morning", "am Morgen", tuple(TENSES)),
    ("in the evening", "am Abend", tuple(TENSES)),
    ("at night", "in der Nacht", tuple(TENSES)),
    ("in winter", "im Winter", tuple(TENSES)),
    ("today", "heute", ("present", "past", *MODALS)),
    ("yesterday", "gestern", ("past", "pluperfect")),
    ("tomorrow", "morgen", MODALS),
]
TIMES: dict[str, Time] = {row[0]: Time(*row) for row in _TIMES}
