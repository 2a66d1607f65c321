"""Neuron adjust: move neurons that are more active on what is to go to where they lie on what stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._per_request import PerRequest
from strategies.guards._prompts import name_of_prompt
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import way_in, way_out
from strategies.ranges import log
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.events import DeletionRequest

_METHOD = "guard: 'neuron-adjust'"
LEAST = 1e-6
"""Smallest spread of a neuron."""


class Config(BaseConfig):
    """Options of `neuron-adjust` (Li et al. 2025, arXiv 2503.21730). It suppresses; it does not erase."""

    share: float = Field(0.03, ge=0, le=1)
    """Share of all neurons that are adjusted, those whose mean is highest on the forget set compared with retained data
    (published: 0.005 for languages, 0.03 for skills). 0 changes nothing."""
    where: Literal["before", "after"] = "before"
    """Whether a neuron's value is taken before its activation (published; of gated layers, what the gate says), or
    where the layer's last map reads it."""
    draw: Literal["seeded", "likelier"] = "seeded"
    """seeded: where what is to go is the likelier source of a value, it is adjusted with that probability, by a draw
    that is named by prompt, block, position and neuron. likelier: it is adjusted there always."""


@dataclass(frozen=True, slots=True, eq=False)
class Adjusted:
    """Which neurons of one block are adjusted, and where they lie; all but `neurons` are float32.

    Attributes:
        neurons: int64 ``[k]``.
        retained, forget: mean and standard deviation on either kind of data, ``[2, k]``.
    """

    neurons: torch.Tensor
    retained: torch.Tensor
    forget: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names.
        blocks: of each block of the model.
        derived: ids that had a say: those of both kinds of data, and those in the weights that made values of them.
    """

    request: str
    ids: np.ndarray
    blocks: tuple[Adjusted, ...]
    derived: np.ndarray


def of_forgotten(values: torch.Tensor, retained: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    """Return N_f(z) / (N_r(z) + N_f(z)) of ``values [..., k]``: the probability that they come of what is to go.

    Args:
        values: z.
        retained, forget: mean and spread of both normals, ``[2, k]``. Densities are compared as logarithms.
    """

    def log_density(normal: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((values - normal[0]) / normal[1]).square() - normal[1].log()

    return torch.sigmoid(log_density(forget) - log_density(retained))


def mirrored(values: torch.Tensor, retained: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    """Return ``values [..., k]`` carried over to the retained normal, and reflected about its mean.

    z' = 2 mu_r - ((z - mu_f) / sd_f sd_r + mu_r), with the arguments of `of_forgotten`.
    """
    return retained[0] - (values - forget[0]) / forget[1] * retained[1]


@final
class NeuronAdjust(PerRequest[_Request]):
    """Adjusts neurons of every prompt and of every token that is made; requests act one after the other."""

    config: Config
    supports = frozenset({"tokens"})
    component = "neurons"
    test_options = {"share": 0.3}
    ranges = {"share": log(0.001, 0.2)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: a block has no feed-forward layer of the known form.
        """
        super().__init__(config, setting)
        self._key = setting.key / "neuron-adjust"
        for block in blocks_of(setting.outline()):
            self._place(block)

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True, retained="full")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Note where every neuron lies on either kind of data, and choose those that differ most."""
        forget_set, retained = door.forget_set(), door.retained()
        learner.model.train(False)
        of_forget = self._normals(learner.model, forget_set)
        of_retained = self._normals(learner.model, retained) if len(retained) else of_forget
        higher = torch.cat([f[0] - r[0] for f, r in zip(of_forget, of_retained, strict=True)])
        count = round(self.config.share * len(higher)) if len(retained) else 0
        chosen = torch.zeros(len(higher), dtype=torch.bool, device=higher.device)
        chosen[higher.topk(count).indices] = True
        blocks, start = [], 0
        for f, r in zip(of_forget, of_retained, strict=True):
            neurons = chosen[start : start + f.shape[1]].nonzero().squeeze(1)
            blocks.append(Adjusted(neurons, r[:, neurons], f[:, neurons]))
            start += f.shape[1]
        derived = np.union1d(np.union1d(forget_set.ids, retained.ids), in_weights(learner, self.setting.num_samples))
        self.keep(_Request(request.name, forget_set.ids.copy(), tuple(blocks), derived))
        shift = float(higher[chosen].mean()) if count else 0.0
        cost = Outcome(forward=len(forget_set) + len(retained))
        return cost.noted(adjusted_neurons=float(count), adjusted_shift=shift).graded("none")

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the outputs of the model with its neurons adjusted."""
        with self._adjusting(model, batch):
            return self._objective.outputs(model, batch)

    @override
    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        with self._adjusting(model, batch):
            return self._objective.features(model, batch)

    @override
    def told(self, kept: _Request) -> State:
        blocks = [{"neurons": b.neurons, "retained": b.retained, "forget": b.forget} for b in kept.blocks]
        return {"blocks": blocks}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        blocks = tuple(Adjusted(b["neurons"], b["retained"], b["forget"]) for b in state["blocks"])
        return _Request(request, ids, blocks, derived)

    def _place(self, block: nn.Module) -> nn.Module:
        """Return the map whose outputs (before) or inputs (after) are the neurons' values."""
        return way_in(block, _METHOD) if self.config.where == "before" else way_out(block, _METHOD)

    @torch.no_grad()
    def _normals(self, model: FlatModel, data: Data) -> list[torch.Tensor]:
        """Return mean and standard deviation of every neuron over all tokens but padding, of each block ``[2, F]``."""
        sums: list[torch.Tensor] = []
        tokens = 0
        for batch in self._objective.batches(data, 64):
            there = batch.x[:, 1, : int((batch.x[:, 1] > 0).sum(1).max())] > 0
            tokens += int(there.sum())
            values = [v[there].double() for v in self._heard(model, batch)]
            moments = [torch.stack([v.sum(0), v.square().sum(0)]) for v in values]
            sums = [s + m for s, m in zip(sums, moments, strict=True)] if sums else moments
        means = [s / tokens for s in sums]
        spreads = [(m[1] - m[0].square()).clamp(min=0).sqrt().clamp(min=LEAST) for m in means]
        return [torch.stack([m[0], s]).float() for m, s in zip(means, spreads, strict=True)]

    def _heard(self, model: FlatModel, batch: Batch) -> list[torch.Tensor]:
        """Return the values of the neurons of each block, ``[B, T, F]``."""
        heard: dict[int, torch.Tensor] = {}

        def keep(number: int, values: torch.Tensor) -> torch.Tensor:
            heard[number] = values
            return values

        with self._through(model, keep):
            model.features(*batch.inputs)
        return [heard[number] for number in range(len(heard))]

    @contextlib.contextmanager
    def _adjusting(self, model: FlatModel, batch: Batch) -> Iterator[None]:
        """Adjust the neurons of a batch's rows while this is open."""
        if not any(len(b.neurons) for r in self._requests for b in r.blocks):
            yield
            return
        prompts = [name_of_prompt(x) for x in batch.x]

        def adjust(number: int, values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            for request in self._requests:
                block = request.blocks[number]
                z = values[..., block.neurons].float()
                probability = of_forgotten(z, block.retained, block.forget)
                if self.config.draw == "likelier":
                    moved = probability > 0.5
                else:
                    moved = (probability >= 0.5) & (self._drawn(request.request, number, prompts, z) < probability)
                values[..., block.neurons] = torch.where(moved, mirrored(z, block.retained, block.forget), z).to(values)
            return values

        with self._through(model, adjust):
            yield

    def _drawn(self, request: str, block: int, prompts: Sequence[str], like: torch.Tensor) -> torch.Tensor:
        """Return a uniform number for every value ``[B, T, k]``, which what follows a token has no say in."""
        positions = np.arange(like.shape[1])
        keys = [self._key / request / prompt / block for prompt in prompts]
        drawn = np.stack([key.uniforms(positions, like.shape[2]) for key in keys])
        return torch.from_numpy(drawn).to(like)

    @contextlib.contextmanager
    def _through(self, model: FlatModel, change: Any) -> Iterator[None]:
        """Have the values of every block's neurons pass through ``change(block, values [B, T, F])``."""
        handles = []
        try:
            for number, block in enumerate(blocks_of(model)):
                place = self._place(block)
                if self.config.where == "before":
                    handles.append(place.register_forward_hook(_of_output(change, number)))
                else:
                    handles.append(place.register_forward_pre_hook(_of_input(change, number)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _of_output(change: Any, number: int) -> Any:
    return lambda module, args, output: change(number, output)


def _of_input(change: Any, number: int) -> Any:
    return lambda module, args: (change(number, args[0]), *args[1:])
