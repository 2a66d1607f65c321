"""From outputs to per-sample losses and scores: one file per kind of task."""
