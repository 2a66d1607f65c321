"""SGDLearner: one model, the training loop, and any number of plugins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar, final

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Access, Door, Learner, Lesson, Outcome, Plugin, Setting, State
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel, num_bytes
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.training.timing import timed
from streams.events import DeletionRequest, Experience

T = TypeVar("T")


@final
class SGDLearner(Learner):
    """Trains one model on each experience in turn, with plugins hooked into the loop."""

    def __init__(self, setting: Setting, make_plugins: Callable[[], Sequence[tuple[str, Plugin]]]) -> None:
        """Start fresh.

        Args:
            setting: what it is built in.
            make_plugins: returns new (name, plugin) pairs; called again by `reset`.
        """
        self.setting = setting
        self._make_plugins = make_plugins
        self.reset()

    @functools.cached_property
    def model(self) -> FlatModel:  # type: ignore[override]  # it may be assigned to, as the base class says
        """The model, made when it is first asked for: a learner that waits for its turn holds none."""
        with torch.inference_mode(False):  # whoever asks first, it will be trained
            return self.setting.make_model()

    @override
    def reset(self) -> None:
        vars(self).pop("model", None)
        self.plugins = dict(self._make_plugins())
        self._derived = np.zeros(self.setting.num_samples, dtype=bool)
        self._renew_optimizer()

    @property
    @override
    def access(self) -> Access:
        retained = [p.access.retained for p in self.plugins.values()]
        if "full" in retained:
            return Access(retained="full")
        return Access(retained=sum(int(r) for r in retained))

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        ids = experience.sample_ids
        with timed("select_s"):
            for plugin in self.plugins.values():
                ids = plugin.select(ids, experience, door, self.model)
        data = door.fetch(ids)
        key = self.setting.key / "fit" / experience.name / experience.incarnation
        lesson = Lesson(experience, data, door, self.model, key, self.setting.training.num_steps(len(data)))
        for plugin in self.plugins.values():
            plugin.begin(lesson)
        hooks = list(self.plugins.values())
        own = [steps for plugin in hooks if (steps := plugin.steps(lesson)) is not None]  # one at the most, see build
        optimizer = own[0] if own else self._carried_optimizer
        ids = np.concatenate([ids, *(plugin.trained_beside() for plugin in hooks)])
        outcome = fit(self.model, self.setting.objective, data, self.setting.training, key, hooks, optimizer)
        for plugin in self.plugins.values():
            outcome += plugin.end(lesson)
        self._derived[ids] = True
        if self._carried_optimizer is not None:
            self._in_optimizer[ids] = True
        return outcome

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Let every plugin clean its own state; forget moments that derive from the request's samples."""
        if self._in_optimizer[request.sample_ids].any():
            self._renew_optimizer()
        for plugin in self.plugins.values():
            plugin.purge(request)

    @override
    def settle(self) -> None:
        for plugin in self.plugins.values():
            plugin.settle(self.model)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {"weights": ids[self._derived[ids]], "optimizer": ids[self._in_optimizer[ids]]}
        for name, plugin in self.plugins.items():
            by_component |= {f"{name}.{component}": held for component, held in plugin.holds(ids).items()}
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.unique(
            np.concatenate([np.array([], dtype=np.int64), *(p.stored_ids() for p in self.plugins.values())])
        )

    @override
    def part(self, kind: type[T]) -> T:
        for plugin in self.plugins.values():
            for offered in plugin.offers():
                if isinstance(offered, kind):
                    return offered
        return super().part(kind)

    @override
    def state_dict(self) -> State:
        state: State = {
            "model": self.model.state_dict(),
            "plugins": {name: plugin.state_dict() for name, plugin in self.plugins.items()},
            "derived": torch.from_numpy(self._derived.copy()),
        }
        if self._carried_optimizer is not None:
            derived = torch.from_numpy(self._in_optimizer.copy())
            state["optimizer"] = {"moments": self._carried_optimizer.state_dict(), "derived": derived}
        return state

    @override
    def state_bytes(self) -> int:
        """Return the size of the state; the weights, the largest part, are not copied for it."""
        plugins = sum(num_bytes(plugin.state_dict()) for plugin in self.plugins.values())
        moments = 0 if self._carried_optimizer is None else num_bytes(self._carried_optimizer.state_dict())
        return self.model.num_bytes() + plugins + moments

    @override
    def load_state_dict(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        for name, plugin in self.plugins.items():
            plugin.load_state_dict(state["plugins"][name])
        self._derived = state["derived"].numpy().copy()
        if self._carried_optimizer is not None:
            self._carried_optimizer.load_state_dict(state["optimizer"]["moments"])
            self._in_optimizer = state["optimizer"]["derived"].numpy().copy()

    def _renew_optimizer(self) -> None:
        training = self.setting.training
        self._carried_optimizer = make_optimizer(training, self.model.parameters) if training.carry_optimizer else None
        self._in_optimizer = np.zeros(self.setting.num_samples, dtype=bool)
