"""Frozen models that others learn from, and distances to them."""
