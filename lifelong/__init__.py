"""The experiment: run strategies through a stream of learning and forgetting, measure, compare.

Use it from a script::

    import lifelong

    config = lifelong.load_config("quickstart")
    result = lifelong.run(config)
    print(result.tables["replay-retrain"].last("average_accuracy", "stream"))

Where what is, in the order in which a run comes by:

- what is asked for: config, annotate (options in words), ready (what is in scenarios/), preview, doctor;
- what it is made of: build, preparation, suitability (refusals before any compute), models/, features, pretrain, and
  what chooses requests with a model's help: adaptive, selection;
- one life: runner (all strategies of a run), life (one strategy), play (one event), prefix (what lives share), guards;
- what is measured: evaluation (on what, and the pass), answers and probes (text), measure, metrics/;
- what it is held against: references, shadows, comparison;
- what is kept: record, table, columns, manifest, files;
- what is shown: summary, report/, trackers/;
- beyond one run: study/, verification/, capacity/.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "RunConfig": "lifelong.config",
    "load_config": "lifelong.config",
    "Run": "lifelong.runner",
    "load_run": "lifelong.runner",
    "prepare": "lifelong.preparation",
    "resume": "lifelong.runner",
    "run": "lifelong.runner",
    "stream_from_manifest": "lifelong.manifest",
    "Study": "lifelong.study.study",
    "Row": "lifelong.table",
    "Table": "lifelong.table",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `lifelong --help` need not wait for torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lifelong' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
