"""No option is dead: another value of it ends in another state or in other answers, or the class says that none does.

What an option does may depend on others. So it is changed alone first, then beside every other value of one other
option, then of two switches, until it tells.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from contract import recorded
from contract.candidates import Candidate, class_named, everywhere
from contract.changes import Change, Options, Path, is_switch, options_of, others, value_of, with_option
from contract.lived import Whole, whole_of
from contract.test_evaluation_mode import noisy_model
from contract.worlds import World, first_of, world_of

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import State, Strategy
from strategies.parts.fit import Training
from strategies.step import ledger_after, restore, step
from streams.config import Config, parse
from streams.errors import LifelongError
from streams.events import DeletionRequest, Event, Experience, Request
from streams.ledger import Ledger
from streams.registry import load
from streams.source import Source

SAMPLES = 24
FEW = 3
"""Parts of so many options are tried by default, the others at night."""
KEYS = {"learners": "learner", "unlearners": "unlearner", "guards": "guard", "isolated": "isolated"}
BEYOND = {
    ("isolated", "anchored-head"): {
        "moves": "no request here names a whole experience: tests/integration/test_certified.py"
    },
    ("learners", "adapt-infinity"): {
        **dict.fromkeys(("formulas", "no_image"), "needs text with images: tests/unit/test_adapt_infinity.py"),
        "redundancy": "both ways find the copies that this stream has",
    },
    **{
        ("learners", name): dict.fromkeys(
            ("formulas", "no_image"), "needs a score of text with images: tests/unit/test_adapt_infinity.py"
        )
        for name in ("ccs", "score-selection")
    },
    ("learners", "avalanche"): dict.fromkeys(
        ("strategy", "options", "plugins", "retained"), "names of classes: tests/integration/test_avalanche_parity.py"
    ),
    **{
        ("learners", name): {
            "after_request": "needs an unlearner that changes weights: tests/unit/test_replay_family.py"
        }
        for name in ("der", "der-plus-plus")
    },
    ("learners", "lwf"): {"distance": "bce needs another objective: tests/unit/test_distillation.py"},
    ("learners", "refresh"): {
        "loss": "needs a host that adds to the loss: tests/unit/test_refresh.py",
        "preconditioner": "acts in the released form alone: tests/unit/test_refresh.py",
    },
    ("learners", "si"): {"negative": "needs a path that raised the loss: tests/unit/test_regularization.py"},
    ("isolated", "amnesiac-hat"): dict.fromkeys(
        ("start", "window"), "needs a request for an earlier task: tests/integration/test_amnesiac_hat.py"
    ),
    ("isolated", "clpu-der"): dict.fromkeys(
        ("pretrain", "alpha", "beta"), "needs temporary tasks that become permanent: tests/integration/test_clpu.py"
    ),
    ("learners", "instruction-tuning"): {"template": "a text: tests/unit/test_instructions.py"},
    ("learners", "mix-cpt"): {
        "template": "a text: tests/unit/test_mix_cpt.py",
        "mixture": "needs several epochs: tests/unit/test_mix_cpt.py",
        "mixed": "needs several general experiences: tests/unit/test_mix_cpt.py",
    },
    ("unlearners", "cfw"): {"blurred": "needs two convolutions: tests/unit/test_resetting_unlearners.py"},
    ("unlearners", "rni"): {"fine_rates": "the last needs six passes: tests/unit/test_resetting_unlearners.py"},
    **{
        ("unlearners", name): {"kl_positions": "needs text: tests/unit/test_text_unlearners_by_hand.py"}
        for name in ("simnpo", "topr")
    },
    **{
        ("unlearners", name): {
            "kl_positions": "needs text: tests/unit/test_text_unlearners_by_hand.py",
            "reference": "first needs the plugin first-reference: tests/unit/test_text_unlearners.py",
        }
        for name in ("graddiff", "npo")
    },
    **{
        ("unlearners", name): {
            "anchor": "a text: tests/unit/test_erasers.py",
            "remap": "needs an earlier request whose anchor goes, too: tests/unit/test_erasers.py",
        }
        for name in ("concept-ablation", "doco")
    },
    ("unlearners", "dpo"): {"reference": "first needs the plugin first-reference: tests/unit/test_text_unlearners.py"},
    ("unlearners", "lat"): {
        **dict.fromkeys(("block", "weights"), "needs more than one block: tests/unit/test_text_adversaries.py"),
        "away": "this model is surer of nothing than the floor: tests/unit/test_text_adversaries.py",
    },
    ("unlearners", "rmu"): {"clip_norm": "its gradients are shorter here than any value tried"},
    ("unlearners", "whp"): {
        "terms": "texts: tests/unit/test_text_unlearners_by_hand.py",
        "reinforce.momentum": "for sgd alone, and the values tried are those of adam",
    },
    **{
        ("isolated", name): dict.fromkeys(
            ("kkt_neighbours", "kkt_share"), "needs several earlier tasks: tests/unit/test_subnetworks.py"
        )
        for name in ("supsup", "ssnet", "exssnet")
    },
    ("isolated", "sisa"): {"epochs": "training lasts one epoch here, of which no part can be given to a slice"},
    ("isolated", "s3t"): dict.fromkeys(
        ("slices", "sequences", "order", "prior", "hits", "weighted_score"),
        "this network has layers for one slice alone: tests/integration/test_s3t.py",
    ),
    ("guards", "o3"): {
        **dict.fromkeys(("bn_mode", "encoder.bn_mode"), "text has no batch norm here"),
        "layers": "needs more than one block: tests/unit/test_o3.py",
        **dict.fromkeys(("encoder.clip_norm", "encoder.momentum"), "the encoder takes a single step of Adam here"),
    },
    **{
        ("guards", name): dict.fromkeys(("bn_mode",), "text has no batch norm here")
        | dict.fromkeys(("layers",), "needs more than one block: tests/unit/test_assistants.py")
        for name in ("offset", "whp-logit")
    },
    ("guards", "uld"): {
        "bn_mode": "text has no batch norm here",
        "layers": "needs more than one block: tests/unit/test_assistants.py",
        "clip_norm": "its gradients are shorter here than any value tried",
        "filter": "this model is too unsure for any token to be filtered: tests/unit/test_assistants.py",
    },
    ("guards", "eco"): {
        "subjects": "texts: tests/unit/test_eco.py",
        **dict.fromkeys(("rate", "probe", "steps"), "needs a search of several steps: tests/unit/test_eco.py"),
    },
    ("guards", "key-space-detection"): {"blocks": "needs more than one block: tests/unit/test_key_space.py"},
    ("unlearners", "altpo"): {
        "instruction": "a text: tests/unit/test_bounded_losses.py",
        "reference": "first needs the plugin first-reference: tests/unit/test_text_unlearners.py",
    },
    ("unlearners", "from-checkpoint"): dict.fromkeys(
        ("checkpoint", "request", "digest"), "need a folder: tests/integration/test_checkpoints.py"
    ),
    ("unlearners", "pdu"): {
        "budget": "stream needs the plugin first-reference: tests/unit/test_bounded_losses.py",
        "most": "no multiplier comes near it here: tests/unit/test_bounded_losses.py",
    },
    ("guards", "lumoe"): {
        "bn_mode": "text has no batch norm here",
        "clip_norm": "its gradients are shorter here than any value tried",
        "subjects": "texts: tests/unit/test_eco.py",
    },
    ("unlearners", "alkn"): {
        "clip_norm": "its gradients are shorter here than any value tried",
        "retained": "other values need a learner that keeps samples beside mask-log",
    },
    ("unlearners", "seuf"): {
        "bn_mode": "a mask that leaves norms alone keeps their statistics",
        "steering": "of RMU's loss alone: tests/unit/test_seuf.py",
    },
    ("unlearners", "concept-vectors"): {"words": "texts: tests/unit/test_concept_vectors.py"},
    ("unlearners", "concept-masking"): {"mask": "a text: tests/unit/test_concept_masking.py"},
    ("unlearners", "mudman"): {"fork": "needs more steps than are taken here: tests/unit/test_mudman.py"},
    ("guards", "in-context"): dict.fromkeys(("instruction", "subjects"), "texts: tests/unit/test_text_adversaries.py"),
}
"""Options whose effect this stream does not reach, why, and where it is tested."""


@dataclass(frozen=True)
class Half:
    """A part whose options are changed, and the candidate that it lives in."""

    kind: str
    name: str
    candidate: Candidate
    form: str

    @functools.cached_property
    def place(self) -> int | None:
        """Where it stands among the learner's plugins."""
        names = [plugin.name for plugin in self.candidate.config.learner]
        return names.index(self.name) if self.kind == "learners" else None

    @functools.cached_property
    def config(self) -> type[Config]:
        return load(self.kind, self.name).Config  # type: ignore[no-any-return]

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The small options that it is tested with, and some steps instead of one."""
        config = self.candidate.config
        part: Any = config.learner[self.place] if self.place is not None else getattr(config, KEYS[self.kind])
        several = {"batch_size": 8, "epochs": 2}
        fields = self.config.model_fields
        return part.options | {
            name: n for name, n in several.items() if name in fields and fields[name].annotation is int
        }

    def changed(self, options: Options) -> StrategyConfig:
        """Return what the strategy is made of with other options of the part."""
        part, config = {"name": self.name, **options}, self.candidate.config
        if self.place is None:
            value: Any = part
        else:
            value = [part if i == self.place else p.model_dump() for i, p in enumerate(config.learner)]
        given = {key: getattr(config, key) for key in config.model_fields_set}
        return parse(StrategyConfig, {**given, KEYS[self.kind]: value})


@functools.cache
def halves() -> list[Half]:
    """Everything that has options: learners and isolated strategies, unlearners and guards on a learner."""
    found: dict[tuple[str, str], Half] = {}
    for candidate, form in everywhere():
        kind, name = candidate.parts[-1]
        if candidate.config.guard is not None:
            kind, name = "guards", candidate.config.guard.name
        elif (kind, name) == ("unlearners", "none"):
            kind, name = candidate.parts[0]
        found.setdefault((kind, name), Half(kind, name, candidate, form))
    return [half for half in found.values() if half.config.model_fields]


@functools.cache
def _world(place: str) -> World:
    """A world whose digits are images, with a copy of a sample in each experience."""
    world = world_of(place)
    if place.startswith("text") or place == "images":
        return world
    source = world.stream.source
    x = source.x.clone()
    for experience in _taught(place):
        ids = experience.sample_ids
        alike = ids[source.class_ids[ids] == source.class_ids[ids[0]]]
        x[alike[1]] = x[alike[0]]
    source = replace(source, x=x.view(-1, 1, 8, 8))
    return replace(world, stream=replace(world.stream, source=source))


def _taught(place: str) -> list[Experience]:
    """The first three experiences, with some of their samples."""
    taught = [e for e in world_of(place).stream.events if isinstance(e, Experience) and not e.incarnation][:3]
    return [replace(e, sample_ids=e.sample_ids[_spread(len(e.sample_ids))]) for e in taught]


@functools.cache
def _events(place: str) -> tuple[Event, ...]:
    """Three small experiences, a request for some of the first, and one for a class of the second."""
    source, taught = _world(place).stream.source, _taught(place)
    requests = [
        _of_class(source, e.sample_ids, n)
        if n or "by class" in place or place == "images"
        else _of_samples(e.sample_ids)
        for n, e in enumerate(taught[:2])
    ]
    return (*taught[:2], requests[0], *taught[2:], requests[1])


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, SAMPLES).astype(int))


def _of_samples(ids: np.ndarray) -> DeletionRequest:
    chosen = ids[:: SAMPLES // 6]
    return DeletionRequest("request-0", (Request("sample", tuple(chosen.tolist()), chosen, chosen[:0], 1),))


def _of_class(source: Source, ids: np.ndarray, number: int) -> DeletionRequest:
    label = int(source.class_ids[ids[0]])
    named = ids[source.class_ids[ids] == label]
    others = np.setdiff1d(np.flatnonzero((source.class_ids == label) & ~source.is_test), named)
    return DeletionRequest(f"request-{number}", (Request("class", (label,), named, others, number + 1),))


class Lives:
    """Ends of short lives, each lived once."""

    def __init__(self, half: Half) -> None:
        self._half, self._world = half, _world(half.candidate.place(half.form))
        affine = half.name != "amnesiac-hat"  # it takes no norms with weights
        self._setting = replace(
            self._world.setting,
            make_model=lambda: noisy_model(self._world.setting.objective, affine, first_of(self._world.name)),
            training=Training(epochs=1, lr=0.05, batch_size=10),
        )
        self._ends: dict[str, Whole | None] = {}
        self._learned: dict[str, State] = {}

    def end(self, options: Options) -> Whole | None:
        """Return what is there in the end with these options, or None if they cannot be set."""
        key = repr(sorted(options.items()))
        if key not in self._ends:
            try:
                config = self._half.changed(options)
                strategy = make_strategy(config, self._setting, "it")
            except LifelongError:
                self._ends[key] = None
                return None
            try:
                self._live(config, strategy)
                self._ends[key] = whole_of(self._world, strategy)
            except LifelongError as error:  # that a request is refused is an end, too
                self._ends[key] = type(error).__name__, "refused"
        return self._ends[key]

    def recorded(self, options: Options) -> list[float] | str:
        """Return sums of the state in the end and of its answers, or the name of the error that refuses the options."""
        try:
            config = self._half.changed(options)
            strategy = make_strategy(config, self._setting, "it")
            self._live(config, strategy)
        except LifelongError as error:
            return type(error).__name__
        sums = recorded.sums(recorded.numbers_of([strategy.state_dict(), recorded.outputs_of(self._world, strategy)]))
        return [float(f"{x:.8g}") for x in sums]

    def _live(self, config: StrategyConfig, strategy: Strategy) -> None:
        ledger = self._ledger()
        events = _events(self._world.name)
        if self._half.kind in ("unlearners", "guards"):
            learned = [e for e in events if isinstance(e, Experience)][:2]
            restore(strategy, self._state(config, learned), ledger_after(ledger, learned))
            events = tuple(e for e in events if isinstance(e, DeletionRequest))
        for event in events:
            step(strategy, event, ledger)

    def _state(self, config: StrategyConfig, learned: list[Experience]) -> State:
        """Return what is there before the first request: the same whatever the unlearner's options."""
        key = repr(config.learner)
        if key not in self._learned:
            strategy, ledger = make_strategy(config, self._setting, "it"), self._ledger()
            for event in learned:
                step(strategy, event, ledger)
            self._learned[key] = strategy.state_dict()
        return self._learned[key]

    def _ledger(self) -> Ledger:
        return Ledger(self._world.stream.source, self._world.stream.task_of)


def _contexts(half: Half) -> list[dict[str, Any]]:
    """Return what the other options are while one is changed: the likeliest to matter first."""
    config = parse(half.config, half.options)
    switches: list[Change] = []
    numbers: list[Change] = []
    for path, annotation, default in options_of(half.config):
        values = sorted(others(annotation, value_of(config, path), default), key=lambda v: v is not None)
        chosen, most = (switches, 4) if is_switch(annotation) else (numbers, 2)
        chosen += [(path, value) for value in values[:most]]
    pairs = [(a, b) for a, b in itertools.combinations(switches, 2) if a[0] != b[0]]
    alone = [with_option(half.options, *change) for change in [*switches, *numbers]]
    divergent = [{**half.options, "lr": 1e30}] if "lr" in half.config.model_fields else []
    return [half.options, *alone, *divergent, *(with_option(with_option(half.options, *a), *b) for a, b in pairs)]


def _tells(lives: Lives, half: Half, option: tuple[Path, Any, Any], context: Options, most: int) -> bool:
    """Return whether one of some values of an option ends otherwise, with these values of the others."""
    path, annotation, default = option
    before = lives.end(context)
    if before is None:
        return False
    tried = 0
    for value in others(annotation, value_of(parse(half.config, dict(context)), path), default):
        after = lives.end(with_option(context, path, value))
        tried += after is not None
        if after not in (None, before):
            return True
        if tried == most:
            break
    return False


def dead_options(half: Half) -> set[str]:
    """Return the options of which no value ends otherwise."""
    lives, contexts = Lives(half), _contexts(half)
    return {
        ".".join(option[0])
        for option in options_of(half.config)
        if not any(_tells(lives, half, option, context, 9 if context is half.options else 1) for context in contexts)
    }


def records_of(half: Half) -> dict[str, list[float] | str]:
    """Return what comes of every option: of each value that says how, and of one that says how much."""
    lives = Lives(half)
    config = parse(half.config, half.options)
    changes: list[Change] = []
    for path, annotation, default in options_of(half.config):
        values = others(annotation, value_of(config, path), default)
        changes += [(path, value) for value in values[: 5 if is_switch(annotation) else 1]]
    named = {"": half.options} | {f"{'.'.join(p)}={v!r}": with_option(half.options, p, v) for p, v in changes}
    return {name: lives.recorded(options) for name, options in named.items()}


def _param(half: Half) -> Any:
    marks = [] if len(list(options_of(half.config))) <= FEW and half.form != "text" else [pytest.mark.nightly]
    return pytest.param(half, id=f"{half.kind}-{half.name}", marks=marks)


@pytest.mark.parametrize("part", [_param(half) for half in halves()])
def test_an_option_tells_or_is_declared_inert(part: Half) -> None:
    dead = dead_options(part) - set(BEYOND.get((part.kind, part.name), ()))
    assert dead == set(class_named(part.kind, part.name).inert)


@pytest.mark.nightly
@pytest.mark.parametrize("part", [pytest.param(h, id=f"{h.kind}-{h.name}") for h in halves() if h.form != "images"])
def test_what_an_option_does_is_as_recorded(part: Half) -> None:
    """See `contract.recorded`, also for what to do where a change is meant."""
    records = json.loads(recorded.OPTIONS.read_text(encoding="utf-8"))
    recorded.skip_elsewhere(records, [*recorded.made_here(), recorded.processor()])
    expected = records.get(f"{part.kind}-{part.name}")
    assert expected is not None, f"new here: python tests/contract/recorded.py {part.name}"
    found = records_of(part)
    assert list(found) == list(expected)
    assert [name for name, numbers in found.items() if not recorded.alike(numbers, expected[name])] == []
