"""Where a study with looks ends, and what tuning has helped: results are made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifelong.study import study as module
from lifelong.study.inference import Rule
from lifelong.study.study import Study, resume_study

TINY: dict[str, Any] = {
    "name": "made-up",
    "claim": "Something.",
    "base": {"schedule": {"name": "periodic", "scope": "sample", "limit": 1}},
    "strategies": {"kept": {"unlearner": "none"}, "again": {"unlearner": "gradient-ascent"}},
    "criteria": [{"name": n, "of": "again", "above": 0.5, "metric": "average_accuracy"} for n in ("one", "other")],
}


@dataclass
class Found:
    """What a search came to, as far as it is asked here."""

    strategy: str
    information: str

    @property
    def name(self) -> str:
        return f"{self.strategy}+{self.information}"


@pytest.mark.parametrize(
    ("outcomes", "reached"),
    [
        ({3: ["reproduced", "contradicted"]}, 3),
        ({3: ["reproduced", "undecided"], 5: ["reproduced", "reproduced"]}, 5),
        ({3: ["undecided"] * 2, 5: ["undecided", "not testable"], 8: ["undecided"] * 2}, 8),
    ],
)
def test_a_study_ends_at_the_first_look_that_decides_everything(
    outcomes: dict[int, list[str]], reached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(TINY | {"seeds": {"looks": [3, 5, 8]}}, root=tmp_path)
    assert len(study.seeds) == 3, "nothing is finished"
    study._reached = None
    monkeypatch.setattr(module, "is_done", lambda job: True)

    def results_of(seeds: tuple[int, ...], metrics: object) -> Any:
        judged = [SimpleNamespace(outcome=o) for o in outcomes[len(seeds)]]
        return SimpleNamespace(validity=lambda: judged[:1], verdicts=lambda: judged[1:])

    monkeypatch.setattr(study, "_results_of", results_of)
    assert study.seeds == tuple(range(reached))
    assert len(study.jobs) == reached
    assert len(study.all_jobs) == 8


def test_tuning_helped_where_the_tuned_loses_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(TINY | {"seeds": 3, "tune": {"trials": 2, "of": ["again"]}, "criteria": []}, root=tmp_path)
    study.tuned = [Found("again", "practical")]  # type: ignore[list-item]
    losses = {"again": {0: 0.5, 1: 0.75, 2: 1.0}, "again+practical": {0: 0.25, 1: 0.25}}
    assert study.tuning is not None
    monkeypatch.setattr(study.tuning, "loss_by_seed", lambda information, name, tables: losses[name])
    (told,) = study.tuning_outcome()
    assert (told["helped"]["mean"], told["helped"]["n"]) == (pytest.approx((0.25 + 0.5) / 2), 2)


def test_a_study_goes_on_in_its_size_and_by_its_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(TINY | {"seeds": 3, "sizes": {"small": {"seeds": 2}}}, "small", tmp_path)
    study.collect()
    again = resume_study(study.folder)
    assert (again.size, again.identity, again.seeds) == ("small", study.identity, (0, 1))
    assert not study.rule.anytime
    monkeypatch.setattr(study, "_looked", (1,))
    assert study.rule == Rule(anytime=True)
