"""What a run is asked for: the typed configuration, its options in words, the scenarios that ship."""
