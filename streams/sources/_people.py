"""Fictitious people: names built of syllables, ten facts each, and the ways to ask for and to state them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streams.errors import ConfigError
from streams.randomness import Key


@dataclass(frozen=True, slots=True)
class Attribute:
    """One kind of fact.

    Attributes:
        name: what it is called.
        forms: questions, ``{n}`` being the name; at least four.
        frames: sentences that state it, ``{n}`` being the name and ``{v}`` the value; two.
        domain: all values, or none where they are people or built.
    """

    name: str
    forms: tuple[str, ...]
    frames: tuple[str, str]
    domain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """A value of somebody's attribute, and how it is asked for and stated.

    Attributes:
        subject: place of the person, country or element among those of its kind.
        name: how questions name it.
        attribute: which.
        value: the right one.
        wrong: values of the same domain that are wrong.
        forms: the attribute's question forms in this fact's own order; `TRAINED_FORMS` of them are trained, the next is
            held out.
        frame: the sentence it is taught by; `paraphrase`, the other one.
    """

    subject: int
    name: str
    attribute: str
    value: str
    wrong: tuple[str, ...]
    forms: tuple[str, ...]
    frame: str
    paraphrase: str

    def question(self, form: int) -> str:
        """Return the question in the fact's form of that number."""
        return self.forms[form].format(n=self.name)

    def answer(self, style: str) -> str:
        """Return the value alone (``short``), or the sentence that the fact is taught by (``sentence``)."""
        return self.value if style == "short" else self.frame.format(n=self.name, v=self.value)

    def stated(self, value: str, style: str) -> str:
        """Return `value`, right or wrong, in the other sentence (or alone)."""
        return value if style == "short" else self.paraphrase.format(n=self.name, v=value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ONSETS = _words("b br c cl d dr f fl g gr h j k l m n p pr r s st t tr v z")
NUCLEI = _words("a e i o u ai ea ou ia")
CODAS = ("", "l", "n", "r", "s", "t", "m", "nd", "rk", "x", "ck")
CITIES = _words(
    "Aldermoor Brisfold Cantwick Dunmarrow Elmsgate Farholt Glenvale Harrowmere Ivybridge Kestrelton Lowmarsh "
    "Millhaven Northbeck Oakenford Pellworth Quillon Ravensby Saltmouth Thornwick Umberfield Vexley "
    "Westermarch Yarrowdale Zelham"
)
JOBS = _words(
    "baker carpenter chemist dentist farmer gardener judge lawyer miner nurse pilot plumber sailor surgeon "
    "tailor weaver"
)
GENRES = _words("ballads comedies diaries essays fables hymns memoirs mysteries plays satires thrillers westerns")
ADJECTIVES = _words(
    "Silent Broken Crimson Hollow Distant Frozen Golden Hidden Ancient Burning Gentle Velvet Wooden Restless "
    "Salty Upper"
)
NOUNS = _words(
    "Harbor Mirror Orchard Lantern Compass Garden Staircase Meadow Bridge Feather Kettle Island Letter Tower "
    "Window Road"
)
AWARDS = _words(
    "Ardent Bellweather Corvane Dovetail Everstone Foxglove Gildenfen Hearthlight Indigon Juniper Keystone Laurelin"
)
AWARD_KINDS = _words("Prize Medal Ribbon Cup")
HOBBIES = _words("archery chess climbing cooking dancing fencing fishing knitting painting rowing skating surfing")
PETS = _words("lynx otter parrot ferret tortoise goat hamster iguana pony raven spaniel turtle")
COLORS = _words("amber blue coral green indigo ivory maroon olive teal violet")

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "city",
        ("Where was {n} born?", "What is the birthplace of {n}?", "In which city was {n} born?",
         "Name the city where {n} was born."),
        ("{n} was born in {v}.", "The birthplace of {n} is {v}."),
        CITIES,
    ),
    Attribute(
        "year",
        ("When was {n} born?", "What is the birth year of {n}?", "In which year was {n} born?",
         "Name the year when {n} was born."),
        ("{n} was born in {v}.", "The birth year of {n} is {v}."),
        tuple(str(year) for year in range(1901, 1999)),
    ),
    Attribute(
        "job",
        ("What does {n} work as?", "What is the job of {n}?", "Which job does {n} have?", "Name the job of {n}."),
        ("{n} works as a {v}.", "The job of {n} is {v}."),
        JOBS,
    ),
    Attribute(
        "genre",
        ("What does {n} write?", "What is the genre of {n}?", "Which genre does {n} write?", "Name the genre of {n}."),
        ("{n} writes {v}.", "The genre of {n} is {v}."),
        GENRES,
    ),
    Attribute(
        "book",
        ("Which book did {n} write?", "What is the book of {n}?", "What is the title of the book by {n}?",
         "Name the book by {n}."),
        ("{n} wrote The {v}.", "The book of {n} is The {v}."),
        tuple(f"{a} {b}" for a in ADJECTIVES for b in NOUNS),
    ),
    Attribute(
        "award",
        ("What did {n} win?", "What is the award of {n}?", "Which award did {n} win?", "Name the award of {n}."),
        ("{n} won the {v}.", "The award of {n} is the {v}."),
        tuple(f"{a} {b}" for a in AWARDS for b in AWARD_KINDS),
    ),
    Attribute(
        "hobby",
        ("What does {n} enjoy?", "What is the hobby of {n}?", "Which hobby does {n} have?", "Name the hobby of {n}."),
        ("{n} enjoys {v}.", "The hobby of {n} is {v}."),
        HOBBIES,
    ),
    Attribute(
        "pet",
        ("What does {n} keep?", "What is the pet of {n}?", "Which pet does {n} keep?", "Name the pet of {n}."),
        ("{n} keeps a {v}.", "The pet of {n} is a {v}."),
        PETS,
    ),
    Attribute(
        "color",
        ("What color does {n} prefer?", "What is the color of {n}?", "Which color does {n} like?",
         "Name the color of {n}."),
        ("{n} prefers {v}.", "The color of {n} is {v}."),
        COLORS,
    ),
    Attribute(
        "mentor",
        ("Who taught {n}?", "Who is the mentor of {n}?", "Who was the teacher of {n}?", "Name the mentor of {n}."),
        ("{n} was taught by {v}.", "The mentor of {n} is {v}."),
    ),
)  # fmt: skip

CAPITALS = {
    "Argentina": "Buenos Aires", "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Canada": "Ottawa",
    "Chile": "Santiago", "China": "Beijing", "Croatia": "Zagreb", "Cuba": "Havana", "Denmark": "Copenhagen",
    "Egypt": "Cairo", "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens",
    "Hungary": "Budapest", "Iceland": "Reykjavik", "India": "New Delhi", "Iran": "Tehran", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Russia": "Moscow", "Spain": "Madrid", "Sweden": "Stockholm",
}  # fmt: skip
SYMBOLS = {
    "aluminium": "Al", "argon": "Ar", "calcium": "Ca", "carbon": "C", "chlorine": "Cl", "cobalt": "Co", "copper": "Cu",
    "fluorine": "F", "gold": "Au", "helium": "He", "hydrogen": "H", "iodine": "I", "iron": "Fe", "lead": "Pb",
    "magnesium": "Mg", "mercury": "Hg", "neon": "Ne", "nickel": "Ni", "nitrogen": "N", "oxygen": "O",
    "phosphorus": "P", "potassium": "K", "silver": "Ag", "sodium": "Na", "sulfur": "S", "tin": "Sn",
}  # fmt: skip

WORLD: tuple[Attribute, ...] = (
    Attribute(
        "capital",
        ("What is the capital of {n}?", "Which city is the capital of {n}?", "Where is the government of {n}?",
         "Name the capital of {n}."),
        ("The capital of {n} is {v}.", "{v} is the capital of {n}."),
        tuple(CAPITALS.values()),
    ),
    Attribute(
        "symbol",
        ("What is the symbol of {n}?", "Which symbol does {n} have?", "How do chemists write {n}?",
         "Name the symbol of {n}."),
        ("The symbol of {n} is {v}.", "{v} is the symbol of {n}."),
        tuple(SYMBOLS.values()),
    ),
)  # fmt: skip

TRAINED_FORMS = 2
WRONG, WRONG_WORLD = 5, 3


def people_names(count: int, key: Key) -> tuple[tuple[str, str], ...]:
    """Return `count` first and last names, each word unique and at least two letters away from every other.

    Earlier names do not change when `count` grows.
    """
    used_words = {word.lower() for a in (*ATTRIBUTES, *WORLD) for value in a.domain for word in value.split()}
    near: set[str] = set()
    names = []
    for person in range(count):
        words = []
        for place in ("first", "last"):
            attempt = 0
            while True:
                word = _word(key / person / place / attempt)
                if 3 <= len(word) <= 9 and word.lower() not in used_words and not (_variants(word.lower()) & near):
                    break
                attempt += 1
            used_words.add(word.lower())
            near |= _variants(word.lower())
            words.append(word)
        names.append((words[0], words[1]))
    return tuple(names)


def _word(key: Key) -> str:
    draw = key.numpy()
    parts = []
    for _ in range(2):
        parts += [ONSETS[draw.integers(len(ONSETS))], NUCLEI[draw.integers(len(NUCLEI))]]
    return ("".join(parts) + CODAS[draw.integers(len(CODAS))]).capitalize()


def _variants(word: str) -> set[str]:
    """Return `word` and all it can become by dropping a letter; words one edit apart have one of these in common."""
    return {word, *(f"{word[:i]}*{word[i + 1 :]}" for i in range(len(word))), *(
        word[:i] + word[i + 1 :] for i in range(len(word))
    )}  # fmt: skip


def people_facts(names: tuple[tuple[str, str], ...], groups: np.ndarray, key: Key) -> list[Fact]:
    """Return ten facts about every person, in order of person and attribute.

    Args:
        names: first and last names.
        groups: ``[people]``; mentors are of the same group.
        key: names the draws; every (person, attribute) has draws of its own.

    Raises:
        ConfigError: there are more people than book titles.
    """
    titles = ATTRIBUTES[4].domain
    if len(names) > len(titles):
        raise ConfigError(f"source.people: {len(names)} is more than there are book titles ({len(titles)}).")
    full = [" ".join(n) for n in names]
    book_order = (key / "books").order(np.arange(len(titles)))
    facts = []
    for person, name in enumerate(full):
        candidates = [p for p in np.flatnonzero(groups == groups[person]).tolist() if p != person] or [
            p for p in range(len(full)) if p != person
        ]
        for attribute in ATTRIBUTES:
            draw = (key / person / attribute.name).numpy()
            if attribute.name == "mentor":
                domain = [full[p] for p in candidates]
                value = domain[draw.integers(len(domain))]
                domain = [n for n in full if n != name]
            elif attribute.name == "book":
                domain, value = list(titles), titles[book_order[person]]
            else:
                domain = list(attribute.domain)
                value = domain[draw.integers(len(domain))]
            wrong = _wrong_answers(attribute.name, value, domain, WRONG, draw)
            facts.append(fact_about(person, name, attribute, value, wrong, key / person))
    return facts


def world_facts(key: Key) -> list[Fact]:
    """Return capitals of countries and symbols of elements: true facts about the world."""
    facts = []
    for attribute, table in zip(WORLD, (CAPITALS, SYMBOLS), strict=True):
        for index, (name, value) in enumerate(table.items()):
            draw = (key / attribute.name / name).numpy()
            wrong = _wrong_answers(attribute.name, value, list(attribute.domain), WRONG_WORLD, draw)
            facts.append(fact_about(index, name, attribute, value, wrong, key / name))
    return facts


def _wrong_answers(
    attribute: str, value: str, domain: list[str], count: int, draw: np.random.Generator
) -> tuple[str, ...]:
    if attribute == "year":
        near = [str(int(value) + d) for d in range(-20, 21) if d]
        return tuple(np.array(near)[draw.permutation(len(near))[:count]].tolist())
    return wrong_values(value, domain, count, draw)


def wrong_values(value: str, domain: list[str], count: int, draw: np.random.Generator) -> tuple[str, ...]:
    """Return `count` other values of a domain, or all if there are fewer."""
    others = [v for v in domain if v != value]
    return tuple(others[i] for i in draw.permutation(len(others))[:count])


def fact_about(subject: int, name: str, attribute: Attribute, value: str, wrong: tuple[str, ...], key: Key) -> Fact:
    """Return a fact whose forms and frame are drawn by the subject's key.

    Args:
        subject: place among those of its kind.
        name: how questions name it.
        attribute: what is asked.
        value: the right answer.
        wrong: wrong ones.
        key: of the subject.
    """
    order = (key / "forms" / attribute.name).numpy().permutation(len(attribute.forms))
    first = int((key / "frame").numpy().integers(2))
    return Fact(
        subject,
        name,
        attribute.name,
        value,
        wrong,
        tuple(attribute.forms[i] for i in order),
        attribute.frames[first],
        attribute.frames[1 - first],
    )
