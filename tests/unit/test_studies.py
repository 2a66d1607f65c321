"""The study files that come with the project, and criteria that compare grid points."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from lifelong.config.run import RunConfig
from lifelong.results.table import Row, Table
from lifelong.setup.preparation import prepare
from lifelong.study.checks import _unanswerable, check
from lifelong.study.config import Cell, Criterion, StudyConfig, in_size, lay_out, read_study
from lifelong.study.seeds import all_seeds
from lifelong.study.tuning import Tuning
from lifelong.study.verdicts import Results
from streams.config import parse
from streams.errors import ConfigError

FILES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_study_can_be_laid_out(file: Path, size: str) -> None:
    head = file.read_text(encoding="utf-8")
    assert head.startswith("# Claim: ")
    assert "# Source: " in head
    assert f"lifelong study studies/{file.name}" in head
    study = in_size(read_study(file), size)
    cells = lay_out(study)
    if study.tune is not None:
        cells = Tuning(study, cells, Path()).cells(None)
    check(study, cells)
    assert study.criteria
    assert len(all_seeds(study.seeds)) >= 3


@pytest.mark.parametrize("name", ["refresh", "refresh-resnet", "refresh-strength", "refresh-tasks"])
@pytest.mark.parametrize("size", ["small", "full"])
def test_refresh_is_also_compared_at_a_rate_that_makes_up_for_the_climb(name: str, size: str) -> None:
    study = in_size(read_study(FILES[0].with_name(f"{name}.yaml")), size)
    assert study.strategies is not None
    compensated = [c for c in study.criteria if c.against]
    assert compensated
    for criterion in compensated:
        learner = study.strategies[criterion.of].model_dump(mode="json")["learner"]
        gammas = [o.get("gamma", 0.003) for o in learner if isinstance(o, dict) and o.get("name") == "refresh"]
        (gamma,) = gammas or [0.003]
        assert criterion.where["training.lr"] - criterion.against["training.lr"] == pytest.approx(gamma)


def test_the_page_says_where_the_limits_of_a_study_are(tmp_path: Path) -> None:
    page = runpy.run_path(str(FILES[0].with_name("reproduce.py")))
    told = page["limits"](FILES[0].with_name("exssnet-100.yaml"))
    assert told.startswith("KKT lowers accuracy here.")
    assert told.endswith("is tested in kkt-few.yaml and kkt-resnet.yaml.")
    (tmp_path / "a.yaml").write_text("# Claim: a\n#   b\nname: a\n", encoding="utf-8")
    assert page["limits"](tmp_path / "a.yaml") is None


STUDY: dict[str, Any] = {
    "name": "masks",
    "claim": "masking helps",
    "base": {"scenario": {"name": "recurring", "tasks": 3}},
    "strategies": {"naive": {"learner": "naive"}, "replay": {"learner": "replay"}},
    "grid": {
        "objective": ["classification", {"name": "classification", "mask": "batch"}],
        "training.momentum": [0.0, 0.9],
    },
    "seeds": 3,
}
PLAIN, MASKED = STUDY["grid"]["objective"]


def results(*criteria: dict[str, Any]) -> Results:
    """Accuracy is 0.5, plus 0.2 under the mask, minus 0.1 with momentum, plus 0.01 for every seed."""
    common = {"name": "c", "metric": "average_accuracy"}
    study = parse(StudyConfig, STUDY | {"criteria": [common | c for c in criteria]})
    tables = []
    for masked in (False, True):
        for momentum in (0.0, 0.9):
            for seed in range(3):
                value = 0.5 + 0.2 * masked - 0.1 * (momentum > 0) + 0.01 * seed + 0.001 * seed**2 * masked
                rows = {
                    name: Table([Row(2, "run", "stream", "average_accuracy", value + extra, 10)])
                    for name, extra in (("naive", 0.0), ("replay", 0.05))
                }
                values = {"objective": MASKED if masked else PLAIN, "training.momentum": momentum}
                tables.append((Cell(values, seed, RunConfig(), {}), rows))
    return Results(study, tuple(tables))


def test_a_strategy_is_compared_with_itself_at_another_point() -> None:
    at = {"where": {"objective": MASKED, "training.momentum": 0.0}, "against": {"objective": PLAIN}}
    (verdict,) = results({"of": "naive", "minus": "naive", "above": 0.15, **at}).verdicts()
    assert verdict.outcome == "reproduced"
    assert verdict.estimate is not None
    assert verdict.estimate.mean == pytest.approx(0.2 + 0.001 * 5 / 3)
    assert verdict.estimate.n == 3
    assert "naive - naive where objective=classification on average_accuracy where" in verdict.bar


def test_ratios_and_other_strategies_too() -> None:
    at = {"where": {"training.momentum": 0.9}, "against": {"training.momentum": 0.0}}
    ratio, other = results(
        {"of": "naive", "over": "naive", "below": 0.9, **at}, {"of": "replay", "minus": "naive", "below": 0.0, **at}
    ).verdicts()
    assert ratio.outcome == "reproduced"
    assert other.estimate is not None
    assert other.estimate.mean == pytest.approx(-0.05)


def test_against_needs_a_strategy_and_values_of_the_grid() -> None:
    with pytest.raises(ConfigError, match="against needs minus or over"):
        parse(Criterion, {"name": "c", "metric": "m", "of": "naive", "above": 0, "against": {"a": 1}})
    for against, message in (
        ({"objective.mask": "batch"}, r"criteria\.0\.against\.where: 'objective\.mask' is not a key of the grid"),
        ({"training.momentum": 0.5}, r"criteria\.0\.against\.where\.training\.momentum: 0\.5 is not in the grid"),
    ):
        criterion = {"name": "c", "metric": "average_accuracy", "of": "naive", "minus": "naive", "above": 0}
        study = parse(StudyConfig, STUDY | {"criteria": [criterion | {"against": against}]})
        with pytest.raises(ConfigError, match=message):
            check(study, lay_out(study))


def test_a_metric_may_end_as_the_score_of_another_objective_does() -> None:
    """`picture_accuracy` is what an audit says of generators, and no score of a classifier."""
    stream = prepare(RunConfig()).stream
    for metric, problem in (("picture_accuracy", False), ("readout_accuracy", False), ("average_accuracy", True)):
        asked = Criterion(name="it", metric=metric, of="a", above=0.5)
        assert (_unanswerable(asked, stream, "negative_denoising_error") is not None) == problem
