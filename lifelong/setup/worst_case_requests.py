"""Choose a forget set by how its samples fare once they are unlearned: bilevel selection (Fan et al. 2024).

    min over w in [0, 1]^N, sum w = m:  sum_i w_i l_i(theta_u(w)) + gamma ||w||^2,
    theta_u(w): a few steps from the model as it is, along signs of the gradient of sum_i (1 - w_i) l_i.

Signs make the derivative of theta_u by w zero almost everywhere, so that the gradient of the outer problem is
l_i + 2 gamma w_i. What is found (loss low without them) are redundant samples, which retraining predicts as well; the
reverse, `easy`, finds memorised ones. Neither is the worst case of every measure. Where whole classes are chosen, all
samples of one have the same weight, and l_i is their mean loss.

The model that chooses is that of the run's plain life without requests, so that all strategies get the same requests.
It looks at all the data: this is a tool of whoever sets the task, nothing that a strategy could do.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable

import numpy as np
import torch

from lifelong.config.run import DECIDES_LIVES, RunConfig, content_hash
from lifelong.files import cache_folder, code_of, write_cached
from strategies.base import Setting, Strategy
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.step import step
from streams.data import Data
from streams.errors import StreamError
from streams.events import Event, Experience
from streams.files import is_sound_zip
from streams.ledger import Ledger
from streams.plan import Choice, Plan, RequestSpec
from streams.randomness import Key
from streams.stream import Stream, event_digest

logger = logging.getLogger(__name__)

_TOLERANCE, _HALVINGS = 1e-5, 100
_BATCH = 256


def project(values: np.ndarray, total: float) -> np.ndarray:
    """Return the nearest w in [0, 1]^N with sum `total`: clip(values - mu, 0, 1), mu found by halving.

    >>> project(np.array([5.0, 4.0, -1.0]), 2).round(4).tolist()
    [1.0, 1.0, 0.0]
    """
    low, high = float(values.min()) - 1, float(values.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if np.clip(values - middle, 0, 1).sum() > total:
            low = middle
        else:
            high = middle
        if high - low < _TOLERANCE * 1e-3:
            break
    return np.clip(values - (low + high) / 2, 0, 1)


def updated(w: np.ndarray, losses: np.ndarray, step: float, gamma: float, easy: bool) -> np.ndarray:
    """Return the weights after one step of the outer problem; `easy` climbs instead of descending.

    Args:
        w: ``[N]`` weights that sum to the number to select.
        losses: ``[N]`` of the unlearned model.
        step: eta.
        gamma: of the penalty.
        easy: maximise the loss.
    """
    slope = (-losses if easy else losses) + 2 * gamma * w
    return project(w - step * slope, float(w.sum()))


def select(
    model: FlatModel,
    objective: Objective,
    data: Data,
    count: int,
    choice: Choice,
    key: Key,
    keys: np.ndarray | None = None,
) -> np.ndarray:
    """Return the ids of `count` samples of `data`; `model` is changed, so hand over a copy.

    Args:
        model, objective, data: what is chosen from, and by what.
        count: how many to choose.
        choice: how.
        key: names all draws.
        keys: int64 ``[n]``, to which class each sample belongs: then classes are chosen, and returned.

    Raises:
        StreamError: none left the random start; the step is too small.
    """
    start = model.state_dict()
    names, of = np.unique(data.ids if keys is None else keys, return_inverse=True)

    def losses() -> np.ndarray:
        return np.bincount(of, _losses(model, objective, data)) / np.bincount(of)

    first = np.zeros(len(names))
    first[(key / "start").order(names)[:count]] = 1.0
    w = first
    step = choice.step / max(float(np.median(losses())), 1e-8)
    for number in range(choice.rounds):
        model.load_state_dict(start)
        unlearn(model, objective, data, w[of], choice, key / "round" / number)
        w = updated(w, losses(), step, choice.gamma, choice.kind == "easy")
    # Equal weights are told apart by name.
    order = np.lexsort((key.priorities(names), -w))
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[:count]] = True
    left = 1 - float(chosen[first > 0].mean())
    logger.info("%s case: %.0f %% of the random start left the selection", choice.kind, 100 * left)
    if left == 0 and count < len(names):
        raise StreamError(
            f"The {choice.kind} case is still its random start: schedule.step ({choice.step:g}) or schedule.rounds "
            f"({choice.rounds}) is too small for losses like these."
        )
    return names[chosen]


def unlearn(model: FlatModel, objective: Objective, data: Data, w: np.ndarray, choice: Choice, key: Key) -> None:
    """Simulate unlearning: steps along signs of the gradient of the weighted sum of losses."""
    weights = torch.from_numpy((1 - w).astype(np.float32)).to(model.parameters.device)
    model.train(True, bn_mode="eval")
    for number in range(choice.passes):
        for positions in data.positions(key / number).split(_BATCH):
            batch = objective.drawn(data.batch(positions), key / number)
            model.gradient.zero_()
            losses = objective.losses(objective.outputs(model, batch), batch)
            (weights[positions] * losses).sum().backward()  # type: ignore[no-untyped-call]
            model.parameters.add_(model.gradient.sign(), alpha=-choice.lr)


def _losses(model: FlatModel, objective: Objective, data: Data) -> np.ndarray:
    model.train(False)
    with torch.inference_mode():
        parts = [objective.losses(objective.outputs(model, b), b) for b in objective.batches(data, _BATCH)]
    return torch.cat(parts).double().cpu().numpy()


class Chooser:
    """Chooses for one run: lives the plain life as far as it is needed, once, and keeps its choices in the cache."""

    def __init__(
        self, config: RunConfig, build: Callable[[Stream], Setting], make: Callable[[Setting], Strategy]
    ) -> None:
        """Prepare.

        Args:
            config: of the run.
            build: makes the setting for a stream.
            make: makes the plain strategy.
        """
        self._config, self._build, self._make = config, build, make
        self._setting: Setting | None = None
        self._strategy: Strategy | None = None
        self._ledger: Ledger | None = None
        self._lived = 0
        self._life: list[object] = []  # what decides the plain life, known from the first choice on

    def __call__(
        self, plan: Plan, events: tuple[Event, ...], candidates: np.ndarray, spec: RequestSpec, key: Key
    ) -> np.ndarray:
        """Return the chosen ids; see `streams.plan.Choose`."""
        assert isinstance(spec.choice, Choice)
        learned = tuple(e for e in events if isinstance(e, Experience) and not e.incarnation)
        file = cache_folder() / "selections" / f"{self._key(plan, learned, candidates, spec, key)}.npz"
        if is_sound_zip(file):
            with np.load(file, allow_pickle=False) as kept:
                ids: np.ndarray = kept["ids"]
        else:
            ids = self._choose(plan, learned, candidates, spec, key)
            content = io.BytesIO()
            np.savez(content, ids=ids)
            write_cached(file, content.getvalue())
        return ids

    def _choose(
        self, plan: Plan, learned: tuple[Experience, ...], candidates: np.ndarray, spec: RequestSpec, key: Key
    ) -> np.ndarray:
        assert isinstance(spec.choice, Choice)
        strategy, setting, ledger = self._live_up_to(plan, learned)
        model = strategy.network()
        assert model is not None
        name = key / "selection"
        if spec.scope == "sample":
            return select(model, setting.objective, ledger.lend(candidates), spec.count, spec.choice, name)
        ids = np.unique(np.concatenate([e.sample_ids for e in learned]))
        ids = ids[np.isin(plan.source.class_ids[ids], candidates)]
        classes = plan.source.class_ids[ids]
        return select(model, setting.objective, ledger.lend(ids), spec.count, spec.choice, name, classes)

    def _live_up_to(self, plan: Plan, learned: tuple[Experience, ...]) -> tuple[Strategy, Setting, Ledger]:
        if self._setting is None or self._strategy is None or self._ledger is None:
            self._setting = self._build(Stream(plan.source, plan.units, plan.experiences, plan.task_of))
            self._strategy = self._make(self._setting)
            self._ledger = Ledger(plan.source, plan.task_of, self._config.device)
        for experience in learned[self._lived :]:
            step(self._strategy, experience, self._ledger)
        self._lived = len(learned)
        return self._strategy, self._setting, self._ledger

    def _key(
        self, plan: Plan, learned: tuple[Experience, ...], candidates: np.ndarray, spec: RequestSpec, key: Key
    ) -> str:
        if not self._life:
            resolved = self._config.resolved()
            decides = {k: resolved[k] for k in DECIDES_LIVES}
            self._life = [code_of(resolved), plan.source.digest(), self._config.seed, decides]
        parts = [
            *self._life,
            [event_digest(e) for e in learned],
            hashlib.blake2b(candidates.tobytes(), digest_size=16).hexdigest(),
            repr((spec, key)),
        ]
        return content_hash(parts)
