"""Prune first: prune by magnitude, then run another unlearner on the weights that are left."""

from __future__ import annotations

from typing import final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting
from strategies.parts.fit import fit
from strategies.parts.weights.ranks import largest
from strategies.ranges import TRAINED, to_one
from strategies.unlearners._following import Following
from strategies.unlearners._retained import RetainConfig, finish, retained_access, some_retained_data
from streams.config import Named, NameOrOptions
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(RetainConfig):
    """Options of `prune-first` (Jia et al. 2023, arXiv 2304.04934)."""

    sparsity: float = Field(0.95, ge=0, lt=1)
    """Share of all trained weights that is set to zero, the smallest by magnitude over the whole network; the paper
    prunes 95 % of a ResNet-18."""
    method: NameOrOptions = Named(name="finetune")
    """The unlearner that follows; weights that were pruned stay at zero."""
    recover: bool = True
    """Train on retained data between pruning and the method, by the options above. The paper prunes while training (it
    rewinds to epoch 8 and trains again, forget set included); at a request the forget set must not be trained on."""
    epochs: int = Field(5, ge=1)
    """Passes over the retained data, with `recover`."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""


@final
class PruneFirst(Following):
    """One-shot global magnitude pruning, then any unlearner under the mask. Later learning is dense again."""

    test_options = {"epochs": 1, "method": {"name": "finetune", "epochs": 1}}
    config: Config
    ranges = TRAINED | {"sparsity": to_one(0.5, 0.99)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the unlearner that follows.

        Raises:
            ConfigError: it is unknown, or builds the model anew, so that nothing stays pruned.
        """
        if config.method.name in ("retrain", "prune-first"):
            raise ConfigError(
                f"prune-first.method: {config.method.name} does not work on pruned weights. Choose finetune, or "
                f"another unlearner that changes the model it is given."
            )
        super().__init__(config, setting, config.method, "prune-first.method")
        self.needs_given_weights("prune-first.method")

    @property
    @override
    def access(self) -> Access:
        recovery = retained_access(self.config.retained, forget_set=False) if self.config.recover else Access()
        return self.method.access | recovery

    @property
    @override
    def needs_retained(self) -> bool:
        return self.config.recover or self.method.needs_retained

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        model, outcome = learner.model, Outcome()
        kept = largest(model.parameters, 1 - self.config.sparsity)
        model.parameters.mul_(kept)
        with model.moving_only(kept):
            if self.config.recover:
                data = some_retained_data(self.config.retained, learner, door, request)
                key = self.setting.key / "prune-first" / request.name
                outcome += fit(model, self.setting.objective, data, self.config, key)
            outcome += self.method.forget(request, learner, door)
            model.hold()  # methods that do not train, such as noise
            if self.config.recover:
                outcome += finish(self.config, learner, data)
        return outcome.graded("none")
