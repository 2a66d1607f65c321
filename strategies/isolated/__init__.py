"""Strategies in which learning and forgetting are one mechanism: one file each."""
