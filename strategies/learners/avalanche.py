"""Any Avalanche training strategy, with any of its plugins, named by importable path.

What is promised:

- Training is Avalanche's own: its loop, data loader, optimizer state that lives on between experiences. The global
  generators are lent to it for each experience under the experience's name and put back afterwards.
- Avalanche never owns data. Its datasets and buffers hold sample ids; every row they read comes through the ledger's
  door of the event, so a buffer that still names a deleted sample fails loudly instead of training on it.
- With the unlearner `retrain` a deletion is exact to the bit: everything is rebuilt from the surviving experiences.
- With any other unlearner, samples are taken out of those Avalanche buffers that can be found (attributes, dicts and
  lists that hold Avalanche datasets). Importances, anchors, teachers and raw copies inside third-party plugins cannot
  be cleaned and do not move with `settle`; `holds` reports them as derived from everything learned.
- The state of foreign objects cannot be written to a checkpoint without pickling code and data. `restore` teaches the
  surviving experiences again and compares the result with the checkpoint bit for bit. After a deletion that was not
  served by rebuilding there is no such life to repeat, and `restore` refuses.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch.utils.data import Dataset
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.objectives._base import ClassObjective
from strategies.parts.fit import Training
from strategies.parts.model import digest, is_finite
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import CheckpointError, ConfigError, LedgerError, TrainingError
from streams.events import DeletionRequest, Experience
from streams.randomness import seeded_globals
from streams.registry import import_by_path

_OURS = {"model", "optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device", "plugins"}
_OURS |= {"evaluator", "eval_every"}


class PluginConfig(BaseConfig):
    """One Avalanche plugin."""

    plugin: str
    """Importable path, such as ``avalanche.training.plugins.EWCPlugin``."""
    options: dict[str, JsonValue] = {}
    """Its keyword arguments."""


class Config(BaseConfig):
    """Options of `avalanche`."""

    strategy: str = "avalanche.training.Naive"
    """Importable path of a strategy class."""
    options: dict[str, JsonValue] = {}
    """Its keyword arguments, beside model, optimizer, batch size and epochs, which come from the run."""
    plugins: tuple[PluginConfig, ...] = ()
    """Plugins to add, in order."""
    retained: int | Literal["full"] = Field("full")
    """Earlier samples it may read while learning (`full`, or the size of its buffer); the ledger enforces it."""


@final
class Avalanche(Learner):
    """Drives one Avalanche strategy over the model, and keeps the record that rebuilds it."""

    supports = frozenset({"classes"})
    always = {"carry_optimizer": True}
    restores_by_reliving = True
    test_options = {"retained": 0}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the strategy.

        Raises:
            ConfigError: a path cannot be imported, or an option is not accepted.
        """
        self._objective = ClassObjective.of(setting.objective)
        _check_loop(setting.training, self._objective)
        self.config, self.setting = config, setting
        self.reset()

    @override
    def reset(self) -> None:
        self.model = self.setting.make_model()
        self._reader = _Reader(self.setting.num_samples)
        self._passes = _count_passes(self.model.network)
        self._root = _task_aware(self.model.network, self._objective) if self._objective.masks else self.model.network
        with seeded_globals(self.setting.key / "avalanche" / "build"):
            self._strategy = _build(self.config, self.setting, self._root)
        self._learned: list[list[str | int]] = []
        self._derived = np.zeros(self.setting.num_samples, dtype=bool)
        self._repeatable = True
        self._loaded: State | None = None

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.retained)

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Let Avalanche train on the experience.

        Raises:
            CheckpointError: a state was loaded and `restore` was not called.
            ConfigError: the strategy replaced the model or changed its shape.
            TrainingError: a weight is no longer finite.
        """
        if self._loaded is not None:
            raise CheckpointError("An Avalanche learner must be restored with a door before it can go on learning.")
        self._reader.open(door, np.union1d(experience.sample_ids, self.stored_ids()))
        steps, forward, backward = self._strategy.clock.train_iterations, *self._passes
        key = self.setting.key / "avalanche" / experience.name / experience.incarnation
        try:
            with seeded_globals(key), _own_deprecations_hidden():
                self._strategy.train(self._wrap(experience), eval_streams=[])
        finally:
            self._reader.close()
        self._reattach()
        self._derived[experience.sample_ids] = True
        self._learned.append([experience.name, experience.incarnation])
        if not is_finite(self.model.parameters):
            raise TrainingError(
                f"{self.config.strategy} diverged. Lower training.lr (now {self.setting.training.lr:g})."
            )
        return Outcome(
            steps=self._strategy.clock.train_iterations - steps,
            forward=self._passes[0] - forward,
            backward=self._passes[1] - backward,
        )

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Take the samples out of every Avalanche dataset that the strategy or a plugin keeps."""
        self._repeatable = False
        for holder, key, value in list(_reachable(self._strategy)):
            if _is_dataset(value) and "sample_ids" in value._data_attributes:
                ids = np.array(value.sample_ids.data[:], dtype=np.int64)
                keep = np.flatnonzero(~np.isin(ids, request.sample_ids))
                if len(keep) < len(ids):
                    _replace(holder, key, value.subset(keep.tolist()), torch.from_numpy(keep))

    @override
    def settle(self) -> None:
        """Do nothing: where a third-party plugin keeps its anchors is not known."""

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the weights, whatever plugins may keep, and the buffers hold."""
        derived = ids[self._derived[ids]]
        by_component = {"weights": derived, "avalanche": derived, "buffer": ids[np.isin(ids, self.stored_ids())]}
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        """Return the samples in all Avalanche datasets that the strategy or a plugin keeps."""
        if self._loaded is not None:
            return self._loaded["stored"].numpy()
        stored = [
            np.array(value.sample_ids.data[:], dtype=np.int64)
            for _, _, value in _reachable(self._strategy)
            if _is_dataset(value) and "sample_ids" in value._data_attributes
        ]
        return np.unique(np.concatenate([np.array([], dtype=np.int64), *stored]))

    @override
    def state_dict(self) -> State:
        """Return the weights, the record that rebuilds the rest, and a digest to compare the rebuilt with."""
        return {
            "model": self.model.state_dict(),
            "learned": [list(entry) for entry in self._learned],
            "repeatable": self._repeatable,
            "derived": torch.from_numpy(self._derived.copy()),
            "stored": torch.from_numpy(self.stored_ids()),
            "strategy": self._fingerprint(),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        """Put weights and record back: enough to predict. Learning on needs `restore`."""
        self.reset()
        self.model.load_state_dict(state["model"])
        self._learned = [list(entry) for entry in state["learned"]]
        self._repeatable = state["repeatable"]
        self._derived = state["derived"].numpy().copy()
        self._loaded = {"stored": state["stored"].clone(), "strategy": state["strategy"]}

    @override
    def restore(self, door: Door) -> None:
        """Teach a fresh strategy the surviving experiences again.

        Raises:
            CheckpointError: a deletion was served without rebuilding, the door tells another history, or the strategy
                does not come out the same twice.
        """
        if self._loaded is None:
            return
        if not self._repeatable:
            raise CheckpointError(
                "An Avalanche strategy cannot be resumed after a request that was not served by unlearner 'retrain': "
                "its inner state is not in the checkpoint and cannot be repeated. Run again from the start."
            )
        weights, learned, fingerprint = self.model.state_dict(), self._learned, self._fingerprint()
        self.reset()
        for experience in door.history():
            self.learn(experience, door)
        if self._learned != learned:
            raise CheckpointError(
                f"The checkpoint has learned {len(learned)} experiences, the ledger's history has "
                f"{len(self._learned)}, or others. Resume with the stream that the checkpoint was made with."
            )
        if digest(self.model.state_dict()) != digest(weights) or self._fingerprint() != fingerprint:
            raise CheckpointError(
                f"{self.config.strategy} does not come out the same when it is trained again, so that it cannot be "
                "resumed. Run again from the start."
            )

    def _wrap(self, experience: Experience) -> Any:
        """Return the experience as Avalanche's: targets and sample ids as attributes, a task label comes last.

        Where the stream has no task labels the label is 0, as in Avalanche's own class-incremental benchmarks (many
        plugins read it), and the experience does not say that it is task-aware.
        """
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import DataAttribute
        from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset

        labels, tasks = self._reader.labels(experience.sample_ids)
        attributes = [
            DataAttribute(labels, "targets"),
            DataAttribute(experience.sample_ids.tolist(), "sample_ids"),
            DataAttribute(tasks or [0] * len(labels), "targets_task_labels", use_in_getitem=True),
        ]
        rows = _Rows(self._reader, experience.sample_ids)
        dataset = TaskAwareSupervisedClassificationDataset([rows], data_attributes=attributes)
        result = benchmark_from_datasets(train=[dataset]).train_stream[0]
        result.current_experience = len(self._learned)
        result.classes_in_this_experience = sorted(set(labels))
        if tasks is not None:
            result.task_labels = sorted(set(tasks))
        return result

    @torch.no_grad()
    def _reattach(self) -> None:
        """Make the network's parameters and gradients views of the model's vectors again."""
        model = self.model
        named = dict(model.network.named_parameters())
        grown = {n for n, p in named.items() if p.requires_grad} - set(model.slices)
        changed = {n for n, s in model.slices.items() if n not in named or named[n].numel() != s.stop - s.start}
        foreign = self._strategy.model
        if (
            grown
            or changed
            or {n: p.shape for n, p in foreign.state_dict().items()}
            != {n: p.shape for n, p in self._root.state_dict().items()}
        ):
            raise ConfigError(
                f"{self.config.strategy} changes the shape of the model; only fixed models can be driven."
            )
        if foreign is not self._root:  # it trains copies, as GDumb does
            self._root.load_state_dict(foreign.state_dict())
            self._strategy.model = self._root
        for name, where in model.slices.items():
            parameter, view = named[name], model.parameters[where]
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.reshape(-1))
                parameter.data = view.view_as(parameter)
            parameter.grad = model.gradient[where].view_as(parameter)

    def _fingerprint(self) -> str:
        """Return a digest of the optimizer and of every tensor that the strategy and its plugins keep."""
        if self._loaded is not None:
            return str(self._loaded["strategy"])
        tensors: list[object] = []
        for _, key, value in _reachable(self._strategy):
            if isinstance(value, torch.nn.Module) and value is not self._root:
                tensors.append([str(key), dict(value.state_dict())])
            elif isinstance(value, torch.Tensor):
                tensors.append([str(key), value])
        return digest([self._strategy.optimizer.state_dict(), tensors, torch.from_numpy(self.stored_ids())])


class _Reader:
    """The rows that may be read during one event, fetched at once; a row outside of them asks the door."""

    def __init__(self, num_samples: int) -> None:
        self._place = np.full(num_samples, -1, dtype=np.int64)
        self._door: Door | None = None
        self._batch: Batch | None = None

    def open(self, door: Door, ids: np.ndarray) -> None:
        self._door = door
        self._batch = _on_cpu(door.fetch(ids).all())
        self._place[ids] = np.arange(len(ids))

    def close(self) -> None:
        self._door = self._batch = None
        self._place[:] = -1

    def labels(self, ids: np.ndarray) -> tuple[list[int], list[int] | None]:
        """Return class ids, and task labels if there are any."""
        assert self._batch is not None
        rows = torch.from_numpy(self._place[ids])
        task = self._batch.task
        return self._batch.y[rows].tolist(), None if task is None else task[rows].tolist()

    def sample(self, sample_id: int) -> tuple[torch.Tensor, int]:
        if self._door is None or self._batch is None:
            raise LedgerError(f"Avalanche reads sample {sample_id} outside of an event.")
        place = int(self._place[sample_id])
        if place >= 0:
            return self._batch.x[place], int(self._batch.y[place])
        one = _on_cpu(self._door.fetch(np.array([sample_id])).all())
        return one.x[0], int(one.y[0])

    def __deepcopy__(self, memo: dict[int, object]) -> _Reader:
        return self


class _Rows(Dataset[tuple[torch.Tensor, int]]):
    """Sample ids as a dataset: it holds no data."""

    def __init__(self, reader: _Reader, ids: np.ndarray) -> None:
        self._reader, self._ids = reader, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._reader.sample(int(self._ids[index]))


def _on_cpu(batch: Batch) -> Batch:
    return Batch(batch.ids.cpu(), batch.x.cpu(), batch.y.cpu(), None if batch.task is None else batch.task.cpu())


def _check_loop(training: Training, objective: ClassObjective) -> None:
    """Refuse options of our loop that Avalanche's does not have, instead of passing over them."""
    for key, value, plain in (
        ("training.bn_mode", training.bn_mode, "train"),
        ("training.clip_norm", training.clip_norm, None),
        ("objective.loss", objective.loss, "ce"),
        ("objective.mask", objective.training_mask, "none"),
    ):
        if value != plain:
            raise ConfigError(
                f"{key}: the 'avalanche' learner brings its own loop, which cannot do {value!r}; set it to {plain!r}."
            )


def _build(config: Config, setting: Setting, root: torch.nn.Module) -> Any:
    """Make the Avalanche strategy that the configuration names."""
    reserved = sorted(_OURS & set(config.options))
    if reserved:
        raise ConfigError(
            f"learner.options: {', '.join(reserved)} come from the run (training, plugins); leave them out."
        )
    from avalanche.core import BasePlugin
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates.base import BaseTemplate

    plugins = [
        _call(_import(p.plugin, BasePlugin, f"learner.plugins.{i}.plugin"), p.options, f"learner.plugins.{i}.options")
        for i, p in enumerate(config.plugins)
    ]
    options_of_run = {
        "model": root,
        "optimizer": make_torch_optimizer(setting.training, root),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": setting.training.batch_size,
        "train_epochs": setting.training.epochs,
        "device": next(root.parameters()).device,
        "plugins": plugins,
        # An evaluation plugin without any logger warns; the base class is one that writes nothing.
        "evaluator": EvaluationPlugin(loggers=[BaseLogger()], collect_all=False),
    }
    strategy = _import(config.strategy, BaseTemplate, "learner.strategy")
    return _call(strategy, config.options | options_of_run, "learner.options")


def make_torch_optimizer(training: Training, root: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the ``torch.optim`` optimizer that the training options describe."""
    if training.optimizer == "adam":
        return torch.optim.Adam(
            root.parameters(),
            lr=training.lr,
            betas=training.betas,
            eps=training.eps,
            weight_decay=training.weight_decay,
        )
    return torch.optim.SGD(
        root.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )


def _import(path: str, base: type, where: str) -> Callable[..., Any]:
    imported = import_by_path(path, where)
    if not isinstance(imported, type) or not issubclass(imported, base):
        raise ConfigError(f"{where}: {path!r} is not a class that derives from Avalanche's {base.__name__}.")
    return imported


def _call(make: Callable[..., Any], options: dict[str, Any], where: str) -> Any:
    try:
        return make(**options)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"{where}: {make.__name__} does not accept this: {error}") from error


def _task_aware(network: torch.nn.Module, objective: ClassObjective) -> torch.nn.Module:
    """Return the network as Avalanche's kind of module that gets task labels, masked as the objective masks."""
    from avalanche.models import MultiTaskModule

    class Masked(MultiTaskModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor, task_labels: torch.Tensor | None) -> torch.Tensor | dict[int, torch.Tensor]:
            if task_labels is None:  # Avalanche asks for the outputs of every task it has trained
                return {t: self(x, torch.full((len(x),), t, device=x.device)) for t in self.known_train_tasks_labels}
            batch = Batch(task_labels, x, task_labels, task_labels)
            # Distillation multiplies logits by probabilities, and 0 x -inf is not a number; exp(-1000) is 0 as well.
            return objective.mask(self.network(x), batch).clamp(min=-1000.0)

    return Masked()


def _count_passes(network: torch.nn.Module) -> list[int]:
    """Return a list that counts samples passed forward and backward; copies of the network count into it too."""
    passes = [0, 0]

    def count_backward(gradient: torch.Tensor) -> None:
        passes[1] += len(gradient)

    def count_forward(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        passes[0] += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)  # type: ignore[no-untyped-call]

    network.register_forward_hook(count_forward)
    return passes


@contextlib.contextmanager
def _own_deprecations_hidden() -> Iterator[None]:
    """Hold back what Avalanche 0.6 says about its own methods, for which it rewrites the process's warning filters."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not issubclass(warning.category, DeprecationWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _is_dataset(value: object) -> bool:
    from avalanche.benchmarks.utils import AvalancheDataset

    return isinstance(value, AvalancheDataset)


def _reachable(root: object) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (holder, attribute or key, value) for all that can be reached through attributes, dicts and sequences.

    Datasets, modules, tensors and optimizers are yielded but not entered.
    """
    entered = {id(root)}
    stack: list[object] = [root]
    while stack:
        holder = stack.pop()
        if isinstance(holder, dict):
            items: list[tuple[Any, Any]] = list(holder.items())
        elif isinstance(holder, list | tuple):
            items = list(enumerate(holder))
        else:
            items = list(getattr(holder, "__dict__", {}).items())
        for key, value in items:
            yield holder, key, value
            if id(value) not in entered and _is_entered(value):
                entered.add(id(value))
                stack.append(value)


def _is_entered(value: object) -> bool:
    closed = torch.Tensor | torch.nn.Module | torch.optim.Optimizer | type | _Reader
    if isinstance(value, closed) or _is_dataset(value):
        return False
    return isinstance(value, dict | list | tuple) or type(value).__module__.split(".")[0] not in ("builtins", "torch")


def _replace(holder: Any, key: Any, dataset: Any, keep: torch.Tensor) -> None:
    """Put a smaller dataset where a larger one was."""
    from avalanche.training.storage_policy import ReservoirSamplingBuffer

    if isinstance(holder, dict | list):
        holder[key] = dataset
    elif not isinstance(holder, tuple):
        vars(holder)[key] = dataset
    if isinstance(holder, ReservoirSamplingBuffer):
        holder._buffer_weights = holder._buffer_weights[keep]
