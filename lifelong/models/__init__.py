"""Model factories: one file each, with a `Config` and `build(config, input_shape, num_outputs) -> Network`."""
