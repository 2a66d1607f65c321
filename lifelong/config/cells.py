"""Classes of a notebook or a script in a configuration: their source becomes a file, which is named in their place.

A run has to find its code again: when it goes on, in processes of their own, and next month. So a class that stands in
a dict where a name could stand is written out, with all that it uses of the cell or script around it, to a file whose
name has a hash of that source. From then on it is a file like any other of the user's own: a change makes another run.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import linecache
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from streams.errors import ConfigError
from streams.files import write_atomically

FOLDER = Path(".lifelong")
"""Where such files are written, in the working folder, where paths of a configuration start."""
_PLAIN = (bool, int, float, str, type(None))


def in_files(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with every class in it replaced by the path of a file that holds it.

    Raises:
        ConfigError: the source of a class is not known, or needs what cannot be written down.
    """
    return {key: _replaced(value) for key, value in data.items()}


def _replaced(value: Any) -> Any:
    if isinstance(value, type):
        return {"name": str(written(value))}
    if isinstance(value, Mapping):
        return {
            key: str(written(inner)) if key == "name" and isinstance(inner, type) else _replaced(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_replaced(v) for v in value]
    return value


def written(cls: type) -> Path:
    """Write a class, with all that it uses, to a file of its own; return its path, from the working folder on."""
    source = source_of(cls)
    name = "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(cls.__name__))
    file = FOLDER / f"{name}_{hashlib.blake2b(source.encode(), digest_size=4).hexdigest()}.py"
    write_atomically(file, source.encode())
    return file


def source_of(cls: type) -> str:
    """Return a module that defines a class as it was defined: what it uses, `Config` with its options, and itself.

    Raises:
        ConfigError: the source of a class is not known, or needs what cannot be written down.
    """
    function = next((f for f in vars(cls).values() if isinstance(f, FunctionType)), None)
    lines = [] if function is None else linecache.getlines(function.__code__.co_filename)
    scope = {} if function is None else function.__globals__
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # a cell with a magic command in it
        lines = [line for line in lines if line.lstrip()[:1] not in {"%", "!"}]
        tree = ast.parse("".join(lines))
    by_name: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _defined(statement):
            by_name.setdefault(name, []).append(statement)
    if not isinstance(by_name.get(cls.__name__, [None])[-1], ast.ClassDef):
        raise ConfigError(
            f"The source of {cls.__name__} is not known: it is not a class of a notebook cell or a script. Write it to "
            f"a file, and name that: ./{cls.__name__.lower()}.py."
        )
    imports, nodes, known = dict[str, str](), dict[int, ast.stmt](), set[str]()
    wanted = [cls.__name__, *(["Config"] if "Config" in by_name else [])]
    while wanted:
        name = wanted.pop()
        if name in known or (hasattr(builtins, name) and name not in by_name):
            continue
        known.add(name)
        if name not in by_name:
            imports[name] = _import_of(name, scope, cls)
        for node in by_name.get(name, []):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports[name] = _one_import(node, name)
            else:
                nodes[node.lineno] = node
                wanted += sorted(_used(node) - known)
    config = [] if "Config" in known else [_NO_OPTIONS]
    parts = ["".join(lines[_first_line(n) - 1 : n.end_lineno]).rstrip() for _, n in sorted(nodes.items())]
    said = f'"""{(cls.__doc__ or f"{cls.__name__}, from a notebook or a script.").strip().splitlines()[0]}"""'
    heads = [said, "from __future__ import annotations", "\n".join(sorted({i for i in imports.values() if i}))]
    return "\n\n".join(filter(None, [*heads, *config, *parts])) + "\n"


_NO_OPTIONS = '''from streams.config import Config as _BaseConfig


class Config(_BaseConfig):
    """It has no options."""'''


def _defined(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines, or of which it sets an attribute or an item."""
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return {node.name}
        case ast.Import() | ast.ImportFrom():
            return {(a.asname or a.name).partition(".")[0] for a in node.names}
    targets = [n for n in ast.walk(node) if isinstance(getattr(n, "ctx", None), ast.Store)]
    return {root.id for root in map(_root, targets) if isinstance(root, ast.Name)}


def _root(target: ast.AST) -> ast.AST:
    """Return what a target is a part of: ``a`` of ``a.b["c"]``."""
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
    return target


def _used(node: ast.stmt) -> set[str]:
    """Return the names that a statement reads and does not define inside of itself."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    arguments = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    stored = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    inner = {n.name for n in ast.walk(node) if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    return {n.id for n in names} - arguments - stored - inner


def _one_import(node: ast.Import | ast.ImportFrom, name: str) -> str:
    alias = next(a for a in node.names if (a.asname or a.name).partition(".")[0] == name)
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return ""
    one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
    return ast.unparse(ast.fix_missing_locations(one))


def _import_of(name: str, scope: Mapping[str, Any], cls: type) -> str:
    """Return a line that gives a name the meaning that it has in the notebook, if it is imported or plain."""
    if name not in scope:
        raise ConfigError(f"{cls.__name__} uses {name!r}, which is not defined.")
    value = scope[name]
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    if isinstance(value, _PLAIN):
        return f"{name} = {value!r}"
    home, own = getattr(value, "__module__", None), getattr(value, "__qualname__", name)
    if home and home != "__main__" and getattr(importlib.import_module(home), own, None) is value:
        return f"from {home} import {own} as {name}"
    raise ConfigError(
        f"{cls.__name__} uses {name!r} of another cell. Define both in one cell, or put them into a file."
    )


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])
