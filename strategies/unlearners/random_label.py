"""Random labels: train the forget set on wrong labels and the retained data on its own."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.ranges import TRAINED
from strategies.unlearners._relabel import RelabelConfig, relabel
from strategies.unlearners._retained import RetainUnlearner
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RelabelConfig):
    """Options of `random-label` (RL; with labels drawn once also called amnesiac relabelling).

    On text an answer takes the place of a label, drawn from the source's wrong ones. With `exclude_true: false` the
    true one is drawn, too: random-label forgetting of skills (arXiv 2409.02228).
    """


@final
class RandomLabel(RetainUnlearner):
    """Minimises the cross-entropy of drawn labels on the forget set and of true ones on retained data.

    It needs retained data: labels are drawn from the classes that are left. It reads the forget set (its labels only
    to leave them out), and retained data with labels.
    """

    test_options = {"epochs": 1, "batch_size": 64, "redraw": "batch"}
    config: Config
    supports = frozenset({"classes", "tokens", "images"})
    ranges = TRAINED

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        return relabel(learner, door.forget_set(), retained, self.config, key)
