"""Metrics of one model at one moment: of the run after every evaluation, and of references beside it.

Those in this folder are always measured; `evaluation.metrics` adds others. Whatever they give, there is a difference
between run and reference (``gap_NAME``) for it.
"""
