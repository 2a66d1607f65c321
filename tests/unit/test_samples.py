"""Batches of evaluation samples: how many pass at once, what is drawn for them, and what stays in memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lifelong.evaluation import samples as module
from lifelong.evaluation.samples import Samples, rows_of_a_pass
from strategies.objectives._base import EVALUATION
from strategies.objectives.classification import Classification
from streams.data import Batch
from streams.events import Experience
from streams.source import Source
from streams.stream import Stream


class Drawing(Classification):
    """Counts what it draws for."""

    def drawn(self, batch: Batch, key: Any) -> Batch:
        assert key is EVALUATION
        return replace(batch, extra={**batch.extra, "drawn": batch.ids})


def samples_of(digits: Source, ids: np.ndarray, size: int) -> Samples:
    plan: Any = SimpleNamespace(ids=ids)
    stream = Stream(digits, (), (Experience("all", (), digits.train_ids),))
    return Samples(stream, plan, Drawing(10, None), size, "cpu")


def test_all_samples_come_in_the_order_of_the_plan_with_what_is_drawn(digits: Source) -> None:
    ids = np.arange(3, 200, 7)
    samples = samples_of(digits, ids, 10)
    batches = samples.all()
    assert [len(b.ids) for b in batches] == [10, 10, 9]
    assert np.concatenate([b.ids for b in batches]).tolist() == ids.tolist()
    some = [batch for positions in (np.array([4, 1]), np.array([0])) for batch in samples.batches(positions)]
    assert [b.ids.tolist() for b in some] == [[ids[4], ids[1]], [ids[0]]]
    for batch in (*batches, *some, samples.batch(np.array([2]))):
        assert batch.extra["drawn"].tolist() == batch.ids.tolist()
    assert samples_of(digits, ids[:0], 10).all() == []


@pytest.mark.parametrize(("room", "kept"), [(29, True), (28, False)])
def test_batches_stay_only_where_their_bytes_have_room(
    digits: Source, room: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", room * digits.sample_bytes)
    assert isinstance(samples_of(digits, np.arange(29), 10).all(), list) == kept


def test_long_rows_pass_in_smaller_numbers() -> None:
    for length, words in ((40, 49_152), (80, 49_152), (40, 98_304), (10**6, 10**6)):
        objective: Any = SimpleNamespace(predicts="tokens", num_outputs=words)
        source: Any = SimpleNamespace(input_shape=(2, length))
        rows = rows_of_a_pass(256, objective, source)
        assert rows == 1 or rows * length * words <= 2**27
        assert rows == 256 or (rows + 1) * length * words > 2**27
