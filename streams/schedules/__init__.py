"""Where requests fall: one file per schedule, each with a `Config` and `place(plan, config, seed) -> events`."""
