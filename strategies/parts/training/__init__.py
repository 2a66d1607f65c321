"""Around the training loop: optimizers, batches of unequal rows, memory that runs out, stacked models."""
