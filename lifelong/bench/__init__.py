"""The benchmark: frozen tracks, one submission for every strategy, and where each stands among the others."""
