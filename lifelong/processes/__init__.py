"""Processes: torch's settings in them, and fresh ones, in which nothing has happened yet."""
