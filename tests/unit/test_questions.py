"""The user's own questions: files as TOFU's, what they lack, what is wrong with them, and the way out and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strategies.objectives.causal_lm import CausalLM
from strategies.parts.text.alignment import Rejected
from strategies.parts.text.other_answers import WrongAnswers
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError, DataError
from streams.question_files import write
from streams.randomness import Key
from streams.source import Source
from streams.sources import corpora, digits, people, questions
from streams.text import ANSWER, GIVEN


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def load(**options: Any) -> Source:
    return questions.load(parse(questions.Config, options))


def lines(name: str, objects: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(o) + "\n" for o in objects), encoding="utf-8")


def texts(source: Source, x: torch.Tensor) -> list[tuple[str, str]]:
    assert source.text is not None
    decode = source.text.tokenizer.decode
    pairs = [(decode(r[0][r[1] == GIVEN].tolist()), decode(r[0][r[1] == ANSWER].tolist())) for r in x]
    return [(q.removeprefix("Q: ").removesuffix("\nA:"), a.strip()) for q, a in pairs]


def fact(author: int, number: int) -> dict[str, Any]:
    return {"question": f"What is {number} of author {author}?", "answer": f"Book {author}-{number}."}


def perturbed(author: int, number: int, wrong: int) -> dict[str, Any]:
    return fact(author, number) | {
        "paraphrased_question": f"Of author {author}, which is {number}?",
        "paraphrased_answer": f"It is book {author}-{number}.",
        "perturbed_answer": [f"It is book {author}-{number}-{w}." for w in range(wrong)],
    }


@pytest.fixture
def tofu() -> dict[str, Any]:
    """Six authors with four questions each, in files as TOFU has them; wrong answers are known of the last author."""
    lines("full.json", [fact(a, n) for a in range(6) for n in range(4)])
    Path("forget_perturbed.json").write_text(json.dumps([perturbed(5, n, 5) for n in range(4)], indent=1))
    lines("world.json", [{"question": "Capital of Peru?", "answer": "Lima", "perturbed_answer": ["Quito", "Bogota"]}])
    lines("holdout.json", [fact(9, n) for n in range(3)])
    return {
        "files": ["full.json", "forget_perturbed.json"],
        "world": ["world.json"],
        "holdout": ["holdout.json"],
        "per_user": 4,
        "vocabulary": 320,
    }


def test_files_as_tofu_has_them(tofu: dict[str, Any]) -> None:
    source = load(**tofu)
    assert source.text is not None
    assert source.text.paraphrased is not None
    assert source.text.perturbed is not None
    assert source.user_names == (*(f"full-{a}" for a in range(6)), "world")
    assert source.class_names == source.domain_names == ("full", "world")
    assert Counter(source.user_ids[~source.is_test].tolist()) == dict.fromkeys(range(6), 4) | {6: 1}
    assert source.notes == ("25 questions, 5 of them with wrong answers",)
    asked = texts(source, source.x)
    taught = [a for a, test in zip(asked, source.is_test, strict=True) if not test]
    assert taught[:24] == [(f"What is {n} of author {a}?", f"Book {a}-{n}.") for a in range(6) for n in range(4)]
    held = [a for a, test in zip(asked, source.is_test, strict=True) if test]
    assert held[0] == taught[0]  # there are no other words for it
    assert held[20] == ("Of author 5, which is 0?", "Book 5-0.")
    counts = source.text.wrong_counts(torch.arange(len(source)))
    assert Counter(counts.tolist()) == {0: 40, 5: 8, 2: 2}
    last = int(np.flatnonzero(source.user_ids == 5)[-1])
    assert texts(source, source.text.paraphrased[last : last + 1]) == [(asked[last][0], "It is book 5-3.")]
    assert [a for _, a in texts(source, source.text.perturbed[last])] == [f"It is book 5-3-{w}." for w in range(5)]
    world = int(np.flatnonzero(source.user_ids == 6)[0])
    assert texts(source, source.text.paraphrased[[world]]) == [("Capital of Peru?", "Lima")]
    assert texts(source, source.text.perturbed[world])[:3] == [
        ("Capital of Peru?", "Quito"),
        ("Capital of Peru?", "Bogota"),
        ("", ""),
    ]
    assert source.text.holdout is not None
    assert texts(source, source.text.holdout) == [tuple(fact(9, n).values()) for n in range(3)]
    assert source.digest() == load(**tofu).digest()
    assert load(**tofu | {"files": ["full.json"], "world": []}).text.perturbed is None  # type: ignore[union-attr]


def test_of_what_several_files_say_of_a_question_the_first_counts() -> None:
    """Each thing by itself: what the first lacks is filled in by the next that has it."""
    said = [
        {"paraphrased_answer": "First."},
        {"paraphrased_answer": "Second.", "paraphrased_question": "Second?", "perturbed_answer": ["Wrong second."]},
        {"paraphrased_answer": "Third.", "paraphrased_question": "Third?", "perturbed_answer": ["Wrong third."]},
    ]
    for name, more in zip("abc", said, strict=True):
        lines(f"{name}.json", [{"question": "What?", "answer": "That."} | more])
    source = load(files=["a.json", "b.json", "c.json"], vocabulary=320)
    assert source.text is not None
    assert source.text.paraphrased is not None
    assert source.text.perturbed is not None
    assert texts(source, source.x) == [("What?", "That."), ("Second?", "That.")]
    assert texts(source, source.text.paraphrased) == [("What?", "First."), ("Second?", "First.")]
    assert texts(source, source.text.perturbed[0]) == [("What?", "Wrong second.")]


def test_subjects_are_users_whom_a_question_names() -> None:
    lines("q.json", [{"question": "Where is Ada?", "answer": "With Bo.", "who": w} for w in ("Ada", "Bo", "Cy")])
    source = load(files=["q.json"], user="who", vocabulary=320)
    assert source.text is not None
    assert source.text.subjects == {"Ada"}


def test_users_are_so_many_questions_in_a_row() -> None:
    lines("q.json", [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)])
    source = load(files=["q.json"], per_user=2, vocabulary=320)
    assert source.user_names == ("q-0", "q-1", "q-2")
    assert source.user_ids[~source.is_test].tolist() == [0, 0, 1, 1, 2]


def test_files_of_one_name_would_share_users_and_domains() -> None:
    for folder in ("old", "new"):
        Path(folder).mkdir()
        lines(f"{folder}/q.json", [{"question": f"What is {folder}?", "answer": "That.", "who": folder, "of": folder}])
    with pytest.raises(DataError, match="two files are called 'q'"):
        load(files=["old/q.json", "new/q.json"], vocabulary=320)
    source = load(files=["old/q.json", "new/q.json"], user="who", domain="of", vocabulary=320)
    assert source.user_names == source.domain_names == ("old", "new")


def test_fields_of_ones_own_names() -> None:
    rows = [
        {"q": "Who is Ada?", "a": "A poet.", "wrong": ["A cook."], "who": "Ada", "kind": "job", "year": 2001},
        {"q": "Where is Ada?", "a": "In Rome.", "wrong": None, "who": "Ada", "kind": "place", "year": 2002},
        {"q": "Where is Bob?", "a": "In Rome.", "who": "Bob", "kind": "place", "year": 2002},
    ]
    lines("own.jsonl", rows)
    named = {"question": "q", "answer": "a", "perturbed_answer": "wrong"}
    source = load(files=["own.jsonl"], user="who", label="kind", domain="year", **named)
    assert (source.user_names, source.class_names) == (("Ada", "Bob"), ("job", "place"))
    assert source.domain_names == ("2001", "2002")
    assert source.user_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert source.text is not None
    assert source.text.subjects == {"Ada", "Bob"}
    assert source.text.values is not None
    assert source.text.values[2] == source.text.values[4] != source.text.values[0]  # both are in Rome
    each = load(files=["own.jsonl"], **named)
    assert each.user_names == ("own-0", "own-1", "own-2")
    assert each.text is not None
    assert each.text.subjects is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "own.jsonl: is empty"),
        (b" \n\n", "own.jsonl: is empty"),
        (b"[]", "empty list"),
        ("{'é'}".encode("latin1"), "own.jsonl: cannot be read as UTF-8"),
        (b'{"question": "a", "answer": "b"}\n\n{"question": ', "own.jsonl, line 3: is not JSON"),
        (b'[{"question": "a", "answer": "b"},\n{"question"}]', "own.jsonl, line 2: is not JSON"),
        (b'{"question": "a", "answer": "b"}\n7', "line 2: is no object"),
        (b'[{"question": "a", "answer": "b"}, "c"]', "object 2: is no object"),
        (b'{"question": "a", "reply": "b"}', r"line 1: has no field 'answer' \(source.answer\).*question, reply"),
        (b'{"question": " ", "answer": "b"}', "'question' is ' ', no text"),
        (b'{"question": "a", "answer": 7}', "'answer' is 7, no text"),
        (b'{"question": "a", "answer": "b", "perturbed_answer": "c"}', "'perturbed_answer' is 'c', no list"),
        (b'{"question": "a", "answer": "b", "perturbed_answer": ["c", ""]}', "no list of texts"),
        (b'{"question": "a", "answer": "b", "paraphrased_answer": 1}', "'paraphrased_answer' is 1, no text"),
    ],
)
def test_bad_files(content: bytes, message: str) -> None:
    Path("own.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(files=["own.jsonl"])


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: there is no such file"):
        load(files=["nowhere.json"])
    with pytest.raises(ConfigError, match="files"):
        load(files=[])
    lines("own.jsonl", [perturbed(0, 0, 2) | {"who": None}])
    with pytest.raises(DataError, match=r"source\.perturbed_answer: no object has a field 'wrongs'.*perturbed_answer"):
        load(files=["own.jsonl"], perturbed_answer="wrongs")
    with pytest.raises(DataError, match=r"has no field 'person' \(source.user\).*who"):
        load(files=["own.jsonl"], user="person")
    with pytest.raises(DataError, match="'who' is None"):
        load(files=["own.jsonl"], user="who")


def test_people_come_back_as_they_went(tmp_path: Path) -> None:
    made = people.load(people.Config(people=3, groups=2, holdout=1, vocabulary=320))
    files = write(made, tmp_path / "out")
    assert [f.name for f in files] == ["questions.jsonl", "holdout.jsonl"]
    taught, holdout = ([str(f)] for f in files)
    back = load(files=taught, holdout=holdout, user="user", label="class", domain="domain", vocabulary=320)
    assert made.text is not None
    assert back.text is not None
    for column in ("user_ids", "class_ids", "domain_ids", "is_test"):
        assert (getattr(back, column) == getattr(made, column)).all(), column
    assert (back.user_names, back.class_names) == (made.user_names, made.class_names)
    assert texts(back, back.x) == texts(made, made.x)
    for name in ("paraphrased", "holdout"):
        assert texts(back, getattr(back.text, name)) == texts(made, getattr(made.text, name)), name
    assert made.text.perturbed is not None
    assert back.text.perturbed is not None
    for ours, theirs in zip(back.text.perturbed, made.text.perturbed, strict=True):
        assert [t for t in texts(back, ours) if t[1]] == list(dict.fromkeys(texts(made, theirs)))
    again = write(back, tmp_path / "again")
    assert [f.read_bytes() for f in again] == [f.read_bytes() for f in files]


@pytest.mark.parametrize("source", [digits, corpora])
def test_what_is_not_made_of_questions_is_not_written(source: Any, tmp_path: Path) -> None:
    small = {"rows": 4, "length": 16, "domains": ["manual"]} if source is corpora else {}
    with pytest.raises(ConfigError, match="questions"):
        write(source.load(parse(source.Config, small)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_answers_are_drawn_among_a_rows_own(tofu: dict[str, Any]) -> None:
    source = load(**tofu)
    assert source.text is not None
    objective = CausalLM(source.text.tokenizer.vocab_size, source.text)

    def batch(ids: np.ndarray) -> Batch:
        rows = torch.from_numpy(ids)
        return Batch(rows, source.x[rows], source.y[rows])

    some = batch(np.flatnonzero((source.user_ids == 5) | (source.user_ids == 6)))
    own = source.text.wrong_counts(some.ids)
    options = WrongAnswers(objective, Key(0), true_too=False)
    drawn = np.stack([options.drawn(some, step) for step in range(40)])
    assert (drawn.max(0) == own - 1).all()
    assert (drawn.min(0) == 0).all()
    assert (options.put(some, drawn[0]).x[:, 1] == ANSWER).any(1).all()
    assert all(len(answer) > 1 for answer in Rejected(source.text, True, Key(0)).of(some))
    without = batch(np.arange(2))
    with pytest.raises(DataError, match="2 of 2 samples have no wrong answer"):
        options.drawn(without, 0)
    with pytest.raises(DataError, match="perturbed_answer"):
        Rejected(source.text, True, Key(0)).of(without)
