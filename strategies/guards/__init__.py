"""Guards, which unlearn beside the weights: one file each."""
