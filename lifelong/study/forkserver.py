"""The process that workers are forked from: it has imported everything, so that a new worker is there at once."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_PRELOADED = ["lifelong.execution.runner", "lifelong.study.local"]


def start_forkserver() -> ForkServerContext:
    """Start it if it does not run yet, which does not wait for its imports, and return its context.

    Everything in it, and hence in workers, counts one thread before torch is told how many.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or "1"
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
        return context
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
