"""A model of a run as a folder of Hugging Face."""

from __future__ import annotations

from pathlib import Path

from lifelong.execution.manifest import open_folder
from lifelong.execution.standing import strategy_after
from lifelong.files import disk_errors
from lifelong.models._hub_folder import save
from lifelong.setup.preparation import prepare
from strategies.composed import Composed
from streams.errors import ConfigError
from streams.events import DeletionRequest


def export_model(
    run: Path | str,
    strategy: str,
    event: int | None = None,
    out: Path | str | None = None,
    merged: bool = True,
    trust: bool = False,
) -> Path:
    """Write a strategy's language model, as it was after an event, so that plain transformers loads it.

    Args:
        run: folder of the run; its code must be this version's.
        strategy: a name of its configuration.
        event: index; None is the last one of the stream.
        out: folder to write to; None is ``models/STRATEGY-event-E`` in the run folder.
        merged: see `lifelong.models._hub_folder.save`.
        trust: whether files that the folder names may run although they have not been run on this machine before.

    Returns:
        The folder that was written.

    Raises:
        ConfigError: there is no such strategy or event, or its model is none that transformers could load.
        CheckpointError: the folder is no run of this version of the code, or has not come that far.
    """
    folder = Path(run).resolve()
    config = open_folder(folder, trust)
    p = prepare(config)
    text = p.stream.source.text
    if text is None:
        raise ConfigError(
            f"export-model writes language models, and the run in {folder} is about {config.source.name}."
        )
    lived = strategy_after(p, folder, strategy, event)
    model = lived.network()
    if model is None:
        raise ConfigError(f"{strategy} has no single model that could be exported: several of them predict together.")
    index = len(p.stream.events) - 1 if event is None else event
    served = [e.name for e in p.stream.events[: index + 1] if isinstance(e, DeletionRequest)]
    guarded = isinstance(lived, Composed) and lived.guard is not None
    about = {
        "run": folder.name,
        "strategy": strategy,
        "event": index,
        "after": p.stream.events[index].name,
        "requests": served,
        "stream": p.stream_digest,
        "seed": config.seed,
        "without_guard": guarded,
    }
    target = folder / "models" / f"{strategy}-event-{index}" if out is None else Path(out)
    with disk_errors(target):
        save(model.network, text.tokenizer, target, merged, about)
    return target
