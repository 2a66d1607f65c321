"""A run as it happens: every strategy through the stream, event by event, stopped and resumed."""
