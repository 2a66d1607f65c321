"""Convex heads over frozen features: their maths, and what it costs to publish them after a deletion."""
