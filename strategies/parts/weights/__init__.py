"""What is known of single weights: Fisher information, importances, updates, layers and blocks."""
