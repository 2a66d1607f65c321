"""Other models that a run is held against: computed, cached, compared."""
