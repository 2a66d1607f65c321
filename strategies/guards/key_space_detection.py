"""Key space detection: refuse prompts whose keys in a feed-forward layer lie where those of the forgotten ones lay."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._per_request import PerRequest
from strategies.guards._refusal import with_refusals
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import blocks_of, check_block
from strategies.parts.weights.feed_forward import way_out
from strategies.ranges import linear
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest
from streams.text import prompt_lengths

_METHOD = "guard: 'key-space-detection'"


class Config(BaseConfig):
    """Options of `key-space-detection` (Li et al. 2025, arXiv 2503.21730). It suppresses; it does not erase."""

    blocks: tuple[int, ...] | None = None
    """Blocks whose keys are looked at, from 0; any of them may refuse. null takes the one in the middle."""
    reach: float = Field(1.0, ge=0)
    """c: a cube reaches c times as far as the farthest key of the request. 0 refuses nothing (published: 0.06 to 2)."""
    outside: float = Field(0.0, ge=0, lt=1)
    """Share of a key's features that may lie outside. With 0, as published, one is enough: where features outnumber the
    request's prompts, hardly any prompt in other words lies inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Cube:
    """Where the keys of a request's prompts lie in one block.

    Attributes:
        mean, spread: float32 ``[F]``; spread is 0 for features that do not vary, which do not count.
        radius: k, the smallest number of spreads that holds all of them.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    radius: float

    def holds(self, keys: torch.Tensor, reach: float, outside: float) -> torch.Tensor:
        """Return which of the keys ``[n, F]`` lie inside a cube of `reach` times the radius, bool ``[n]``."""
        counts = self.spread > 0
        if not reach or not bool(counts.any()):
            return torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        # The farthest key is a border case that rounding must not throw out.
        limit = reach * self.radius * self.spread[counts] * (1 + 1e-5)
        beyond = (keys[:, counts] - self.mean[counts]).abs() > limit
        return beyond.float().mean(1) <= outside


def cube_of(keys: torch.Tensor) -> Cube:
    """Return the cube of keys ``[n, F]``: k = max_i max_j |x_ij - m_j| / s_j, s with n - 1.

    Features whose spread is below 1e-6 of the root mean square of all do not count.
    """
    mean = keys.mean(0)
    spread = keys.std(0, correction=1) if len(keys) > 1 else torch.zeros_like(mean)
    spread = torch.where(spread < 1e-6 * keys.square().mean().sqrt(), torch.zeros_like(spread), spread)
    counts = spread > 0
    distances = (keys[:, counts] - mean[counts]).abs() / spread[counts]
    return Cube(mean, spread, float(distances.max()) if bool(counts.any()) else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names.
        cubes: of each block.
        derived: ids that the cubes derive from: those of the prompts, and of the weights that made keys of them.
    """

    request: str
    ids: np.ndarray
    cubes: tuple[Cube, ...]
    derived: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Last:
    """What was said of the last prompts.

    Attributes:
        model: whose keys they had.
        version: counts the changes of its weights; None where nobody counts them.
        requests: what was kept then.
        inside: by a prompt's tokens, whether it is refused.
    """

    model: weakref.ref[FlatModel]
    version: int | None
    requests: tuple[_Request, ...]
    inside: dict[bytes, bool]

    def is_of(self, model: FlatModel, requests: list[_Request]) -> bool:
        """Whether it holds for a model as it is, and what is kept now."""
        is_same = self.model() is model and self.version is not None and self.version == _version(model)
        return is_same and self.requests == tuple(requests)


def _version(model: FlatModel) -> int | None:
    return None if model.parameters.is_inference() else model.parameters._version


@final
class KeySpaceDetection(PerRequest[_Request]):
    """A union of cubes, one per request and block. What lies in none is answered by the model as it is, to the bit."""

    config: Config
    supports = frozenset({"tokens"})
    component = "cube"
    ranges = {"reach": linear(0.05, 2.0), "outside": linear(0.0, 0.5)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: a block is not there, or has no feed-forward layer of the known form.
        """
        super().__init__(config, setting)
        self._refusal = self._objective.needed_text(_METHOD).refusals[0]
        blocks = blocks_of(setting.outline())
        self._blocks = ((len(blocks) - 1) // 2,) if config.blocks is None else config.blocks
        for block in self._blocks:
            check_block(blocks, block, "guard.blocks")
            way_out(blocks[block], _METHOD)
        self._last: _Last | None = None

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Note where the keys of the request's prompts lie."""
        forget_set = door.forget_set()
        learner.model.train(False)
        parts = [self._keys(learner.model, batch) for batch in self._objective.batches(forget_set, 64)]
        cubes = tuple(cube_of(torch.cat(of_block)) for of_block in zip(*parts, strict=True))
        derived = np.union1d(forget_set.ids, in_weights(learner, self.setting.num_samples))
        self.keep(_Request(request.name, forget_set.ids.copy(), cubes, derived))
        radius = float(np.mean([c.radius for c in cubes]))
        return Outcome(forward=len(forget_set)).noted(cube_radius=radius).graded("none")

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, and a refusal where a prompt's key lies in a cube."""
        outputs = self._objective.outputs(model, batch)
        inside = self._inside(model, batch)
        if not any(inside):
            return outputs
        refusals = [self._refusal if refused else None for refused in inside]
        return with_refusals(outputs, batch, refusals, self._objective.num_outputs)

    @override
    def told(self, kept: _Request) -> State:
        return {"cubes": [{"mean": c.mean, "spread": c.spread, "radius": c.radius} for c in kept.cubes]}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        cubes = tuple(Cube(c["mean"], c["spread"], float(c["radius"])) for c in state["cubes"])
        return _Request(request, ids, cubes, derived)

    def _inside(self, model: FlatModel, batch: Batch) -> list[bool]:
        """Return which prompts are refused. While text is made its prompts stay the same, and are looked at once."""
        if not self._requests:
            return [False] * len(batch)
        lengths = prompt_lengths(batch.x).tolist()
        prompts = [row[:n].cpu().numpy().tobytes() for row, n in zip(batch.x[:, 0], lengths, strict=True)]
        last = self._last
        if last is None or not last.is_of(model, self._requests) or not all(p in last.inside for p in prompts):
            keys = self._keys(model, batch)
            config, found = self.config, torch.zeros(len(batch), dtype=torch.bool, device=batch.x.device)
            for r in self._requests:
                for cube, of_block in zip(r.cubes, keys, strict=True):
                    found |= cube.holds(of_block, config.reach, config.outside)
            last = _Last(
                weakref.ref(model),
                _version(model),
                tuple(self._requests),
                dict(zip(prompts, found.tolist(), strict=True)),
            )
            self._last = last
        return [last.inside[p] for p in prompts]

    @torch.no_grad()
    def _keys(self, model: FlatModel, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return the keys of the prompts in each block, ``[B, F]``: what the map reads at a prompt's last token."""
        heard: dict[int, torch.Tensor] = {}
        blocks = blocks_of(model)
        handles = [
            way_out(blocks[b], _METHOD).register_forward_pre_hook(_keeping(heard, number))
            for number, b in enumerate(self._blocks)
        ]
        try:
            model.features(*batch.inputs)
        finally:
            for handle in handles:
                handle.remove()
        last = prompt_lengths(batch.x) - 1
        rows = torch.arange(len(batch), device=batch.x.device)
        return tuple(heard[number][rows, last].float() for number in range(len(self._blocks)))


def _keeping(heard: dict[int, torch.Tensor], number: int) -> Any:
    def keep(module: nn.Module, args: Sequence[Any]) -> None:
        heard[number] = args[0]

    return keep
