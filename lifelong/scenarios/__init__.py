"""Ready scenarios: configurations that ship with the package and run by name."""
