"""What is still left in a copy of the model: one audit a file, each chosen by `evaluation.audits`."""
