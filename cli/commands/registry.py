"""`list` and `show`: everything that a configuration can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, emit, emit_json, emit_table
from lifelong.config.shipped import opening, ready_scenarios
from strategies.predicts import EVERYTHING
from streams.errors import ConfigError, closest
from streams.registry import KINDS, entries, find

if TYPE_CHECKING:
    from types import ModuleType

READY = "ready"
METHODS = ("learners", "unlearners", "guards", "isolated")
"""Kinds that say which models they support."""

Kind = Annotated[
    str | None,
    typer.Argument(metavar="[KIND]", help=f"{READY}, {', '.join(KINDS)}.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_)
    app.command()(show)


def list_(kind: Kind = None, as_json: Json = False) -> None:
    """List the ready scenarios, and everything that a configuration can name."""
    kinds = [READY, *KINDS] if kind is None else [_kind(kind)]
    by_kind = {k: _summaries(k) for k in kinds}
    if as_json:
        emit_json(
            {kind: {name: _described(kind, name, text) for name, text in of.items()} for kind, of in by_kind.items()}
        )
        return
    for number, (name, summaries) in enumerate(by_kind.items()):
        if number:
            emit("")
        title = "ready (lifelong run NAME)" if name == READY else name
        if name in METHODS:
            rows = [[f"  {n}", _predicts(_supports(name, n)), text] for n, text in summaries.items()]
            emit_table([title, "for models of", ""], rows)
        else:
            emit_table([title, ""], [[f"  {n}", text] for n, text in summaries.items()])


def show(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help=f"{READY}, {', '.join(KINDS)}.", show_default=False)],
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Show what one thing is, and its options; of a ready scenario its YAML; of a kind alone what there is of it."""
    if name is None and {kind, f"{kind}s"} & {READY, *KINDS}:
        list_(kind, as_json)
        return
    kind, name = (_kind(kind), name) if name is not None else _find(kind)
    if kind == READY:
        ready = ready_scenarios()
        if name not in ready:
            raise ConfigError(f"There is no ready scenario {name!r}. {closest(name, ready)}")
        text = ready[name].read_text(encoding="utf-8")
        emit_json({"kind": kind, "name": name, "yaml": text}) if as_json else emit(text.rstrip())
        return
    from lifelong.config.annotate import options
    from streams.registry import load

    module = load(kind, name)
    config_options = options(module.Config) if "Config" in vars(module) else []
    if as_json:
        rows = [
            {"key": o.key, "allowed": o.allowed, "default": o.default, "meaning": o.meaning} for o in config_options
        ]
        about = _described(kind, name, _description(module), "description")
        emit_json({"kind": kind, "name": name, **about, "options": rows})
        return
    emit(f"{name} ({kind}, {module.__name__})\n\n{_description(module)}\n")
    if kind in METHODS:
        emit(f"For models of: {_predicts(_supports(kind, name))}.\n")
    if config_options:
        required = "(must be given)"
        emit_table(
            ["option", "default", "allowed", "meaning"],
            [[o.key, required if o.default is None else o.default, o.allowed, o.meaning] for o in config_options],
        )
    else:
        emit("It has no options.")
    if kind in METHODS:
        from lifelong.setup.suitability import in_words, part_of
        from strategies.ranges import in_words as range_in_words

        method = part_of(kind, module)
        tuned = [f"{option} {range_in_words(space)}" for option, space in method.ranges.items()]
        emit(f"\nTuned: {'; '.join(tuned)}." if tuned else "\nNothing of it is tuned.")
        for other, options_then in getattr(method, "becomes", {}).items():
            emit(f"With {in_words(options_then)} it is {other}.")


def _description(module: ModuleType) -> str:
    return (module.__doc__ or "").strip()


def _summaries(kind: str) -> dict[str, str]:
    if kind == READY:
        return {name: opening(file) for name, file in ready_scenarios().items()}
    return {name: entry.summary() for name, entry in entries(kind).items()}


def _described(kind: str, name: str, text: str, as_: str = "summary") -> dict[str, object]:
    return {as_: text} | ({"supports": _supports(kind, name)} if kind in METHODS else {})


def _supports(kind: str, name: str) -> list[str]:
    """Return what a method may be used on; it says so in its file, or it is for everything."""
    return sorted(find(kind, name).declared("supports") or EVERYTHING)


def _predicts(kinds: list[str]) -> str:
    return "everything" if set(kinds) == EVERYTHING else ", ".join(kinds)


def _kind(name: str) -> str:
    """Return a kind by its name, singular or plural."""
    kinds = [READY, *KINDS]
    for kind in (name, f"{name}s"):
        if kind in kinds:
            return kind
    raise ConfigError(f"There is no kind {name!r}. {closest(name, kinds)}")


def _find(name: str) -> tuple[str, str]:
    """Return the one thing that has a name, whatever its kind."""
    kinds = {kind: set(_summaries(kind)) for kind in [READY, *KINDS]}
    homes = [kind for kind, names in kinds.items() if name in names]
    if len(homes) == 1:
        return homes[0], name
    if homes:
        commands = " or ".join(f"lifelong show {kind} {name}" for kind in homes)
        raise ConfigError(f"There is more than one {name!r}: {commands}.")
    raise ConfigError(
        f"There is nothing called {name!r}. {closest(name, {n for names in kinds.values() for n in names})}"
    )
