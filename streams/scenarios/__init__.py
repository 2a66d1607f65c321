"""Source to experiences: one file per scenario, each with a `Config` and `build(source, config, seed) -> Plan`."""
