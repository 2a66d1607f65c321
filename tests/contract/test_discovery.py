"""Third parties add strategies through entry points; a broken one is named, not stumbled over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lifelong.config.run import StrategyConfig
from lifelong.files import code_of, code_version
from lifelong.setup.build import make_strategy
from streams.config import parse
from streams.errors import ConfigError
from streams.registry import KINDS, entries, load

MODULE = '''"""Shrink every weight: a third party's idea of forgetting."""

from typing import final

from pydantic import Field

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `shrink`."""

    factor: float = Field(0.5, gt=0, lt=1)
    """What every weight is multiplied by."""


@final
class Shrink(Unlearner):
    """Multiplies."""

    config: Config

    @property
    def access(self) -> Access:
        """Nothing."""
        return Access()

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Shrink."""
        learner.model.parameters.mul_(self.config.factor)
        return Outcome(exactness="none")
'''


def install(folder: Path, value: str) -> None:
    """Lay out a package and its metadata as pip would."""
    package = folder / "elsewhere_unlearning"
    package.mkdir()
    (package / "__init__.py").write_text('"""Another project."""\n')
    (package / "shrinking.py").write_text(MODULE)
    info = folder / "elsewhere_unlearning-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere-unlearning\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lifelong.unlearners]\nshrink = {value}\n")


def test_an_unlearner_from_elsewhere_is_found_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: Any
) -> None:
    assert "shrink" not in entries("unlearners")
    install(tmp_path, "elsewhere_unlearning.shrinking")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = entries("unlearners")["shrink"]
    assert entry.summary() == "Shrink every weight: a third party's idea of forgetting."
    assert entry.module == "elsewhere_unlearning.shrinking"
    assert {"retrain", "none"} <= set(entries("unlearners"))
    assert load("unlearners", "shrink").__name__ == "elsewhere_unlearning.shrinking"

    world = kit.world("class-incremental")
    config = parse(StrategyConfig, {"learner": "naive", "unlearner": {"name": "shrink", "factor": 0.25}})
    life = kit.Lived(make_strategy(config, world.setting, "mine"), world, world.ledger(), ("", ""))
    kit.go_on(life, world.stream.events[:2])
    learned, forgot = (m.state["model"]["parameters"] for m in life.moments)
    assert forgot.equal(learned * 0.25)
    assert life.moments[1].outcome.exactness == "none"
    with pytest.raises(ConfigError, match=r"mine\.unlearner\.factor"):
        make_strategy(parse(StrategyConfig, {"unlearner": {"name": "shrink", "factor": 2}}), world.setting, "mine")


@pytest.mark.parametrize("value", ["elsewhere_unlearning.gone", "nowhere_at_all.module", "nowhere_at_all"])
def test_an_entry_point_that_leads_nowhere_is_named(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, value)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="'shrink'.*missing"):
        entries("unlearners")
    assert "naive" in entries("learners")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_everything_that_can_be_named_says_what_it_is(kind: str) -> None:
    for name, entry in entries(kind).items():
        assert name == entry.name
        assert 10 < len(entry.summary()) <= 120, f"{kind} {name}: {entry.summary()!r}"


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ConfigError, match="'retrain'"):
        load("unlearners", "retrian")
    with pytest.raises(ConfigError, match="no kind"):
        entries("unlearner")


def test_a_file_is_as_good_as_a_name_and_counts_as_code(tmp_path: Path, kit: Any) -> None:
    file = tmp_path / "shrinking.py"
    file.write_text(MODULE)
    world = kit.world("class-incremental")

    def parameters(factor: float) -> list[Any]:
        unlearner = {"name": str(file), "factor": factor}
        strategy = make_strategy(parse(StrategyConfig, {"unlearner": unlearner}), world.setting, "mine")
        life = kit.go_on(kit.Lived(strategy, world, world.ledger(), ("", "")), world.stream.events[:2])
        return [m.state["model"]["parameters"] for m in life.moments]

    learned, forgot = parameters(0.25)
    assert forgot.equal(learned * 0.25)
    named = {"strategies": {"mine": {"unlearner": {"name": str(file)}}}}
    before = code_of(named)
    assert before != code_version() == code_of({"unlearner": {"name": "retrain"}})
    file.write_text(MODULE.replace("mul_(self.config.factor)", "mul_(2 * self.config.factor)"))
    assert code_of(named) != before
    assert parameters(0.25)[1].equal(learned * 0.5)  # what was imported before is not what counts


def test_code_of_an_entry_point_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "elsewhere_unlearning.shrinking")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [m for m in sys.modules if m.startswith("elsewhere_unlearning")]:  # of the test above
        monkeypatch.delitem(sys.modules, module)
    before = code_of({"name": "shrink"})
    (tmp_path / "elsewhere_unlearning" / "helper.py").write_text("FACTOR = 1\n")
    helped = code_of({"name": "shrink"})
    (tmp_path / "elsewhere_unlearning" / "inner").mkdir()
    (tmp_path / "elsewhere_unlearning" / "inner" / "helper.py").write_text("FACTOR = 2\n")
    assert len({before, helped, code_of({"name": "shrink"}), code_version()}) == 4


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("unlearners", "x = (\n", r"^key: .*mine\.py cannot be imported: SyntaxError"),
        ("unlearners", "x = 1\nimport nothing_here\n", r"mine\.py, line 2, cannot be imported: ModuleNotFoundError"),
        ("unlearners", "x = 1\n", "defines no 'Config'"),
        ("models", "class Config: ...\n", "defines no 'build'"),
        ("unlearners", None, "does not exist. Paths start at the working folder"),
    ],
)
def test_a_file_that_is_no_module_of_its_kind_is_refused(
    kind: str, text: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(kind, str(file), "key")


HOOK = '''"""Does nothing, as a method whose hook is misspelt."""
from strategies.base import Plugin
from streams.config import Config as BaseConfig
class Config(BaseConfig):
    pass
class Mine(Plugin):
    def {name}(self, gradient, parameters):
        return gradient
'''


def test_a_misspelt_hook_is_not_silently_left_out(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for name in ("gradient", "_gradients", "unrelated_helper"):
        file.write_text(HOOK.format(name=name))
        load("learners", str(file))
    file.write_text(HOOK.format(name="gradients"))
    with pytest.raises(ConfigError, match="Mine.gradients is no hook.*Did you mean 'gradient'"):
        load("learners", str(file))


def test_what_a_strategy_of_ones_own_does_wrong_is_placed(tmp_path: Path, kit: Any) -> None:
    file = tmp_path / "mine.py"
    world = kit.world("class-incremental")
    file.write_text(MODULE + "\n\nclass Helper(Shrink):\n    pass\n")
    with pytest.raises(ConfigError, match=r"mine\.py must define exactly one.*2 \(Shrink, Helper\).*underscore"):
        make_strategy(parse(StrategyConfig, {"unlearner": str(file)}), world.setting, "mine")
    file.write_text(MODULE.replace('return Outcome(exactness="none")', "return None"))
    strategy = make_strategy(parse(StrategyConfig, {"unlearner": str(file)}), world.setting, "mine")
    life = kit.Lived(strategy, world, world.ledger(), ("", ""))
    with pytest.raises(TypeError, match=r"Shrink\.forget must return an Outcome; it returned None"):
        kit.go_on(life, world.stream.events[:2])
