"""The typed configuration of a run: frozen, no extra keys, and the same YAML in and out."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from lifelong.config.cells import in_files
from lifelong.config.parts import StrategyParts, find_part
from lifelong.config.shipped import ready_scenarios
from lifelong.config.trust import require_trust
from strategies.parts.fit import Training
from strategies.parts.model import Precision, Trained
from streams.config import Config, Named, NameOrOptions, parse
from streams.errors import ConfigError, closest

ReferenceKind = Literal["retrained", "retrained-2", "original", "withheld", "no-op", "fresh", "joint", "clean"]

Follow = Annotated[int, Field(ge=1)] | Literal["all", "geometric"]


def _as_list(value: object) -> object:
    if not isinstance(value, str | dict | Named | list | tuple):
        raise ValueError("it must be a name, {name: ..., option: ...}, or a list of those")
    return [value] if isinstance(value, str | dict | Named) else value


class StrategyConfig(Config):
    """One strategy: a learner (one or more plugins) with an unlearner, a guard or both, or an isolated strategy."""

    learner: Annotated[tuple[NameOrOptions, ...], BeforeValidator(_as_list)] = (Named(name="naive"),)
    """Learner plugins, hooked in in this order; a single name or a list."""
    unlearner: NameOrOptions = Named(name="retrain")
    """How requests are served in the weights; with a guard and no unlearner, not at all (`none`)."""
    guard: NameOrOptions | None = None
    """How requests are served beside the weights, after the unlearner: it changes what the model answers."""
    unlearning_seed: int = Field(0, ge=0)
    """Another number draws the labels, noise and orders of unlearner and guard anew, and leaves the learner's as they
    are."""
    isolated: NameOrOptions | None = None
    """A strategy in which learning and forgetting are one mechanism; then none of the others must be set."""

    @model_validator(mode="before")
    @classmethod
    def _guard_alone(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("guard") is not None:
            return {"unlearner": "none", **values}
        return values

    @model_validator(mode="after")
    def _check_isolated(self) -> StrategyConfig:
        others = {"learner", "unlearner", "guard", "unlearning_seed"} & self.model_fields_set
        if self.isolated is not None and others:
            raise ValueError(
                "isolated strategies bring their own learning and forgetting: drop learner, unlearner, guard and "
                "unlearning_seed"
            )
        return self


class ServiceConfig(Config):
    """When pending requests are served, and what they cover."""

    wait_for: int = Field(1, ge=1)
    """Serve when that many are pending; 1 serves each at once."""
    deadline: int | None = Field(None, ge=0)
    """Serve at the latest that many learn events after the oldest arrived; null never forces it."""
    copies: bool = False
    """Whether a request also covers bit-for-bit copies (input and target) of its samples, whoever gave them, and also
    those that would still come."""


class EvaluationConfig(Config):
    """What is measured, and after which events."""

    every: int = Field(1, ge=1)
    """Evaluate after every that many events; and always after a request, before it, and after the last event."""
    follow: Follow = "all"
    """Which earlier requests are measured at an evaluation. all: every one, so that rows grow with the square of
    requests. A number: that many latest ones. geometric: a request after 1, 2, 4, 8 ... more events. In any case a
    request is measured when it is served and after the last event; and with a number or `geometric`, samples that are
    in no test set, no probe and no request that is measured are left out of an evaluation."""
    dense_every: int | None = Field(None, ge=1)
    """Evaluate within an experience too, after every that many steps, for the stability gap; null never does."""
    batch_size: int = Field(256, ge=1)
    """Samples per evaluation pass."""
    tests: int | None = Field(None, ge=1)
    """At most so many test samples of each unit, drawn by name: the same ones for all seeds. null takes all, which is a
    pass over a quarter of the data at every evaluation where sources hold out that much. Fewer make shares of them less
    certain, and leave classes of units that have many without any. Test rows that show what a corrupted source did are
    all measured."""
    top_classes: int | None = Field(None, ge=1)
    """Of predicted distributions keep so many classes of each sample, the most likely ones, in details and cached
    references; js, zrf and activation_distance then take all others to be equally likely. null keeps all: a sample
    takes 4 bytes times the number of classes (40 kB with 10,000)."""
    probe: int = Field(1000, ge=0)
    """Training samples, drawn by name, on which the accuracy on retained data is measured."""
    audits: Annotated[tuple[NameOrOptions, ...], BeforeValidator(_as_list)] = ()
    """What is done to copies of the model at every request's event and at the end, of the run and of its references;
    a single name or a list. relearn, readout and weights are for every kind of data, the others for text."""
    audits_every: int = Field(1, ge=1)
    """Make the audits after every that many of the events at which requests are measured in detail; and always after
    the last event."""
    detailed_every: int | None = Field(None, ge=1)
    """In text (wherever an objective's measurements follow requests) every earlier request is measured in detail again
    after each request and at the end; with a number also after every that many events, whatever they are."""
    metrics: Annotated[tuple[NameOrOptions, ...], BeforeValidator(_as_list)] = ()
    """Metrics of your own beside those that are always measured: files, as in ./my_metric.py."""
    seed: int = Field(0, ge=0)
    """Of what attacks draw (samples that they are fitted on, splits of cross-validation) and of the untrained network
    that zrf compares with. It is not the run's seed, so that all seeds are measured alike."""


class ReferencesConfig(Config):
    """Other models that the run is held against."""

    kinds: tuple[ReferenceKind, ...] = ("retrained",)
    """retrained: the same life without the forgotten data. retrained-2: the same with another seed (noise floor).
    original: no deletion. withheld: the data merely stops coming, nothing is unlearned. no-op: this one request is
    skipped. fresh: initial weights. joint: at the end, plain training on all that is not deleted at once, with as many
    sample visits as the stream had. clean: the retrained life without any manipulated sample, named or not (needs a
    `corrupted` source)."""
    every: Annotated[int, Field(ge=1)] | Literal["geometric"] = 1
    """References stand beside every that many requests (3: the third, the sixth ...), and always after the last event.
    geometric: beside requests 1, 2, 3, 4, 6, 8, 11, 16 ..., each later by a factor of about 1.4: few, and mostly early,
    where lives are short."""
    most: int | None = Field(None, ge=0)
    """References stand beside at most that many requests, drawn by name, and after the last event. null sets no limit:
    what they cost then grows with requests times events."""
    shadows: int = Field(0, ge=0, multiple_of=4)
    """Lives of other seeds, in each of which a random half of all forgotten data never occurs: for attacks on single
    samples (LiRA, U-LiRA, RMIA, the challenge's forgetting score, KLoM). As many retrained ones are lived beside them.
    0 asks for none; below 64 the intervals are wide."""
    rmia_gamma: float = Field(1.0, gt=0)
    """How many times as much as an unseen sample a forgotten one must have gained in probability, beside other
    models, for RMIA to count it as known. 1 is that of the authors' code; with 2 it finds nothing in models that are
    sure of everything."""

    def num_beside(self, num_requests: int) -> int:
        """Return how many of so many requests have references."""
        count = len(self.numbers(num_requests))
        return count if self.most is None else min(count, self.most)

    def numbers(self, num_requests: int) -> list[int]:
        """Return the numbers, from 0 and ascending, of the requests that `every` chooses, whatever `most` says.

        >>> ReferencesConfig(every="geometric").numbers(20), ReferencesConfig(every=3).numbers(7)
        ([0, 1, 2, 3, 5, 7, 10, 15], [2, 5])
        """
        if self.every != "geometric":
            return list(range(self.every - 1, num_requests, self.every))
        chosen = {round(2 ** (step / 2)) for step in range(2 * num_requests.bit_length())}
        return [number - 1 for number in sorted(chosen) if number <= num_requests]

    def in_words(self, num_requests: int) -> str:
        """Return which references there are, and beside how many requests if those are not all.

        >>> ReferencesConfig(most=10).in_words(3000), ReferencesConfig(kinds=()).in_words(5)
        ('retrained, beside 10 of 3,000 requests', 'none')
        """
        beside = self.num_beside(num_requests)
        few = f", beside {beside:,} of {num_requests:,} requests" if self.kinds and beside < num_requests else ""
        return (", ".join(self.kinds) or "none") + few


class RecordingConfig(Config):
    """What a run leaves on disk beside its numbers, and how safely."""

    keep: Literal["numbers", "images", "all"] = "numbers"
    """numbers: what numbers were made of (features and predicted distributions of the samples of requests, what audits
    found) is removed when the last number is written. images: the images that the audit `images` had drawn for reports
    stay, in `shown/`, those for deleted prompts too. all: everything stays; what is in `details/` derives from deleted
    data."""
    fsync: bool = False
    """Wait until the disk has every checkpoint, so that a power cut costs no more than a killed process does."""
    checkpoint_minutes: float | None = Field(10.0, ge=0)
    """Within an event that lasts longer, where its training stands is kept every so many minutes (0: after every step),
    and likewise where the life of a reference stands. null keeps it only when the run is stopped by Ctrl-C or SIGTERM
    in a training."""


DECIDES_LIVES = (
    *("model", "trained", "objective", "training"),
    *("device", "threads", "deterministic", "precision", "channels_last"),
)
"""Keys that decide, beside data, seed and strategy, what becomes of a model in a life."""


class RunConfig(Config):
    """Everything that decides the results of a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run folder, followed by a hash."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Root of all randomness; 0 is a seed like any other."""
    source: NameOrOptions = Named(name="digits")
    """Where the data comes from."""
    scenario: NameOrOptions = Named(name="class-incremental")
    """How the data becomes experiences."""
    schedule: NameOrOptions = Named(name="none")
    """Where deletion requests fall."""
    service: ServiceConfig = ServiceConfig()
    """When pending requests are served."""
    objective: NameOrOptions = Named(name="classification")
    """The kind of task."""
    features: NameOrOptions | None = None
    """A model whose frozen body replaces every input by its features, computed once and kept; `model` then learns on
    those (mlp with `hidden: []` is a linear head). null learns on the inputs themselves."""
    model: NameOrOptions = Named(name="mlp")
    """The network."""
    trained: Trained = "all"
    """Which parameters are trained: all, the head, or the body's self-attention blocks and the head. The others, and
    batch norms among them, stay as they were built."""
    training: Training = Training()
    """How one experience is trained."""
    strategies: dict[str, StrategyConfig] = Field({"naive": StrategyConfig()}, min_length=1)
    """Strategies that live through the same stream, by a name of your choice."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured, and after which events."""
    references: ReferencesConfig = ReferencesConfig()
    """Other models that the run is held against."""
    recording: RecordingConfig = RecordingConfig()
    """What stays on disk."""
    device: str = "cpu"
    """cpu, or cuda where there is one."""
    threads: int = Field(1, ge=1, le=256)
    """Torch threads; results are repeatable to the bit for a fixed number of threads."""
    deterministic: bool = True
    """Whether torch must use deterministic algorithms (needed for exact resume on a GPU)."""
    precision: Precision = "single"
    """Of the arithmetic inside the model. bf16: matrix products and convolutions have 8 bits of mantissa (torch's
    autocast); weights, outputs, losses and updates stay in single precision. Results are others. It saves time for
    ResNets and transformers, on CPUs too, and none for small perceptrons."""
    channels_last: bool = False
    """Whether images pass with their channels as the last dimension in memory, which convolutions on CPUs like better.
    Results differ by rounding."""

    @model_validator(mode="after")
    def _safe_names(self) -> RunConfig:
        for name in self.strategies:
            if not name.replace("-", "").replace("_", "").replace(".", "").replace("+", "").isalnum():
                raise ValueError(f"strategies: the name {name!r} may only have letters, digits and - _ . +")
        return self

    def resolved(self, strategies: Mapping[str, StrategyParts] | None = None) -> dict[str, Any]:
        """Return the configuration as plain data with every option of every named thing written out.

        Args:
            strategies: what `find_strategies` returned, if they have been looked up.

        Raises:
            ConfigError: a name or an option is not valid.
        """
        data = self.model_dump(mode="json")
        for kind, key in (
            ("sources", "source"),
            ("scenarios", "scenario"),
            ("schedules", "schedule"),
            ("objectives", "objective"),
            ("models", "model"),
        ):
            data[key] = find_part(kind, getattr(self, key), key).data()
        if self.features is not None:
            data["features"] = find_part("models", self.features, "features").data()
        for kind in ("audits", "metrics"):
            data["evaluation"][kind] = _listed_options(kind, getattr(self.evaluation, kind))
        parts = self.find_strategies() if strategies is None else strategies
        data["strategies"] = {name: strategy.data() for name, strategy in parts.items()}
        return data

    def find_strategies(self) -> dict[str, StrategyParts]:
        """Look up what the strategies are built from.

        Raises:
            ConfigError: a name or an option is not valid.
        """
        return {name: find_strategy(s, f"strategies.{name}") for name, s in self.strategies.items()}


def find_strategy(strategy: StrategyConfig, where: str) -> StrategyParts:
    """Look up what one strategy is built from.

    Args:
        strategy: its configuration.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: a name or an option is not valid, or a plugin is named twice.
    """
    if strategy.isolated is not None:
        return StrategyParts(where, isolated=find_part("isolated", strategy.isolated, f"{where}.isolated"))
    names = [p.name for p in strategy.learner]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}.learner: a plugin is named twice in {names}.")
    guard = None if strategy.guard is None else find_part("guards", strategy.guard, f"{where}.guard")
    learner = tuple(find_part("learners", p, f"{where}.learner.{p.name}") for p in strategy.learner)
    unlearner = find_part("unlearners", strategy.unlearner, f"{where}.unlearner")
    return StrategyParts(where, learner, unlearner, guard, unlearning_seed=strategy.unlearning_seed)


def _listed_options(kind: str, named: tuple[Named, ...]) -> list[dict[str, Any]]:
    """Return the audits or metrics of `evaluation` as plain data."""
    names = [n.name for n in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"evaluation.{kind}: {twice[0]!r} is named twice in {names}. Leave one out.")
    return [find_part(kind, n, f"evaluation.{kind}.{n.name}").data() for n in named]


def content_hash(data: object) -> str:
    """Return a short hash of JSON-ready data (hex, 16 characters)."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: the second would silently take the place of the first."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    line_of: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:merge" and key.value in line_of:
            raise yaml.YAMLError(f"the key {key.value!r} is there twice, in lines {line_of[key.value]} and {line}")
        line_of[key.value] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_config(file: Path) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        ConfigError: it is missing, not readable, not YAML, or not a mapping.
    """
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {file}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        holds = "is empty" if data is None else f"holds a {type(data).__name__}"
        raise ConfigError(f"{file} must hold keys and values, such as 'source: digits'; it {holds}.")
    return data


def override(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return `data` with ``key.sub=value`` assignments applied; values are YAML.

    >>> override({"training": {"lr": 0.1}}, ["training.lr=0.5", "seed=3"])
    {'training': {'lr': 0.5}, 'seed': 3}

    Raises:
        ConfigError: an assignment has no ``=``, or leads into something that has no keys.
    """
    result: dict[str, Any] = copy.deepcopy(data)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {assignment!r} must look like training.lr=0.1.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not valid YAML: {error}") from error
        *path, last = key.split(".")
        at = result
        for part in path:
            below = at.setdefault(part, {})
            if isinstance(below, str):  # 'source: digits' is short for 'source: {name: digits}'
                below = at[part] = {"name": below}
            if not isinstance(below, dict):
                raise ConfigError(f"--set {assignment!r}: {part!r} has no keys of its own; it is {below!r}.")
            at = below
        at[last] = value
    return result


def load_config(
    what: str | Path | Mapping[str, Any], assignments: list[str] | None = None, trust: bool = False
) -> RunConfig:
    """Load a ready scenario by name, a YAML file, or what one would hold, with overrides.

    Args:
        what: which. In a dict a class of a notebook or a script may stand for its name (`lifelong.config.cells`).
        assignments: overrides, as ``key.sub=value``.
        trust: whether code may be run that a run folder names, where the file lies in one.

    Raises:
        ConfigError: there is no such name or file, or it is not valid.
        TrustError: it lies in a run folder that names code that was not run here before.
    """
    data = in_files(what) if isinstance(what, Mapping) else _read_named(str(what), trust)
    data = override(data, assignments or [])
    if isinstance(data.get("seed"), list):
        base = "the rest" if isinstance(what, Mapping) else what
        raise ConfigError(
            f"seed: {data['seed']} is not valid: a run has one seed, an integer. Several are a study: write a file "
            f"with `base: {base}` and `seeds: {data['seed']}` for `lifelong study` (docs/studies.md)."
        )
    config = parse(RunConfig, data)
    config.resolved()
    return config


def _read_named(name_or_file: str, trust: bool) -> dict[str, Any]:
    """Return what a ready scenario or a YAML file holds."""
    ready = ready_scenarios()
    file = ready.get(name_or_file, Path(name_or_file))
    if name_or_file not in ready and file.suffix not in {".yaml", ".yml"}:
        raise ConfigError(
            f"{name_or_file!r} is neither a ready scenario nor a .yaml file. {closest(name_or_file, ready)}"
        )
    data = read_config(file)
    if "claim" in data and "base" in data:
        raise ConfigError(f"{file} is a study, not a run. Run it with: lifelong study {file}")
    if file.with_name("manifest.json").exists():
        require_trust(data, file.parent, trust)
    return data
