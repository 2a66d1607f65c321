"""What methods of your own are made of, in one import: contracts, the training loop, and what methods share.

Nothing is defined here. What each thing does, its own docstring says; docs/adding.md shows them at work.
"""

from __future__ import annotations

from strategies.base import Access, Door, Guard, Learner, Lesson, Outcome, Plugin, Setting, State, Strategy, Unlearner
from strategies.parts.fit import FitConfig, Hooks, Training, fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.passes import passes
from strategies.parts.training.endless import Endless
from strategies.ranges import TRAINED, linear, log, to_one
from strategies.unlearners._retained import (
    DefaultRetainConfig,
    RetainConfig,
    RetainUnlearner,
    finish,
    retained_access,
    retained_data,
    some_retained_data,
)
from streams.config import Config, Named, NameOrOptions
from streams.data import Batch, Data
from streams.errors import ConfigError, StreamError, TrainingError
from streams.events import DeletionRequest, Experience
from streams.randomness import Key

__all__ = [
    "TRAINED",
    "Access",
    "Batch",
    "Config",
    "ConfigError",
    "Data",
    "DefaultRetainConfig",
    "DeletionRequest",
    "Door",
    "Endless",
    "Experience",
    "FitConfig",
    "FlatModel",
    "Guard",
    "Hooks",
    "Key",
    "Learner",
    "Lesson",
    "NameOrOptions",
    "Named",
    "Network",
    "Outcome",
    "Plugin",
    "RetainConfig",
    "RetainUnlearner",
    "Setting",
    "State",
    "Strategy",
    "StreamError",
    "Training",
    "TrainingError",
    "Unlearner",
    "finish",
    "fit",
    "linear",
    "log",
    "passes",
    "retained_access",
    "retained_data",
    "some_retained_data",
    "to_one",
]
