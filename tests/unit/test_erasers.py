"""Erasers of image generators, by hand: what their targets are, what they move, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import mlp_denoiser
from strategies.base import Setting
from strategies.objectives.denoising import Config, Denoising
from strategies.parts.diffusion.parts import is_in_part, part_mask
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.unlearners import _anchors, concept_ablation, esd
from strategies.unlearners._erase import Eraser, Erasure, esd_target, named_prompts
from strategies.unlearners.concept_ablation import ConceptAblation
from strategies.unlearners.esd import ESD
from streams.config import parse
from streams.errors import ConfigError, StreamError
from streams.events import DeletionRequest, Request
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import digits

SMALL = {"steps": 4, "images": 6, "batch_size": 6}


def setting_of(source: Source, **options: Any) -> Setting:
    objective = Denoising.for_data(parse(Config, {"steps": 3, **options}), source, None, "cpu")
    config = mlp_denoiser.Config(width=16, blocks=2, words=8)

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            network = mlp_denoiser.build(config, *objective.sizes(source.input_shape))
            torch.nn.init.normal_(network.head.weight, std=0.3)
            torch.nn.init.normal_(network.body.read.weight, std=1.0)  # so that it heeds its prompts
        return FlatModel(network)

    return Setting(Key(1), make, objective, Training(), (), len(source))


@pytest.fixture(scope="module")
def source() -> Source:
    return digits.load(digits.Config())


@pytest.fixture(scope="module")
def setting(source: Source) -> Setting:
    return setting_of(source)


def prompts(*classes: int, style: int = NOTHING) -> np.ndarray:
    return np.array([[c, style] for c in classes], dtype=np.int64).reshape(-1, 2)


def erasure(
    setting: Setting,
    erased: np.ndarray,
    live: np.ndarray,
    gone: np.ndarray | None = None,
    change: Callable[[FlatModel], None] = lambda model: None,
) -> Erasure:
    model = setting.make_model()
    change(model)
    teacher = frozen_copy(setting, model)
    objective = Denoising.of(setting.objective)
    return Erasure(erased, live, prompts() if gone is None else gone, model, teacher, objective, setting.key / "e")


def moved(e: Erasure) -> torch.Tensor:
    return e.model.parameters != e.teacher.parameters


def test_the_target_mirrors_the_answer_at_that_to_the_empty_prompt() -> None:
    """eta = g - 1, where g is the negative guidance of later code: from - g (f - empty), from being f itself."""
    prompted, free = torch.randn(2, 5, 7)
    for g in (0.0, 1.0, 2.0, 3.5):
        torch.testing.assert_close(esd_target(prompted, free, g - 1), prompted - g * (prompted - free))
    assert torch.equal(esd_target(prompted, free, 0), free)


@pytest.mark.parametrize("trajectory", ["noised", "frozen", "edited"])
def test_who_asks_for_nothing_moves_nothing(trajectory: str, setting: Setting) -> None:
    options = {**SMALL, "trajectory": trajectory, "trajectory_steps": 5}
    for eta, is_moved in ((-1.0, False), (0.0, True)):
        e = erasure(setting, prompts(3), prompts(1, 2))
        outcome = ESD(parse(esd.Config, {**options, "eta": eta, "optimizer": "sgd"}), setting).erase(e)
        assert bool((e.model.parameters - e.teacher.parameters).abs().max() > 1e-6) == is_moved
        assert (outcome.losses["loss"] > 1e-6) == is_moved
        assert outcome.steps == 4
        assert outcome.forward == 24


@pytest.mark.nightly
def test_at_eta_0_the_prompt_becomes_the_empty_one(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 2))
    options = {"eta": 0, "steps": 200, "lr": 3e-3, "part": "all"}
    ESD(parse(esd.Config, options), setting).erase(e)
    probe = e.noised(e.drawn(prompts(3), 32, "probe"), 64, "probe", 0)
    empty = torch.full_like(probe.prompts, NOTHING)
    with torch.no_grad():
        before, after = (
            float((e.says(m, probe) - e.says(e.teacher, probe, empty)).square().mean()) for m in (e.teacher, e.model)
        )
    assert after < 0.2 * before


@pytest.mark.parametrize("part", ["conditioning", "key-value", "rest", "text-encoder", "all"])
@pytest.mark.parametrize("kind", [ESD, ConceptAblation])
def test_only_the_part_moves(kind: type[Eraser], part: str, setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 2))
    config = esd.Config if kind is ESD else concept_ablation.Config
    kind(parse(config, {**SMALL, "part": part}), setting).erase(e)
    mask = part_mask(e.model, part)  # type: ignore[arg-type]
    assert mask.any()
    assert not (moved(e) & ~mask).any()
    assert float(moved(e)[mask].float().mean()) > 0.3
    assert e.teacher.parameters.equal(setting.make_model().parameters), "the teacher is frozen"


def test_parts_are_told_by_names() -> None:
    unet = "body.unet.down_blocks.0.attentions.0.transformer_blocks.0"
    conditioning = [
        f"{unet}.attn2.to_k.weight",
        f"{unet}.attn2.to_out.0.bias",
        "body.read.weight",
        "body.blocks.1.film.bias",
    ]
    rest = [f"{unet}.attn1.to_k.weight", "body.unet.conv_in.weight", "body.blocks.1.up.bias", "head.weight"]
    text = ["body.text.words.weight", "body.text.encoder.layers.0.self_attn.k_proj.weight"]
    names = conditioning + rest + text
    assert [n for n in names if is_in_part(n, "conditioning")] == conditioning
    assert [n for n in names if is_in_part(n, "key-value")] == [conditioning[0], conditioning[2]]
    assert [n for n in names if is_in_part(n, "rest")] == rest
    assert [n for n in names if is_in_part(n, "text-encoder")] == text
    assert all(is_in_part(n, "all") for n in names)


def test_the_retain_term_holds_on_to_prompts_that_stay(setting: Setting) -> None:
    def drift(retain: float) -> float:
        e = erasure(setting, prompts(3), prompts(1, 2))
        ESD(parse(esd.Config, {"steps": 30, "lr": 1e-2, "retain": retain}), setting).erase(e)
        probe = e.noised(e.drawn(prompts(1, 2), 32, "probe"), 64, "probe", 0)
        with torch.no_grad():
            return float((e.says(e.model, probe) - e.says(e.teacher, probe)).square().mean())

    assert drift(3.0) < 0.5 * drift(0.0)


# -- concept ablation


def test_an_anchor_that_is_the_target_has_no_gradient(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(3))
    ConceptAblation(parse(concept_ablation.Config, {**SMALL, "optimizer": "sgd", "anchor": "3"}), setting).erase(e)
    assert not moved(e).any()


@pytest.mark.parametrize("target", [pytest.param("current", marks=pytest.mark.nightly), "frozen"])
def test_the_prompt_is_answered_as_the_anchor_is(target: str, setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 8))
    options = {"steps": 200, "lr": 5e-3, "anchor": "8", "target": target, "part": "all"}
    ConceptAblation(parse(concept_ablation.Config, options), setting).erase(e)
    probe = e.noised(e.drawn(prompts(8), 32, "probe"), 64, "probe", 0)
    with torch.no_grad():
        goal = e.says(e.model if target == "current" else e.teacher, probe)
        erased = e.says(e.model, probe, e.tensor(prompts(3)).expand(64, -1))
        before = e.says(e.teacher, probe, e.tensor(prompts(3)).expand(64, -1))
    assert float((erased - goal).square().mean()) < 0.02 * float((before - goal).square().mean())


def test_the_noise_variant_trains_the_prompt_on_images_of_the_anchor(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 8))
    options = {"steps": 40, "lr": 1e-2, "anchor": "8", "variant": "noise"}
    outcome = ConceptAblation(parse(concept_ablation.Config, options), setting).erase(e)
    images = e.noised(e.drawn(prompts(8), 32, "probe"), 64, "probe", 0)
    renamed = e.tensor(prompts(3)).expand(64, -1)
    with torch.no_grad():
        after, before = ((e.says(m, images, renamed) - images.clean).square().mean() for m in (e.model, e.teacher))
    assert float(after) < 0.8 * float(before)
    assert outcome.notes["remapped"] == 0


def test_the_nearest_anchor_is_the_prompt_that_is_answered_alike(setting: Setting) -> None:
    """Word 9 (digit 8) is made the twin of word 4 (digit 3)."""

    def twin(model: FlatModel) -> None:
        words = dict(model.network.named_parameters())["body.text.words.weight"]
        words.data[:, 9] = words[:, 4]

    e = erasure(setting, prompts(3), prompts(1, 8, 9), change=twin)
    assert _anchors.anchor_of(e, "nearest", np.array([3, NOTHING]), 0).tolist() == [8, NOTHING]
    assert _anchors.distances(e, prompts(3), prompts(1, 8))[0, 1] == 0
    # An earlier request had led 3 to 8; now 8 goes, and 3 must not go on leading to it.
    later = erasure(setting, prompts(8), prompts(1, 9), gone=prompts(3, 5), change=twin)
    assert _anchors.anchored_on(later, prompts(8, 1, 9), prompts(8)).tolist()[0]
    for remap, count in ((True, 1), (False, 0)):
        again = erasure(setting, prompts(8), prompts(1, 9), gone=prompts(3), change=twin)
        config = parse(concept_ablation.Config, {**SMALL, "remap": remap})
        assert ConceptAblation(config, setting).erase(again).notes["remapped"] == count


def test_anchors_are_live_and_keep_what_does_not_go(source: Source) -> None:
    styled = replace(source, domain_ids=np.arange(len(source), dtype=np.int64) % 3, domain_names=("a", "b", "c"))
    setting = setting_of(styled)
    live = np.array([[c, s] for c in (1, 2) for s in (0, 1)])

    def anchor(kind: str, erased: list[int], left: np.ndarray) -> list[int]:
        e = erasure(setting, np.array([erased]), left)
        return _anchors.anchor_of(e, kind, np.array(erased), 0).tolist()

    assert anchor("nearest", [3, 1], live)[1] == 1, "an object goes: another object in the same style"
    assert anchor("nearest", [1, 2], live)[0] == 1, "a style goes: the same object in another style"
    assert anchor("b", [1, 2], live) == [1, 1]
    assert anchor("random", [3, 0], live)[1] == 0
    assert anchor("empty", [3, 0], live) == [NOTHING, NOTHING]
    with pytest.raises(StreamError, match="'5' is not live at that moment"):
        anchor("5", [3, 0], live)
    with pytest.raises(ConfigError, match="names no class or style of the data"):
        ConceptAblation(concept_ablation.Config(anchor="cat"), setting)
    assert ConceptAblation(concept_ablation.Config(), setting).needs_retained
    assert not ConceptAblation(concept_ablation.Config(anchor="empty"), setting).needs_retained


# -- what a request names


def test_a_request_for_some_images_of_a_prompt_names_no_prompt(source: Source, setting: Setting) -> None:
    objective = Denoising.of(setting.objective)
    threes = np.flatnonzero((source.class_ids == 3) & ~source.is_test)

    def request(scope: Any, ids: np.ndarray) -> DeletionRequest:
        return DeletionRequest("request-0", (Request(scope, (3,), ids, ids[:0], 1),))

    assert named_prompts(objective, request("class", threes)).tolist() == [[3, NOTHING]]
    assert named_prompts(objective, request("task", threes)).tolist() == [[3, NOTHING]]
    with pytest.raises(StreamError, match="names images, and not all of '3'"):
        named_prompts(objective, request("task", threes[1:]))
    assert ESD(esd.Config(), setting).scopes == ("class", "task")
    users = replace(source, domain_ids=source.user_ids, domain_names=source.user_names)
    assert ESD(esd.Config(), setting_of(users)).scopes == ("class", "task", "user")


def test_a_part_that_is_not_there_is_refused(source: Source, setting: Setting) -> None:
    bare = replace(setting, make_model=lambda: FlatModel(_bare()))
    with pytest.raises(ConfigError, match="'conditioning' names no trained weight"):
        ESD(esd.Config(), bare)


def _bare() -> Any:
    from strategies.parts.model import Network

    return Network(torch.nn.Linear(64, 4), torch.nn.Linear(4, 64))
