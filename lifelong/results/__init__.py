"""What is kept of a run: its table, its columns, its checkpoints."""
