"""Low-rank changes of a model's weights, for all rows of a batch or for some."""
