"""Attacks on image generators, by hand: what they move, what they find, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lifelong.audits import _judge
from lifelong.audits._attacks import Attack, Target, Words
from lifelong.audits._judges import Judges
from lifelong.audits.invert import Invert
from lifelong.audits.unlearn_diff_atk import UnlearnDiffAtk, attacked_steps, onto_simplex
from lifelong.config.run import RunConfig
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.parts.diffusion.words import vocabulary
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.randomness import Key, seeded_globals

CONFIG: dict[str, Any] = {
    "scenario": "joint",
    "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": ["3"]}]},
    "objective": {"name": "denoising", "steps": 3},
    "model": {"name": "mlp-denoiser", "width": 16, "blocks": 1, "words": 6},
    "training": {"epochs": 1},
    "strategies": {"a": {"unlearner": "none"}},
    "evaluation": {
        "audits": [
            {"name": "unlearn-diff-atk", "per_prompt": 4, "tries": 2, "steps": 3, "least_accuracy": 0.0},
            {"name": "invert", "per_prompt": 4, "steps": 5, "batch_size": 8, "least_accuracy": 0.0},
        ]
    },
}


class Means:
    """A judge that names the class whose mean image is nearest."""

    accuracy = 1.0

    def __init__(self, prepared: Prepared) -> None:
        source = prepared.stream.source
        self._means = torch.stack([source.x[source.class_ids == c].mean(0) for c in range(10)])

    def looks(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        flat = images.flatten(1)
        return torch.cdist(flat, self._means).argmin(1).numpy(), flat.numpy()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(_judge, "STEPS", 1)
        return prepare(parse(RunConfig, CONFIG))


def audits(prepared: Prepared, **options: Any) -> tuple[UnlearnDiffAtk, Invert]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_judge, "STEPS", 1)
        evaluation = prepared.config.evaluation
        made = make_instruments(evaluation, prepared.stream, prepared.plan, prepared.setting, "cpu").audits
    for audit in made:
        assert isinstance(audit, Attack)
        audit._judges = Judges(cast(Any, Means(prepared)), None)
        chosen = {name: value for name, value in options.items() if name in type(audit.config).model_fields}
        audit.config = audit.config.model_copy(update=chosen)
    return cast(tuple[UnlearnDiffAtk, Invert], tuple(made))


@pytest.fixture(scope="module")
def both(prepared: Prepared) -> tuple[UnlearnDiffAtk, Invert]:
    return audits(prepared)


def model_of(prepared: Prepared, heeds: float = 1.0) -> FlatModel:
    """A model that answers anything, and heeds its prompts so much."""
    model = prepared.setting.make_model()
    with seeded_globals(Key(0)):
        torch.nn.init.normal_(cast(torch.Tensor, model.network.head.weight).data, std=0.3)
        torch.nn.init.normal_(model.network.body.read.weight.data, std=heeds)
    model.train(False)
    return model


def target_of(prepared: Prepared, audit: Attack) -> Target:
    (request,) = prepared.plan.due(1)
    return audit._target(1, request)


def test_probabilities_are_the_nearest_ones() -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    found = onto_simplex(rows)
    torch.testing.assert_close(found.sum(1), torch.ones(50))
    assert (found >= 0).all()
    others = torch.rand(50, 200, 7, generator=torch.Generator().manual_seed(1))
    others = others / others.sum(2, keepdim=True)
    assert ((others - rows.unsqueeze(1)).norm(dim=2).min(1).values >= (found - rows).norm(dim=1) - 1e-6).all()
    torch.testing.assert_close(onto_simplex(found), found)


def test_what_is_attacked_is_what_the_request_took(prepared: Prepared, both: tuple[UnlearnDiffAtk, Invert]) -> None:
    target = target_of(prepared, both[0])
    assert target.prompts.tolist() == [[3, -1]] * 4
    assert target.axis == 0
    source = prepared.stream.source
    real = both[0].objective.clean(source.x[source.class_ids == 3])
    assert all(float((real - image).abs().sum(1).min()) == 0 for image in target.clean), "real images of it"
    assert len(torch.unique(target.clean, dim=0)) == 4
    assert torch.equal(target.noise, both[0].objective.noise(target.prompts, np.arange(4))), "that of audit images"


def test_without_words_nothing_is_attacked(prepared: Prepared) -> None:
    audit, _ = audits(prepared, words=0)
    model, target = model_of(prepared), target_of(prepared, audit)
    values = audit.attack(model, target)
    images = audit.objective.sample(lambda b: audit.objective.outputs(model, b), target.prompts, target.noise)
    told = Means(prepared).looks(images)[0]
    assert values["pre_asr"] == float((told == 3).mean())
    assert values["asr"] == values["asr_random_words"] == values["asr_other_noise"] == values["pre_asr"]


def test_an_image_counts_from_its_first_success_and_chance_is_counted_apart(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, _ = audits(prepared)
    script = iter(["0001", "1001", "0000", "0000", "0000", "0010", "0100"])  # none; words, random, noise; twice
    monkeypatch.setattr(audit, "draws", lambda *_: np.array([d == "1" for d in next(script)]))
    monkeypatch.setattr(audit, "_search", lambda *_: torch.zeros(4, 3, dtype=torch.int64))
    values = audit.attack(model_of(prepared), target_of(prepared, audit))
    assert values["pre_asr"] == 0.25
    assert values["asr"] == 0.5, "what needed no attack counts, too"
    assert values["asr_random_words"] == 0.5
    assert values["asr_other_noise"] == 0.5
    assert values["asr_over_chance"] == 0


def test_where_prompts_are_not_heeded_words_do_nothing(prepared: Prepared, both: tuple[UnlearnDiffAtk, Invert]) -> None:
    audit, invert = both
    model, target = model_of(prepared, heeds=0.0), target_of(prepared, audit)
    values = audit.attack(model, target)
    assert values["asr"] == values["asr_random_words"] == values["pre_asr"]
    assert values["asr_over_chance"] <= 0
    assert invert.attack(model, target)["inverted"] == values["pre_asr"]


def test_attacks_leave_the_model_and_the_process_alone(prepared: Prepared, both: tuple[UnlearnDiffAtk, Invert]) -> None:
    for audit in both:
        model, target = model_of(prepared), target_of(prepared, audit)
        before, state = model.parameters.clone(), torch.random.get_rng_state()
        first = audit.attack(model, target)
        assert torch.equal(model.parameters, before)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not any(m._forward_hooks for m in model.network.modules())
        assert audit.attack(model, target) == first, "what is drawn has names"


def test_the_search_finds_words_that_explain_the_images(prepared: Prepared) -> None:
    """Nearer to the best of eleven, as found by trying all, than to their mean."""
    audit, _ = audits(prepared, words=1, steps=150, lr=0.05)
    model, target = model_of(prepared, heeds=5.0), target_of(prepared, audit)
    words = vocabulary(model.network)
    n, time = len(target.prompts), torch.full((4,), 500)
    errors = torch.zeros(len(words), n)
    for draw in range(20):
        noise = torch.from_numpy((Key(5) / draw).normals(np.arange(n), 64)).float()
        for token in range(len(words)):
            put = Words(words[torch.full((n, 1), token)], 0, before=True)
            errors[token] += audit.error(model, target, noise, time, put).detach()
    tokens = audit._search(model, target, words, 500, Key(0))[:, 0]
    found = errors.gather(0, tokens.unsqueeze(0)).mean()
    best, chance = errors.min(0).values.mean(), errors.mean()
    assert found < 0.5 * (best + chance)


def test_words_are_put_before_prompts_and_not_before_the_empty_one(
    prepared: Prepared, both: tuple[UnlearnDiffAtk, Invert]
) -> None:
    """Under guidance, the second half of what a sampler asks."""
    audit, model = both[0], model_of(prepared)
    target = target_of(prepared, audit)
    asked: list[torch.Tensor] = []
    model.network.body.text.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    put = Words(torch.zeros(4, 2, 6), 0, before=True)
    audit.draws(model, target, target.noise, put)
    assert len(asked) == 2 * 3, "three steps, twice"
    assert asked[0].tolist() == [[0, 0, 4]] * 4
    assert asked[1].tolist() == [[0]] * 4


def test_inversion_moves_one_vector_towards_the_images(prepared: Prepared) -> None:
    _, audit = audits(prepared, steps=150, batch_size=16, lr=0.05)
    model, target = model_of(prepared), target_of(prepared, audit)
    start = audit._embedded(model, target, 0)
    torch.testing.assert_close(start[0], vocabulary(model.network)[4])
    seen: list[torch.Tensor] = []
    draws = audit.draws
    audit.draws = lambda m, t, noise, put: (seen.append(put.vectors), draws(m, t, noise, put))[1]  # type: ignore[method-assign]
    audit.attack(model, target)
    assert (seen[0] == seen[0][:1]).all(), "the same for all images"
    errors = [0.0, 0.0]
    for draw in range(40):
        noise = torch.from_numpy((Key(6) / draw).normals(np.arange(4), 64)).float()
        time = torch.randint(0, 1000, (4,), generator=(Key(7) / draw).torch())
        for which, vector in enumerate((start, seen[0][0])):
            put = Words(vector.expand(4, 1, -1), 0, before=False)
            errors[which] += float(audit.error(model, target, noise, time, put).mean().detach())
    assert errors[1] < errors[0]


def test_published_tries_begin_where_there_is_least_noise() -> None:
    assert attacked_steps("published", 50, Key(0)) == list(range(10, 1000, 20))
    drawn = attacked_steps("random", 8, Key(0))
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(range(10, 1000, 20))
    assert max(drawn) > 400


@pytest.mark.nightly
def test_references_are_attacked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lifelong

    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_judge, "STEPS", 30)
    strategies = {"none": {"unlearner": "none"}, "retrain": {"unlearner": "retrain"}}
    run = lifelong.run(parse(RunConfig, {**CONFIG, "strategies": strategies}), tmp_path / "runs")
    rows = {(r.model, r.metric): r.value for r in run.tables["retrain"].rows if r.subject == "request-0"}
    for name in ("asr", "pre_asr", "inverted"):
        assert rows["retrained", name] == rows["run", name], "who retrains is attacked as the reference is"
        assert rows["retrained", f"gap_{name}"] == 0
    assert any(r.metric == "immediate_gap_asr" for r in run.tables["none"].rows)


@pytest.mark.parametrize(("axis", "place"), [(0, 0), (1, 1), (2, 0)])
def test_the_vector_stands_for_the_word_that_names_what_was_deleted(
    both: tuple[UnlearnDiffAtk, Invert], axis: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of two words: the object's, and the style's; of pairs the object's."""
    audit = both[1]
    objective = SimpleNamespace(tokens=lambda prompts: prompts + 1)
    monkeypatch.setattr(audit, "objective", objective)
    target = cast(Any, SimpleNamespace(prompts=np.array([[3, 2]]), axis=axis))
    assert audit._place(target) == place


def test_every_step_of_the_inversion_draws_anew(prepared: Prepared) -> None:
    _, audit = audits(prepared, steps=3, batch_size=8)
    model, target = model_of(prepared), target_of(prepared, audit)
    seen: list[tuple[list[float], ...]] = []
    error = audit.error

    def watched(model: FlatModel, some: Target, noise: torch.Tensor, time: torch.Tensor, put: Words) -> torch.Tensor:
        seen.append((some.clean.sum(1).tolist(), noise.sum(1).tolist(), time.tolist()))
        return error(model, some, noise, time, put)

    audit.error = watched  # type: ignore[method-assign]
    audit.attack(model, target)
    for drawn in zip(*seen, strict=True):
        assert len({tuple(d) for d in drawn}) == 3
