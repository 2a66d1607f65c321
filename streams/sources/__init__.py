"""Data with stable sample ids: one file per source, each with a `Config` and `load(config) -> Source`."""
