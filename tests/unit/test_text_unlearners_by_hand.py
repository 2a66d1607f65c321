"""Two steps of every unlearner of text against the same two steps written by hand, from log-softmax on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from text_lives import PAIRED, live

from strategies.objectives.causal_lm import CausalLM
from strategies.parts.model import FlatModel, digest
from strategies.parts.text.other_answers import Refusals, WrongAnswers
from strategies.parts.training.ragged import rows_per_pass
from strategies.unlearners import _paired, rmu
from strategies.unlearners import npo as npo_unlearner
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Source
from streams.sources import people
from streams.text import ANSWER

LR = 0.01
TWO_STEPS = {"epochs": 2, "batch_size": 64, "optimizer": "sgd", "lr": LR, "clip_norm": None}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


# -- by hand


def distributions(model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """The log-probabilities at the positions that speak of each row's answer, one ``[n, V]`` per row."""
    log_p = model(x).log_softmax(2)
    return [log_p[i, (x[i, 1] == ANSWER).nonzero().flatten() - 1] for i in range(len(x))]


def answers(x: torch.Tensor) -> list[torch.Tensor]:
    return [row[0][row[1] == ANSWER].long() for row in x]


def log_p(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """log p of every token of each answer."""
    found = zip(distributions(model, x), answers(x), strict=True)
    return [d[torch.arange(len(a)), a] for d, a in found]


def token_mean(model: Any, x: torch.Tensor) -> torch.Tensor:
    return -torch.cat(log_p(model, x)).mean()


def sums(model: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([row.sum() for row in log_p(model, x)])


def means(model: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([row.mean() for row in log_p(model, x)])


def kl(before: list[torch.Tensor], model: Any, x: torch.Tensor) -> torch.Tensor:
    """KL(before || now), the mean over all tokens."""
    pairs = zip(before, distributions(model, x), strict=True)
    return torch.cat([(p.exp() * (p - q)).sum(1) for p, q in pairs]).mean()


def kl_everywhere(before: torch.Tensor, model: Any, x: torch.Tensor) -> torch.Tensor:
    """KL(before || now) summed over every position, padding too, over rows times the longest row."""
    now = model(x).log_softmax(2)
    rows, length = len(x), int((x[:, 1] > 0).sum(1).max())
    assert before.shape == now.shape == (rows, length, now.shape[2])
    return (before.exp() * (before - now)).sum() / (rows * length)


def log_sigmoid(value: torch.Tensor) -> torch.Tensor:
    return -(1 + (-value).exp()).log()


class Hand:
    """What a loss may be made of: the model, the rows to forget, what refuses them, and the rows to hold."""

    def __init__(self, life: Any, name: str) -> None:
        objective = life.setting.objective
        assert isinstance(objective, CausalLM)
        self.model: FlatModel = life.model
        forget = life.data(0).all()
        ids = np.setdiff1d(life.source.train_ids, forget.ids.numpy())
        self.forget, self.held = forget.x, Data(ids, life.source.x, life.source.y, None).all().x
        refusals = Refusals(objective, life.setting.key / name / "request-0")
        self.refused = [refusals.put(forget, refusals.drawn(forget, step)).x for step in range(2)]
        with torch.no_grad():
            self.true_before = sums(self.model, self.forget)
            self.refused_before = [sums(self.model, x) for x in self.refused]
            self.forget_before = distributions(self.model, self.forget)
            self.held_before = distributions(self.model, self.held)
            self.everywhere_before = self.model(self.held).log_softmax(2)

    @property
    def down(self) -> torch.Tensor:
        return token_mean(self.model, self.held)


def npo(h: Hand, step: int) -> torch.Tensor:
    ratio = (sums(h.model, h.forget) - h.true_before).exp()
    return (2 / 0.5) * (1 + ratio**0.5).log().mean()


def simnpo(h: Hand, step: int) -> torch.Tensor:
    return -(2 / 1.5) * log_sigmoid(1.5 * (-means(h.model, h.forget) - 2.0)).mean()


def dpo(h: Hand, step: int) -> torch.Tensor:
    gain = sums(h.model, h.refused[step]) - h.refused_before[step]
    return -(2 / 0.5) * log_sigmoid(0.5 * (gain - (sums(h.model, h.forget) - h.true_before))).mean()


def topr(h: Hand, step: int) -> torch.Tensor:
    weight = (sums(h.model, h.forget) - h.true_before).exp().clamp(max=1).detach()
    return (weight * means(h.model, h.forget)).mean()


def ihl(h: Hand, step: int) -> torch.Tensor:
    found = []
    for d, a in zip(distributions(h.model, h.forget), answers(h.forget), strict=True):
        for p, token in zip(d.exp(), a.tolist(), strict=True):
            others = torch.cat([p[:token], p[token + 1 :]])
            found.append(1 + p[token] - others.max())
    return torch.stack(found).mean()


def flat(divergence: str) -> Callable[[Hand, int], torch.Tensor]:
    def loss(h: Hand, step: int) -> torch.Tensor:
        """-(g*(P_e) - f*(g*(P_f))), P the mean over rows of the mean probability of an answer's tokens."""
        refused, true = (
            torch.stack([row.exp().mean() for row in log_p(h.model, x)]).mean() for x in (h.refused[step], h.forget)
        )
        match divergence:
            case "kl":
                return -(refused - (true - 1).exp())
            case "js":
                optimal = math.log(2) - (1 + (-refused).exp()).log()
                return -(optimal - (true + (1 + (-true).exp()).log() - math.log(2)))
            case "pearson":
                return -(refused - (true**2 / 4 + true))
            case _:
                return -(torch.tanh(refused) / 2 - torch.tanh(true) / 2)

    return loss


CASES: dict[str, tuple[str, dict[str, Any], str, Callable[[Hand, int], torch.Tensor]]] = {
    "ga": ("graddiff", {"retain": "none"}, "GradDiff", lambda h, s: -token_mean(h.model, h.forget)),
    "graddiff": (
        "graddiff",
        {"forget_weight": 0.5, "retain_weight": 2.0},
        "GradDiff",
        lambda h, s: -0.5 * token_mean(h.model, h.forget) + 2.0 * h.down,
    ),
    "kl": (
        "graddiff",
        {"retain": "kl", "retain_weight": 3.0},
        "GradDiff",
        lambda h, s: -token_mean(h.model, h.forget) + 3.0 * kl(h.held_before, h.model, h.held),
    ),
    "kl-all": (
        "graddiff",
        {"retain": "kl", "retain_weight": 3.0, "kl_positions": "all"},
        "GradDiff",
        lambda h, s: -token_mean(h.model, h.forget) + 3.0 * kl_everywhere(h.everywhere_before, h.model, h.held),
    ),
    "npo": ("npo", {"retain": "none", "beta": 0.5}, "NPO", npo),
    "npo-rt": ("npo", {"beta": 0.5, "retain_weight": 2.0}, "NPO", lambda h, s: npo(h, s) + 2.0 * h.down),
    "npo-kl": (
        "npo",
        {"beta": 0.5, "retain": "kl"},
        "NPO",
        lambda h, s: npo(h, s) + kl(h.held_before, h.model, h.held),
    ),
    "npo-kl-all": (
        "npo",
        {"beta": 0.5, "retain": "kl", "kl_positions": "all"},
        "NPO",
        lambda h, s: npo(h, s) + kl_everywhere(h.everywhere_before, h.model, h.held),
    ),
    "simnpo": (
        "simnpo",
        {"beta": 1.5, "margin": 2.0, "forget_weight": 0.5},
        "SimNPO",
        lambda h, s: 0.5 * simnpo(h, s) + h.down,
    ),
    "idk": (
        "idk",
        {"mode": "separate", "forget_weight": 0.5},
        "IDK",
        lambda h, s: 0.5 * token_mean(h.model, h.refused[s]) + h.down,
    ),
    "idk-concat": (
        "idk",
        {},
        "idk",
        lambda h, s: -torch.cat([*log_p(h.model, h.refused[s]), *log_p(h.model, h.held)]).mean(),
    ),
    "dpo": ("dpo", {"beta": 0.5}, "DPO", lambda h, s: dpo(h, s) + h.down),
    "topr": ("topr", {}, "TOPR", lambda h, s: topr(h, s) + h.down),
    "ihl": ("ihl", {}, "IHL", lambda h, s: ihl(h, s) + h.down),
    **{f"flat-{d}": ("flat", {"divergence": d, "lr": 1.0}, "FLAT", flat(d)) for d in ("kl", "js", "pearson", "tv")},
}


def steps_by_hand(hand: Hand, loss: Callable[[Hand, int], torch.Tensor], lr: float = LR) -> torch.Tensor:
    """Where two steps of plain descent on `loss` lead; the model is left as it was."""
    start = hand.model.parameters.clone()
    hand.model.train(True)
    for step in range(2):
        parameters = list(hand.model.network.parameters())
        slopes = torch.autograd.grad(loss(hand, step), parameters, allow_unused=True)  # above a block nothing is used
        for parameter, found in zip(parameters, slopes, strict=True):
            if found is not None:
                parameter.data.sub_(found, alpha=lr)
    end = hand.model.parameters.clone()
    hand.model.parameters.copy_(start)
    return end


def assert_moved(before: torch.Tensor, after: torch.Tensor, expected: torch.Tensor) -> None:
    """The change of the weights is as expected, to the rounding of single precision."""
    wanted = expected - before
    assert float(wanted.norm()) > 1e-3
    assert float((after - before - wanted).norm()) < 1e-4 * float(wanted.norm())


@pytest.mark.parametrize("case", CASES)
def test_two_steps_are_those_written_by_hand(case: str, source: Source) -> None:
    """The second step is away from the start, where references and tapers begin to tell."""
    name, options, key, loss = CASES[case]
    life = live(source, name, **(TWO_STEPS | options))
    before = life.model.parameters.clone()
    expected = steps_by_hand(Hand(life, key), loss, life.strategy.unlearner.config.lr)
    life.forget()
    assert_moved(before, life.model.parameters, expected)


def test_kl_at_all_positions_by_hand(source: Source) -> None:
    """Value and gradient, of rows of unequal length, which otherwise pass in groups; padding counts."""
    life = live(source, "graddiff", retain="kl", kl_positions="all")
    objective = life.setting.objective.for_unlearning()
    model, before = life.model, live(source, "graddiff").setting.make_model()
    short = life.data(0).all().x
    pad = torch.zeros(40, 2, short.shape[2], dtype=short.dtype)
    pad[:, :, :3] = short[:1, :, :3]
    batch = Batch(torch.arange(80), torch.cat([short[:40], pad]), torch.zeros(80))
    assert rows_per_pass((batch.x[:, 1] > 0).sum(1).sort().values.tolist()) < 80
    with torch.no_grad():
        said = before(batch.x).log_softmax(2)
    expected = kl_everywhere(said, model, batch.x)
    slopes = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(model.network.parameters()))])
    found = _paired.divergence(objective, model, before, batch, "all")
    model.gradient.zero_()
    found.backward()  # type: ignore[no-untyped-call]
    assert expected.item() > 1e-4
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert float((model.gradient - slopes).norm()) < 1e-4 * float(slopes.norm())
    answer = _paired.divergence(objective, model, before, batch.part(0, 40), "answer")
    assert answer.item() != pytest.approx(expected.item(), rel=1e-2)


def test_what_says_how_kl_works_needs_retain_kl_and_text(source: Source, tools: Any) -> None:
    with pytest.raises(ConfigError, match=r"kl_positions: all .* set retain: kl"):
        live(source, "npo", kl_positions="all")
    with pytest.raises(ConfigError, match=r"reference: first .* set retain: kl"):
        live(source, "graddiff", reference="first")
    with pytest.raises(ConfigError, match="kl_positions"):
        live(source, "lat", kl_positions="all")  # it holds retained data to no distribution
    with pytest.raises(ConfigError, match="TextObjective"):
        npo_unlearner.NPO(npo_unlearner.Config(retain="kl", kl_positions="all"), tools.setting(tools.source()))


def test_two_steps_of_rmu_are_those_written_by_hand(source: Source) -> None:
    options = {"block": 1, "weights": "all", "steering": 3.0, "retain_weight": 2.0}
    life = live(source, "rmu", **TWO_STEPS, **options)
    before = life.model.parameters.clone()
    hand = Hand(life, "rmu")
    layer = hand.model.network.body.layers[1]
    found: list[torch.Tensor] = []

    def states(x: torch.Tensor) -> list[torch.Tensor]:
        """The block's output at each answer's tokens, one ``[n, d]`` per row."""
        handle = layer.register_forward_hook(lambda m, a, out: found.append(out))
        hand.model(x)
        handle.remove()
        return [found[-1][i, (x[i, 1] == ANSWER).nonzero().flatten()] for i in range(len(x))]

    with torch.no_grad():
        held_before = states(hand.held)
        length = torch.cat(states(hand.forget)).norm(dim=1).mean()
    u = torch.rand(16, generator=(life.setting.key / "rmu" / "request-0" / "direction").torch())
    target = 3.0 * length * u / u.norm()

    def loss(h: Hand, step: int) -> torch.Tensor:
        steered = torch.stack([((s - target) ** 2).mean() for s in states(h.forget)]).mean()
        pairs = zip(states(h.held), held_before, strict=True)
        return steered + 2.0 * torch.stack([((s - b) ** 2).mean() for s, b in pairs]).mean()

    expected = steps_by_hand(hand, loss)
    life.forget()
    assert_moved(before, life.model.parameters, expected)


def test_two_steps_of_random_answers_are_those_written_by_hand(source: Source) -> None:
    """Forget set with wrong answers and retained data with their own, in one mean over tokens."""
    options = {"epochs": 2, "batch_size": 64, "lr": LR, "momentum": 0.0, "weight_decay": 0.0, "redraw": "once"}
    life = live(source, "random-label", **options)
    before = life.model.parameters.clone()
    hand = Hand(life, "random-label")
    assert isinstance(life.setting.objective, CausalLM)
    drawn = WrongAnswers(life.setting.objective, life.setting.key / "random-label" / "request-0" / "labels", False)
    forget = life.data(0).all()
    wrong = drawn.put(forget, drawn.drawn(forget, 0)).x
    assert all(not torch.equal(a, b) for a, b in zip(answers(wrong), answers(hand.forget), strict=True))

    def loss(h: Hand, step: int) -> torch.Tensor:
        return -torch.cat([*log_p(h.model, wrong), *log_p(h.model, h.held)]).mean()

    expected = steps_by_hand(hand, loss)
    life.forget()
    assert_moved(before, life.model.parameters, expected)


def test_a_task_vector_by_hand(source: Source) -> None:
    life = live(source, "task-vector", alpha=2.5, epochs=2, batch_size=64, lr=LR)
    hand = Hand(life, "task-vector")
    start = life.model.parameters.clone()

    def loss(h: Hand, step: int) -> torch.Tensor:
        return token_mean(h.model, h.forget)

    learned = steps_by_hand(hand, loss)
    life.forget()
    assert_moved(start, life.model.parameters, start - 2.5 * (learned - start))


# -- what a loss must not see, and what must not move


@pytest.mark.parametrize("name", PAIRED)
def test_more_padding_changes_no_forget_loss(name: str, source: Source) -> None:
    life = live(source, name)
    unlearner: Any = life.strategy.unlearner
    objective = life.setting.objective.for_unlearning()
    loss, _ = unlearner.prepare(life.model, objective, life.data(0), Key(3))
    batch = life.data(0).part(np.arange(6)).all()
    wide = torch.nn.functional.pad(batch.x, (0, 5))
    wide[:, 0][wide[:, 1] == 0] = 7  # whatever padding holds
    assert wide.shape[2] > batch.x.shape[2]

    def value(x: torch.Tensor) -> float:
        with torch.no_grad():
            extended = loss.extend(Batch(batch.ids, x, batch.y), 0)
            return float(loss(objective.outputs(life.model, extended), extended, life.model))

    assert value(wide) == pytest.approx(value(batch.x), rel=1e-6)


@pytest.mark.parametrize(("name", "module"), [("graddiff", _paired), ("npo", _paired), ("rmu", rmu)])
def test_the_model_that_is_held_to_never_moves(
    name: str, module: Any, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[FlatModel, str]] = []
    real = module.frozen_copy

    def noted(*args: Any) -> FlatModel:
        copy: FlatModel = real(*args)
        taken.append((copy, digest(copy.state_dict())))
        return copy

    monkeypatch.setattr(module, "frozen_copy", noted)
    life = live(source, name, epochs=3, **({} if name == "rmu" else {"retain": "kl"}))
    start = digest(life.model.state_dict())
    life.forget()
    ((copy, then),) = taken
    assert then == start
    assert digest(copy.state_dict()) == then
    assert digest(life.model.state_dict()) != then
