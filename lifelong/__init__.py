"""The experiment: run strategies through a stream of learning and forgetting, measure, compare.

Use it from a script::

    import lifelong

    run = lifelong.run("quickstart", progress=True)
    print(run.summary())
    run.figure("requests").show()

Where what is. A room imports only from rooms that stand above it in this list, and a test holds it to that:

- files: files that are whole or absent, caches, identities of code;
- config/: what is asked for: the typed configuration, its options in words, the scenarios that ship (in scenarios/);
- processes/: torch's settings in a process, SIGTERM, and calls in fresh ones;
- formulas/: the maths of metrics and attacks, pure functions of arrays;
- models/: networks by name;
- evaluation/: on what a strategy is measured, and the pass that measures it;
- results/: the table of a run, its columns, its checkpoints;
- audits/: what is still left in a copy of the model, one audit a file;
- metrics/: from the outputs of one event to its rows, and what every number means;
- trackers/: where rows go while a run goes on: the console, W&B;
- setup/: from a configuration to the real things; all that is checked or chosen before any compute is spent;
- references/: other models that a run is held against;
- execution/: a run as it happens, event by event, stopped and resumed;
- study/: many runs, seeds, criteria;
- report/: tables, figures and pages;
- verification/, capacity/: proofs that deletions were exact; the size of a sharded system before it is trained;
- bench/: frozen tracks, submissions, and where strategies stand among others;
- interface: what scripts and notebooks use.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# cuBLAS adds in a fixed order only with a workspace of fixed size, and reads this when it first multiplies: without it
# `deterministic: true` raises at the first matrix product on a GPU. Processes that are started inherit it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_PUBLIC = {
    "Forget": "lifelong.config.by_hand",
    "Learn": "lifelong.config.by_hand",
    "RunConfig": "lifelong.config.run",
    "load_config": "lifelong.config.run",
    "Run": "lifelong.interface",
    "live": "lifelong.interface",
    "load_run": "lifelong.interface",
    "prepare": "lifelong.setup.preparation",
    "resume": "lifelong.interface",
    "run": "lifelong.interface",
    "stream": "lifelong.config.by_hand",
    "stream_from_manifest": "lifelong.execution.manifest",
    "Study": "lifelong.interface",
    "Row": "lifelong.results.table",
    "RunInfo": "lifelong.trackers._base",
    "Table": "lifelong.results.table",
    "Tracker": "lifelong.trackers._base",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `lifelong --help` need not wait for torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lifelong' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """Return what is public, for completion."""
    return __all__
