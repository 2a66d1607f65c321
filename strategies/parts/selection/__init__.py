"""Which samples are worth training on: features, scores, clusters, budgets."""
