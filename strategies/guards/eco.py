"""ECO: a classifier of prompts, and noise on the embeddings of those that ask about what is to go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._names import Names
from strategies.guards._per_request import PerRequest
from strategies.guards._prompts import name_of_prompt
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import blocks_of
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.text import GIVEN


class Config(BaseConfig):
    """Options of `eco` (Liu et al. 2024, arXiv 2406.07933). It suppresses; it does not erase."""

    classifier: Literal["words", "names"] = "words"
    """words: logistic regression on the tokens of prompts, those of the request against retained ones. names: a prompt
    that names a subject of the request, which needs no training and never errs on the corpus it is made for."""
    threshold: float = Field(0.9, gt=0, lt=1)
    """Probability from which on a prompt is corrupted (published for RoBERTa: 0.99)."""
    subjects: tuple[str, ...] | None = None
    """Names that a prompt can ask about, whose tokens are corrupted. null takes those of the source; without any, all
    tokens of a prompt but the last are corrupted."""
    sigma: float = Field(50.0, ge=0)
    """Standard deviation of the noise; where `target` is set, where the search begins."""
    dims: int = Field(1, ge=1)
    """Features of an embedding that get noise, its first ones."""
    target: float | None = Field(None, ge=0, le=1)
    """Raise sigma until the true answers of the request are no likelier than that, as those of a model that never saw
    them: mean of exp(-mean loss). null keeps sigma."""
    steps: int = Field(10, ge=1)
    """Most steps of that search."""
    rate: float = Field(100.0, gt=0)
    """Its learning rate."""
    probe: float = Field(0.1, gt=0)
    """epsilon of its differences (m(sigma + epsilon) - m(sigma - epsilon)) / (2 epsilon)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names.
        names: subjects that its prompts name (classifier: names).
        weights: float64 ``[V + 1]``, of tokens and a constant (classifier: words); empty otherwise.
        sigma: of its noise.
        derived: ids that had a say in it: the classifier was fitted on them, or they are in the weights by which sigma
            was set.
    """

    request: str
    ids: np.ndarray
    names: tuple[str, ...]
    weights: np.ndarray
    sigma: float
    derived: np.ndarray


def climbed(
    measure: Callable[[float], float], start: float, target: float, steps: int, rate: float, probe: float
) -> tuple[float, int]:
    """Return the strength at which a score reaches its target by zeroth-order steps, and how often it was measured.

    s <- max(s - rate g, start), g = (m(s + probe) - m(s - probe)) / (2 probe), until m(s) <= target.

    >>> climbed(lambda s: 1 / (1 + s), 1.0, 0.2, 10, 20.0, 0.5)[0] > 4
    True
    >>> climbed(lambda s: 0.0, 1.0, 0.2, 10, 20.0, 0.5)
    (1.0, 1)
    """
    strength, looks = start, 1
    for _ in range(steps):
        if measure(strength) <= target:
            break
        slope = (measure(strength + probe) - measure(max(0.0, strength - probe))) / (2 * probe)
        strength = max(start, strength - rate * slope)
        looks += 3
    return strength, looks


@final
class ECO(PerRequest[_Request]):
    """Embedding-corrupted prompts. Prompts that no classifier flags are answered by the model as it is, to the bit."""

    test_options = {"threshold": 0.5}
    config: Config
    supports = frozenset({"tokens"})
    component = "classifier"
    ranges = {"threshold": linear(0.3, 0.99), "sigma": log(0.1, 100.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: names are wanted and there are none, the model has no blocks, or options contradict.
        """
        super().__init__(config, setting)
        self._text = self._objective.needed_text("guard: 'eco'")
        if config.target is not None and config.sigma == 0:
            raise ConfigError("guard.sigma: 0 is no noise to begin a search with; give it a small value such as 0.1.")
        blocks_of(setting.outline())
        has_names = config.classifier == "names" or bool(config.subjects or self._text.subjects)
        self._names = Names(self._text, config.subjects) if has_names else None
        self._key = setting.key / "eco"

    @property
    @override
    def access(self) -> Access:
        """The forget set; its classifier also needs prompts that are to be answered."""
        return Access(forget_set=True, retained=0 if self.config.classifier == "names" else "full")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Fit a classifier to the request's prompts, and search the strength of the noise, if that is wanted."""
        config, forget_set = self.config, door.forget_set()
        names: tuple[str, ...] = ()
        weights, derived = np.zeros(0), forget_set.ids.copy()
        if config.classifier == "names":
            assert self._names is not None
            names = self._names.all_named(forget_set.all())
        else:
            retained = door.retained()
            weights = self._fitted(forget_set, retained)
            derived = np.union1d(derived, retained.ids)
        new = _Request(request.name, forget_set.ids.copy(), names, weights, config.sigma, derived)
        looks = 0
        if config.target is not None:
            derived = np.union1d(derived, in_weights(learner, self.setting.num_samples))
            measure = self._measure(learner.model, new, forget_set)
            sigma, looks = climbed(measure, config.sigma, config.target, config.steps, config.rate, config.probe)
            new = _Request(new.request, new.ids, names, weights, sigma, derived)
        self.keep(new)
        flagged = float(np.mean([s is not None for s in self._strengths(forget_set.all())]))
        cost = Outcome(forward=looks * len(forget_set))
        return cost.noted(flagged=flagged, noise_sigma=new.sigma).graded("none")

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, to flagged prompts those behind corrupted embeddings."""
        outputs = self._objective.outputs(model, batch)
        flags = self._strengths(batch)
        rows = torch.tensor([i for i, f in enumerate(flags) if f is not None], dtype=torch.long, device=batch.x.device)
        if not len(rows):
            return outputs
        corrupted = self._corrupted(model, batch.rows(rows), [f for f in flags if f is not None])
        length = corrupted.shape[1]
        outputs = outputs.clone()  # text that grows gives views
        outputs[rows, :length] = corrupted
        return outputs

    @override
    def told(self, kept: _Request) -> State:
        return {"names": list(kept.names), "weights": torch.from_numpy(kept.weights.copy()), "sigma": kept.sigma}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        names, weights = tuple(state["names"]), state["weights"].numpy().copy()
        return _Request(request, ids, names, weights, float(state["sigma"]), derived)

    # -- who is flagged

    def _words(self, batch: Batch) -> Any:
        """Return which tokens of the vocabulary each prompt has, a sparse matrix of scipy ``[B, V]``."""
        from scipy.sparse import csr_matrix

        rows, places = (batch.x[:, 1] == GIVEN).nonzero(as_tuple=True)
        tokens = batch.x[rows, 0, places].cpu().numpy()
        pairs = np.unique(np.stack([rows.cpu().numpy(), tokens]), axis=1)
        return csr_matrix((np.ones(pairs.shape[1]), pairs), shape=(len(batch), self._objective.num_outputs))

    def _fitted(self, forget_set: Data, retained: Data) -> np.ndarray:
        """Return the weights of a logistic regression, both kinds of prompts weighing alike."""
        from scipy.sparse import vstack
        from sklearn.linear_model import LogisticRegression

        parts = [self._words(data.all()) for data in (forget_set, retained) if len(data)]
        if len(parts) < 2:  # nothing is retained: every prompt is flagged
            return np.append(np.zeros(self._objective.num_outputs), 50.0)
        labels = np.repeat([1, 0], [p.shape[0] for p in parts])
        fitted = LogisticRegression(C=100.0, class_weight="balanced", max_iter=1000).fit(vstack(parts), labels)
        return np.append(fitted.coef_[0], fitted.intercept_)

    def _strengths(self, batch: Batch) -> list[_Request | None]:
        """Return for each row the first request that flags it, or None."""
        if not self._requests:
            return [None] * len(batch)
        flags: list[_Request | None] = [None] * len(batch)
        named = self._names.named(batch) if self.config.classifier == "names" and self._names is not None else []
        words: Any = self._words(batch) if self.config.classifier == "words" else None
        for r in self._requests:
            if self.config.classifier == "names":
                hit = [not set(r.names).isdisjoint(found) for found in named]
            else:
                scores = words @ r.weights[:-1] + r.weights[-1]
                hit = (scores >= np.log(self.config.threshold / (1 - self.config.threshold))).tolist()
            flags = [f if f is not None or not h else r for f, h in zip(flags, hit, strict=True)]
        return flags

    # -- what is done to them

    def _measure(self, model: FlatModel, new: _Request, data: Data) -> Callable[[float], float]:
        """Return what tells how likely the answers of `data` are at a strength."""

        @torch.no_grad()
        def likely(sigma: float) -> float:
            tried = _Request(new.request, new.ids, new.names, new.weights, sigma, new.derived)
            model.train(False)
            parts = []
            for batch in self._objective.batches(data, 64):
                outputs = self._corrupted(model, batch, [tried] * len(batch))
                parts.append(self._objective.losses(outputs, batch).neg().exp())
            return float(torch.cat(parts).mean())

        return likely

    def _corrupted(self, model: FlatModel, batch: Batch, requests: list[_Request]) -> torch.Tensor:
        """Return the outputs of a model whose first block reads embeddings with noise."""
        length = int((batch.x[:, 1] > 0).sum(1).max())
        noise = torch.stack([self._noise(x[:, :length], r) for x, r in zip(batch.x, requests, strict=True)])
        with _added(blocks_of(model)[0], noise):
            return self._objective.outputs(model, batch)

    def _noise(self, row: torch.Tensor, request: _Request) -> torch.Tensor:
        """Return what is added to a row's embeddings, ``[L, dims]``: drawn by request and prompt, always the same."""
        is_prompt = row[1] == GIVEN
        marked = self._names.positions(row) if self._names is not None else torch.zeros_like(is_prompt)
        if not bool(marked.any()):  # all tokens but the start token and the last
            marked = is_prompt.clone()
            marked[0] = False
            marked[int(is_prompt.nonzero().max())] = False
        generator = (self._key / request.request / "noise" / name_of_prompt(row)).torch()
        drawn = torch.randn(int(is_prompt.sum()), self.config.dims, generator=generator).to(row.device)
        noise = torch.zeros(row.shape[1], self.config.dims, device=row.device)
        noise[is_prompt] = request.sigma * drawn
        return noise * marked.unsqueeze(1)


@contextlib.contextmanager
def _added(block: nn.Module, noise: torch.Tensor) -> Iterator[None]:
    """Add ``noise [B, T, dims]`` to the first features of what a block reads."""

    def add(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0].clone()
        dims = min(noise.shape[2], states.shape[2])
        states[:, : noise.shape[1], :dims] += noise[..., :dims].to(states.dtype)
        return (states, *args[1:])

    handle = block.register_forward_pre_hook(add)
    try:
        yield
    finally:
        handle.remove()
