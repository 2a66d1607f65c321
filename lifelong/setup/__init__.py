"""From a configuration to the real things, and all that is checked or chosen before any compute is spent."""
