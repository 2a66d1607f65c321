"""One self-contained HTML file from a run: figures, tables, and how to repeat it."""
