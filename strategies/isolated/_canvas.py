"""The one network that all subnetworks share: its weights, how a subnetwork is put on, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from typing_extensions import override

from strategies.base import Setting
from strategies.isolated._subnetwork import Subnetwork
from strategies.isolated._supermasks import (
    Layer,
    Lens,
    Span,
    layers_of,
    maskable,
    signed_constants,
    spans_of,
    unpack,
)
from strategies.objectives._base import ClassObjective, FisherEstimator, Objective, Predicts
from strategies.parts.model import FlatModel, digest
from streams.data import Batch, Data
from streams.errors import ConfigError


@final
class Canvas:
    """One model whose parameters are the shared weights W ``[P]``; it computes with W * m for the mask m it wears."""

    def __init__(self, setting: Setting, outputs: int | None, density: float, spare: int = 0) -> None:
        """Start with the initial weights.

        Args:
            setting: gives the model.
            outputs: outputs of every subnetwork; None gives each as many as it has classes.
            density: share of each layer's weights that a subnetwork keeps.
            spare: how many outputs must be superfluous.

        Raises:
            ConfigError: the objective or the model has nothing for masks or outputs to be about.
        """
        self._setting, self._outputs, self._density = setting, outputs, density
        self._objective = ClassObjective.of(setting.objective) if setting.objective.predicts == "classes" else None
        self._classes, self._spare = self._objective is not None, spare
        if outputs is not None and not self._classes:
            raise ConfigError("outputs: only classifiers can have more outputs than they need; leave it null.")
        if outputs is not None and self._objective is not None and self._objective.loss != "ce":
            raise ConfigError("outputs: superfluous outputs need the softmax; set objective.loss: ce or outputs: null.")
        for unit in range(len(setting.units)):  # the least that an experience can ask for: say it before anything runs
            self.width_of((unit,))
        self.model = self._make()
        self.layers: tuple[Layer, ...] = layers_of(self.model)
        self.weights.copy_(signed_constants(self.weights, self.layers))
        self._buffers = tuple(self.model.network.buffers())
        self._first_buffers = self.buffers()
        self._parameters = tuple(self.model.network.parameters())
        self.lens = Lens(self.model)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def weights(self) -> torch.Tensor:
        """The shared weights W, which are the model's own parameters."""
        return self.model.parameters

    @property
    def version(self) -> tuple[int, ...]:
        """What is another after any weight has been written."""
        return (self.weights._version, *(p._version for p in self._parameters))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weights.device

    @property
    def classifies(self) -> bool:
        """Whether outputs stand for classes."""
        return self._classes

    def initial(self) -> torch.Tensor:
        """Return the initial weights ``[P]``: the signs of the model's own draw, one size per layer."""
        return signed_constants(self._make().parameters, self.layers)

    def buffers(self) -> tuple[torch.Tensor, ...]:
        """Return the running statistics as they are, copied."""
        return tuple(b.clone() for b in self._buffers)

    def put(self, buffers: Sequence[torch.Tensor] | None) -> None:
        """Put running statistics in place; None stands for the first ones."""
        for mine, given in zip(self._buffers, self._first_buffers if buffers is None else buffers, strict=True):
            mine.copy_(given)

    def wear(self, net: Subnetwork) -> None:
        """Compute as a subnetwork, in evaluation mode; no weight is copied."""
        self.put(net.buffers)
        self.lens.show(net.bits, None if net.values is None else self._spread(net))
        self.model.train(False)

    def take_off(self) -> None:
        """Keep nothing of whatever was worn."""
        self.lens.show(None)

    def classes_of(self, units: tuple[int, ...]) -> tuple[int, ...]:
        """Return the global outputs that a subnetwork of these units speaks for, ascending."""
        if not self._classes:
            return tuple(range(self._setting.objective.num_outputs))
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def width_of(self, units: tuple[int, ...]) -> int:
        """Return how many outputs a subnetwork of these units has.

        Raises:
            ConfigError: more classes than `outputs` allows.
        """
        needed = len(self.classes_of(units))
        if self._outputs is None:
            return needed
        if needed + self._spare > self._outputs:
            more = f" and {self._spare} superfluous output" if self._spare else ""
            remedy = "." if self._spare else ", or leave it null."
            raise ConfigError(
                f"outputs: {self._outputs} are too few for the {needed} classes of one experience{more}. "
                f"Raise it{remedy}"
            )
        return self._outputs

    def spans_of(self, units: tuple[int, ...]) -> tuple[Span, ...]:
        """Return what a subnetwork of these units chooses in every layer."""
        return spans_of(self.layers, self._density, "head", self.width_of(units))

    def objective_of(self, units: tuple[int, ...]) -> Local:
        """Return the objective of a subnetwork: its own first outputs stand for the classes of its units."""
        return Local(self._setting.objective, self.classes_of(units), self.width_of(units), self._objective)

    def blank(self, batch: Batch) -> torch.Tensor:
        """Return outputs ``[B, num_outputs]`` that say nothing: all alike, where they are permitted."""
        outputs = self.weights.new_zeros((len(batch), self._setting.objective.num_outputs))
        return outputs if self._objective is None else self._objective.mask(outputs, batch)

    def mask_of(self, net: Subnetwork) -> torch.Tensor:
        """Return a subnetwork's mask, bool ``[P]``."""
        return unpack(net.bits, len(self), self.device)

    def seal(self, net: Subnetwork) -> str:
        """Return a hash of the weights that a subnetwork computes with."""
        return digest(self.weights[self.mask_of(net)] if net.values is None else net.values)

    def _spread(self, net: Subnetwork) -> torch.Tensor:
        """Return the weights of a subnetwork that has its own, ``[P]``."""
        assert net.values is not None
        return torch.zeros_like(self.weights).masked_scatter_(self.mask_of(net), net.values)

    def _make(self) -> FlatModel:
        return maskable(self._setting.make_model(), self._outputs, self._setting.key / "init" / "outputs")


@final
class Local(Objective):
    """An objective whose model has outputs of its own: the first of them are some of the objective's outputs.

    Outputs are those of the whole objective, minus infinity where the model has none, followed by the superfluous ones.
    """

    predicts: ClassVar[Predicts] = "classes"
    measure: ClassVar[str] = "accuracy"

    def __init__(self, whole: Objective, classes: tuple[int, ...], width: int, plain: ClassObjective | None) -> None:
        """Speak for `classes`, with `width` outputs of the model.

        Args:
            whole: gives the losses.
            classes, width: what the model speaks for, and how many outputs it has.
            plain: gives the outputs; None where they stand for numbers, and are those of `whole`.
        """
        self._whole, self._classes, self._width, self._plain = whole, classes, width, plain

    @property
    @override
    def num_outputs(self) -> int:
        return self._whole.num_outputs

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return ``[B, num_outputs + superfluous]``."""
        return self.widen(self.own(model, batch), batch)

    def own(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's own outputs ``[B, width]``."""
        if self._plain is None:
            return self._whole.outputs(model, batch)
        return self._plain.logits(model, batch)[:, : self._width]

    def widen(self, own: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the model's own outputs where the whole objective has them."""
        if self._plain is None:
            return own
        outputs = own.new_full((len(own), self.num_outputs), float("-inf"))
        outputs[:, list(self._classes)] = own[:, : len(self._classes)]
        outputs = self._plain.mask(outputs, batch)
        return torch.cat([outputs, own[:, len(self._classes) :]], 1) if self._width > len(self._classes) else outputs

    @override
    def training_on(self, data: Data) -> Objective:
        return Local(self._whole.training_on(data), self._classes, self._width, self._plain)

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the whole objective's losses; superfluous outputs have a share in the softmax."""
        kept = outputs[:, : self.num_outputs]
        losses = self._whole.losses(kept, batch)
        return losses + (outputs.logsumexp(1) - kept.logsumexp(1)) if outputs.shape[1] > self.num_outputs else losses

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._whole.scores(outputs[:, : self.num_outputs], batch)

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        return self._whole.probabilities(outputs[:, : self.num_outputs], batch)

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self._whole.fisher_terms(outputs[:, : self.num_outputs], batch, estimator, generator)
