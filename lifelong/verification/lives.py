"""Lives of a run's strategies and of faulty ones, each in a process of its own: none sees what another has kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lifelong.config.run import RunConfig
from lifelong.processes.fresh import call
from lifelong.processes.settings import torch_settings
from lifelong.results.record import read_checkpoint
from lifelong.setup.build import make_setting, make_strategy
from lifelong.verification.controls import CONTROLLED
from lifelong.verification.replay import Lived, LiveOn, altered, answers, live, questions
from strategies.base import Setting, Strategy
from strategies.composed import Composed
from strategies.step import ledger_after, restore
from streams.config import Config
from streams.events import Event
from streams.ledger import Ledger
from streams.randomness import Key
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Who:
    """Who lives: a strategy of a run, or a negative control.

    Attributes:
        config: of the run.
        stream: of the run; made once, as a schedule may let a strategy live to choose requests.
        name: the strategy's, or the control's.
        options: of the control; None for a strategy of the run.
    """

    config: RunConfig
    stream: Stream
    name: str
    options: Config | None = None

    def setting(self) -> Setting:
        """Return what it is built in."""
        return make_setting(self.config, self.stream)

    def build(self, setting: Setting) -> Strategy:
        """Return it in its initial state."""
        if self.options is not None:
            return CONTROLLED[self.name][1](self.options, setting)
        return make_strategy(self.config.strategies[self.name], setting, f"strategies.{self.name}")


def live_alone(who: Who) -> LiveOn:
    """Return what lets it live, every time in a process of its own."""
    return lambda events, ids, key: call(_lived, who, events, ids, key)


def answers_of_checkpoint(who: Who, file: Path) -> str | None:
    """Return a digest of what it answers when it is restored, after the last event, in a process of its own.

    Returns:
        None if its learner restores by learning all once more: that life was lived already.

    Raises:
        CheckpointError: it cannot be restored.
    """
    return call(_restored, who, file)


def _lived(who: Who, events: tuple[Event, ...], ids: np.ndarray, key: Key) -> Lived:
    config, setting = who.config, who.setting()
    with torch_settings(config):
        asked = questions(who.stream, setting.objective, config.evaluation.batch_size, config.device)
        stream = altered(who.stream, ids, key) if len(ids) else who.stream
        return live(lambda: who.build(setting), stream, events, config.device, asked)


def _restored(who: Who, file: Path) -> str | None:
    config, stream, setting = who.config, who.stream, who.setting()
    with torch_settings(config):
        strategy = who.build(setting)
        if isinstance(strategy, Composed) and strategy.learner.restores_by_reliving:
            return None
        ledger = ledger_after(Ledger(stream.source, stream.task_of, config.device), stream.events)
        restore(strategy, read_checkpoint(file, config.device).state, ledger)
        return answers(strategy, questions(stream, setting.objective, config.evaluation.batch_size, config.device))
