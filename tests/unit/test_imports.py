"""The house has floors: cli on lifelong on strategies on streams, and nobody looks up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FLOORS = ("streams", "strategies", "lifelong", "cli")
METHODS = ("learners", "unlearners", "guards", "isolated")
LATE = ("avalanche", "transformers", "wandb", "plotly", "torchvision", "ray", "optuna")
BUILDING_BLOCKS = tuple(f"strategies.{name}" for name in ("base", "outcome", "parts", "objectives", "ranges"))


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of the modules (and of what is taken from them) that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def of_file(file: Path) -> set[str]:
    package = name_of(file) if file.stem == "__init__" else name_of(file).rpartition(".")[0]
    return set(imports(ast.parse(file.read_text(encoding="utf-8")), package))


def at_import_time(node: ast.AST) -> Iterator[ast.stmt]:
    """The import statements that run when the module is imported: not in functions, not only for type checkers."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        for child in node.orelse:
            yield from at_import_time(child)
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from at_import_time(child)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("floor", FLOORS)
def test_nobody_imports_from_a_floor_above(floor: str) -> None:
    above = [*FLOORS[FLOORS.index(floor) + 1 :], "tests"]
    assert files(floor)
    bad = [(name_of(f), i) for f in files(floor) for i in sorted(of_file(f)) if any(is_in(i, a) for a in above)]
    assert bad == []


def rooms() -> list[str]:
    """The rooms of the experiment, from the ground up: the docstring of `lifelong` lists them in this order."""
    text = ast.get_docstring(ast.parse((ROOT / "lifelong" / "__init__.py").read_text(encoding="utf-8"))) or ""
    heads = re.findall(r"^- (.*?):", text.partition("Where what is")[2], re.MULTILINE)
    return [name.strip("/") for head in heads for name in head.split(", ")]


def test_the_map_of_the_experiment_names_every_room() -> None:
    there = {p.name.removesuffix(".py") for p in (ROOT / "lifelong").glob("[!_]*")}
    assert there - {"scenarios"} == set(rooms())
    assert len(rooms()) == len(set(rooms()))


def test_no_room_of_the_experiment_imports_from_a_room_above() -> None:
    order = rooms()
    bad = []
    for file in files("lifelong"):
        own = file.relative_to(ROOT / "lifelong").parts[0].removesuffix(".py")
        for name in of_file(file) if own in order else ():
            room = name.split(".")[1] if is_in(name, "lifelong") and "." in name else own
            if room in order[order.index(own) + 1 :]:
                bad.append((name_of(file), name))
    assert bad == []


def test_no_module_imports_itself_through_others() -> None:
    modules = {name_of(f): f for floor in FLOORS for f in files(floor)}
    uses = {
        name: {m for i in of_file(f) for m in (i, i.rpartition(".")[0]) if m in modules and m != name}
        for name, f in modules.items()
        if f.stem != "__init__"
    }
    left = dict(uses)
    while free := [m for m, used in left.items() if not used & left.keys()]:
        for module in free:
            del left[module]
    assert sorted(left) == []


@pytest.mark.parametrize("folder", METHODS)
def test_a_method_imports_building_blocks_and_no_other_method(folder: str) -> None:
    package = f"strategies.{folder}"
    for file in files(f"strategies/{folder}"):
        for name in sorted(i for i in of_file(file) if is_in(i, "strategies")):
            sibling = name.removeprefix(f"{package}.")
            allowed = any(is_in(name, b) for b in BUILDING_BLOCKS) or (sibling != name and sibling.startswith("_"))
            assert allowed, f"{name_of(file)} imports {name}"


def test_building_blocks_know_no_method() -> None:
    for file in [*files("strategies/parts"), *files("strategies/objectives"), ROOT / "strategies/base.py"]:
        bad = [i for i in of_file(file) for m in METHODS if is_in(i, f"strategies.{m}")]
        assert bad == [], name_of(file)


def kinds_of_objectives() -> set[str]:
    """The full names of the objectives that a configuration can name."""
    found = set()
    for file in files("strategies/objectives"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body if not file.stem.startswith("_") else ():
            if isinstance(node, ast.ClassDef) and "NamedObjective" in map(ast.unparse, node.bases):
                found.add(f"{name_of(file)}.{node.name}")
    return found


def test_nobody_asks_for_the_class_of_an_objective() -> None:
    """Who needs to know asks what an objective `predicts`, so that somebody's own is treated as those of the house."""
    allowed = {
        "lifelong.models._base_session": "trains a classifier of its own before any run",
    }
    kinds = kinds_of_objectives()
    assert {k.rpartition(".")[2] for k in kinds} == {"Classification", "CausalLM", "Regression", "Denoising"}
    outside = [f for floor in ("strategies", "lifelong", "cli") for f in files(floor) if "objectives" not in f.parts]
    assert {name_of(f) for f in outside if of_file(f) & kinds} == set(allowed)


@pytest.mark.parametrize("floor", FLOORS)
def test_heavy_packages_are_imported_where_they_are_used(floor: str) -> None:
    for file in files(floor):
        package = name_of(file).rpartition(".")[0]
        # The modules that draw are nothing but plotly; they are imported when a report is written.
        allowed = "plotly" if package == "lifelong.report" else "nothing"
        for statement in at_import_time(ast.parse(file.read_text(encoding="utf-8"))):
            names = [i for i in imports(statement, package) if any(is_in(i, late) for late in LATE)]
            assert [i for i in names if not is_in(i, allowed)] == [], name_of(file)


CODE = """
from typing import TYPE_CHECKING
import a.b
from c import d
from . import e
from ..f import g
if TYPE_CHECKING:
    import plotly
else:
    import x
try:
    import y
except ImportError:
    pass
def h():
    import i
class J:
    import k
"""


def test_these_checks_see_what_they_look_for() -> None:
    tree = ast.parse(CODE)
    early = {n for s in at_import_time(tree) for n in imports(s, "p.q")}
    assert early == {"typing.TYPE_CHECKING", "a.b", "c.d", "p.q.e", "p.f.g", "x", "y", "k"}
    assert set(imports(tree, "p.q")) == early | {"plotly", "i"}


@pytest.mark.parametrize("what", ["lifelong", "cli.main"])
def test_importing_the_public_face_does_not_wait_for_torch(what: str) -> None:
    heavy = ("torch", "numpy", "sklearn", "scipy", "pandas", "matplotlib", *LATE)
    code = f"import sys, {what}; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.nightly
def test_running_imports_nothing_that_only_some_need() -> None:
    ours = "lifelong.execution.runner, lifelong.report, lifelong.trackers"
    code = f"import sys, {ours}; print(sorted(set({LATE!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_installed_and_tests_are_not() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {name_of(f) for floor in FLOORS for f in files(floor) if f.stem == "__init__"}
    assert listed == there
    assert not any(f.stem == "__init__" for f in files("tests"))


def test_a_container_installs_what_is_promised() -> None:
    """The versions of constraints.txt are allowed by pyproject.toml, and nothing that it asks for is missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    extras = [part for extra in ("lora", "datasets", "ray") for part in project["optional-dependencies"][extra]]
    for text in [*project["dependencies"], *extras]:
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate({"python_version": "3.11"}):
            assert asked.specifier.contains(pinned[canonicalize_name(asked.name)]), text
