"""Random labels: train the forget set on wrong labels and the retained data on its own."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.unlearners._relabel import RelabelConfig, relabel
from strategies.unlearners._retained import retained_access, some_retained_data
from streams.events import DeletionRequest


class Config(RelabelConfig):
    """Options of `random-label` (RL; with labels drawn once also called amnesiac relabelling).

    On text an answer takes the place of a label, drawn from the source's wrong ones. With `exclude_true: false` the
    true one is drawn, too: random-label forgetting of skills (arXiv 2409.02228).
    """


@final
class RandomLabel(Unlearner):
    """Minimises the cross-entropy of drawn labels on the forget set and of true ones on retained data."""

    test_options = {"epochs": 1, "batch_size": 64, "redraw": "batch"}
    config: Config
    supports = frozenset({"classes", "tokens", "images"})

    @property
    @override
    def access(self) -> Access:
        """The forget set (its labels only to leave them out), and retained data with labels."""
        return retained_access(self.config.retained, forget_set=True)

    @property
    @override
    def needs_retained(self) -> bool:
        """Labels are drawn from the classes that are left."""
        return True

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        retained = some_retained_data(self.config.retained, learner, door, request)
        key = self.setting.key / "random-label" / request.name
        return relabel(learner, door.forget_set(), retained, self.config, key).graded("none")
