"""Survey: one look at every sample with the model as it is: gradient features, scores, embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch

from strategies.objectives._base import EVALUATION, Objective, Without
from strategies.outcome import Outcome, Selector
from strategies.parts.model import FlatModel
from strategies.parts.selection.gradient_features import Block, Form, Projector, normalised, sample_features
from strategies.parts.selection.selectors import Formulas, el2n, entropies, groundings, log_perplexities
from strategies.parts.training.progress import interruptible
from strategies.parts.training.ragged import every_position
from strategies.parts.weights.fisher import evaluating
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key

NoImage = Literal["zeros", "dropped"]
"""An input without its image: one whose processed image is zeros (the mean colour), as released, or one without the
image's positions, as the paper says."""


@dataclass(frozen=True, slots=True)
class Look:
    """What to look for.

    Attributes:
        selectors: which scores.
        block: where gradients are taken; None if neither features nor GraNd are wanted.
        projector: of gradients; None if no features are wanted.
        embeddings: whether to keep what samples mean to the model.
        form, formulas, no_image: variants; see their types.
        batch_size: samples per pass.
        memory: bytes for gradients of single samples at a time.
    """

    selectors: tuple[Selector, ...]
    block: Block | None = None
    projector: Projector | None = None
    embeddings: bool = False
    form: Form = "sgd"
    formulas: Formulas = "paper"
    no_image: NoImage = "zeros"
    batch_size: int = 64
    memory: int = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """What was found, one row per sample, in the order of the data.

    Attributes:
        scores: float64 ``[n]`` by selector; those of perplexity and grounding are logarithms (with `formulas` released,
            perplexity's alone).
        features: float32 ``[n, d]`` gradient features of length 1, or ``[n, 0]``.
        embeddings: float32 ``[n, F]``, or ``[n, 0]``.
        small: share of samples with a gradient norm below 1e-6, whose direction is noise; 0 where none was taken.
        cost: samples passed forward and backward.
    """

    scores: dict[Selector, np.ndarray]
    features: torch.Tensor
    embeddings: torch.Tensor
    small: float
    cost: Outcome


def available(
    objective: Objective, batch: Batch, wanted: Sequence[Selector] | None, where: str
) -> tuple[Selector, ...]:
    """Return the selectors to use: those that are wanted, or all of the paper's that make sense for such inputs.

    Args:
        objective: of the run.
        batch: a few samples.
        wanted: names, or None. For a classifier with one input, image grounding would rank the samples of a class
            exactly as perplexity does, reversed; it is left out.
        where: the key to name in errors.

    Raises:
        ConfigError: one of them needs a part of the input that there is not, or is named twice.
    """
    parts: dict[str, Without] = {"image-grounding": "image", "context-grounding": "prompt"}
    if wanted is None:
        common: tuple[Selector, ...] = ("perplexity", "el2n", "entropy", "grand")
        return common if objective.without(batch, "image") is None else (*common, "image-grounding")
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"{where}: {', '.join(wanted)} names a score twice.")
    for name in wanted:
        if name in parts and objective.without(batch, parts[name]) is None:
            raise ConfigError(
                f"{where}: {name} needs inputs that have {'an image beside text' if 'image' in name else 'a prompt'}. "
                f"Leave it out; perplexity, el2n, entropy and grand work on all inputs."
            )
    return tuple(wanted)


def survey(model: FlatModel, objective: Objective, data: Data, look: Look, key: Key | None = None) -> Surveyed:
    """Look at every sample of `data`, in evaluation mode; the model is left as it is.

    With a key, which names it, a survey that is interrupted goes on with the batch that comes next.
    """
    found, num_done = _Found(look), 0
    positions = every_position() if look.formulas == "released" else contextlib.nullcontext()
    goes_on = contextlib.nullcontext(lambda: None) if key is None else interruptible(key, [found])
    with positions, goes_on as stepped:
        for part in data.positions().split(look.batch_size):  # one batch in memory, whatever the pool takes
            num_done += len(part)
            if num_done > found.samples:
                found.add(model, objective, objective.drawn(data.batch(part), EVALUATION))
                stepped()
    return found.surveyed()


@final
class _Found:
    """What has been found so far, batch by batch."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._parts: dict[str, list[torch.Tensor]] = {}
        self.samples = 0

    def add(self, model: FlatModel, objective: Objective, batch: Batch) -> None:
        """Look at a batch."""
        look = self._look
        if look.block is not None:
            outputs, sample_vectors, norm = sample_features(
                model, objective, batch, look.block, look.projector, look.form, look.memory
            )
            self._note("features", sample_vectors)
            self._note("norms", norm)
        with evaluating(model), torch.inference_mode():
            if look.block is None and look.selectors:
                outputs = objective.outputs(model, batch)
            for name in look.selectors:
                value = norm if name == "grand" else _score(name, model, objective, batch, outputs, look)
                self._note(f"score {name}", value)
            if look.embeddings:
                self._note("embeddings", objective.embeddings(model, batch).float())
        self.samples += len(batch)

    def surveyed(self) -> Surveyed:
        """Return all of it."""
        look, n = self._look, self.samples
        whole = {name: torch.cat(parts) for name, parts in self._parts.items()}
        passes = 1 + int(look.embeddings) + sum("grounding" in name for name in look.selectors)
        return Surveyed(
            {name: whole[f"score {name}"].double().numpy() for name in look.selectors},
            normalised(whole["features"]) if "features" in whole else torch.zeros(n, 0),
            whole.get("embeddings", torch.zeros(n, 0)),
            float((whole["norms"] < 1e-6).double().mean()) if "norms" in whole else 0.0,
            Outcome(forward=passes * n, backward=0 if look.block is None else n),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {"samples": self.samples, "parts": {name: torch.cat(parts) for name, parts in self._parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.samples = state["samples"]
        self._parts = {name: [values.cpu()] for name, values in state["parts"].items()}

    def _note(self, name: str, values: torch.Tensor) -> None:
        self._parts.setdefault(name, []).append(values.detach().cpu().clone())


def _score(
    name: Selector, model: FlatModel, objective: Objective, batch: Batch, outputs: torch.Tensor, look: Look
) -> torch.Tensor:
    responses = objective.responses(outputs, batch)
    if name == "perplexity":
        return log_perplexities(responses, look.formulas)
    if name == "el2n":
        return el2n(responses)
    if name == "entropy":
        everywhere = look.formulas == "released"
        return entropies(objective.responses(outputs, batch, everywhere))
    part: Without = "prompt"
    if name == "image-grounding":
        part = "image" if look.no_image == "zeros" else "image-positions"
    reduced = objective.without(batch, part)
    assert reduced is not None, "`available` has asked"
    bare, had = reduced
    return groundings(responses, objective.responses(objective.outputs(model, bare), bare), had, look.formulas)
