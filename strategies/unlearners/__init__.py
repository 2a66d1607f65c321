"""Unlearners: one file each."""
