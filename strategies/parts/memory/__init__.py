"""Memories of fixed size: which samples stay."""
