"""Trained only: run another unlearner if the weights were trained on any of a request's samples, else nothing."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.unlearners._following import Following
from streams.config import Config as BaseConfig
from streams.config import Named, NameOrOptions
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `trained-only`."""

    method: NameOrOptions = Named(name="finetune")
    """The unlearner that serves requests which concern the weights."""


@final
class TrainedOnly(Following):
    """For learners that train on a draw of their data: most of what is deleted may never have been drawn.

    A sample that was never drawn has no gradient in the weights, and its record leaves the pool in any case. It
    may have had a say in what else was drawn, so that leaving the weights alone is not exact.
    """

    test_options = {"method": {"name": "finetune", "epochs": 1}}
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the method.

        Raises:
            ConfigError: it is unknown, or this one again.
        """
        if config.method.name == "trained-only":
            raise ConfigError("trained-only.method: trained-only cannot follow itself; choose finetune, or another.")
        super().__init__(config, setting, config.method, "trained-only.method")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        ids = request.sample_ids
        share = len(learner.holds(ids).get("weights", ())) / len(ids)
        outcome = self.method.forget(request, learner, door) if share else Outcome(exactness="none")
        return outcome.traced({"event": outcome.notes | {"trained_share": share}})
