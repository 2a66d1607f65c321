"""ARCANE: a one-class model per class, so that any request costs only the classes of its samples."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.objectives._base import ClassObjective, FisherEstimator, Objective, Predicts
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.sharding.deltas import pack, unpack
from strategies.parts.sharding.stages import Chain, Stage, partition
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.randomness import Key

_WHOLE = 1024  # samples per pass without gradients


class Config(BaseConfig):
    """Options of `arcane` (Yan et al. 2022, IJCAI)."""

    blocks: int = Field(4, ge=1)
    """Parts of each class that are learned one after the other, with a checkpoint before each."""
    keep: float = Field(1.0, gt=0, le=1)
    """Share of each class that is trained on. It is chosen by the name of each sample and not by its content, so that a
    sample that was left out can be deleted at no cost without having shaped the choice."""
    trains_on: Literal["cumulative", "slice"] = "cumulative"
    """What a block trains on: all of the class so far, or the new block only."""


@final
class _OneClass(Objective):
    """The squared distance of the features to a centre (Deep SVDD; Ruff et al. 2018)."""

    predicts: ClassVar[Predicts] = "numbers"
    measure: ClassVar[str] = "negative_distance"

    def __init__(self, centre: torch.Tensor) -> None:
        self._centre = centre

    @property
    @override
    def num_outputs(self) -> int:
        return len(self._centre)

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        return model.features(batch.x)

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (outputs - self._centre).square().sum(1)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return -self.losses(outputs, batch)

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> None:
        return

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        losses = self.losses(outputs, batch)
        return [(torch.ones_like(losses), losses)]


@final
class Arcane(Strategy):
    """One chain of blocks per class; a class speaks by how close a sample comes to its centre.

    The centre is the mean feature of a class's first block under the initial weights, and distances are in units of
    their mean over what the class was last trained on. No model ever saw another class, so deleting a class is dropping
    its model.
    """

    supports = frozenset({"classes"})
    exact = "always"
    state_grows = True
    test_options = {"blocks": 2}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no class."""
        self._config, self._setting = config, setting
        self._objective = ClassObjective.of(setting.objective)
        self._model = setting.make_model()
        self._width = 0
        self._names = setting.key / "arcane"
        self._chains: dict[int, Chain] = {}

    @property
    @override
    def access(self) -> Access:
        """The remaining data of the classes that a request touches."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Append the experience's blocks to the classes it brings."""
        chosen = experience.sample_ids[(self._names / "keep").uniform(experience.sample_ids) < self._config.keep]
        if not len(chosen):
            return Outcome()
        classes = door.fetch(chosen).targets().cpu().numpy()
        block_of = partition(chosen, self._config.blocks, self._names / "block")
        outcome, stages = Outcome(), 0.0
        for c in np.unique(classes).tolist():
            chain = self._chains.setdefault(c, self._make_chain(c))
            for block in range(self._config.blocks):
                own = chosen[(classes == c) & (block_of == block)]
                done = chain.learn(Stage(experience.name, experience.incarnation, block, own), door)
                stages += done.notes.get("stages", 0.0)
                outcome += done
        return outcome.noted(stages=stages)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Train every class that saw a sample again from before the first block with one; drop what has none left."""
        outcome, stages = Outcome(), 0.0
        for chain in self._chains.values():
            done = chain.forget(request.sample_ids, door)
            stages += done.notes.get("stages", 0.0)
            outcome += done
        self._chains = {c: chain for c, chain in self._chains.items() if chain.stages}
        return outcome.noted(stages=stages).graded("bits")

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return minus the distance to each class's centre ``[B, C]``; classes without a model come last."""
        self._model.train(False)
        outputs = torch.full((len(batch), self._objective.num_outputs), float("-inf"), device=batch.x.device)
        for c, chain in self._chains.items():
            centre, scale = self._load(chain.state)
            one_class = _OneClass(centre)
            outputs[:, c] = -one_class.losses(one_class.outputs(self._model, batch), batch) / scale
        if not self._chains:
            return self._objective.mask(torch.zeros_like(outputs), batch)
        unknown = [c for c in range(outputs.shape[1]) if c not in self._chains]
        known = list(self._chains)
        outputs[:, unknown] = outputs[:, known].min(1, keepdim=True).values - 1
        return self._objective.mask(outputs, batch)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the classes share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {f"class-{c}": chain.derived_from(ids) for c, chain in self._chains.items()}
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def state_dict(self) -> State:
        return {"classes": [{"class": c, "blocks": self._chains[c].state_dict()} for c in sorted(self._chains)]}

    @override
    def load_state_dict(self, state: State) -> None:
        self._chains = {}
        for entry in state["classes"]:
            self._chains[entry["class"]] = self._make_chain(entry["class"])
            self._chains[entry["class"]].load_state_dict(entry["blocks"])

    def _make_chain(self, c: int) -> Chain:
        # The centre and the scale follow the weights; no number yet.
        unset = np.full((self._feature_width() + 1) * 4, 255, dtype=np.uint8)
        start = np.concatenate([pack(self._setting.make_model()), unset])
        return Chain(start, self._train, self._names / "class" / c, self._config.trains_on == "cumulative")

    def _feature_width(self) -> int:
        if not self._width:
            for name, where in self._model.slices.items():
                if name == "head.weight":
                    self._width = (where.stop - where.start) // self._objective.num_outputs
        if not self._width:
            raise ConfigError("isolated: arcane needs a model whose head is one linear layer that is trained.")
        return self._width

    def _load(self, state: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the weights into the model; return centre and scale."""
        unpack(self._model, state)
        numbers = torch.from_numpy(state[-4 * (self._width + 1) :].copy()).view(torch.float32)
        numbers = numbers.to(self._model.parameters.device)
        return numbers[:-1], numbers[-1]

    def _train(self, state: np.ndarray, data: Data, key: Key) -> tuple[np.ndarray, Outcome]:
        centre, _ = self._load(state)
        forward = 0
        if not bool(centre.isfinite().all()):
            centre, forward = self._features_of(data).mean(0), len(data)
        one_class = _OneClass(centre)
        outcome = fit(self._model, one_class, data, self._setting.training, key)
        distances = (self._features_of(data) - centre).square().sum(1)
        numbers = torch.cat([centre, distances.mean().clamp(min=1e-12).view(1)]).cpu()
        packed = np.concatenate([pack(self._model), numbers.view(torch.uint8).numpy()])
        return packed, outcome + Outcome(forward=forward + len(data))

    @torch.no_grad()
    def _features_of(self, data: Data) -> torch.Tensor:
        self._model.train(False)
        return torch.cat([self._model.features(b.x) for b in data.batches(_WHOLE)])
