"""Questions in other forms: clozes, questions the other way round, hints and typos, made of rows and of what is known.

Everything here works on words. What a row's answer is about (its value) is the term of the source that the answer has
and the question has not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from streams.randomness import Key

BLANK_END = re.compile(r"[\s.,;:!?]+$")


@dataclass(frozen=True, slots=True)
class Fact:
    """What a row says, in words.

    Attributes:
        question, answer: of the row.
        stated: the answer in other words, or the answer.
        subject: whom the question is about, or None.
        value: what the answer tells.
    """

    question: str
    answer: str
    stated: str
    subject: str | None
    value: str

    @property
    def statements(self) -> tuple[str, ...]:
        """Sentences that tell the value beside something else, first those that were not trained."""
        return tuple(s for s in dict.fromkeys((self.stated, self.answer)) if self.value in s and s != self.value)


def mentioned(text: str, terms: Iterable[str]) -> list[str]:
    """Return the terms that a text has as whole words, longest first.

    >>> mentioned("Ann Bo was born in Elmsgate.", ("Ann", "Ann Bo", "Elms"))
    ['Ann Bo', 'Ann']
    """
    found = [t for t in terms if t in text and re.search(rf"(?<!\w){re.escape(t)}(?!\w)", text)]
    return sorted(found, key=lambda t: (-len(t), t))


def fact_of(question: str, answer: str, stated: str, terms: Iterable[str], subjects: Iterable[str]) -> Fact:
    """Return what a row says.

    >>> fact_of("Where was Ann born?", "Ann was born in Rome.", "", ("Rome", "Ann"), ("Ann",)).value
    'Rome'
    >>> fact_of("Where was Ann born?", "Rome", "", (), ()).value
    'Rome'
    """
    answer, stated = answer.strip(), stated.strip() or answer.strip()
    about = mentioned(question, subjects)
    told = [t for t in mentioned(answer, terms) if t not in question]
    value = told[0] if told else BLANK_END.sub("", answer)
    return Fact(question.strip(), answer, stated, about[0] if about else None, value)


def cloze(fact: Fact) -> str | None:
    """Return a statement up to where it tells its value, to be gone on from; None if it begins with it.

    >>> cloze(Fact("Where?", "Ann was born in Rome.", "Rome is where Ann was born.", "Ann", "Rome"))
    'Ann was born in'
    """
    begun = [s[: s.index(fact.value)].rstrip() for s in fact.statements]
    return next((b for b in begun if b), None)


def reversed_question(fact: Fact) -> str | None:
    """Return a question whose answer is the subject; None where no statement begins with it.

    >>> reversed_question(Fact("Where?", "Ann was born in Rome.", "", "Ann", "Rome"))
    'Who was born in Rome?'
    """
    for statement in fact.statements:
        if fact.subject is not None and statement.startswith(f"{fact.subject} "):
            return f"Who{BLANK_END.sub('', statement[len(fact.subject) :])}?"
    return None


def with_typos(question: str, subject: str | None, key: Key) -> str:
    """Return a question with two neighbouring letters swapped, in one word of the subject and in one other word.

    Args:
        question: to be spoiled.
        subject: whom it is about, or None.
        key: names which letters.

    >>> with_typos("Where was Ann Bold born?", "Ann Bold", Key(0)) != "Where was Ann Bold born?"
    True
    """
    parts = re.findall(r"\w+|\W+", question)
    own = set(re.findall(r"\w+", subject or ""))
    for number, of_subject in enumerate((True, False)):
        able = [i for i, p in enumerate(parts) if len(p) > 3 and p.isalpha() and (p in own) == of_subject]
        if able:
            place = able[int((key / "word" / number).below(np.zeros(1, dtype=np.int64), len(able))[0])]
            parts[place] = _swapped(parts[place], key / "letter" / number)
    return "".join(parts)


def _swapped(word: str, key: Key) -> str:
    """Return a word with two different neighbours swapped, not the first letter; the word if there are none."""
    places = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word
    i = places[int(key.below(np.zeros(1, dtype=np.int64), len(places))[0])]
    return f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}"
