"""How W&B runs are started: online where there is a key and a server answers, else offline; and under an agent."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import netrc
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

PROJECT = "lifelong"
"""Where everything goes unless ``$WANDB_PROJECT``, or who makes a tracker, says otherwise."""

_DEFAULT_SERVER = "https://api.wandb.ai"
_REACH_S, _INIT_S = 3.0, 30.0
_OF_A_TRIAL = ("sweep_id", "run_id", "sweep_param_path")
"""What an agent's environment says of the one run that it waits for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where W&B runs go, and how they are marked there. What is None is what W&B's own variables say, if anything.

    Attributes:
        project: ``$WANDB_PROJECT`` goes before it.
        entity: user or team; ``$WANDB_ENTITY``.
        tags: ``$WANDB_TAGS``, with commas.
        notes: ``$WANDB_NOTES``.
    """

    project: str = PROJECT
    entity: str | None = None
    tags: Sequence[str] | None = None
    notes: str | None = None


class Server:
    """Starts W&B runs: online where there is a key and somebody answers, else offline for `wandb sync`."""

    def __init__(self, place: Place | None = None) -> None:
        """Nobody has been asked yet."""
        self._place = place or Place()
        self._unreachable = False

    def start(
        self,
        folder: Path,
        *,
        id: str,
        group: str,
        name: str,
        job_type: str,
        config: dict[str, Any],
        is_trial: bool = False,
    ) -> Any:
        """Start a run, or go on with the one that has this id; its files are kept in `folder`.

        Args:
            folder: its files go to ``wandb/`` in it.
            id, group, name, job_type, config: as in `wandb.init`.
            is_trial: whether it is the run that a sweep's agent waits for, if there is one: W&B then gives it the id
                and the project of the trial. All others stay apart from the sweep, else they would be one run.
        """
        # W&B reports its own errors to a third party, also offline, unless told not to before it starts.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = import_module("wandb")
        _wait_before_the_end(os.getpid())
        mode = "offline" if self._unreachable else mode_wanted()
        options: dict[str, Any] = {
            "id": id,
            "project": os.environ.get("WANDB_PROJECT") or self._place.project,
            "entity": self._place.entity,
            "tags": self._place.tags,
            "notes": self._place.notes,
            "group": group,
            "name": name,
            "job_type": job_type,
            "config": config,
            "resume": "allow",
            "dir": str(folder),
            "reinit": "create_new",
            "settings": wandb.Settings(silent=True, console="off", disable_code=True, init_timeout=_INIT_S),
        }

        def begin(mode: str) -> Any:
            with contextlib.nullcontext() if is_trial else _apart_from_sweeps(wandb):
                return wandb.init(mode=mode, **options)

        if mode == "online":
            try:
                return begin(mode)
            except wandb.errors.Error as error:
                logger.warning("W&B cannot be reached and the run is kept offline (%s).", error)
                self._unreachable = True
                wandb.teardown()  # else the id counts as in use
                mode = "offline"
        for old in (folder / "wandb").glob(f"offline-run-*-{id}"):
            shutil.rmtree(old)
        return begin(mode)


def sweep() -> str | None:
    """Return the id of the sweep whose agent has started this process, if one has."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def mode_wanted() -> str:
    """Return what ``WANDB_MODE`` says, but offline where there is no key, or no server."""
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in {"online", "run"}:
        return mode
    server = os.environ.get("WANDB_BASE_URL") or _DEFAULT_SERVER
    if not _has_key(server):
        return "offline"
    if _reachable(server):
        return "online"
    logger.warning("W&B at %s cannot be reached; the run is kept offline, for `wandb sync`.", server)
    return "offline"


@functools.lru_cache(maxsize=1)
def _wait_before_the_end(process: int) -> None:
    """Let a worker process wait for W&B before it ends; others do so by `atexit`, which multiprocessing leaves out.

    W&B writes its files in a process of its own, which ends at once when the one that started it is gone: what it had
    not written of an offline run by then would be lost.
    """
    if multiprocessing.parent_process() is not None:
        Finalize(None, import_module("wandb").teardown, exitpriority=0)


@contextlib.contextmanager
def _apart_from_sweeps(wandb: Any) -> Iterator[None]:
    """Start runs that have ids of their own, where an agent's environment asks every run to be the trial's one run."""
    if sweep() is None:
        yield
        return
    settings = wandb.setup().settings
    kept = {key: getattr(settings, key) for key in _OF_A_TRIAL}
    for key in _OF_A_TRIAL:
        setattr(settings, key, None)
    try:
        yield
    finally:
        for key, value in kept.items():
            setattr(settings, key, value)


def _has_key(server: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(file).authenticators(urlsplit(server).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _reachable(server: str) -> bool:
    """Return whether the server takes a connection; behind a proxy this cannot be told and is taken for granted."""
    url = urlsplit(server)
    port = url.port or (80 if url.scheme == "http" else 443)
    if urllib.request.getproxies().get(url.scheme):
        return True
    try:
        with socket.create_connection((url.hostname or "", port), _REACH_S):
            return True
    except OSError:
        return False
