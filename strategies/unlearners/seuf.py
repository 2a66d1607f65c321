"""SEUF: unlearn in the one expert that the forget set is routed to, and keep it routed there."""

from __future__ import annotations

import contextlib
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import before_request
from strategies.parts.weights.experts import expert_mask, mixtures_of, routed
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import PAIRED_ON_TEXT, log
from strategies.unlearners._paired import ForgetLoss, PairedConfig, PairedUnlearner, paired
from strategies.unlearners._pushed_down import Ascent, NegativePreference
from strategies.unlearners._retained import retained_data
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key

_METHOD = "unlearner: 'seuf'"


class Config(PairedConfig):
    """Options of `seuf` (Zhuang et al. 2024, arXiv 2411.18797), for mixtures of experts.

    `retain_weight` is lambda. `retain`: none and `loss: ascent` is gradient ascent in one expert.
    """

    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights."""
    loss: Literal["npo", "ascent"] = "npo"
    """What lowers knowledge of the forget set: negative preference optimisation, or ascent."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of npo."""
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
    ranges = PAIRED_ON_TEXT | {"beta": log(0.01, 1.0), "anchor": log(0.1, 10.0)}

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
        block = int(torch.stack([s.max() for s in shares]).argmax())
        experts = shares[block].topk(config.experts).indices.tolist()
        inner, cost = self.prepare(model, objective, forget_set, key)
        mask = expert_mask(model, mixtures[block], experts, config.router == "whole")
        with routed(mixtures[block]) as heard, model.moving_only(mask):
            loss = _Anchored(inner, heard, experts, config.anchor)
            outcome = paired(self.setting, model, objective, forget_set, retained, config, loss, key)
        after = self._attributed(model, forget_set)[block]
        notes = {
            "expert_block": float(block),
            "expert_share": float(shares[block][experts].sum()),
            "expert_share_after": float(after[experts].sum()),
        }
        return (outcome + cost + Outcome(forward=2 * len(forget_set))).noted(**notes).graded("none")

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
