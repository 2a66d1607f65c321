"""UniCLUN: one student, a teacher that averages what it was, and one that has learned nothing, for what must go."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._contrastive import contrastive_distillation, rotated_views, supervised_contrastive
from strategies.objectives._base import ClassObjective
from strategies.parts.fit import Hooks, fit
from strategies.parts.memory.buffers import keep_uniform
from strategies.parts.model import FlatModel, Network
from strategies.parts.teachers.divergence import softened_kl
from strategies.parts.teachers.tap import Tap
from strategies.parts.weights.layers import redraw
from strategies.ranges import linear, log, to_one
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.positions import positions_in
from streams.randomness import Key, seeded_torch

_NOTHING = np.array([], dtype=np.int64)


class Config(BaseConfig):
    """Options of `unified-kd` (Chatterjee et al. 2024, arXiv 2408.11374, on OCD-Net of Li et al. 2022)."""

    memory: int = Field(5120, ge=1)
    """Samples kept."""
    batch: int | None = Field(None, ge=1)
    """Samples drawn from them at each step; null takes the training batch size."""
    replay: float = Field(1.0, ge=0)
    """Weight of the loss on drawn samples."""
    distil: float = Field(0.1, ge=0)
    """a1: weight of the squared difference to the teacher's logits, times the teacher's confidence in the label."""
    contrast: float = Field(0.1, ge=0)
    """a2: weight of contrastive distillation."""
    supervised: float = Field(0.3, ge=0)
    """a3: weight of the supervised contrastive loss."""
    rotate: float = Field(0.3, ge=0)
    """Weight of telling how far images were turned (0, 90, 180 or 270 degrees)."""
    rotations: bool | None = None
    """Whether turned images are the second view of the two terms above. null: where inputs are square images. Without,
    the contrastive term has one view and the last term is not there."""
    temperature: float = Field(0.07, gt=0)
    """Of both contrastive terms."""
    projection: int = Field(64, ge=1)
    """Outputs of the network that makes the vectors to contrast."""
    decay: float = Field(0.999, ge=0, lt=1)
    """The teacher's highest rate: at its k-th step it keeps min(1 - 1 / (k + 1), decay) of itself."""
    chance: float = Field(0.7, gt=0, le=1)
    """Chance that the teacher moves at a step."""
    gamma: float | None = Field(0.5, ge=0, le=1)
    """Weight of what is kept against what goes, gamma L_cl + (1 - gamma) L_cu, while a request is served; the paper's
    value is not known to us. null: their plain sum, as in the released code. Learning is all L_cl."""
    teacher: Literal["clear", "keep"] = "clear"
    """What becomes of the teacher at a request. clear: nothing is distilled from it, and it starts again as a copy of
    the unlearned student. keep: it goes on (the released code), and teaches again what was to be forgotten."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the forget set; null takes those of training."""
    lr: float | None = Field(None, gt=0)
    """Learning rate while a request is served; null takes that of training."""


def teacher_rate(step: int, decay: float) -> float:
    """Return what the teacher keeps of itself at its step number `step` (from 1): min(1 - 1 / (step + 1), decay).

    >>> [round(teacher_rate(k, 0.999), 3) for k in (1, 2, 9, 5000)]
    [0.5, 0.667, 0.9, 0.999]
    """
    return min(1 - 1 / (step + 1), decay)


@final
class _Heads(nn.Module):
    """The classifier, and two small networks beside it: vectors to contrast, and quarter turns."""

    def __init__(self, classes: nn.Linear, projection: int) -> None:
        super().__init__()
        width = classes.in_features
        self.classes = classes
        self.project = _tower(width, projection)
        self.turns = _tower(width, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classes(features)
        return logits


def _tower(width: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


@final
class UnifiedKD(Strategy):
    """Learning and forgetting are one loss, gamma L_cl + (1 - gamma) L_cu.

    L_cl is the loss of the experience plus, on a draw of the memory: the loss, the confidence-weighted squared
    difference to the teacher, contrastive distillation from it; and the supervised contrastive loss of both. L_cu is
    the divergence of the student from a random network on the forget set. Nothing about it is exact.
    """

    supports = frozenset({"classes"})
    test_options = {"memory": 30, "batch": 8, "projection": 8, "epochs": 1}
    ranges = {
        "distil": log(0.01, 1.0),
        "contrast": log(0.01, 1.0),
        "supervised": log(0.03, 3.0),
        "gamma": linear(0.1, 0.9),
        "decay": to_one(0.9, 0.9999),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with student and teacher at the initial weights.

        Raises:
            ConfigError: the model's head is not linear.
        """
        self.config, self.setting, self.objective = config, setting, ClassObjective.of(setting.objective)
        self.names = setting.key / "unified-kd"
        self.student, self.teacher = self._make_model(), self._make_model()
        self.teacher.train(False)
        self.steps = 0
        self.memory = _NOTHING
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True, retained=self.config.memory)

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Minimise L_cl; the memory fills on the way, so that samples are replayed within their own experience."""
        key = self.names / experience.name / experience.incarnation
        new_data = door.fetch(experience.sample_ids)
        earlier = np.setdiff1d(self.memory, experience.sample_ids)
        pool = new_data.joined(door.fetch(earlier)) if len(earlier) else new_data
        with _Keep(self, pool, key, remember=True, teach=True) as keep:
            outcome = fit(self.student, self.setting.objective, new_data, self.setting.training, key, [keep])
        self._derived[experience.sample_ids] = True
        return outcome + Outcome(forward=keep.forward, backward=keep.backward, losses=outcome.losses)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Minimise gamma L_cl on the memory + (1 - gamma) KL(random network || student) on the forget set."""
        config, key = self.config, self.names / request.name
        self.memory = self.memory[~np.isin(self.memory, request.sample_ids)]
        clear = config.teacher == "clear"
        changes = {"epochs": config.epochs, "lr": config.lr}
        training = self.setting.training.model_copy(update={k: v for k, v in changes.items() if v is not None})
        pool = door.fetch(self.memory) if len(self.memory) else None
        bad = redraw(self.setting.make_model(), self.names / "unlearning-teacher")
        bad.train(False)
        objective = self.objective
        with _Keep(self, pool, key, remember=False, teach=not clear) as keep:
            hooks: list[Hooks] = [_Forget(objective, bad, keep, config.gamma)]
            outcome = fit(self.student, objective, door.forget_set(), training, key, hooks)
        if clear:
            self.teacher.take_over(self.student)
            self.steps = 0
        counted = Outcome(forward=keep.forward + outcome.forward, backward=keep.backward)
        return (outcome + counted).graded("none")

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        self.student.train(False)
        return self.setting.objective.outputs(self.student, batch)

    @torch.inference_mode()
    @override
    def features(self, batch: Batch) -> torch.Tensor:
        self.student.train(False)
        return self.setting.objective.features(self.student, batch)

    @override
    def network(self) -> FlatModel:
        model = self._make_model()
        model.take_over(self.student)
        return model

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what student and teacher were derived from: all that was ever learned."""
        held = ids[self._derived[ids]]
        return {"weights": held, "teacher": held} if len(held) else {}

    @override
    def stored_ids(self) -> np.ndarray:
        return self.memory

    @override
    def state_dict(self) -> State:
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "steps": self.steps,
            "memory": torch.from_numpy(self.memory.copy()),
            "derived": torch.from_numpy(self._derived.copy()),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.steps = state["steps"]
        self.memory = state["memory"].numpy().copy()
        self._derived = state["derived"].numpy().copy()

    def _make_model(self) -> FlatModel:
        model = self.setting.make_model()
        head = model.network.head
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"isolated: unified-kd needs a linear head; the model has a {type(head).__name__}.")
        with seeded_torch(self.names / "heads"):
            heads = _Heads(head, self.config.projection).to(model.parameters.device)
        for parameter in model.network.parameters():  # they are views of a vector that ends here
            parameter.data, parameter.grad = parameter.data.clone(), None
        return FlatModel(Network(model.network.body, heads, model.network.passing))


@final
class _Keep(Hooks):
    """L_cl, as terms on top of the loss of a batch; a context, since it listens to the student's body."""

    carries = ("_step", "forward", "backward", "_s.memory", "_s.steps", "_s.teacher")

    def __init__(self, strategy: UnifiedKD, pool: Data | None, key: Key, remember: bool, teach: bool) -> None:
        """Draw from the memory, which is in `pool` at any time.

        Args:
            strategy: whose student is trained.
            pool: what the memory holds or may hold soon, or None.
            key: names all draws.
            remember: whether the samples of each batch compete for places in the memory.
            teach: whether there is a teacher, which follows the student.
        """
        self._s, self._pool, self._key, self._remember, self._teach = strategy, pool, key, remember, teach
        self._step = self.forward = self.backward = 0

    def __enter__(self) -> _Keep:
        self.tap = Tap(self._s.student, self._s.student.network.body)
        return self

    def __exit__(self, *_: object) -> None:
        self.tap.close()

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        features = self.tap.take(batch)
        loss = self.kept(loss, [(batch, features)])
        if self._remember:
            s = self._s
            ids = np.union1d(s.memory, batch.ids.cpu().numpy())
            s.memory = keep_uniform(ids, s.config.memory, s.names / "memory")
        return loss

    def kept(self, loss: torch.Tensor, parts: list[tuple[Batch, torch.Tensor]]) -> torch.Tensor:
        """Return `loss` plus the terms of a draw of the memory, and the contrastive ones of it and of `parts`."""
        s, config, size = self._s, self._s.config, self._s.config.batch or self._s.setting.training.batch_size
        if self._pool is not None and len(s.memory):
            order = (self._key / "memory" / self._step).order(s.memory)[:size]
            rows = positions_in(self._pool.ids, np.sort(s.memory[order]))
            drawn = self._pool.batch(torch.from_numpy(rows).to(s.student.parameters.device))
            drawn = s.objective.drawn(drawn, self._key / "drawn" / self._step)
            features = s.objective.features(s.student, drawn)
            loss = loss + self._rehearsed(drawn, features)
            parts = [*parts, (drawn, features)]
            self.forward, self.backward = self.forward + len(drawn), self.backward + len(drawn)
        if sum(len(b) for b, _ in parts) > 1 and (config.supervised or config.rotate):  # batch norms need two samples
            loss = loss + self._contrasted(parts)
        return loss

    @override
    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        """Let the teacher follow, by chance."""
        self._step += 1
        s = self._s
        if not self._teach:
            return
        s.steps += 1
        if float((self._key / "teacher").uniform(np.array([self._step]))[0]) < s.config.chance:
            rate = teacher_rate(s.steps, s.config.decay)
            s.teacher.parameters.mul_(rate).add_(s.student.parameters, alpha=1 - rate)
            buffers = zip(s.teacher.network.buffers(), s.student.network.buffers(), strict=True)
            for teacher_buffer, student_buffer in buffers:
                teacher_buffer.copy_(student_buffer)

    def _rehearsed(self, drawn: Batch, features: torch.Tensor) -> torch.Tensor:
        """Return the loss on a draw of the memory, and what the teacher makes of it."""
        s, config, objective = self._s, self._s.config, self._s.objective
        heads = s.student.network.head
        assert isinstance(heads, _Heads)
        logits = heads(features)
        total = config.replay * objective.losses(objective.mask(logits, drawn), drawn).mean()
        if not self._teach or not (config.distil or config.contrast):
            return total
        with torch.no_grad():
            taught_features = objective.features(s.teacher, drawn)
            teacher_heads = s.teacher.network.head
            assert isinstance(teacher_heads, _Heads)
            taught = objective.mask(teacher_heads(taught_features), drawn)
            vectors = F.normalize(teacher_heads.project(taught_features), dim=1)
            confidence = taught.softmax(1).gather(1, drawn.y.unsqueeze(1)).squeeze(1)
        self.forward += len(drawn)
        permitted = taught.isfinite()
        squared = (logits - taught.masked_fill(~permitted, 0.0)).masked_fill(~permitted, 0.0).square()
        weighted = confidence * squared.sum(1) / permitted.sum(1)
        total = total + config.distil * weighted.mean()
        if config.contrast and len(drawn) > 1:
            student_vectors = F.normalize(heads.project(features), dim=1)
            total = total + config.contrast * contrastive_distillation(
                student_vectors, vectors, drawn.y, config.temperature
            )
        return total

    def _contrasted(self, parts: list[tuple[Batch, torch.Tensor]]) -> torch.Tensor:
        """Return the supervised contrastive loss, and that of telling turns apart where images can be turned."""
        s, config = self._s, self._s.config
        heads = s.student.network.head
        assert isinstance(heads, _Heads)
        x, labels = torch.cat([b.x for b, _ in parts]), torch.cat([b.y for b, _ in parts])
        views = [F.normalize(heads.project(torch.cat([f for _, f in parts])), dim=1)]
        total = views[0].new_zeros(())
        if self._rotates(x):
            generator = (self._key / "views" / self._step).torch()
            turns = torch.randint(0, 4, (len(x),), generator=generator).to(labels)
            features = s.student.features(rotated_views(x, turns, generator))
            views.append(F.normalize(heads.project(features), dim=1))
            total = config.rotate * F.cross_entropy(heads.turns(features), turns)
            self.forward, self.backward = self.forward + len(x), self.backward + len(x)
        return total + config.supervised * supervised_contrastive(views, labels, config.temperature)

    def _rotates(self, x: torch.Tensor) -> bool:
        rotations = self._s.config.rotations
        possible = x.ndim == 4 and x.shape[-1] == x.shape[-2]
        if rotations and not possible:
            raise ConfigError(
                f"isolated.rotations: true, but inputs have the shape {tuple(x.shape[1:])}; only square images "
                f"[C, H, H] can be turned. Leave rotations null, or set it to false."
            )
        return possible if rotations is None else rotations


@final
class _Forget(Hooks):
    """While a request is served: the divergence from a random network instead of the loss, and L_cl of the memory."""

    carries = ("_keep",)

    def __init__(self, objective: ClassObjective, bad: FlatModel, keep: _Keep, gamma: float | None) -> None:
        self._objective, self._bad, self._keep, self._gamma = objective, bad, keep, gamma

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return KL(random network || student) of every sample."""
        with torch.no_grad():
            taught = self._objective.outputs(self._bad, batch)
        return softened_kl(outputs, taught, 1.0)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        kept = self._keep.kept(loss.new_zeros(()), [])
        self._keep.tap.take(batch)
        return loss + kept if self._gamma is None else (1 - self._gamma) * loss + self._gamma * kept

    @override
    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self._keep.stepped(gradient, change)
