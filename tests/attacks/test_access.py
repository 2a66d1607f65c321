"""Attacks on the promise that a strategy reads what it declares, and nothing that is deleted.

Strategies that keep a door open, declare one access and ask for another, take from all of the past what they call their
buffer, note down what evaluation shows them, or change what they share with the other strategies of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.candidates import own_candidates
from contract.promises import unnamed
from contract.worlds import world_of

from lifelong.config.run import RunConfig
from lifelong.execution.runner import load_run, run
from lifelong.results.table import Table
from strategies.base import Access, Outcome, State, Strategy
from strategies.step import step
from streams.config import parse
from streams.data import Batch
from streams.errors import AccessError, IntegrityError, LedgerError
from streams.events import DeletionRequest, Event, Experience, Request, Unit
from streams.ledger import Door, Ledger
from streams.source import Source

CHEATS = Path(__file__).parent / "cheats"


class Idle(Strategy):
    """Learns nothing and forgets nothing; attacks derive from it."""

    declared = Access(forget_set=True, retained="full")

    @property
    def access(self) -> Access:
        return self.declared

    def learn(self, experience: Experience, door: Door) -> Outcome:
        return Outcome(steps=1)

    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        return Outcome(exactness="none")

    def predict(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch), 4)

    def features(self, batch: Batch) -> None:
        return None

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def events_of(source: Source) -> list[Event]:
    """Learn a half, forget six of its samples, learn the other half."""
    first, second = np.split(source.train_ids, 2)
    request = Request("sample", tuple(first[:6].tolist()), first[:6], first[:0], 1)
    return [Experience("a", (), first), DeletionRequest("request-0", (request,)), Experience("b", (), second)]


def live(strategy: Strategy, source: Source) -> Ledger:
    ledger = Ledger(source)
    for event in events_of(source):
        step(strategy, event, ledger)
    return ledger


@pytest.mark.parametrize("ask", ["fetch", "retained", "forget_set", "history"])
def test_a_door_that_is_kept_is_closed(ask: str, tools: Any) -> None:
    class Keeper(Idle):
        doors: list[Door] = []

        def learn(self, experience: Experience, door: Door) -> Outcome:
            for old in self.doors:
                {
                    "fetch": lambda old=old: old.fetch(experience.sample_ids),
                    "retained": old.retained,
                    "forget_set": old.forget_set,
                    "history": old.history,
                }[ask]()
            return Outcome(steps=1)

        def forget(self, request: DeletionRequest, door: Door) -> Outcome:
            self.doors.append(door)
            return Outcome(exactness="none")

    with pytest.raises(LedgerError, match="This door was opened for one event, and the event is over"):
        live(Keeper(), tools.source())


def test_a_door_closes_also_where_its_event_fails(tools: Any) -> None:
    class Failing(Idle):
        def learn(self, experience: Experience, door: Door) -> Outcome:
            self.door = door
            raise ValueError("mine")

    strategy, source = Failing(), tools.source()
    with pytest.raises(ValueError, match="mine"):
        live(strategy, source)
    with pytest.raises(LedgerError, match="the event is over"):
        strategy.door.fetch(source.train_ids[:1])


def test_access_is_fixed_when_a_life_begins(tools: Any) -> None:
    class Chameleon(Idle):
        asked = 0

        @property
        def access(self) -> Access:
            self.asked += 1
            return Access() if self.asked == 1 else Access(retained="full")

    with pytest.raises(
        AccessError, match=r"declared 'retain: nothing' when its life began and declares 'retain: full' now"
    ):
        live(Chameleon(), tools.source())


@pytest.mark.parametrize("keeps", [True, False])
def test_a_buffer_is_what_was_stored_before(keeps: bool, tools: Any) -> None:
    class Roaming(Idle):
        declared = Access(retained=4)
        kept = np.array([], dtype=np.int64)
        seen = np.array([], dtype=np.int64)

        def learn(self, experience: Experience, door: Door) -> Outcome:
            some = self.kept if keeps else np.setdiff1d(self.seen, self.kept)[:4]
            door.fetch(np.union1d(some, experience.sample_ids[:1]))
            self.kept, self.seen = experience.sample_ids[-4:], experience.sample_ids[6:]
            return Outcome(steps=1)

        def stored_ids(self) -> np.ndarray:
            return self.kept

    if keeps:
        live(Roaming(), tools.source())
        return
    with pytest.raises(AccessError, match=r"buffer\(4\)' but reads 2 earlier samples that were not in its buffer"):
        live(Roaming(), tools.source())


def test_ids_cannot_be_written(tools: Any) -> None:
    source = tools.source()
    first, request, _ = events_of(source)
    assert isinstance(request, DeletionRequest)
    data = Ledger(source).lend(source.train_ids)
    arrays = [first.sample_ids, request.sample_ids, request.requests[0].sample_ids, request.barred_ids, data.ids]
    for ids in (*arrays, Unit("a", (0,), source.test_ids).test_ids):
        with pytest.raises(ValueError, match="read-only"):
            np.random.default_rng(0).shuffle(ids)
    data.all().ids.fill_(0)  # a batch is the strategy's own
    assert np.array_equal(data.ids, source.train_ids)


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_deterministic_debug_mode("warn"),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_what_all_strategies_share_is_put_back(change: Any, fails: bool, tools: Any) -> None:
    class Changing(Idle):
        def forget(self, request: DeletionRequest, door: Door) -> Outcome:
            change()
            if fails:
                raise ZeroDivisionError("the strategy's own")
            return Outcome(exactness="none")

    before = torch.get_num_threads(), torch.get_default_dtype(), torch.get_deterministic_debug_mode()
    told = "the strategy's own" if fails else "changed settings of torch that all strategies of a run share: "
    with pytest.raises(ZeroDivisionError if fails else IntegrityError, match=told):
        live(Changing(), tools.source())
    assert before == (torch.get_num_threads(), torch.get_default_dtype(), torch.get_deterministic_debug_mode())


def config_of(**strategies: Any) -> RunConfig:
    options = {
        "name": "attack",
        "source": "digits",
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": [3]}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1},
        "references": {"kinds": []},
        "strategies": strategies,
    }
    return parse(RunConfig, options)


def cheat(attack: str) -> dict[str, Any]:
    return {"isolated": {"name": str(CHEATS / "looks.py"), "attack": attack}}


def accuracy(table: Table) -> float:
    return float(next(r.value for r in table.rows if r.metric == "average_accuracy" and r.event == 2))


def test_evaluation_shows_neither_labels_nor_whose_samples_they_are(tmp_path: Path) -> None:
    config = config_of(hoarder=cheat("hoard"), oracle=cheat("oracle"))
    tables = run(config, tmp_path / "runs").tables
    assert accuracy(tables["hoarder"]) == accuracy(tables["oracle"]) < 0.3


def test_a_strategy_that_changes_torch_is_named_and_changes_no_other(tmp_path: Path) -> None:
    honest = {"learner": "naive", "unlearner": "finetune"}
    alone = run(config_of(honest=honest), tmp_path / "alone")
    config = config_of(cheat=cheat("threads"), honest=honest)
    with pytest.raises(
        IntegrityError, match=r"Strategy 'cheat', event 0.*threads \(torch\.set_num_threads\): 1, now 2"
    ):
        run(config, tmp_path / "runs")
    beside = load_run(next((tmp_path / "runs").iterdir()))
    assert list(beside.summaries) == ["honest"]
    assert beside.tables["honest"].rows == alone.tables["honest"].rows


@pytest.mark.parametrize("names", [False, True])
def test_the_contract_finds_samples_in_any_form(names: bool, tmp_path: Path) -> None:
    file = tmp_path / "hoards.py"
    hoards = (CHEATS / "hoards.py").read_text(encoding="utf-8")
    file.write_text(hoards.replace("names: bool = False", f"names: bool = {names}"), encoding="utf-8")
    candidate = next(c for c in own_candidates(f"learners={file}") if c.name.endswith("+none"))
    assert unnamed(world_of("class-incremental"), candidate) == (set() if names else {str(file)})
