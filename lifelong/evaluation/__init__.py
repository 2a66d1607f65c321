"""On what a strategy is measured, and the pass that measures it."""
