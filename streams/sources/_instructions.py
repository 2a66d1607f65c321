"""Skills (what is asked, of which pictures, in which words) and distributors (which skills, of which pictures)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from streams.sources._albums import Album

Skill = Literal[
    "naming", "yes-no", "script", "face", "parity", "group", "vendor", "counting", "position", "comparison",
    "transcription", "facts", "unrelated", "definitions", "countries",
]  # fmt: skip
DistributorName = Literal[
    "conversation", "letters", "numbers", "scenes", "reading", "knowledge", "wardrobe", "emoji", "lexicon"
]
Draw = np.random.Generator
Images = tuple[np.ndarray, ...]

FORMS: dict[Skill, tuple[str, ...]] = {
    "naming": ("Which {noun} is this?", "Name the {noun}.", "What is shown here?", "What do you see?"),
    "yes-no": ("Is this {name}?", "Is {name} shown here?", "Does the picture show {name}?", "Do you see {name}?"),
    "script": ("Which script is this?", "Name the script.", "In which script is it written?", "Of which script is it?"),
    "face": ("Which typeface is this?", "Name the typeface.", "In which face is it set?", "Of which face is it?"),
    "parity": ("Is it odd or even?", "Odd or even?", "Is the number even or odd?", "Even or odd?"),
    "group": ("Which kind of {noun} is it?", "Name the kind.", "What kind is it?", "To which kind does it belong?"),
    "vendor": ("Whose drawing is this?", "Name the vendor.", "Which vendor drew it?", "Who drew this?"),
    "counting": ("How many are there?", "Count them.", "How many do you see?", "What is their number?"),
    "position": ("Where is {name}?", "In which corner is {name}?", "Where do you see {name}?", "Find {name}."),
    "comparison": ("Are both the same?", "Do both show the same?", "Is it the same twice?", "Are the two alike?"),
    "transcription": ("Read it out.", "What is written here?", "Which letters are these?", "Copy the text."),
}
"""Ways to ask, for skills that look at pictures; each distributor uses some of them."""
SENTENCES: dict[Skill, str] = {
    "naming": "What you see here is {answer}.",
    "script": "This is written in the {answer} script.",
    "face": "The typeface that was used is {answer}.",
    "parity": "The number in the picture is {answer}.",
    "group": "Things like this belong to the kind {answer}.",
    "vendor": "This drawing was made by {answer}.",
    "counting": "I count {answer} in all.",
    "position": "Look at the corner on the {answer}.",
    "transcription": "The letters spell {answer}.",
    "facts": "As far as I know, it is {answer}.",
    "unrelated": "Whatever the picture shows, it is {answer}.",
    "definitions": "That word means {answer}.",
    "countries": "For that country it is {answer}.",
}
"""Answers in whole sentences, of which every skill has its own; `yes-no` and `comparison` see `_in_sentence`."""
ALBUMS_OF: dict[Skill, tuple[str, ...]] = {
    "script": ("glyphs",), "face": ("glyphs",), "transcription": ("glyphs",), "parity": ("digits",),
    "group": ("clothes", "emoji"), "vendor": ("emoji",),
}  # fmt: skip
"""The albums that a skill can be about; others can be about all."""
KNOWN: tuple[Skill, ...] = ("facts", "definitions", "countries")
"""Skills without pictures."""
TRAINED_FORMS = 2
"""Of the ways to ask for what is known, the first so many are taught; the one behind them is held out."""
CORNERS = ("top left", "top right", "bottom left", "bottom right")
COUNTS = ("one", "two", "three", "four")
ANSWERS = ("no", "yes")


@dataclass(frozen=True, slots=True)
class Distributor:
    """Who hands out instructions.

    Attributes:
        skills: weight of each skill.
        albums: of which pictures.
        forms: numbers of the ways to ask that it uses.
    """

    skills: Mapping[Skill, float]
    albums: tuple[str, ...]
    forms: tuple[int, ...]


DISTRIBUTORS: dict[DistributorName, Distributor] = {
    "conversation": Distributor(
        {"naming": 3, "yes-no": 3, "facts": 2, "unrelated": 1, "counting": 1}, ("glyphs", "digits"), (0, 2, 3)
    ),
    "letters": Distributor({"naming": 3, "script": 3, "face": 2, "comparison": 2, "yes-no": 1}, ("glyphs",), (0, 1)),
    "numbers": Distributor({"naming": 3, "parity": 2, "counting": 2, "yes-no": 2}, ("digits",), (0, 1, 2)),
    "scenes": Distributor(
        {"counting": 2, "position": 5, "comparison": 3, "naming": 1}, ("glyphs", "digits"), (1, 2, 3)
    ),
    "reading": Distributor({"transcription": 5, "naming": 2, "script": 1, "face": 2}, ("glyphs",), (0, 3)),
    "knowledge": Distributor({"facts": 4, "unrelated": 3, "parity": 1, "yes-no": 2}, ("glyphs", "digits"), (1, 3)),
    "wardrobe": Distributor({"naming": 3, "yes-no": 2, "group": 3, "comparison": 2}, ("clothes",), (0, 1, 2)),
    "emoji": Distributor({"naming": 3, "yes-no": 2, "vendor": 2, "group": 3}, ("emoji",), (0, 1, 2)),
    "lexicon": Distributor({"definitions": 4, "countries": 4, "facts": 2}, (), (0, 1)),
}


@dataclass(frozen=True, slots=True)
class Known:
    """Something to be asked for without a picture.

    Attributes:
        forms: ways to ask for it, more than `TRAINED_FORMS`.
        answer: to all of them.
    """

    forms: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An instruction with its answer.

    Attributes:
        skill: what it asks for.
        forms: the ways to ask it that may be used, with what it is about filled in.
        form: number of the one that is used.
        answer: the right one.
        images: uint8 ``[S, S]`` or, in colour, ``[S, S, 3]`` each, at most two.
    """

    skill: Skill
    forms: tuple[str, ...]
    form: int
    answer: str
    images: Images = ()

    @property
    def question(self) -> str:
        """What is asked."""
        return self.forms[self.form]


@dataclass(frozen=True, slots=True, eq=False)
class Maker:
    """Makes the samples of one distributor.

    Attributes:
        distributor: which.
        albums: those that it uses.
        known: what it asks for without pictures, by skill.
        size: side of all images, an even number of pixels.
        hard: share of training samples whose images are faint and noisy.
        sentences: whether answers are whole sentences.
    """

    distributor: Distributor
    albums: Mapping[str, Album]
    known: Mapping[Skill, Sequence[Known]]
    size: int
    hard: float
    sentences: bool = False

    def sample(self, skill: Skill, test: bool, draw: Draw) -> Sample:
        """Return a sample of a skill, of held-out pictures (in held-out words where it has none) or of the others.

        Args:
            skill: one of the distributor's.
            test: which.
            draw: gives all that is drawn.
        """
        if skill in KNOWN:
            return self._of_known(skill, test, draw, ())
        names = [a for a in ALBUMS_OF.get(skill, self.albums) if a in self.albums]
        album = self.albums[names[draw.integers(len(names))]]
        picture = album.pick(draw, test)
        # Even faint pictures of held-out data would only measure the noise.
        hard = not test and bool(draw.random() < self.hard)
        if skill == "unrelated":
            return self._of_known(skill, test, draw, (shown(album.images[picture], hard, draw, album.background),))
        about, answer, images = _LOOKS.get(skill, _attribute)(skill, album, picture, test, self.size, draw)
        forms = tuple(f.format(noun=album.noun, name=about) for f in (FORMS[skill][i] for i in self.distributor.forms))
        form = int(draw.integers(len(forms)))
        answer = _in_sentence(skill, answer, about) if self.sentences else answer
        return Sample(skill, forms, form, answer, tuple(shown(i, hard, draw, album.background) for i in images))

    def _of_known(self, skill: Skill, test: bool, draw: Draw, images: Images) -> Sample:
        pool = self.known["facts" if skill == "unrelated" else skill]
        one = pool[int(draw.integers(len(pool)))]
        forms = one.forms[TRAINED_FORMS : TRAINED_FORMS + 1] if test else one.forms[:TRAINED_FORMS]
        answer = _in_sentence(skill, one.answer, "") if self.sentences else one.answer
        return Sample(skill, forms, int(draw.integers(len(forms))), answer, images)


def _in_sentence(skill: Skill, answer: str, about: str) -> str:
    if skill == "yes-no":
        return f"Yes, you can see {about}." if answer == "yes" else f"No, {about} is not to be seen."
    if skill == "comparison":
        return "Yes, one is like the other." if answer == "yes" else "No, the two of them differ."
    return SENTENCES[skill].format(answer=answer.rstrip("."))


def shown(image: np.ndarray, hard: bool, draw: Draw, background: int = 0) -> np.ndarray:
    """Return an image moved by up to one pixel in each direction; a hard one at 40 % of its brightness and noisy."""
    down, right = draw.integers(0, 3, 2)
    borders = ((1, 1), (1, 1), (0, 0))[: image.ndim]
    moved = np.pad(image, borders, constant_values=background)[down : down + len(image), right : right + len(image)]
    if not hard:
        return moved
    noisy = 0.4 * moved + draw.normal(0, 40, image.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def scene(cells: Mapping[int, np.ndarray], size: int) -> np.ndarray:
    """Return an image with smaller ones in some of its quarters (0: top left, 1: top right, and so on)."""
    from streams.sources._albums import scaled

    half = size // 2
    image = np.zeros((size, size), dtype=np.uint8)
    for cell, small in cells.items():
        top, left = half * (cell // 2), half * (cell % 2)
        image[top : top + half, left : left + half] = scaled(small[None], half)[0]
    return image


Look = Callable[[Skill, Album, int, bool, int, Draw], tuple[str, str, list[np.ndarray]]]
"""From (skill, album, picture, whether it is for testing, size of images, draw) to what the question is about, the
answer, and images."""


def _attribute(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    return "", album.facts[skill][picture], [album.images[picture]]


def _naming(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    return "", album.name_of(picture), [album.images[picture]]


def _yes_no(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    right = bool(draw.integers(2))
    named = album.class_ids[picture] if right else _other_class(album, picture, draw)
    return album.names[named], ANSWERS[right], [album.images[picture]]


def _counting(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    cells = draw.permutation(4)[: 1 + draw.integers(4)].tolist()
    pictures = [picture, *(album.pick(draw, test) for _ in cells[1:])]
    image = scene({c: album.images[p] for c, p in zip(cells, pictures, strict=True)}, size)
    return "", COUNTS[len(cells) - 1], [image]


def _position(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    cells = draw.permutation(4)[: 2 + draw.integers(2)].tolist()
    others = [album.pick(draw, test, _other_class(album, picture, draw)) for _ in cells[1:]]
    image = scene({c: album.images[p] for c, p in zip(cells, (picture, *others), strict=True)}, size)
    return album.name_of(picture), CORNERS[cells[0]], [image]


def _comparison(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    same = bool(draw.integers(2))
    other = album.pick(draw, test, int(album.class_ids[picture]) if same else _other_class(album, picture, draw))
    return "", ANSWERS[same], [album.images[picture], album.images[other]]


def _transcription(
    skill: Skill, album: Album, picture: int, test: bool, size: int, draw: Draw
) -> tuple[str, str, list[np.ndarray]]:
    pictures = [picture, *(album.pick(draw, test) for _ in range(1 + draw.integers(2)))]
    image = scene(dict(enumerate(album.images[p] for p in pictures)), size)
    return "", "".join(album.name_of(p) for p in pictures), [image]


def _other_class(album: Album, picture: int, draw: Draw) -> int:
    """Return a class that a picture is not of."""
    return int((album.class_ids[picture] + 1 + draw.integers(len(album.names) - 1)) % len(album.names))


_LOOKS: dict[Skill, Look] = {
    "naming": _naming,
    "yes-no": _yes_no,
    "counting": _counting,
    "position": _position,
    "comparison": _comparison,
    "transcription": _transcription,
}
