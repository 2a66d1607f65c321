"""On what a strategy is measured, the pass that measures it, and audits that take copies of its model apart."""
