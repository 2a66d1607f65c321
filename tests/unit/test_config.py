"""Configurations: what is refused and how it is told, overrides, resolution, annotated files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lifelong.config.annotate import annotated, options
from lifelong.config.run import RunConfig, StrategyConfig, load_config, override
from lifelong.config.shipped import opening, ready_scenarios
from streams.config import Config, parse
from streams.errors import ConfigError, LifelongError
from streams.schedules.explicit import Config as Explicit
from streams.schedules.periodic import Config as Periodic


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (
            RunConfig,
            {"traning": {}},
            "traning: there is no such key. Did you mean 'training'? Allowed: channels_last, deterministic, ",
        ),
        (RunConfig, {"training": {"lrr": 1}}, "training.lrr: there is no such key. Did you mean 'lr'? Allowed: batch_"),
        (
            RunConfig,
            {"strategies": {"a": {"lerner": "ewc"}}},
            "strategies.a.lerner: there is no such key. Did you mean 'learner'? Allowed: guard, isolated, learner, "
            "unlearner, unlearning_seed.",
        ),
        # a strategy may be called like a key
        (
            RunConfig,
            {"strategies": {"learner": {"lerner": "ewc"}}},
            "strategies.learner.lerner: there is no such key. Did you mean 'learner'?",
        ),
        (RunConfig, {"training": {"lr": -1}}, "training.lr: -1 is not valid: it must be greater than 0."),
        (RunConfig, {"training": {"lr": float("inf")}}, "training.lr: inf is not valid: it must be a finite number."),
        (RunConfig, {"training": {"epochs": 0}}, "training.epochs: 0 is not valid: it must be 1 or more."),
        (RunConfig, {"training": {"epochs": True}}, "training.epochs: true is not valid: it must be a number, not"),
        (
            RunConfig,
            {"training": None},
            "training: null is not valid: it must be a mapping of keys to values, of batch",
        ),
        (RunConfig, {"seed": 2**31}, "seed: 2147483648 is not valid: it must be less than"),
        (RunConfig, {"seed": "x"}, "seed: 'x' is not valid: it must be an integer."),
        (RunConfig, {"deterministic": "maybe"}, "deterministic: 'maybe' is not valid: it must be true or false."),
        (RunConfig, {"source": None}, "source: null is not valid: it must be a name, or {name: ..., option: ...}."),
        (RunConfig, {"source": {"users": 3}}, "source.name: this key is required."),
        (RunConfig, {"strategies": {}}, "strategies: {} is not valid: it must be a collection of at least 1."),
        (
            RunConfig,
            {"strategies": {"a b": {}}},
            "strategies: the name 'a b' may only have letters, digits and - _ . +",
        ),
        (
            RunConfig,
            {"strategies": {"a": {"isolated": "independent", "learner": "ewc"}}},
            "strategies.a: isolated strategies bring their own learning and forgetting: drop learner, unlearner, guard "
            "and unlearning_seed.",
        ),
        (RunConfig, {"strategies": {"a": {"learner": 7}}}, "strategies.a.learner: 7 is not valid: it must be a name,"),
        (
            RunConfig,
            {"references": {"kinds": ["retraind"]}},
            "references.kinds.0: 'retraind' is not valid. Did you mean 'retrained'? Allowed: clean, fresh, joint, ",
        ),
        (RunConfig, {"name": "a/b"}, "name: 'a/b' is not valid: it must be text that matches"),
        # a union is one problem, told without pydantic's tags
        (
            Periodic,
            {"scope": "sampel"},
            "scope: 'sampel' is not valid. Did you mean 'sample'? Allowed: class, sample, ",
        ),
        (Periodic, {"scope": ["sample", "x"]}, "scope.1: 'x' is not valid. Allowed: class, sample, task, user."),
        (
            Explicit,
            {"requests": [{"after": 0, "scope": "class"}]},
            "requests.0.after: 0 is not valid: it must be 1 or more.",
        ),
        (Explicit, {"requests": [{"after": 1, "scope": "class", "keys": []}]}, "requests.0: keys must name at least"),
        (Explicit, {"requests": [{"after": 1}]}, "requests.0.scope: this key is required."),
    ],
)
def test_messages(model: type[Config], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(model, values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_problem_is_told_with_its_whole_key() -> None:
    with pytest.raises(ConfigError) as error:
        parse(Explicit, {"requests": [{"after": 0, "scope": "x", "kys": [1]}]}, "schedule")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"schedule.requests.0.{k}" for k in ("after", "scope", "kys")]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("source=digit", "source: 'digit' is not known. Did you mean 'digits'?"),
        ("scenario=class-incremntal", "scenario: 'class-incremntal' is not known. Did you mean 'class-incremental'?"),
        ("strategies.ewc-retrain.learner=ewcc", "'ewcc' is not known. Did you mean 'ewc'?"),
        ("strategies.ewc-retrain.learner=[ewc, ewc]", "a plugin is named twice"),
        ("strategies.ewc-retrain.learner=independent", "is not known (there is one among the isolated)"),
        ("strategies.replay-finetune.unlearner.lrr=1", "unlearner.lrr: there is no such key. Did you mean 'lr'?"),
        ("model.hiden=[3]", "model.hiden: there is no such key. Did you mean 'hidden'?"),
        ("seed", "--set 'seed' must look like training.lr=0.1."),
        ("seed.x=1", "'seed' has no keys of its own; it is 0."),
        ("model=[", "the value is not valid YAML"),
    ],
)
def test_bad_overrides(assignment: str, message: str) -> None:
    with pytest.raises(LifelongError) as error:
        load_config("quickstart", [assignment])
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_overrides_are_yaml_and_reach_into_short_forms() -> None:
    data = {"source": "digits", "training": {"lr": 0.1}}
    changed = override(data, ["source.users=5", "training.lr=1e-3", "deterministic=false", "name=2024-01-01"])
    assert changed["source"] == {"name": "digits", "users": 5}
    assert data == {"source": "digits", "training": {"lr": 0.1}}
    config = parse(RunConfig, {k: v for k, v in changed.items() if k != "name"})
    assert (config.training.lr, config.deterministic) == (0.001, False)


def test_seed_zero_is_a_seed_of_its_own() -> None:
    configs = [load_config("quickstart", [f"seed={s}"]) for s in (0, 1)]
    assert [c.seed for c in configs] == [0, 1]
    assert configs[0].resolved() != configs[1].resolved()


def test_short_forms_mean_the_long_ones() -> None:
    short = StrategyConfig.model_validate({"learner": "ewc", "unlearner": "none"})
    long = StrategyConfig.model_validate({"learner": [{"name": "ewc"}], "unlearner": {"name": "none"}})
    assert short == long


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrt", "'quickstrt' is neither a ready scenario nor a .yaml file. Did you mean 'quickstart'?"),
        ("missing.yaml", "Cannot read the configuration missing.yaml: No such file or directory."),
    ],
)
def test_missing_configurations(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00", "{"])
def test_files_that_are_no_configuration(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(str(file))


def test_ready_scenarios_are_valid_and_described() -> None:
    assert "quickstart" in ready_scenarios()
    for name, file in ready_scenarios().items():
        assert load_config(name).name == name
        assert opening(file)
        assert "\n" not in opening(file)


def test_resolved_configurations_read_back_the_same(tmp_path: Path) -> None:
    for name in ready_scenarios():
        resolved = load_config(name).resolved()
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(resolved), encoding="utf-8")
        assert load_config(str(file)).resolved() == resolved


def test_annotated_configurations_read_back_the_same(tmp_path: Path) -> None:
    configs = [RunConfig(), *(load_config(name) for name in ready_scenarios())]
    configs.append(parse(RunConfig, {"strategies": {"1": {}, "yes": {"learner": [{"name": "l2"}, "replay"]}}}))
    for number, config in enumerate(configs):
        text = annotated(config)
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        assert load_config(str(file)).resolved() == config.resolved()
        comments = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
        assert "# How the data becomes experiences." in comments
        assert (
            "# Root of all randomness; 0 is a seed like any other. [integer, 0 or more, below 2147483648]" in comments
        )


def test_annotated_configurations_hold_what_is_named_in_others(tmp_path: Path) -> None:
    """Frozen features, the source that another is made from, and the unlearner that another runs."""
    config = parse(
        RunConfig,
        {
            "source": {"name": "corrupted", "of": {"name": "digits", "users": 3}},
            "features": {"name": "mlp", "hidden": [8]},
            "strategies": {"masked": {"unlearner": {"name": "wagle", "method": {"name": "finetune", "epochs": 2}}}},
        },
    )
    (tmp_path / "a.yaml").write_text(annotated(config))
    again = load_config(tmp_path / "a.yaml")
    assert annotated(again) == annotated(config)
    assert again.features is not None
    assert again.features.options["hidden"] == [8]
    assert again.strategies["masked"].unlearner.options["method"]["epochs"] == 2


def test_every_option_is_described() -> None:
    found = {o.key: o for o in options(RunConfig)}
    assert all(o.meaning for o in found.values())
    assert found["training.lr"].allowed == "number, above 0"
    assert found["strategies.NAME.unlearner"].default == "retrain"
    assert found["service.deadline"].allowed == "integer | null, 0 or more"
    keys = [o.key for o in options(Explicit)]
    assert keys[:3] == ["requests", "requests[].after", "requests[].scope"]
    assert options(Explicit)[1].default is None
