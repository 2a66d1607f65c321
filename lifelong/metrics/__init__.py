"""Pure functions of stored per-sample outputs."""
