"""SEUF: unlearn in the one expert that the forget set is routed to, and keep it routed there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.text.other_answers import before_request
from strategies.parts.weights.experts import expert_mask, mixtures_of, routed
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner, RetainLoss, paired
from strategies.unlearners._pushed_down import Ascent, NegativePreference
from strategies.unlearners._retained import retained_data
from strategies.unlearners._steering import steering
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key

_METHOD = "unlearner: 'seuf'"


class Config(PairedConfig):
    """Options of `seuf` (Zhuang et al. 2024, arXiv 2411.18797), for mixtures of experts.

    `retain_weight` is lambda. `retain`: none and `loss: ascent` is gradient ascent in one expert; `retain: states` and
    `loss: rmu` is RMU in one expert.
    """

    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights."""
    retain: Literal["none", "descent", "kl", "states"] = "descent"  # type: ignore[assignment]  # one value more
    """What is done with retained data. none: nothing, and none is read. descent: its loss is lowered. kl: the model is
    held to what it said before the request, KL(before || now). states: RMU's, what the expert's block returns at
    answers is held where it was."""
    loss: Literal["npo", "ascent", "rmu"] = "npo"
    """What lowers knowledge of the forget set: negative preference optimisation, ascent, or RMU, which steers what the
    expert's block returns at answers to a random direction."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of npo."""
    steering: float = Field(2.0, gt=0)
    """c of rmu, as a multiple of the mean norm of the forget set's hidden states."""
    experts: int = Field(1, ge=1)
    """Experts of a request, all of one block."""
    anchor: float = Field(1.0, ge=0)
    """alpha, the weight of the squared distance between what the router says of the forget set and those experts. 0
    lets the forget set be routed elsewhere."""
    router: Literal["whole", "rows"] = "whole"
    """Whether all of the block's router moves, or the rows of these experts alone."""


def attributions(probabilities: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return how much of each row is routed to each expert, ``[B, E]``: means over the tokens that are there.

    Args:
        probabilities: softmax of a router's logits over all experts, ``[B T, E]``.
        there: bool ``[B, T]``, false at padding.
    """
    by_row = probabilities.view(*there.shape, -1) * there.unsqueeze(2)
    return by_row.sum(1) / there.sum(1, keepdim=True)


def anchor_loss(logits: torch.Tensor, there: torch.Tensor, experts: list[int]) -> torch.Tensor:
    """Return mean ||g - a||^2 over tokens, a scalar.

    Args:
        logits: of a router, ``[B T, E]``; g is their softmax.
        there: bool ``[B, T]``, false at padding.
        experts: a is 1 over their number for each of them, and 0 for the others.
    """
    wanted = torch.zeros(logits.shape[1], device=logits.device)
    wanted[experts] = 1 / len(experts)
    apart = (logits.float().softmax(1) - wanted).square().sum(1)
    return apart[there.flatten()].mean()


@final
class _Anchored(ForgetLoss):
    """Adds the anchor to another loss; the router was heard when the batch passed."""

    def __init__(self, inner: ForgetLoss, heard: dict[str, torch.Tensor], experts: list[int], weight: float) -> None:
        self._inner, self._heard, self._experts, self._weight = inner, heard, experts, weight

    def __call__(self, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        logits = self._heard["logits"]
        there = batch.x[:, 1, : len(logits) // len(batch)] > 0
        anchor = anchor_loss(logits, there, self._experts) if self._weight else 0.0
        return self._inner(outputs, batch, model) + self._weight * anchor


@final
class SEUF(PairedUnlearner):
    """Selected-expert unlearning. All weights but those of the experts and their router stay to the bit."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"tokens"})
    needs_experts = True
    ranges = PAIRED_ON_TEXT | {"beta": log(0.01, 1.0), "anchor": log(0.1, 10.0), "steering": log(0.5, 10.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Keep the options.

        Raises:
            ConfigError: the model is no mixture of experts, or has fewer.
        """
        super().__init__(config, setting)
        count = min(m.experts for m in mixtures_of(setting.outline(), _METHOD))
        if config.experts > count:
            raise ConfigError(f"seuf.experts: {config.experts} is more than the {count} experts of a block.")

    @override
    def prepare(
        self, reference: FlatModel, objective: Objective, forget_set: Data, key: Key
    ) -> tuple[ForgetLoss, Outcome]:
        if self.config.loss == "ascent":
            return Ascent(objective), Outcome()
        before, cost = before_request(self.setting, reference, objective, forget_set, self.config.epochs)
        return NegativePreference(objective, before, self.config.beta), cost

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Find block and experts, then unlearn in them under the anchor."""
        config, model = self.config, learner.model
        key = self.setting.key / "seuf" / request.name
        forget_set = door.forget_set()
        objective = self.setting.objective.training_on(forget_set)
        retained = None if config.retain == "none" else retained_data(config.retained, learner, door)
        mixtures = mixtures_of(model, _METHOD)
        shares = self._attributed(model, forget_set)
        place = int(torch.stack([s.max() for s in shares]).argmax())
        chosen = mixtures[place]
        experts = shares[place].topk(config.experts).indices.tolist()
        mask = expert_mask(model, chosen, experts, config.router == "whole")
        with (
            self._terms(model, chosen.block, objective, forget_set, key) as (inner, held, cost),
            routed(chosen) as heard,
            model.moving_only(mask),
        ):
            loss = _Anchored(inner, heard, experts, config.anchor)
            outcome = paired(self.setting, model, objective, forget_set, retained, config, loss, key, held=held)
        after = self._attributed(model, forget_set)[place]
        notes = {
            "expert_block": float(chosen.block),
            "expert_share": float(shares[place][experts].sum()),
            "expert_share_after": float(after[experts].sum()),
        }
        return (outcome + cost + Outcome(forward=2 * len(forget_set))).noted(**notes).graded("none")

    @contextlib.contextmanager
    def _terms(
        self, model: FlatModel, block: int, objective: Objective, forget_set: Data, key: Key
    ) -> Iterator[tuple[ForgetLoss, RetainLoss | None, Outcome]]:
        """Give both losses that are not the anchor, and their cost; None is what `paired` makes of `retain`."""
        config = self.config
        if config.loss != "rmu" and config.retain != "states":
            forget_loss, cost = self.prepare(model, objective, forget_set, key)
            yield forget_loss, None, cost
            return
        before = frozen_copy(self.setting, model)
        with steering(model, before, block, objective, forget_set, config.steering, "answer", key) as of_states:
            cost = Outcome(forward=len(forget_set))
            inner: ForgetLoss = of_states
            if config.loss != "rmu":
                inner, more = self.prepare(model, objective, forget_set, key)
                cost += more
            yield inner, of_states.held if config.retain == "states" else None, cost

    @torch.no_grad()
    def _attributed(self, model: FlatModel, data: Data) -> list[torch.Tensor]:
        """Return the share of every block's routing that each expert gets of some data, each ``[E]``, of sum 1."""
        mixtures = mixtures_of(model, _METHOD)
        totals = [torch.zeros(m.experts, device=model.parameters.device) for m in mixtures]
        for batch in self.setting.objective.batches(data, 64):
            with evaluating(model), contextlib.ExitStack() as stack:
                heard = [stack.enter_context(routed(m)) for m in mixtures]
                model.features(*batch.inputs)
            for total, said in zip(totals, heard, strict=True):
                logits = said["logits"]
                there = batch.x[:, 1, : len(logits) // len(batch)] > 0
                total += attributions(logits.float().softmax(1), there).sum(0)
        return [total / len(data) for total in totals]
