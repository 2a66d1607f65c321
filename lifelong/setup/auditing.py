"""A run that measures a language model which was unlearned elsewhere, beside the references of a scenario."""

from __future__ import annotations

import re
from pathlib import Path

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_source, make_stream
from streams.checkpoints import folder_digest
from streams.config import parse
from streams.errors import ConfigError, closest


def audit_config(config: RunConfig, model: Path, strategy: str | None = None, request: str | None = None) -> RunConfig:
    """Return the configuration of such a run: one strategy, which at a request takes the weights of the model.

    Args:
        config: the scenario; its stream, model and references hold, and the learner of one of its strategies.
        model: a folder with config.json, weights and tokeniser.
        strategy: whose learner; None takes the first.
        request: after which the model stands; None takes the last of the stream.

    Raises:
        ConfigError: there is no such folder, strategy or request, or the stream asks for nothing to be forgotten.
    """
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model} is no folder of a Hugging Face model: it has no config.json.")
    name = next(iter(config.strategies)) if strategy is None else strategy
    if name not in config.strategies:
        raise ConfigError(f"--strategy: there is no strategy {name!r}. {closest(name, config.strategies)}")
    if config.strategies[name].isolated is not None:
        raise ConfigError(
            f"--strategy: {name} is isolated: it has no learner whose model could have been unlearned elsewhere. Name "
            f"another strategy of the scenario."
        )
    requests = [r.name for r in make_stream(config, make_source(config)).requests]
    if not requests:
        raise ConfigError("The stream of this scenario has no deletion request, so that there is nothing to audit.")
    request = requests[-1] if request is None else request
    if request not in requests:
        raise ConfigError(f"--request: there is no request {request!r}. {closest(request, requests)}")
    folder = model.resolve()
    unlearner = {
        "name": "from-checkpoint",
        "checkpoint": str(folder),
        "request": request,
        "digest": folder_digest(folder),
    }
    learner = config.strategies[name].model_dump(mode="json")["learner"]
    audited = {"learner": learner, "unlearner": unlearner}
    data = config.model_dump(mode="json") | {"strategies": {re.sub(r"[^\w.+-]", "-", folder.name): audited}}
    return parse(RunConfig, data)
