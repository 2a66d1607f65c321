"""Erasers of image generators, by hand: what their targets are, what they move, and what they leave alone."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import mlp_denoiser
from strategies.base import Outcome, Setting
from strategies.objectives.denoising import Config, Denoising
from strategies.parts.diffusion.parts import is_in_part, last_text_block, part_mask
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.diffusion.words import vocabulary
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import OptimizerConfig, make_optimizer
from strategies.parts.weights.fisher import gradient_of
from strategies.unlearners import (
    _anchors,
    _critic,
    _gentle,
    adv_unlearn,
    concept_ablation,
    doco,
    esd,
    few_shot_erasing,
    selective_amnesia,
    sfd,
)
from strategies.unlearners._erase import Eraser, Erasure, Noised, Shown, esd_target, named_prompts
from strategies.unlearners.adv_unlearn import AdvUnlearn
from strategies.unlearners.concept_ablation import ConceptAblation
from strategies.unlearners.doco import DoCo
from strategies.unlearners.esd import ESD
from strategies.unlearners.few_shot_erasing import FewShotErasing
from strategies.unlearners.selective_amnesia import SelectiveAmnesia
from strategies.unlearners.sfd import SFD
from streams.config import parse
from streams.errors import ConfigError, StreamError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
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
    for gone, same in (([3, 0], 1), ([3, 1], 1), ([1, 2], 0), ([2, 2], 0)):
        e = erasure(setting, np.array([gone]), live)
        drawn = [_anchors.anchor_of(e, "random", np.array(gone), number) for number in range(4)]
        assert {int(a[same]) for a in drawn} == {gone[same]}, "whichever is drawn"
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


# -- what holds erasers back: penalties, a selection of weights, projections


def test_the_penalties_pull_towards_the_start() -> None:
    theta, start = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.5])
    by_hand = theta.clone().requires_grad_()
    (1.5 * (by_hand - start).abs().sum() / 2 + 2.5 * (by_hand - start).square().sum() / 2).backward()
    torch.testing.assert_close(_gentle.pull(theta, start, 1.5, 2.5, 2)[:2], by_hand.grad[:2])  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "strength"), [("l1_sp", 20.0), pytest.param("l2_sp", 2000.0, marks=pytest.mark.nightly)]
)
def test_a_penalty_keeps_weights_near_where_the_request_began(name: str, strength: float, setting: Setting) -> None:
    def way(options: dict[str, float]) -> float:
        e = erasure(setting, prompts(3), prompts(1, 2))
        ESD(parse(esd.Config, {**SMALL, "steps": 20, "lr": 1e-2, **options}), setting).erase(e)
        return float((e.model.parameters - e.teacher.parameters).norm())

    assert way({name: strength}) < 0.7 * way({})


def test_the_selected_weights_are_those_with_the_largest_sums_of_gradients(setting: Setting) -> None:
    gradient, movable = torch.tensor([1.0, -5.0, 3.0, 9.0, 0.0]), torch.tensor([True, True, True, False, True])
    assert _gentle.most_moved(gradient, movable, 0.5).tolist() == [False, True, True, False, False]
    e = erasure(setting, prompts(3), prompts(1, 2))
    outcome = ESD(parse(esd.Config, {**SMALL, "selected": 0.1}), setting).erase(e)
    part = part_mask(e.model, "conditioning")
    assert not (moved(e) & ~part).any()
    assert int(moved(e).sum()) <= round(0.1 * int(part.sum()))
    assert float(moved(e).sum()) > 0.05 * int(part.sum())
    assert outcome.forward == (20 + 4) * 6, "the gradients are paid for"


@pytest.mark.parametrize("kind", [ESD, *(pytest.param(k, marks=pytest.mark.nightly) for k in (ConceptAblation, DoCo))])
def test_what_reads_prompts_answers_those_that_stay_as_before(kind: type[Eraser], setting: Setting) -> None:
    """To 1e-5, and with Adam; without the projection it does not."""
    config = {ESD: esd.Config, ConceptAblation: concept_ablation.Config, DoCo: doco.Config}[kind]

    def change(protect: str) -> tuple[float, float]:
        e = erasure(setting, prompts(3), prompts(1, 2))
        options = {**SMALL, "steps": 10, "lr": 1e-2, "part": "key-value", "protect": protect}
        options |= {"critic_channels": 4, "warm_up": 2} if kind is DoCo else {}
        kind(parse(config, options), setting).erase(e)  # type: ignore[arg-type]

        def read(model: FlatModel, asked: np.ndarray) -> torch.Tensor:
            with torch.no_grad():
                body = model.network.body
                return body.read(body.text(e.objective.tokens(e.tensor(asked))))

        kept = np.concatenate([prompts(NOTHING), prompts(1, 2)])
        return tuple(float((read(e.model, p) - read(e.teacher, p)).abs().max()) for p in (kept, prompts(3)))  # type: ignore[return-value]

    stays, goes = change("prompts")
    assert stays < 1e-5
    assert goes > 1e-3
    assert change("none")[0] > 1e-3


def test_prompts_that_span_everything_leave_nothing_to_erase(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(0, 1, 2, 4, 5, 6, 7, 8, 9))
    options = {**SMALL, "part": "key-value", "protect": "prompts"}
    with pytest.raises(StreamError, match=r"unlearner\.protect: the 9 prompts that stay span all numbers"):
        ESD(parse(esd.Config, options), setting).erase(e)
    with pytest.raises(ConfigError, match="set part: key-value, not conditioning"):
        parse(esd.Config, {"protect": "prompts"})


# -- doco


def test_the_preserving_gradient_by_hand() -> None:
    g, r = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])
    assert doco.preserved(g, r, 1.0, "projection").tolist() == [1, 0]
    torch.testing.assert_close(doco.preserved(g, r, 1.0, "published"), torch.tensor([1.0, 0.5**0.5 - 1]))
    assert doco.preserved(g, torch.tensor([1.0, 1.0]), 1.0, "projection") is g, "orthogonal ones are left alone"
    assert doco.preserved(-3 * r, r, 1.0, "projection").tolist() == [0, 0], "opposite ones vanish"
    for seed in range(5):
        g, r = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))
        assert float(doco.preserved(g, r, 1.0, "projection") @ r) >= -1e-5
        assert float(doco.preserved(g, r, 0.5, "projection") @ r) >= float(g @ r) - 1e-5


def test_a_critic_that_sees_no_difference_moves_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(*arguments: Any) -> FlatModel:
        critic = _critic.critic_of(*arguments)
        critic.parameters.zero_()
        return critic

    monkeypatch.setattr(doco, "critic_of", constant)
    e = erasure(setting, prompts(3), prompts(1, 2))
    DoCo(parse(doco.Config, {**SMALL, "warm_up": 0, "critic_lr": 1e-30, "optimizer": "sgd"}), setting).erase(e)
    assert not moved(e).any()


def test_the_critic_learns_from_its_own_loss_alone(setting: Setting) -> None:
    """What the model's loss leaves in its gradient is dropped: one step is that of a fresh critic."""
    e = erasure(setting, prompts(3), prompts(8))
    real, fake = torch.rand(4, 64), -torch.rand(4, 64)
    steps = []
    for leak in (False, True):
        critic = _critic.critic_of((1, 8, 8), 4, e.key, torch.device("cpu"))
        if leak:
            _critic.verdict_loss(critic(fake.view(-1, 1, 8, 8)), second=False).backward()  # type: ignore[no-untyped-call]
        doco._teach(critic, make_optimizer(OptimizerConfig(lr=0.1), critic.parameters), real, fake, (1, 8, 8))
        steps.append(critic.parameters.clone())
    assert torch.equal(*steps)


def test_a_critic_learns_which_images_are_which(setting: Setting) -> None:
    critic = _critic.critic_of((1, 8, 8), 8, Key(0), torch.device("cpu"))
    optimizer = make_optimizer(OptimizerConfig(optimizer="adam", lr=1e-2), critic.parameters)
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        real, fake = torch.randn(16, 64, generator=draw) + 1, torch.randn(16, 64, generator=draw) - 1
        doco._teach(critic, optimizer, real, fake, (1, 8, 8))
    told = [critic(x.view(-1, 1, 8, 8)).mean().item() for x in (real, fake)]
    assert told[0] < -1, "the anchor's images are of the first kind"
    assert told[1] > 1
    assert len(_critic.critic_of((3, 32, 32), 2, Key(0), torch.device("cpu")).network.body) == 11, "four halvings"


# -- adv-unlearn


def test_without_an_attack_and_a_retain_term_it_is_esd(setting: Setting) -> None:
    """Bit for bit, on the same weights."""
    ends = []
    for kind, config, more in (
        (ESD, esd.Config, {}),
        (AdvUnlearn, adv_unlearn.Config, {"radius": 0, "gamma": 0}),
        (AdvUnlearn, adv_unlearn.Config, {"gamma": 0, "warm_up": 0}),
    ):
        e = erasure(setting, prompts(3), prompts(1, 2))
        kind(parse(config, {**SMALL, "part": "text-layers", **more}), setting).erase(e)  # type: ignore[arg-type]
        ends.append(e.model.parameters.clone())
        assert not (moved(e) & ~part_mask(e.model, "text-layers")).any(), "neither the image network nor embeddings"
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_an_attack_finds_words_within_its_ball(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 2), change=lambda model: model.parameters.mul_(0.9))
    served = frozen_copy(setting, setting.make_model())
    asked = e.noised(e.drawn(prompts(3), 16, "erased"), 32, "forget", 0)
    shown = e.answers(served, asked)
    before = e.model.parameters.clone()

    def losses(radius: float | None, lr: float) -> list[float]:
        options = {"attack_steps": 1, "attack_lr": lr, "radius": radius, "words": 2, "start": "latest"}
        attack = adv_unlearn.Attack(e, parse(adv_unlearn.Config, options))
        found = []
        for step in range(10):
            found.append(float((attack.said(asked) - shown).square().mean().detach()))
            attack.find(asked, shown, step)
            if radius is not None:
                assert float(attack.found.norm(dim=1).max()) <= radius * attack._length * (1 + 1e-5)
        return found

    for radius in (0.5, None):
        path = losses(radius, 0.01)
        assert all(later <= earlier * (1 + 1e-4) for earlier, later in itertools.pairwise(path))
        assert path[-1] < path[0]
    assert torch.equal(e.model.parameters, before), "the model stands still"
    assert not e.model.network.get_submodule("body.text.words")._forward_hooks, "and is left without hooks"


@pytest.mark.parametrize("radius", [0.0, 0.5, None])
def test_attacks_follow_the_warm_up_and_look_for_the_served_answer(
    radius: float | None, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit as with one; to the prompt itself, not to what it is to become."""
    e = erasure(setting, prompts(3), prompts(1, 2))
    steps: list[int] = []

    def find(self: adv_unlearn.Attack, asked: Noised, shown: torch.Tensor, step: int) -> None:
        steps.append(step)
        assert torch.equal(shown, e.answers(e.teacher, asked))

    monkeypatch.setattr(adv_unlearn.Attack, "find", find)
    config = parse(adv_unlearn.Config, {**SMALL, "warm_up": 1, "radius": radius})
    AdvUnlearn(config, setting).erase(e)
    assert steps == ([] if radius == 0 else [1, 2, 3])


def test_words_are_shortened_where_they_are_too_long(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 2))
    attack = adv_unlearn.Attack(e, parse(adv_unlearn.Config, {"words": 3, "radius": 0.5}))
    shares = torch.tensor([0.2, 0.5, 4.0])
    directions = torch.nn.functional.normalize(attack.found, dim=1)
    attack.found.copy_(directions * shares[:, None] * attack._length)
    attack._hold()
    expected = directions * shares.clamp(max=0.5)[:, None] * attack._length
    torch.testing.assert_close(attack.found, expected)


def test_words_before_a_prompt_are_more_words(source: Source) -> None:
    """For a tokenizer behind its first mark, and what is filled up gets shorter."""
    objective = Denoising.of(setting_of(source).objective)
    words = objective.tokens(torch.tensor([[3, NOTHING]]))
    assert objective.prefixed(words, 2).tolist() == [[0, 0, 4]]
    object.__setattr__(objective, "config", objective.config.model_copy(update={"checkpoint": "folder"}))
    assert objective.prefixed(torch.tensor([[7, 5, 6, 8, 8]]), 2).tolist() == [[7, 0, 0, 5, 6]]


# -- few-shot erasing


def test_few_shots_climb_the_loss_of_the_images(setting: Setting) -> None:
    """One step of SGD in the text encoder is the hand gradient, with its sign flipped."""
    e = erasure(setting, prompts(3), prompts(1, 2))
    shown = e.drawn(prompts(3), 4, "some")
    options = {"steps": 1, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0}
    FewShotErasing(parse(few_shot_erasing.Config, options), setting)._climb(e, shown)
    loss = e.error(e.teacher, e.noised(shown, 4, "forget", 0))
    expected = 0.1 * gradient_of(e.teacher, loss) * part_mask(e.model, "text-mlp")
    torch.testing.assert_close(e.model.parameters - e.teacher.parameters, expected, atol=1e-6, rtol=1e-4)
    assert moved(e).any()


@pytest.mark.parametrize("images", [2, 4, 900])
def test_few_shots_are_drawn_among_the_images_of_the_request(
    images: int, source: Source, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of the request, so that another one looks at others; and never at more than there are."""
    unlearner = FewShotErasing(parse(few_shot_erasing.Config, {"images": images}), setting)
    threes = np.flatnonzero((source.class_ids == 3) & ~source.is_test)
    seen: list[Shown] = []

    def climb(self: FewShotErasing, erasure: Erasure, shown: Shown) -> Outcome:
        seen.append(shown)
        return Outcome()

    monkeypatch.setattr(FewShotErasing, "_climb", climb)
    learner: Any = SimpleNamespace(model=setting.make_model(), holds=lambda ids: {"weights": ids})
    for name in ("request-0", "request-1"):
        request = DeletionRequest(name, (Request("class", (3,), threes, threes[:0], 1),))
        ledger = Ledger(source)
        ledger.admit(Experience("all", (), source.train_ids))
        ledger.delete(request)
        unlearner.forget(request, learner, ledger.door(unlearner.access, threes[:0], threes))
    clean = Denoising.of(setting.objective).clean(source.inputs(threes)).flatten(1)
    drawn = []
    for shown in seen:
        assert shown.prompts.tolist() == [[3, NOTHING]] * min(images, len(threes))
        equal = (shown.images.flatten(1)[:, None] == clean[None]).all(2)
        drawn.append(np.flatnonzero(equal.any(0)).tolist())
        assert len(drawn[-1]) == min(images, len(threes)), "images of the request, each once"
    if images < len(threes):
        first = list(range(images))
        assert drawn[0] != first != drawn[1] != drawn[0]


def test_few_shots_end_where_the_loss_is_high_enough(setting: Setting) -> None:
    ends = []
    for stop_at in (1e-6, None):
        e = erasure(setting, prompts(3), prompts(1, 2))
        config = parse(few_shot_erasing.Config, {"steps": 5, "stop_at": stop_at, "seen": "noise"})
        unlearner = FewShotErasing(config, setting)
        assert not unlearner.access.forget_set
        ends.append((unlearner.erase(e).steps, bool(moved(e).any())))
    assert ends == [(0, False), (5, True)]
    assert FewShotErasing(few_shot_erasing.Config(), setting).access.forget_set
    assert FewShotErasing(few_shot_erasing.Config(), setting).scopes == ("sample", "class", "task", "user")


def test_the_last_block_of_a_text_encoder_is_found_by_its_place() -> None:
    names = [f"body.text.encoder.layers.{i}.self_attn.k_proj.weight" for i in range(12)]
    names += ["body.text.encoder.layers.3.mlp.fc1.bias", "body.text.embeddings.token_embedding.weight"]
    last = last_text_block(names)
    assert [n for n in names if is_in_part(n, "text-mlp", last)] == [names[11], names[12]]
    assert [n for n in names if is_in_part(n, "text-layers", last)] == names[:13]


# -- selective amnesia


def test_the_fisher_information_squares_sums_over_steps(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 2))
    shown = e.drawn(prompts(3, 1), 2, "taught")
    fisher = selective_amnesia.fisher_of(e, shown, 4)
    by_hand = []
    for number in range(2):
        one = Shown(shown.images[number : number + 1], shown.prompts[number : number + 1])
        noised = e.noised(one, 4, "fisher", number, spread=True)
        assert (noised.time // 250).tolist() == [0, 1, 2, 3], "one step in each quarter"
        by_hand.append(gradient_of(e.model, e.error(e.model, noised)).square())
    torch.testing.assert_close(fisher, torch.stack(by_hand).mean(0))


def test_selective_amnesia_learns_noise_and_is_held_back(setting: Setting) -> None:
    def after(strength: float) -> tuple[float, float]:
        e = erasure(setting, prompts(3), prompts(1, 2))
        options = {"steps": 60, "lr": 3e-3, "strength": strength, "fisher_images": 8, "fisher_steps": 4, "gamma": 0.0}
        SelectiveAmnesia(parse(selective_amnesia.Config, options), setting).erase(e)
        probe = e.noised(e.evenly_drawn(-1, 1, 32, "probe"), 64, "probe", 0)
        with torch.no_grad():
            error = float(e.error(e.model, probe)) / float(e.error(e.teacher, probe))
        return error, float((e.model.parameters - e.teacher.parameters).norm())

    free, tied = after(0.0), after(1e6)
    assert free[0] < 0.9
    assert tied[1] < 0.5 * free[1]


@pytest.mark.nightly
def test_replay_holds_on_to_prompts_that_stay(setting: Setting) -> None:
    def error(gamma: float) -> float:
        e = erasure(setting, prompts(3), prompts(1, 2))
        options = {"steps": 40, "lr": 3e-3, "strength": 0.0, "gamma": gamma}
        SelectiveAmnesia(parse(selective_amnesia.Config, options), setting).erase(e)
        with torch.no_grad():
            return float(e.error(e.model, e.noised(e.drawn(prompts(1, 2), 32, "probe"), 64, "probe", 0)))

    assert error(2.0) < 0.8 * error(0.0)


# -- sfd


def test_the_distillation_loss_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    p, s, x = torch.randn(3, 4, 7, generator=draw)
    weight = (p - x).abs().mean(1, keepdim=True)
    torch.testing.assert_close(sfd.distillation_loss(p, s, x, 1.0), ((p - s) * (s - x) / weight).mean())
    torch.testing.assert_close(sfd.distillation_loss(p, s, x, 0.0), ((p - s) * (p - x) / weight).mean())
    assert sfd.distillation_loss(p, p, x, 1.2) == 0


def test_equal_scores_and_a_prompt_that_is_its_own_anchor_move_no_generator(setting: Setting) -> None:
    """The first factor of the loss is zero; with another anchor it is not."""
    for live, is_moved in ((prompts(3), False), (prompts(8), True)):
        e = erasure(setting, prompts(3), live)
        score = frozen_copy(setting, e.model)
        config = parse(sfd.Config, {**SMALL, "warm_up": 0, "images": 4})
        loss = sfd.Distillation(e, score, config).generator_loss(0, 6)
        assert bool(gradient_of(e.model, loss).abs().max() > 1e-6) == is_moved
    ordinary = parse(sfd.Config, {**SMALL, "forget": 1.0, "warm_up": 0, "images": 4})
    e = erasure(setting, prompts(3), prompts(3))
    kinds = [
        sfd.Distillation(e, frozen_copy(setting, e.model), ordinary)._prompts(n, "generator", 0, 5)
        for n in ("live", "gone")
    ]
    assert all(np.array_equal(asked, called) for asked, called in kinds), "then it is plain distillation"


def test_the_score_network_is_served_and_the_teacher_is_frozen(setting: Setting) -> None:
    e = erasure(setting, prompts(3), prompts(1, 8))
    before = e.teacher.parameters.clone()
    SFD(parse(sfd.Config, {**SMALL, "warm_up": 1, "images": 4}), setting).erase(e)
    assert torch.equal(e.teacher.parameters, before)
    assert moved(e).any()
    with pytest.raises(ConfigError, match="sfd trains two"):
        parse(sfd.Config, {"selected": 0.1})


# -- a text encoder of transformers


@pytest.fixture(scope="module")
def clip(source: Source) -> Setting:
    """A UNet with cross-attention to two blocks of CLIP, which words of vectors enter through a hook."""
    pytest.importorskip("diffusers")
    from lifelong.models import unet_small

    objective = Denoising.for_data(parse(Config, {"steps": 2}), source, None, "cpu")
    options = {"channels": [8], "patch": 4, "groups": 4, "heads": 2, "words": 16, "text_layers": 2}
    config = parse(unet_small.Config, options)

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(unet_small.build(config, *objective.sizes(source.input_shape)))

    return Setting(Key(1), make, objective, Training(), (), len(source))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of diffusers, at import time
@pytest.mark.parametrize(
    "kind",
    [AdvUnlearn, FewShotErasing, DoCo, SelectiveAmnesia, SFD],
)
def test_erasers_work_on_a_unet(kind: type[Eraser], clip: Setting) -> None:
    """They move what their part names, in cross-attention and CLIP, and leave no hook."""
    module = importlib.import_module(kind.__module__)
    options = kind.test_options | ({"seen": "noise"} if kind is FewShotErasing else {})
    e = erasure(clip, prompts(3), prompts(1, 2))
    config = parse(module.Config, options)
    kind(config, clip).erase(e)
    mask = part_mask(e.model, config.part)
    assert not (moved(e) & ~mask).any()
    assert float(moved(e)[mask].float().mean()) > 0.3
    assert not any(m._forward_hooks for m in e.model.network.modules())
    if kind is FewShotErasing:
        names = {name for name, where in e.model.slices.items() if mask[where].any()}
        assert all(".1.self_attn." in name or ".mlp." in name for name in names), "of two blocks, the last attention"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_vectors_stand_where_words_would(clip: Setting) -> None:
    """Those of a word say what the word says."""
    e = erasure(clip, prompts(3), prompts(1))
    asked = e.noised(e.drawn(prompts(3), 2, "some"), 2, "forget", 0)
    words = vocabulary(e.model.network)
    batch = e.objective.asking(asked.noisy, asked.time, asked.prompts, prefix=2)
    batch.extra["words"][:, :2] = torch.tensor([5, 7])  # type: ignore[index]
    with torch.no_grad():
        said, spoken = e.objective.outputs(e.model, batch), e.says_after(e.model, asked, words[[5, 7]])
        other = e.says_after(e.model, asked, words[[5, 6]])
    torch.testing.assert_close(said, spoken)
    assert not torch.allclose(said, other)


def test_every_prompt_that_goes_is_drawn_and_those_that_stay_are_drawn_from_all(setting: Setting) -> None:
    """With fewer images than prompts the first ones alone were looked at."""
    erased, live = prompts(0, 1, 2, 3), prompts(4, 5, 6, 7, 8, 9)
    e = erasure(setting, erased, live)
    assert e.drawn(erased, 2, "erased").prompts.tolist() == erased.tolist()
    assert e.evenly_drawn(0.0, 1.0, 2, "noise").prompts.tolist() == erased.tolist()
    assert e.drawn(erased, 6, "more").prompts[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    kept = [replace(e, key=e.key / n).kept(1.0, 2) for n in range(8)]
    assert all(k is not None and len(k.prompts) == 2 for k in kept)
    assert len({int(c) for k in kept if k is not None for c in k.prompts[:, 0]}) == len(live)
    walked = {int(c) for step in range(8) for c in e.ways(e.teacher, erased, 2, (2, 1.0), "forget", step).prompts[:, 0]}
    assert walked == {0, 1, 2, 3}
    unlearner = ConceptAblation(parse(concept_ablation.Config, {"images": 2}), setting)
    renamed, own = unlearner.shown(e, erased, live[:4])
    assert (renamed.prompts[:, 0] + 4).tolist() == own.prompts[:, 0].tolist() == [4, 5, 6, 7]
