"""Find what can be named in a configuration: one module per thing, its file name is its name.

Modules are listed and described without importing them, so that `lifelong list` stays fast. Others name theirs by the
path of a file (``unlearner: ./mine.py``), or through entry points (``[project.entry-points."lifelong.unlearners"]``).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import tokenize
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from streams.errors import ConfigError, closest

T = TypeVar("T")

KINDS: dict[str, str] = {
    "sources": "streams.sources",
    "scenarios": "streams.scenarios",
    "schedules": "streams.schedules",
    "objectives": "strategies.objectives",
    "learners": "strategies.learners",
    "unlearners": "strategies.unlearners",
    "guards": "strategies.guards",
    "isolated": "strategies.isolated",
    "models": "lifelong.models",
    "audits": "lifelong.audits",
    "metrics": "lifelong.metrics.snapshots",
    "trackers": "lifelong.trackers",
}


_FUNCTIONS = {"sources": "load", "scenarios": "build", "schedules": "place", "models": "build", "metrics": "rows"}
"""What a module of that kind has beside its ``Config``; in the other kinds it is a class."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be named: its name, the module that holds it and that module's file."""

    kind: str
    name: str
    module: str
    file: Path

    def summary(self) -> str:
        """Return the first line of the module's docstring, read without importing it, or even reading it to the end."""
        with tokenize.open(self.file) as source:
            tokens = tokenize.generate_tokens(source.readline)
            first = next(t for t in tokens if t.type not in {tokenize.COMMENT, tokenize.NL})
        doc = ast.literal_eval(first.string) if first.type == tokenize.STRING else ""
        return inspect.cleandoc(doc).split("\n", 1)[0]

    def declared(self, attribute: str) -> tuple[str, ...] | None:
        """Return the texts in what a class of the module assigns to an attribute, read without importing it.

        None if no class does. A class that derives from one of another file has to repeat what that one says.
        """
        source = self.file.read_text(encoding="utf-8")
        assignment = re.search(rf"^    {attribute}\b[^=\n]*= ", source, re.MULTILINE)
        if assignment is None:
            return None
        # Parsing whole files would double the time that `lifelong list` takes.
        nodes = ast.walk(_first_statement(source[assignment.end() :]))
        return tuple(sorted(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)))


def _first_statement(source: str) -> ast.AST:
    lines = source.splitlines()
    for stop in range(1, len(lines)):
        try:
            return ast.parse("\n".join(lines[:stop]))
        except SyntaxError:  # it goes on in the next line
            continue
    return ast.parse(source)


def entries(kind: str) -> dict[str, Entry]:
    """Return everything of one kind by name, built-in and from entry points.

    Raises:
        ConfigError: the kind does not exist.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no kind {kind!r}. {closest(kind, KINDS)}")
    by_name = dict(_built_in(kind))
    for point in _entry_points(tuple(sys.path)):
        if point.group == f"lifelong.{kind}":
            by_name[point.name] = Entry(kind, point.name, point.value, _file_of(point))
    return by_name


@functools.cache
def _built_in(kind: str) -> dict[str, Entry]:
    """Return what the project's own folder of a kind holds, by name; a study asks for it ten thousands of times."""
    package = KINDS[kind]
    top, *folders = package.split(".")
    root = importlib.util.find_spec(top)
    assert root is not None
    assert root.submodule_search_locations
    folder = Path(root.submodule_search_locations[0], *folders)
    modules = [file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")]
    names = [file.stem.replace("_", "-") for file in modules]
    return {n: Entry(kind, n, f"{package}.{f.stem}", f) for n, f in zip(names, modules, strict=True)}


@functools.cache
def _entry_points(path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return our entry points on the import path `path`; finding them reads the metadata of everything installed."""
    installed = importlib.metadata.distributions(path=list(path))
    return tuple(p for d in installed for p in d.entry_points if p.group.startswith("lifelong."))


def _file_of(point: importlib.metadata.EntryPoint) -> Path:
    try:
        spec = importlib.util.find_spec(point.value)
    except ModuleNotFoundError:  # of a parent package
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"Entry point {point.name!r} of {point.group} names {point.value!r}, which is missing.")
    return Path(spec.origin)


def is_file(name: str) -> bool:
    """Whether what a configuration says is the path of a file and not a name."""
    return name.endswith(".py")


def find(kind: str, name: str, where: str | None = None) -> Entry:
    """Return what `name` stands for.

    Args:
        kind: one of `KINDS`.
        name: what the configuration says; what ends in ``.py`` is a file.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: nothing has that name; the closest match is offered.
    """
    if is_file(name):
        file = Path(name).expanduser().resolve()
        if not file.is_file():
            raise ConfigError(
                f"{where or kind}: {name!r} does not exist. Paths start at the working folder, {Path.cwd()}."
            )
        # other contents are another module, whatever was imported before
        digest = hashlib.blake2b(str(file).encode() + file.read_bytes(), digest_size=8).hexdigest()
        return Entry(kind, name, f"{file.stem}_{digest}", file)
    known = entries(kind)
    if name not in known:
        elsewhere = [k for k in KINDS if k != kind and name in entries(k)]
        hint = f" (there is one among the {' and '.join(elsewhere)})" if elsewhere else ""
        raise ConfigError(
            f"{where or kind}: {name!r} is not known{hint}. {closest(name, known)} Your own: a file, as in ./mine.py."
        )
    return known[name]


def load(kind: str, name: str, where: str | None = None) -> ModuleType:
    """Import the module that `name` stands for.

    Args:
        kind: one of `KINDS`.
        name: what the configuration says.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: nothing has that name; the closest match is offered. Or it is a file that cannot be imported, or
            does not hold what its kind must.
    """
    entry = find(kind, name, where)
    module = _import_file(entry, where or kind) if is_file(name) else importlib.import_module(entry.module)
    meanings = "METRICS" if kind in {"audits", "metrics"} else None
    for needed in filter(None, ["Config" if kind != "trackers" else None, _FUNCTIONS.get(kind), meanings]):
        if not hasattr(module, needed):
            raise ConfigError(
                f"{where or kind}: {entry.file} defines no {needed!r}. A file of the {kind} must; docs/adding.md says "
                "what each kind is made of."
            )
    return module


def _import_file(entry: Entry, where: str) -> ModuleType:
    if entry.module in sys.modules:
        return sys.modules[entry.module]
    spec = importlib.util.spec_from_file_location(entry.module, entry.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[entry.module] = module  # annotations are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever it is, it is in a file that the user wrote
        del sys.modules[entry.module]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(entry.file)]
        place = f"{entry.file}, line {lines[-1]}," if lines else f"{entry.file}"
        raise ConfigError(f"{where}: {place} cannot be imported: {type(error).__name__}: {error}.") from error
    return module


def others_code(names: Iterable[str]) -> list[Path]:
    """Return files, sorted, that hold what `names` stand for and are not part of this project.

    Of an entry point it is all Python of its package; a file named by its path stands alone, without what it imports.
    """
    names_wanted = set(names)
    files = {Path(n).expanduser().resolve() for n in names_wanted if is_file(n)}
    for point in _entry_points(tuple(sys.path)):
        if point.name in names_wanted and point.group.removeprefix("lifelong.") in KINDS:
            file = _file_of(point)
            files |= set(file.parent.rglob("*.py")) if "." in point.value else {file}
    return sorted(files)


def class_of(module: ModuleType, base: type[T]) -> type[T]:
    """Return the one class in `module` that derives from `base` and is defined there.

    Raises:
        ConfigError: there is none, or more than one.
    """
    classes = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and name[0] != "_"
    ]
    if len(classes) != 1:
        listing = f" ({', '.join(f.__name__ for f in classes)})" if classes else ""
        raise ConfigError(
            f"{module.__file__} must define exactly one public class that derives from {base.__name__}; it defines "
            f"{len(classes)}{listing}. A class that only helps starts with an underscore."
        )
    return classes[0]


def import_by_path(path: str, where: str) -> Any:
    """Import what a dotted path such as ``avalanche.training.Naive`` names.

    Args:
        path: module and name.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: there is no such module or name; the closest name is offered.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{where}: {path!r} cannot be imported: {error}.") from error
    if name not in vars(module):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ConfigError(f"{where}: {module_name} has no {name!r}. {closest(name, public)}")
    return vars(module)[name]
