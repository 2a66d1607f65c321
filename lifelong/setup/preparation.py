"""Everything a run needs, worked out before any compute is spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lifelong.config.run import RunConfig, content_hash
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.files import code_of
from lifelong.setup.build import check_model, make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import check_instruments
from lifelong.setup.suitability import check_stream
from strategies.base import Setting
from streams.errors import ConfigError
from streams.registry import is_file
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything a run needs, before any compute is spent.

    Attributes:
        config: as given; `resolved` has every option written out.
        stream, setting, plan: what is lived through, with what, and what it is measured on.
        identity: hash of resolved configuration and code.
        data_digest: hash of the source.
    """

    config: RunConfig
    resolved: dict[str, Any]
    stream: Stream
    setting: Setting
    plan: EvaluationPlan
    identity: str
    data_digest: str

    def setting_of(self, seed: int) -> Setting:
        """Return the setting under a seed; that of the run's own seed is the run's own, with its network."""
        return self.setting if seed == self.config.seed else make_setting(self.config, self.stream, seed)

    def folder(self, root: Path | str) -> Path:
        """Return the run folder below `root`."""
        return Path(root) / f"{self.config.name}-{self.identity}"


def check_device(device: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        ConfigError: it has not.
    """
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ConfigError(f"device: {device!r} is not available here. Use cpu.")


def prepare(config: RunConfig) -> Prepared:
    """Load the data, build the stream, and work out what is measured: everything that can fail before compute.

    Raises:
        LifelongError: the configuration or the data is not valid.
    """
    check_device(config.device)
    resolved = config.resolved()
    stream = make_stream(config, make_source(config))
    setting = make_setting(config, stream)
    if is_file(config.model.name) or is_file(config.objective.name):
        check_model(setting, stream, config)
    check_instruments(config.evaluation, stream.source, setting)
    for name, strategy in config.strategies.items():
        check_stream(make_strategy(strategy, setting, f"strategies.{name}"), stream, f"strategies.{name}")
    return Prepared(
        config=config,
        resolved=resolved,
        stream=stream,
        setting=setting,
        plan=plan_evaluation(stream, config.evaluation, setting.objective.measurements()),
        identity=content_hash([resolved, code_of(resolved)]),
        data_digest=stream.source.digest(),
    )
