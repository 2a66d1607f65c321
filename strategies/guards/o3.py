"""O3: an orthogonal adapter per request beside the weights, and a detector of the request's inputs that gates it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Guard, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._detector import (
    Detector,
    detector_from,
    fit_detector,
    gate_values,
    released_gate,
    soft_gate,
)
from strategies.guards._prompt_encoder import EncoderConfig, PromptEncoder, looked_at
from strategies.guards._relabelled import Relabelled
from strategies.objectives._text import TextObjective
from strategies.parts.fit import FitConfig, fit
from strategies.parts.lowrank.changes import overlap_ratio
from strategies.parts.lowrank.gated import Adapters
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import Refusals, WrongAnswers
from strategies.ranges import linear, log
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key, seeded_globals


class Config(FitConfig):
    """Options of `o3` (Gao et al. 2025, arXiv 2407.10223). It suppresses; it does not erase.

    The options of training are those of a request's adapter.
    """

    epochs: int = Field(10, ge=1)
    """Passes over the used part of the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 3e-4."""
    rank: int = Field(8, ge=1)
    """Rank of an adapter."""
    alpha: float = Field(16.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout of their input while training."""
    orthogonality: float = Field(0.1, ge=0)
    """lambda in lambda sum_i ||A_i A^T||_F^2 over the adapters of earlier requests."""
    adapters: Literal["resume", "stack"] = "stack"
    """stack: a new adapter per request, each with its own gate. resume: one adapter that is trained on from request to
    request (the released code), with the largest gate; what it did for earlier requests may drift."""
    relabel: Literal["refusal", "wrong", "any"] = "refusal"
    """What the adapter answers, drawn once per sample: a refusal, a wrong answer of the source, or any of the wrong
    ones and the true one (the released code on multiple choice)."""
    rest: float = Field(0.2, gt=0, lt=1)
    """Share of the forget set that is kept from adapter and detector, to calibrate the gate."""
    layers: tuple[int, ...] | None = None
    """Blocks of the encoder whose outputs are looked at, from 0; null is all of them. The released code takes the lower
    half."""
    encoder: EncoderConfig = EncoderConfig()
    """How the encoder is trained."""
    gamma: float = Field(1000.0, ge=0)
    """Weight of the cosine to the nearest used sample; with 0 no feature of a sample is stored."""
    score: Literal["consistent", "released"] = "consistent"
    """Whether both parts of a score grow with familiarity; in the released code they oppose each other."""
    leave_out: bool = True
    """Whether a used sample is not its own neighbour. In the released code it is, with a cosine of 1."""
    nu: float = Field(0.1, gt=0, le=1)
    """Share of used samples outside the boundary of the one-class machine, at most."""
    gate: Literal["soft", "hard", "released-qa", "released-tofu"] = "soft"
    """soft: w = sigmoid(sharpness v - 2), as published. hard: 1 for what lies above all but the lowest part of the rest
    (`passes`), else 0. The others are the tables of the released evaluation."""
    sharpness: float = Field(10.0, gt=0)
    """zeta of the soft gate."""
    one_sided: bool = False
    """Whether inputs that are more typical than the calibration data are let through in full. As published they are
    shut out like those that are less typical."""
    spread: Literal["rest", "own"] = "rest"
    """Spread of both normals of the gate: that of the rest (the released code), or each its own."""
    passes: float = Field(0.95, gt=0, lt=1)
    """Share of the rest that a hard gate lets through."""
    min_samples: int = Field(20, ge=1)
    """Below so many used samples covariances are shrunk (Ledoit and Wolf), and the request is flagged."""


@dataclass(frozen=True, slots=True, eq=False)
class _Bundle:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names.
        adapter: of the learner's model.
        encoder: adapter of the encoder.
        detector: says what is like it.
        derived: bool ``[N]``: what the adapter was derived from.
    """

    request: str
    ids: np.ndarray
    adapter: torch.Tensor
    encoder: torch.Tensor
    detector: Detector
    derived: np.ndarray


@final
class O3(Guard):
    """Serves requests by adapters and detectors, and reads nothing but the request's data.

    The encoder of all detectors is the model as it was at the first request, with adapters of its own for every
    request. What is learned later changes the model and not the detectors, while the adapters stay as they were
    trained. A request's bundle goes when none of its samples is deleted any more.
    """

    config: Config

    supports = frozenset({"tokens"})
    state_grows = True
    test_options = {"epochs": 1, "rank": 4, "encoder": {"rank": 4}}
    ranges = {
        "lr": log(1e-4, 1e-2),
        "epochs": linear(1, 20),
        "orthogonality": log(0.01, 1.0),
        "gamma": log(10.0, 1e4),
        "nu": linear(0.01, 0.5),
        "sharpness": log(1.0, 100.0),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: options do not fit the model.
        """
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        self._answering = self._objective.for_unlearning()
        self._key = setting.key / "o3"
        self._encoder = PromptEncoder(setting, self._objective, config.encoder, config.layers)
        self._adapters = Adapters(self._encoder.model, config.rank, config.alpha, config.dropout)
        self._bundles: list[_Bundle] = []
        self._last: dict[bytes, torch.Tensor] = {}  # gates by prompt
        self._encoder_derived = np.zeros(setting.num_samples, dtype=bool)
        self._deleted = np.array([], dtype=np.int64)

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def relearned(self, ids: np.ndarray) -> None:
        """Drop the bundles of requests whose samples are all back."""
        self._last = {}
        self._deleted = np.setdiff1d(self._deleted, ids)
        self._bundles = [b for b in self._bundles if np.isin(b.ids, self._deleted).any()]
        if not self._bundles:
            self._encoder_derived[:] = False  # the next request takes a new encoder

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train an adapter and a detector on the request's data."""
        config, key = self.config, self._key / request.name
        self._last = {}
        data = door.forget_set()
        order = (key / "split").order(data.ids)
        rest_size = min(max(1, round(config.rest * len(data))), len(data) - 1)
        used, rest = (data.part(np.sort(part)) for part in (order[rest_size:], order[:rest_size]))
        if not self._bundles:
            self._encoder.model.take_over(learner.model)
            self._encoder_derived[in_weights(learner, self.setting.num_samples)] = True
        adapter, outcome, ratio = self._train_adapter(learner.model, used, key)
        encoder, cost = self._encoder.adapt(used, key)
        of_used = self._encoder.features_of(used, encoder)
        of_rest = self._encoder.features_of(rest, encoder) if len(rest) else of_used[:, :0]
        with seeded_globals(key / "detector"):  # scikit-learn draws a number that it does not use
            detector, condition = fit_detector(
                of_used,
                of_rest,
                config.gamma,
                config.score,
                config.nu,
                config.spread,
                config.passes,
                shrink=len(used) < config.min_samples,
                leave_out=config.leave_out,
            )
        derived = np.zeros(self.setting.num_samples, dtype=bool)
        if config.adapters == "resume" and self._bundles:
            derived |= self._bundles[-1].derived
        derived[used.ids] = True
        bundle = _Bundle(request.name, data.ids.copy(), adapter, encoder, detector, derived)
        self._bundles.append(bundle)
        self._deleted = np.union1d(self._deleted, data.ids)
        gates = [self._gate(detector, f) for f in (of_used, of_rest) if f.shape[1]]
        notes = {
            "gate_used": float(gates[0].mean()),
            "gate_rest": float(gates[-1].mean()),
            "detector_condition": condition,
            "detector_small": float(len(used) < config.min_samples),
        } | ({} if ratio is None else {"adapter_overlap": ratio})
        gates_of_others = {}
        for earlier in self._bundles[:-1]:
            gate = self._gate(earlier.detector, self._encoder.features_of(data, earlier.encoder))
            gates_of_others[f"{earlier.request} > {request.name}"] = {"gate": float(gate.mean())}
        passes = len(data) * (1 + len(gates_of_others))
        total = outcome + cost + Outcome(forward=passes)
        return total.traced(gates_of_others).traced({"event": notes}).graded("none")

    @torch.no_grad()
    def gates(self, batch: Batch) -> torch.Tensor:
        """Return w of every row and request, ``[B, T]``, in the order in which requests came.

        Those of the last batch are kept until the next event: while text is generated its prompts stay the same.
        """
        seen = looked_at(batch.x)
        prompts = [x[0][s].cpu().numpy().tobytes() for x, s in zip(batch.x, seen, strict=True)]
        if not all(p in self._last for p in prompts):
            self._last = dict(zip(prompts, self._fresh_gates(batch), strict=True))
        return torch.stack([self._last[p] for p in prompts])

    def _fresh_gates(self, batch: Batch) -> torch.Tensor:
        if self.config.encoder.epochs:
            columns = [self._gate(b.detector, self._encoder.features(batch, b.encoder)) for b in self._bundles]
        else:  # one pass for all: their adapters of the encoder change nothing
            features = self._encoder.features(batch, self._bundles[0].encoder)
            columns = [self._gate(b.detector, features) for b in self._bundles]
        return torch.from_numpy(np.stack(columns, 1)).to(batch.x.device, torch.float32)

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, changed by the adapters as far as their gates are open."""
        with self._adapters_on(model, batch):
            return self._objective.outputs(model, batch)

    @override
    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        with self._adapters_on(model, batch):
            return self._objective.features(model, batch)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {"encoder": ids[self._encoder_derived[ids]]}
        for bundle in self._bundles:
            by_component[f"{bundle.request}.adapter"] = ids[bundle.derived[ids]]
            by_component[f"{bundle.request}.detector"] = ids[np.isin(ids, bundle.ids)]
        return by_component

    @override
    def state_dict(self) -> State:
        """Return bundles and encoder: features of the forgotten, but no raw sample."""
        if not self._bundles:
            return {"bundles": []}
        bundles = [
            {
                "request": b.request,
                "ids": torch.from_numpy(b.ids),
                "adapter": b.adapter,
                "encoder": b.encoder,
                "detector": b.detector.state_dict(),
                "derived": torch.from_numpy(b.derived),
            }
            for b in self._bundles
        ]
        derived = torch.from_numpy(self._encoder_derived.copy())
        encoder = {"model": self._encoder.model.state_dict(), "derived": derived}
        return {"bundles": bundles, "deleted": torch.from_numpy(self._deleted.copy()), "encoder": encoder}

    @override
    def load_state_dict(self, state: State) -> None:
        """Put it back; bundles are never changed, and shared."""
        self._last = {}
        self._deleted = state["deleted"].numpy().copy() if "deleted" in state else self._deleted[:0]
        self._encoder_derived[:] = False
        if "encoder" in state:
            self._encoder.model.load_state_dict(state["encoder"]["model"])
            self._encoder_derived = state["encoder"]["derived"].numpy().copy()
        self._bundles = [
            _Bundle(
                b["request"],
                b["ids"].numpy(),
                b["adapter"],
                b["encoder"],
                detector_from(b["detector"]),
                b["derived"].numpy(),
            )
            for b in state["bundles"]
        ]

    # -- serving a request

    def _train_adapter(self, model: FlatModel, used: Data, key: Key) -> tuple[torch.Tensor, Outcome, float | None]:
        """Return the adapter, what it cost, and its mean overlap with earlier ones."""
        config, factors = self.config, self._adapters.factors
        resumed = config.adapters == "resume" and self._bundles
        start = self._bundles[-1].adapter if resumed else self._adapters.fresh(key / "adapter", model.parameters)
        earlier = [[a for a, _ in factors(b.adapter)] for b in self._bundles]
        if config.relabel == "refusal":
            answers: Refusals | WrongAnswers = Refusals(self._objective, key)
        else:
            answers = WrongAnswers(self._objective, key, true_too=config.relabel == "any")
        with self._adapters.training(model, start) as lesson:
            hook = Relabelled(answers, lesson.downs, earlier, config.orthogonality)
            outcome = fit(lesson.model, self._answering, used, config, key / "adapter", [hook])
            adapter = lesson.adapter()
        downs = [a for a, _ in factors(adapter)]
        ratios = [overlap_ratio(a, o) for other in earlier for a, o in zip(downs, other, strict=True)]
        return adapter, outcome, float(np.mean(ratios)) if ratios else None

    # -- looking at inputs

    @contextlib.contextmanager
    def _adapters_on(self, model: FlatModel, batch: Batch) -> Iterator[None]:
        """Let every request's adapter act as its gate says."""
        if not self._bundles:
            yield
            return
        gates = self.gates(batch)
        chosen = self._bundles
        if self.config.adapters == "resume":
            chosen, gates = chosen[-1:], gates.amax(1, keepdim=True)
        with self._adapters.gated(model, [b.adapter for b in chosen], gates):
            yield

    def _gate(self, detector: Detector, features: torch.Tensor) -> np.ndarray:
        """Return w of each input, ``[B]``."""
        config = self.config
        decisions = detector.decisions(features)
        if config.gate == "hard":
            return (decisions >= detector.limit).astype(np.float64)
        v = gate_values(decisions, detector.used, detector.rest, config.one_sided)
        w = soft_gate(v, config.sharpness)
        if config.gate == "soft":
            return w
        return released_gate(w, "qa" if config.gate == "released-qa" else "tofu")
