"""Errors a person can act on: each names what was wrong, its value, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LifelongError(Exception):
    """Base of every error this project raises on purpose. `exit_code` is what the CLI returns."""

    exit_code = 1


class ConfigError(LifelongError):
    """A configuration, flag or name is not valid."""

    exit_code = 2


class DataError(LifelongError):
    """A data file is missing, truncated or of the wrong shape."""

    exit_code = 2


class StreamError(LifelongError):
    """A stream is empty, or asks for something that cannot happen (deleting what was never learned)."""

    exit_code = 2


class CheckpointError(LifelongError):
    """A run folder, manifest or checkpoint is corrupt or belongs to something else."""

    exit_code = 2


class BusyError(CheckpointError):
    """Another process is at work in a folder."""


class TrustError(LifelongError):
    """A folder asks for code to be run that the user has not run here before."""

    exit_code = 2


class RequestError(LifelongError):
    """A strategy cannot serve a request of that kind."""

    exit_code = 2


class LedgerError(LifelongError):
    """Data was asked for that the ledger does not give out: deleted, or never learned."""


class AccessError(LifelongError):
    """A strategy reached for data beyond the access it declares."""


class TrainingError(LifelongError):
    """Training produced something that is not a number."""


class ResourceError(LifelongError):
    """The machine has not enough memory for what is asked."""


class IntegrityError(LifelongError):
    """Something has changed that nothing may change."""


class RefutedError(LifelongError):
    """What somebody claims of results is not what comes out."""

    exit_code = 3


def closest(name: str, allowed: Iterable[str]) -> str:
    """Return the tail of an error message: the closest match and everything that is allowed.

    >>> closest("digit", ["digits", "glyphs"])
    "Did you mean 'digits'? Allowed: digits, glyphs."
    """
    choices = sorted(allowed)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(choices) or 'nothing'}."
