"""Everything a run needs, worked out before any compute is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lifelong.config.parts import StrategyParts
from lifelong.config.run import RunConfig, content_hash
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.evaluation.sealing import secret_of
from lifelong.files import code_of, own_code
from lifelong.metrics.catalogue import Catalogue, catalogue_of
from lifelong.setup.build import build_strategy, check_model, make_settings, make_source, make_stream
from lifelong.setup.instruments import check_instruments, follows_requests
from lifelong.setup.suitability import became, check_stream
from strategies.base import Setting, Strategy
from strategies.parts.training.out_of_memory import ran_out
from streams.errors import ConfigError
from streams.files import check_on_disk
from streams.registry import is_file
from streams.stream import Stream


class Strategies:
    """The strategies of a run: what they are built from, and those that were built to be checked.

    `became` says in words which of those that were checked are another method with the options that they have.
    """

    def __init__(self, parts: Mapping[str, StrategyParts], setting: Setting) -> None:
        """Build none yet."""
        self.parts = parts
        self.became: list[str] = []
        self._setting = setting
        self._untouched: dict[str, Strategy] = {}

    def check(self, stream: Stream) -> None:
        """Build each once, and refuse what cannot live through the stream.

        Raises:
            ConfigError: names the strategy, and what is wrong.
        """
        for name, one in self.parts.items():
            self._untouched[name] = build_strategy(one, self._setting)
            check_stream(self._untouched[name], stream, one.where)
            self.became += became(self._untouched[name], one.where)

    # Why: docs/decisions.md#a-strategy-is-built-once-for-every-life
    def build(self, name: str) -> Strategy:
        """Return a strategy in its initial state: the one that was built to be checked, if any; then new ones."""
        untouched = self._untouched.pop(name, None)
        return build_strategy(self.parts[name], self._setting) if untouched is None else untouched


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything a run needs, before any compute is spent.

    Attributes:
        config: as given; `resolved` has every option written out.
        stream, setting, plan: what is lived through, with what, and what it is measured on.
        setting_of: gives the setting under a seed; that of the run's own seed is `setting`, with its network.
        strategies: who lives through it.
        catalogue: what its metrics mean.
        identity: hash of resolved configuration and code.
        own_code: digests of code that is not part of this project, as it was when the run was prepared.
        stream_digest, data_digest: hashes of the stream and of the source.
        secret: made of the evaluated samples; outputs about them are sealed with it in the cache.
    """

    config: RunConfig
    resolved: dict[str, Any]
    stream: Stream
    setting: Setting
    setting_of: Callable[[int], Setting]
    plan: EvaluationPlan
    strategies: Strategies
    catalogue: Catalogue
    identity: str
    own_code: Mapping[Path, bytes]
    stream_digest: str
    data_digest: str
    secret: bytes

    def folder(self, root: Path | str) -> Path:
        """Return the run folder below `root`.

        Raises:
            ConfigError: that is an address of object storage.
        """
        return check_on_disk(root, "root") / f"{self.config.name}-{self.identity}"

    def life_of(self, name: str) -> str:
        """Return a hash of all that decides what one strategy leaves on disk: of its run, and of itself."""
        shared = {key: value for key, value in self.resolved.items() if key not in ("name", "strategies")}
        decisive = [shared, self.resolved["strategies"][name]]
        return content_hash([decisive, code_of(decisive, self.own_code), self.stream_digest, self.data_digest])


def check_device(device: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        ConfigError: it has not.
    """
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device: {device!r} is not a device. Use cpu, cuda, or one of several GPUs: cuda:0."
        ) from error
    if asked.type == "cpu":
        return
    if asked.type != "cuda":
        raise ConfigError(
            f"device: {device!r} is not supported. Noise is put back by torch's generators, which is done for cpu and "
            f"cuda only; on another device results would depend on what ran before. Use cpu or cuda."
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (asked.index or 0) >= there:
        raise ConfigError(f"device: {device!r} is not available here (GPUs that torch sees: {there}). Use cpu.")


def prepare(config: RunConfig, stream: Stream | None = None, runs: bool = True) -> Prepared:
    """Load the data, build the stream, and work out what is measured: everything that can fail before compute.

    Args:
        config: what to do.
        stream: the stream of this very configuration, where another process has prepared it: strategies are not built
            to be checked once more.
        runs: whether it will run; if not, weights are not read unless a strategy asks for their values.

    Raises:
        LifelongError: the configuration or the data is not valid.
    """
    check_device(config.device)
    parts = config.find_strategies()
    resolved = config.resolved(parts)
    own = own_code(resolved)
    is_checked = stream is not None
    if stream is None:
        stream = make_stream(config, make_source(config))
    settings = make_settings(config, stream)
    setting = settings(config.seed)
    # A network that cannot be built or copied is refused here.
    try:
        _ = setting.make_model() if runs else setting.outline()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ConfigError(f"model: {config.model.name} does not fit into memory ({error}). Make it smaller.") from error
    if is_file(config.model.name) or is_file(config.objective.name) or setting.objective.predicts == "images":
        check_model(setting, stream, config)
    check_instruments(config.evaluation, stream.source, setting)
    follows = follows_requests(config.evaluation)
    plan = plan_evaluation(stream, config.evaluation, setting.objective.measurements(), follows)
    strategies = Strategies(parts, setting)
    if not is_checked:
        strategies.check(stream)
    return Prepared(
        config=config,
        resolved=resolved,
        stream=stream,
        setting=setting,
        setting_of=lambda seed: setting if seed == config.seed else settings(seed),
        plan=plan,
        strategies=strategies,
        catalogue=catalogue_of(config, parts),
        identity=content_hash([resolved, code_of(resolved, own)]),
        own_code=own,
        stream_digest=stream.digest(),
        data_digest=stream.source.digest(),
        secret=secret_of(stream.source, plan.ids),
    )
