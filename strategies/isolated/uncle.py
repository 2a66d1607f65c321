"""UnCLe: a hypernetwork makes the weights of every task; a request pulls those of a task to noise, without data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._whole_tasks import Finer, named_tasks
from strategies.objectives._base import ClassObjective
from strategies.parts.model import FlatModel, Network
from strategies.parts.passes import FitConfig, Passes, passes
from strategies.parts.sharding.ensembles import pool
from strategies.parts.training.optimizers import make_optimizer
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest, Experience
from streams.randomness import seeded_globals

_NOTHING = np.array([], dtype=np.int64)
Kind = Literal["weight", "bias", "norm-scale", "norm-shift"]


class Config(BaseConfig):
    """Options of `uncle` (arXiv 2509.17530). An independent reproduction of its numbers failed."""

    code: int = Field(32, ge=1)
    """Numbers in a task's code, and in a chunk's."""
    hidden: tuple[int, ...] = Field((128, 256, 512), min_length=1)
    """Widths of the hypernetwork's trunk."""
    chunks: int = Field(200, ge=1)
    """Pieces in which the weights are made."""
    preserve: float = Field(0.1, ge=0)
    """beta: weight of the squared change of the protected tasks' weights (0.1, 0.01 or 0.001 in the paper)."""
    unlearn: float = Field(0.01, gt=0)
    """gamma: weight of the squared distance of a forgotten task's weights to noise."""
    draws: int = Field(10, ge=1)
    """Draws of noise in each step."""
    lr: float = Field(1e-3, gt=0)
    """Adam's learning rate while a request is served; learning takes that of training."""
    steps: int = Field(100, ge=1)
    """Steps that serve the first request; each later one takes 10 % fewer."""
    floor: int = Field(20, ge=1)
    """Never fewer than that."""
    forgotten: Literal["drop", "keep", "protect"] = "drop"
    """What becomes of the code of a forgotten task. drop: deleted; keep: it still answers for its task, so that relapse
    can be seen (the released code); protect: and later learning must not change what it makes."""
    finer: Finer = "refuse"
    """What becomes of requests for a part of a task: refuse them, or give the whole task up with it."""


@dataclass(slots=True, eq=False)
class _Task:
    """A task with its code, and the statistics of the norms under its weights."""

    experience: str
    incarnation: int
    units: tuple[int, ...]
    ids: np.ndarray
    code: torch.Tensor
    buffers: dict[str, torch.Tensor]
    forgotten: bool = False


def burn_in(first: int, floor: int, served: int) -> int:
    """Return the steps of a request, given how many were served before.

    >>> [burn_in(100, 20, n) for n in (0, 1, 2, 3, 7, 30)]
    [100, 90, 81, 72, 45, 20]
    """
    steps = first
    for _ in range(served):
        steps = int(steps * 0.9)
    return max(steps, min(floor, first))


@final
class Uncle(Strategy):
    """Task and chunk codes go in, the target network's weights come out, chunk by chunk.

    Learning is held to what the network made before for the protected tasks. Forgetting pulls the weights of the task
    towards noise that is drawn anew in each step; since its mean is zero, the weights collapse to zero rather than turn
    into noise. Without task labels, each task speaks for its classes. Norm statistics are kept per task.
    """

    supports = frozenset({"classes"})
    state_grows = True
    within_units = True
    test_options = {"hidden": [16], "chunks": 4, "steps": 4, "floor": 2, "finer": "coarsen"}
    ranges = {"preserve": log(1e-3, 1.0), "unlearn": log(1e-3, 1.0), "lr": log(1e-4, 1e-2), "steps": linear(20, 200)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make the hypernetwork for the setting's model."""
        self._config, self._setting = config, setting
        self._objective = ClassObjective.of(setting.objective)
        self._names = setting.key / "uncle"
        self._shell = setting.make_model()
        self._target = self._shell.network.requires_grad_(False)
        self._buffers = {n: b.clone() for n, b in self._target.named_buffers()}
        self._kinds = _kinds(self._target)
        self._shapes = {n: p.shape for n, p in self._target.named_parameters()}
        self._slice = math.ceil(max(s.numel() for s in self._shapes.values()) / config.chunks)
        device = next(self._target.parameters()).device
        with seeded_globals(self._names / "init"):
            self._hyper = FlatModel(self._make_hyper().to(device))
            self._chunks = torch.randn(config.chunks, config.code).to(device)
        self._tasks: list[_Task] = []
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._given_up = _NOTHING
        self._served = 0
        self._codes_set = False

    @property
    @override
    def access(self) -> Access:
        return Access()

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train the hypernetwork and the task's code on the experience; the chunk codes too, in the first task only."""
        training, key = self._setting.training, self._names / experience.name / experience.incarnation
        data = door.fetch(experience.sample_ids)
        code = torch.randn(self._config.code, generator=(key / "code").torch()).to(self._chunks).requires_grad_(True)
        protected = [t for t in self._tasks if not t.forgotten or self._config.forgotten == "protect"]
        before = [self._weights(t.code) for t in protected]
        chunks = self._chunks.clone().requires_grad_(not self._codes_set)
        trained = [(self._hyper.parameters, self._hyper.gradient), (code, None)]
        trained += [] if self._codes_set else [(chunks, None)]
        optimizers = [make_optimizer(training, tensor) for tensor, _ in trained]
        self._set_buffers(self._buffers)

        def loss_on(batch: Batch) -> torch.Tensor:
            outputs = self._outputs(self._generate(code, chunks), batch, experience.units)
            change = self._change(protected, before, chunks)
            return self._objective.losses(outputs, batch).mean() + self._config.preserve * change

        def loss_of(size: int) -> torch.Tensor:
            return loss_on(data.batch(data.positions()[:size]))

        moving = [*(tensor for tensor, _ in trained), *optimizers]
        with passes(self._shell, training, key / "noise", loss_of, moving) as steps:
            for batch in steps.over(data, key):
                loss = loss_on(batch)
                self._hyper.gradient.zero_()
                code.grad = chunks.grad = None
                loss.backward()
                for (tensor, gradient), optimizer in zip(trained, optimizers, strict=True):
                    slope = tensor.grad if gradient is None else gradient
                    assert slope is not None
                    optimizer.step(tensor.detach(), steps.clip(slope))
                steps.samples += len(batch)
                steps.done(loss)
        outcome = steps.outcome(*(tensor for tensor, _ in trained), losses={"loss": float(steps.loss)})
        self._chunks, self._codes_set = chunks.detach(), True
        buffers = {n: b.clone() for n, b in self._target.named_buffers()}
        self._tasks.append(
            _Task(
                experience.name,
                experience.incarnation,
                experience.units,
                experience.sample_ids,
                code.detach(),
                buffers,
            )
        )
        self._derived[experience.sample_ids] = True
        return self._with_stranded(outcome)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Pull the weights of the tasks that are named towards noise, and hold the others.

        Raises:
            RequestError: only a part of a task is named, and `finer` is refuse.
        """
        forgotten_ids = request.sample_ids
        named, unasked = named_tasks(request, [t for t in self._tasks if not t.forgotten], self._config.finer, "uncle")
        self._given_up = np.union1d(self._given_up, unasked)
        self._given_up = self._given_up[~np.isin(self._given_up, forgotten_ids)]
        outcome = self._erase(named, request.name) if named else Outcome()
        for task in named:
            task.forgotten, task.ids = True, _NOTHING
            task.buffers = {n: b.clone() for n, b in self._buffers.items()}
        if self._config.forgotten == "drop":
            self._tasks = [t for t in self._tasks if not t.forgotten]
        return self._with_stranded(outcome).graded("none")

    @torch.no_grad()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return pooled log probabilities ``[B, C]``, each task speaking for its classes."""
        self._target.train(False)
        if not self._tasks:
            return self._objective.mask(self._logits(self._buffers, batch), batch)
        parts = []
        for task in self._tasks:
            # statistics are handed over, not written: a lesson may be going on, with its own in the network
            outputs = self._logits(self._weights(task.code) | task.buffers, batch)
            parts.append((self._objective.mask(outputs, batch).log_softmax(1), self._classes(task.units)))
        return pool(parts)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: each task has features of its own."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the hypernetwork was derived from: everything it has learned."""
        held = ids[self._derived[ids]]
        return {"weights": held} if len(held) else {}

    @override
    def stored_ids(self) -> np.ndarray:
        return _NOTHING

    @override
    def state_dict(self) -> State:
        return {
            "hyper": self._hyper.state_dict(),
            "chunks": self._chunks.clone(),
            "codes_set": self._codes_set,
            "served": self._served,
            "derived": torch.from_numpy(self._derived.copy()),
            "given_up": {"derived": torch.from_numpy(self._given_up.copy())},
            "tasks": [
                {
                    "experience": t.experience,
                    "incarnation": t.incarnation,
                    "units": list(t.units),
                    "derived": torch.from_numpy(t.ids.copy()),
                    "code": t.code.clone(),
                    "buffers": {n: b.clone() for n, b in t.buffers.items()},
                    "forgotten": t.forgotten,
                }
                for t in self._tasks
            ],
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._hyper.load_state_dict(state["hyper"])
        self._chunks = state["chunks"].clone()
        self._codes_set, self._served = state["codes_set"], state["served"]
        self._derived = state["derived"].numpy().copy()
        self._given_up = state["given_up"]["derived"].numpy().copy()
        self._tasks = [
            _Task(
                t["experience"],
                t["incarnation"],
                tuple(t["units"]),
                t["derived"].numpy().copy(),
                t["code"].clone(),
                {n: b.clone() for n, b in t["buffers"].items()},
                t["forgotten"],
            )
            for t in state["tasks"]
        ]

    def _erase(self, named: list[_Task], request: str) -> Outcome:
        steps = burn_in(self._config.steps, self._config.floor, self._served)
        self._served += 1
        preserved = [
            t for t in self._tasks if t not in named and (not t.forgotten or self._config.forgotten == "protect")
        ]
        before = [self._weights(t.code) for t in preserved]
        training = self._setting.training
        config = FitConfig(optimizer="adam", lr=self._config.lr, clip_norm=training.clip_norm, bn_mode=training.bn_mode)
        optimizer = make_optimizer(config, self._hyper.parameters)
        passed, loss = Passes(self._shell, config), torch.zeros(())
        for step in range(steps):
            generator = (self._names / request / step).torch()
            loss = self._config.preserve * self._change(preserved, before, self._chunks)
            for task in named:
                weights = torch.cat([w.flatten() for w in self._generate(task.code, self._chunks).values()])
                noise = torch.randn(self._config.draws, len(weights), generator=generator).to(weights)
                loss = loss + self._config.unlearn * (weights - noise).square().sum(1).mean() / len(named)
            self._hyper.gradient.zero_()
            loss.backward()
            optimizer.step(self._hyper.parameters, passed.clip(self._hyper.gradient))
            passed.done(loss)
        return passed.outcome(self._hyper.parameters, losses={"unlearn": float(loss.detach())})

    def _change(self, tasks: list[_Task], before: list[dict[str, torch.Tensor]], chunks: torch.Tensor) -> torch.Tensor:
        """Return the mean over tasks of the squared norm of the change of their weights; 0 for no task."""
        total = torch.zeros((), device=self._chunks.device)
        for task, old in zip(tasks, before, strict=True):
            now = self._generate(task.code, chunks)
            total = total + torch.stack([(now[n] - old[n]).square().sum() for n in old]).sum()
        return total / max(1, len(tasks))

    @torch.no_grad()
    def _weights(self, code: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._generate(code, self._chunks)

    def _generate(self, code: torch.Tensor, chunks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the target network's parameters for a task's code."""
        rows = self._hyper.network.body(torch.cat([code.expand(len(chunks), -1), chunks], 1))
        heads = self._hyper.network.head
        assert isinstance(heads, nn.ModuleDict)
        parameters = {}
        for kind, names in self._kinds.items():
            out = heads[kind](rows).view(len(chunks), len(names), self._slice)
            for number, name in enumerate(names):
                shape = self._shapes[name]
                parameters[name] = out[:, number].reshape(-1)[: shape.numel()].view(shape)
        return parameters

    def _outputs(self, weights: dict[str, torch.Tensor], batch: Batch, units: tuple[int, ...]) -> torch.Tensor:
        outputs = self._logits(weights, batch)
        others = torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        others[list(self._classes(units))] = False
        return outputs.masked_fill(others, float("-inf"))

    def _logits(self, weights: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        return self._objective.logits(lambda *inputs: functional_call(self._target, weights, inputs), batch)

    def _make_hyper(self) -> Network:
        """Build trunk and heads; weights are drawn so that what is made has variance 1 / fan-in (hyperfan-in)."""
        widths = (2 * self._config.code, *self._config.hidden)
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        heads = nn.ModuleDict()
        for kind, names in self._kinds.items():
            head = nn.Linear(widths[-1], len(names) * self._slice)
            with torch.no_grad():
                head.bias.zero_()
                for number, name in enumerate(names):
                    fan_in = self._shapes[name][1:].numel() if kind == "weight" else 1
                    bound = math.sqrt(3 / (widths[-1] * fan_in))
                    head.weight[number * self._slice : (number + 1) * self._slice].uniform_(-bound, bound)
            heads[kind] = head
        return Network(nn.Sequential(*layers), heads)

    def _set_buffers(self, buffers: dict[str, torch.Tensor]) -> None:
        for name, buffer in self._target.named_buffers():
            buffer.copy_(buffers[name])

    def _classes(self, units: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def _with_stranded(self, outcome: Outcome) -> Outcome:
        return outcome.noted(stranded_samples=float(len(self._given_up)))


def _kinds(network: nn.Module) -> dict[Kind, list[str]]:
    """Return the parameters of each kind; every kind has a head of its own."""
    by_kind: dict[Kind, list[str]] = {"weight": [], "bias": [], "norm-scale": [], "norm-shift": []}
    for path, module in network.named_modules():
        norm = isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm)
        for name, parameter in module.named_parameters(path, recurse=False):
            matrix: Any = parameter.ndim > 1
            kind: Kind = ("norm-scale" if name.endswith("weight") else "norm-shift") if norm else "weight"
            if not norm and not matrix:
                kind = "bias"
            by_kind[kind].append(name)
    return {kind: names for kind, names in by_kind.items() if names}
